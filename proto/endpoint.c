/* Endpoints, and the ZeroMQ settings that all sockets share. */
#include "proto/endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#include "base/clock.h"
#include "proto/zap.h"

enum {
    MAX_IPC_PATH_BYTES = 107, /* sun_path of the kernel, less its NUL */
    /* In whole messages, of up to 32 MiB, on each connection and way: ZeroMQ only keeps the wire
     * busy, what has to wait waits in our queues, which count bytes. */
    SEND_MESSAGES = 4,
    RECEIVE_MESSAGES = 2,
    /* What the kernel holds of a connection, by itself up to 4 MiB: on a slow wire what is sent
     * next, a heartbeat's answer say, waits behind it. */
    SEND_BYTES = 512 << 10,
    RECONNECT_MIN_MS = 100,
    RECONNECT_MAX_MS = 2000,
    HANDSHAKE_MS = 10000,
    /* For peers whose machine vanished without a word: the kernel sees that not even pings are
     * taken. That the program behind the socket lives is the business of BEAT. */
    HEARTBEAT_MS = 5000,
    UNTAKEN_MS = 15000,
    /* ZeroMQ itself counts whole messages: a long one on a slow wire, and the answer to a ping
     * behind it, are silence to it. */
    HEARTBEAT_TIMEOUT_MS = 600000,
    /* How long the program before may take to leave an ipc socket. */
    LEAVE_MS = 3000,
    LOOK_MS = 50,
};

static enum err check_tcp(const char *endpoint, struct err_msg *why)
{
    const char *host = endpoint + strlen("tcp://");
    const char *colon = strrchr(host, ':');
    if (colon == NULL || colon == host || colon[1] == '\0')
        return err_set(why, ERR_USAGE, "endpoint \"%s\": expected tcp://HOST:PORT", endpoint);
    size_t digits = strspn(colon + 1, "0123456789");
    long port = digits <= 5 ? strtol(colon + 1, NULL, 10) : 0;
    if (colon[1 + digits] != '\0' || port < 1 || port > 65535)
        return err_set(why, ERR_USAGE,
                       "endpoint \"%s\": port \"%s\"; expected a number from 1 to 65535", endpoint,
                       colon + 1);
    if (host[0] != '[' && memchr(host, ':', (size_t)(colon - host)) != NULL)
        return err_set(why, ERR_USAGE,
                       "endpoint \"%s\": an IPv6 address stands in brackets: tcp://[::1]:PORT",
                       endpoint);
    return ERR_OK;
}

enum err proto_endpoint_check(const char *endpoint, struct err_msg *why)
{
    if (strncmp(endpoint, "tcp://", 6) == 0)
        return check_tcp(endpoint, why);
    if (strncmp(endpoint, "ipc://", 6) != 0)
        return err_set(why, ERR_USAGE, "endpoint \"%s\": expected ipc://PATH or tcp://HOST:PORT",
                       endpoint);
    size_t len = strlen(endpoint + 6);
    if (len == 0 || endpoint[6] == '*' || endpoint[6] == '@')
        return err_set(why, ERR_USAGE,
                       "endpoint \"%s\": expected the path of a socket file behind ipc://",
                       endpoint);
    if (len > MAX_IPC_PATH_BYTES)
        return err_set(why, ERR_USAGE,
                       "endpoint \"%s\": its path has %zu bytes; the system allows %d", endpoint,
                       len, MAX_IPC_PATH_BYTES);
    return ERR_OK;
}

bool proto_endpoint_is_local(const char *endpoint)
{
    char address[64];
    struct in_addr parsed;
    if (strncmp(endpoint, "tcp://", 6) != 0)
        return true;
    const char *host = endpoint + 6, *colon = strrchr(host, ':');
    if (strncmp(host, "localhost:", 10) == 0 || strncmp(host, "[::1]:", 6) == 0)
        return true;
    size_t len = colon == NULL ? strlen(host) : (size_t)(colon - host);
    if (len >= sizeof address)
        return false;
    memcpy(address, host, len);
    address[len] = '\0';
    return inet_pton(AF_INET, address, &parsed) == 1 && ntohl(parsed.s_addr) >> 24 == 127;
}

struct int_option {
    int option;
    int value;
};

static enum err set_ints(void *socket, const struct int_option *options, size_t count,
                         struct err_msg *why)
{
    for (size_t i = 0; i < count; i++) {
        if (zmq_setsockopt(socket, options[i].option, &options[i].value, sizeof options[i].value) !=
            0)
            return err_set(why, ERR_IO, "ZeroMQ socket option %d: %s", options[i].option,
                           zmq_strerror(errno));
    }
    return ERR_OK;
}

static enum err set_common(void *socket, const struct proto_socket_options *o, struct err_msg *why)
{
    int64_t max_bytes = PROTO_MAX_MESSAGE_BYTES;
    if (zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &max_bytes, sizeof max_bytes) != 0)
        return err_set(why, ERR_IO, "ZeroMQ socket option MAXMSGSIZE: %s", zmq_strerror(errno));
    const struct int_option common[] = {
        {ZMQ_LINGER, 0},
        {ZMQ_SNDHWM, SEND_MESSAGES},
        {ZMQ_RCVHWM, RECEIVE_MESSAGES},
        {ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS},
        {ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS},
        {ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS},
        {ZMQ_HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS},
        {ZMQ_TCP_MAXRT, UNTAKEN_MS},
        {ZMQ_IPV6, strchr(o->endpoint, '[') != NULL},
    };
    enum err e = set_ints(socket, common, sizeof common / sizeof common[0], why);
    if (e != ERR_OK)
        return e;
    if (o->router) {
        /* Without MANDATORY what cannot be routed is dropped in silence. */
        const struct int_option router[] = {{ZMQ_ROUTER_MANDATORY, 1}, {ZMQ_SNDBUF, SEND_BYTES}};
        return set_ints(socket, router, sizeof router / sizeof router[0], why);
    }
    /* IMMEDIATE: ZeroMQ takes nothing for a connection that does not stand; it waits in our queue,
     * where it is counted and survives a restart of the broker. */
    const struct int_option dealer[] = {{ZMQ_IMMEDIATE, 1},
                                        {ZMQ_RECONNECT_IVL, RECONNECT_MIN_MS},
                                        {ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS}};
    return set_ints(socket, dealer, sizeof dealer / sizeof dealer[0], why);
}

static enum err set_key(void *socket, int option, const char *key, struct err_msg *why)
{
    /* libzmq takes a shorter text, too, and fills up */
    if (!proto_curve_is_key(str_of(key)) ||
        zmq_setsockopt(socket, option, key, PROTO_KEY_CHARS + 1) != 0)
        return err_set(why, ERR_USAGE, "a CURVE key is refused: expected %d characters of Z85",
                       PROTO_KEY_CHARS);
    return ERR_OK;
}

static bool has_keys(const struct proto_socket_options *o)
{
    return o->curve != NULL && o->curve->secret_key[0] != '\0';
}

static enum err set_curve(void *socket, const struct proto_socket_options *o, struct err_msg *why)
{
    if (!has_keys(o))
        return ERR_OK;
    enum err e = set_key(socket, ZMQ_CURVE_SECRETKEY, o->curve->secret_key, why);
    if (e == ERR_OK && o->router) {
        const struct int_option server[] = {{ZMQ_CURVE_SERVER, 1}};
        return set_ints(socket, server, 1, why);
    }
    if (e == ERR_OK)
        e = set_key(socket, ZMQ_CURVE_PUBLICKEY, o->curve->public_key, why);
    if (e == ERR_OK)
        e = set_key(socket, ZMQ_CURVE_SERVERKEY, o->curve->server_key, why);
    return e;
}

/* Whether somebody listens on a socket file. *ret_stale: the file is there, and nobody does. */
static bool is_in_use(const char *path, bool *ret_stale)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    *ret_stale = false;
    if (fd < 0 || strlen(path) >= sizeof a.sun_path) {
        if (fd >= 0)
            close(fd);
        return false; /* bind will say what is wrong */
    }
    memcpy(a.sun_path, path, strlen(path));
    bool in_use = connect(fd, (struct sockaddr *)&a, sizeof a) == 0 || errno == EAGAIN;
    *ret_stale = !in_use && errno == ECONNREFUSED;
    close(fd);
    return in_use;
}

/* ZeroMQ's bind takes a socket file away from whoever listens on it, and nobody would hear of it;
 * and at its end removes the file, even if it is another's by then. */
static enum err wait_for_path(const char *endpoint, struct err_msg *why)
{
    if (strncmp(endpoint, "ipc://", 6) != 0)
        return ERR_OK;
    bool was_stale = false, stale = false;
    for (int waited_ms = 0;; waited_ms += LOOK_MS) {
        bool in_use = is_in_use(endpoint + 6, &stale);
        if (!in_use && (!stale || was_stale))
            return ERR_OK;
        if (in_use && waited_ms >= LEAVE_MS)
            return err_set(why, ERR_IO, "%s: in use by another program, which answers there",
                           endpoint);
        was_stale = stale;
        clock_sleep_ns(LOOK_MS * NS_PER_MS);
    }
}

static enum err open_socket(const struct proto_socket_options *o, struct proto_zmq *z,
                            struct err_msg *why)
{
    z->context = zmq_ctx_new();
    if (z->context == NULL)
        return err_set(why, ERR_NOMEM, "%s: no ZeroMQ context: %s", o->endpoint,
                       zmq_strerror(errno));
    z->socket = zmq_socket(z->context, o->router ? ZMQ_ROUTER : ZMQ_DEALER);
    if (z->socket == NULL)
        return err_set(why, ERR_IO, "%s: no ZeroMQ socket: %s", o->endpoint, zmq_strerror(errno));
    enum err e = set_common(z->socket, o, why);
    if (e == ERR_OK)
        e = set_curve(z->socket, o, why);
    /* Without a handler libzmq lets every key in: it is there before the socket is bound, and goes
     * after it. */
    if (e == ERR_OK && o->router && has_keys(o))
        e = zap_open(z->context, &z->zap, why);
    if (e == ERR_OK && o->router && o->limits != NULL)
        e = guard_open(z->context, z->socket, o->limits, &z->guard, why);
    if (e == ERR_OK && !o->router)
        e = handshake_open(z->context, z->socket, o->curve, &z->handshake, why);
    return e;
}

enum err proto_zmq_open(const struct proto_socket_options *o, struct proto_zmq *ret,
                        struct err_msg *why)
{
    struct proto_zmq z = {0};
    enum err e = proto_endpoint_check(o->endpoint, why);
    if (e == ERR_OK)
        e = open_socket(o, &z, why);
    if (e == ERR_OK && o->router)
        e = wait_for_path(o->endpoint, why);
    if (e == ERR_OK) {
        int r = o->router ? zmq_bind(z.socket, o->endpoint) : zmq_connect(z.socket, o->endpoint);
        if (r != 0)
            e = err_set(why, ERR_IO, "%s: cannot %s: %s", o->endpoint,
                        o->router ? "bind" : "connect", zmq_strerror(errno));
    }
    if (e != ERR_OK) {
        proto_zmq_close(&z, 0);
        return e;
    }
    *ret = z;
    return ERR_OK;
}

void proto_zmq_connect_again(void *socket, const char *endpoint)
{
    zmq_disconnect(socket, endpoint); /* fails when ZeroMQ has given up: all the better */
    zmq_connect(socket, endpoint);    /* was possible before; the next time is soon */
}

void proto_zmq_close(struct proto_zmq *z, int linger_ms)
{
    guard_close(&z->guard, z->socket);
    handshake_close(&z->handshake, z->socket);
    if (z->socket != NULL) {
        int linger = linger_ms < 0 ? 0 : linger_ms; /* ZeroMQ reads -1 as "for ever" */
        zmq_setsockopt(z->socket, ZMQ_LINGER, &linger, sizeof linger);
        zmq_close(z->socket);
    }
    if (z->zap != NULL)
        zmq_close(z->zap);
    while (z->context != NULL && zmq_ctx_term(z->context) != 0 && errno == EINTR) {
    }
    *z = (struct proto_zmq){0};
}
