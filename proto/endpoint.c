/* Endpoints, and the ZeroMQ settings that all sockets share. */
#include "proto/endpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum {
    MAX_IPC_PATH_BYTES = 107, /* sun_path of the kernel, less its NUL */
    /* In whole messages, of up to 64 MiB, on each connection: ZeroMQ only keeps the wire busy, what
     * has to wait waits in our queues, which count bytes. */
    HIGH_WATER_MESSAGES = 16,
    RECONNECT_MIN_MS = 100,
    RECONNECT_MAX_MS = 2000,
    HANDSHAKE_MS = 10000,
    /* For peers whose machine vanished without a word. That the program behind the socket lives is
     * the business of BEAT. */
    HEARTBEAT_MS = 5000,
    HEARTBEAT_TIMEOUT_MS = 15000,
    CURVE_KEY_CHARS = 40,
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
        {ZMQ_SNDHWM, HIGH_WATER_MESSAGES},
        {ZMQ_RCVHWM, HIGH_WATER_MESSAGES},
        {ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS},
        {ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS},
        {ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS},
        {ZMQ_HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS},
        {ZMQ_IPV6, strchr(o->endpoint, '[') != NULL},
    };
    enum err e = set_ints(socket, common, sizeof common / sizeof common[0], why);
    if (e != ERR_OK)
        return e;
    if (o->router) {
        /* Without MANDATORY what cannot be routed is dropped in silence. */
        const struct int_option router[] = {{ZMQ_ROUTER_MANDATORY, 1}};
        return set_ints(socket, router, 1, why);
    }
    /* IMMEDIATE: ZeroMQ takes nothing for a connection that does not stand; it waits in our queue,
     * where it is counted and survives a restart of the broker. */
    const struct int_option dealer[] = {{ZMQ_IMMEDIATE, 1},
                                        {ZMQ_RECONNECT_IVL, RECONNECT_MIN_MS},
                                        {ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS}};
    return set_ints(socket, dealer, sizeof dealer / sizeof dealer[0], why);
}

static enum err set_key(void *socket, int option, const char *name, const char *key,
                        struct err_msg *why)
{
    if (key == NULL || strlen(key) != CURVE_KEY_CHARS)
        return err_set(why, ERR_USAGE, "CURVE %s key: %s; expected 40 characters of Z85", name,
                       key == NULL ? "missing" : "of another length");
    if (zmq_setsockopt(socket, option, key, CURVE_KEY_CHARS + 1) != 0)
        return err_set(why, ERR_USAGE, "CURVE %s key is refused: %s", name, zmq_strerror(errno));
    return ERR_OK;
}

static enum err set_curve(void *socket, const struct proto_socket_options *o, struct err_msg *why)
{
    if (o->curve_server_public == NULL && o->curve_public == NULL && o->curve_secret == NULL)
        return ERR_OK;
    enum err e = set_key(socket, ZMQ_CURVE_SECRETKEY, "secret", o->curve_secret, why);
    if (e != ERR_OK)
        return e;
    if (o->router) {
        const struct int_option server[] = {{ZMQ_CURVE_SERVER, 1}};
        return set_ints(socket, server, 1, why);
    }
    e = set_key(socket, ZMQ_CURVE_PUBLICKEY, "public", o->curve_public, why);
    if (e != ERR_OK)
        return e;
    return set_key(socket, ZMQ_CURVE_SERVERKEY, "server's public", o->curve_server_public, why);
}

enum err proto_zmq_open(const struct proto_socket_options *o, void **ret_context, void **ret_socket,
                        struct err_msg *why)
{
    void *socket = NULL;
    enum err e = proto_endpoint_check(o->endpoint, why);
    if (e != ERR_OK)
        return e;
    void *context = zmq_ctx_new();
    if (context == NULL)
        return err_set(why, ERR_NOMEM, "%s: no ZeroMQ context: %s", o->endpoint,
                       zmq_strerror(errno));
    socket = zmq_socket(context, o->router ? ZMQ_ROUTER : ZMQ_DEALER);
    if (socket == NULL) {
        e = err_set(why, ERR_IO, "%s: no ZeroMQ socket: %s", o->endpoint, zmq_strerror(errno));
        goto fail;
    }
    e = set_common(socket, o, why);
    if (e == ERR_OK)
        e = set_curve(socket, o, why);
    if (e != ERR_OK)
        goto fail;
    int r = o->router ? zmq_bind(socket, o->endpoint) : zmq_connect(socket, o->endpoint);
    if (r != 0) {
        e = err_set(why, ERR_IO, "%s: cannot %s: %s", o->endpoint, o->router ? "bind" : "connect",
                    zmq_strerror(errno));
        goto fail;
    }
    *ret_context = context;
    *ret_socket = socket;
    return ERR_OK;
fail:
    proto_zmq_close(context, socket, 0);
    return e;
}

void proto_zmq_close(void *context, void *socket, int linger_ms)
{
    if (socket != NULL) {
        int linger = linger_ms < 0 ? 0 : linger_ms; /* ZeroMQ reads -1 as "for ever" */
        zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
        zmq_close(socket);
    }
    while (context != NULL && zmq_ctx_term(context) != 0 && errno == EINTR) {
    }
}
