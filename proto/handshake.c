/* Events of a connecting socket's monitor; see handshake.h. */
#include "proto/handshake.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "proto/monitor.h"

enum {
    EVENTS = ZMQ_EVENT_CONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED |
             ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
             ZMQ_EVENT_HANDSHAKE_FAILED_AUTH,
    /* The other side hangs up on a key that is not its own, but also when it ends, and now and then
     * before we have read that it wants other keys than we have, or none. */
    HUNG_UP_MOST = 3,
};

struct handshake {
    void *monitor;
    int fd;
    bool with_keys, succeeded, final;
    unsigned hung_up;               /* in a row */
    char refused[200], broken[240]; /* what is said of it, with keys */
    const char *why;
};

static const char no_keys_here[] =
    "the broker lets nobody in without a key: give --curve-key FILE and --server-key FILE "
    "(docs/security.md)";
static const char hangs_up[] =
    "whoever answers there hangs up: a broker that wants keys (give --curve-key FILE and "
    "--server-key FILE, docs/security.md), one with too many connections, or something else";
static const char no_keys_there[] =
    "the broker takes no keys: it was started without --curve-key and --allow, or something else "
    "answers there";

enum err handshake_open(void *context, void *socket, const struct proto_curve *curve,
                        struct handshake **ret, struct err_msg *why)
{
    struct handshake *h = calloc(1, sizeof *h);
    if (h == NULL)
        return err_set(why, ERR_NOMEM, "out of memory");
    h->why = "";
    h->fd = -1;
    h->with_keys = curve != NULL && curve->secret_key[0] != '\0';
    if (h->with_keys) {
        snprintf(h->refused, sizeof h->refused,
                 "the broker does not let in the key %s: it has to stand in the broker's --allow "
                 "file",
                 curve->public_key);
        snprintf(h->broken, sizeof h->broken,
                 "no secure connection: %s (--server-key) is not the broker's public key, or the "
                 "broker takes no keys, or something else answers there",
                 curve->server_key);
    }
    h->monitor = monitor_open(context, socket, EVENTS, why);
    if (h->monitor == NULL) {
        free(h);
        return ERR_IO;
    }
    *ret = h;
    return ERR_OK;
}

void handshake_close(struct handshake **handshake, void *socket)
{
    struct handshake *h = *handshake;
    *handshake = NULL;
    if (h == NULL)
        return;
    monitor_close(h->monitor, socket);
    free(h);
}

/* True: it failed, for a reason to tell. */
static bool take(struct handshake *h, uint16_t event, int32_t value)
{
    if (event == ZMQ_EVENT_CONNECTED) {
        h->fd = value;
        return false;
    }
    h->final = false;
    if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
        h->why = "";
        h->hung_up = 0;
        h->succeeded = true;
    } else if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) {
        h->why = h->refused;
        h->final = !h->succeeded;
    } else if (event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL &&
               value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH) {
        h->why = h->with_keys ? no_keys_there : no_keys_here;
    } else if (++h->hung_up >= HUNG_UP_MOST) {
        h->why = h->with_keys ? h->broken : hangs_up;
    }
    return h->why[0] != '\0';
}

int handshake_fd(const struct handshake *h)
{
    return h->fd;
}

bool handshake_failed(struct handshake *h)
{
    uint16_t event;
    int32_t value;
    bool failed = false;
    while (monitor_read(h->monitor, &event, &value))
        failed = take(h, event, value) || (failed && event != ZMQ_EVENT_HANDSHAKE_SUCCEEDED);
    return failed;
}

const char *handshake_why(const struct handshake *h, bool *ret_final)
{
    *ret_final = h->final;
    return h->why;
}
