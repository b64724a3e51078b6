/* Requests and replies of ZAP; see zap.h. */
#include "proto/zap.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

#include "proto/curve.h"

enum { KEY_BYTES = 32, MAX_ID_BYTES = 64 };

struct request {
    char version[8], id[MAX_ID_BYTES], address[64], mechanism[8];
    uint8_t key[KEY_BYTES];
    size_t id_len, key_len;
};

enum err zap_open(void *context, void **ret, struct err_msg *why)
{
    int linger = 0;
    void *zap = zmq_socket(context, ZMQ_REP);
    if (zap == NULL || zmq_setsockopt(zap, ZMQ_LINGER, &linger, sizeof linger) != 0 ||
        zmq_bind(zap, "inproc://zeromq.zap.01") != 0) {
        err_set(why, ERR_IO, "cannot check keys: %s", zmq_strerror(errno));
        if (zap != NULL)
            zmq_close(zap);
        return ERR_IO;
    }
    *ret = zap;
    return ERR_OK;
}

int zap_fd(void *zap)
{
    int fd = -1;
    size_t size = sizeof fd;
    return zmq_getsockopt(zap, ZMQ_FD, &fd, &size) == 0 ? fd : -1;
}

/* Up to size - 1 bytes of the next frame, and a NUL. False: there is none. */
static bool take_frame(void *zap, void *bytes, size_t size, size_t *ret_len, bool *more)
{
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    bool got = *more && zmq_msg_recv(&frame, zap, ZMQ_DONTWAIT) >= 0;
    *more = got && zmq_msg_more(&frame);
    *ret_len = got ? zmq_msg_size(&frame) : 0;
    size_t kept = *ret_len < size ? *ret_len : size - 1;
    if (got)
        memcpy(bytes, zmq_msg_data(&frame), kept);
    ((char *)bytes)[kept] = '\0';
    zmq_msg_close(&frame);
    return got;
}

/* Frames: version, request id, domain, address, routing id, mechanism, key. False: nobody waits. */
static bool take_request(void *zap, struct request *ret)
{
    char ignored[2], key[KEY_BYTES + 1];
    size_t len;
    bool more = true;
    *ret = (struct request){.id_len = 0};
    if (!take_frame(zap, ret->version, sizeof ret->version, &len, &more))
        return false;
    take_frame(zap, ret->id, sizeof ret->id, &ret->id_len, &more);
    take_frame(zap, ignored, sizeof ignored, &len, &more);
    take_frame(zap, ret->address, sizeof ret->address, &len, &more);
    take_frame(zap, ignored, sizeof ignored, &len, &more);
    take_frame(zap, ret->mechanism, sizeof ret->mechanism, &len, &more);
    take_frame(zap, key, sizeof key, &ret->key_len, &more);
    memcpy(ret->key, key, KEY_BYTES);
    while (more)
        take_frame(zap, ignored, sizeof ignored, &len, &more);
    return true;
}

static void reply(void *zap, const struct request *r, bool in, const char *key)
{
    const char *code = in ? "200" : "400";
    const char *text = in ? "OK" : "this key is not on the list";
    zmq_send(zap, "1.0", 3, ZMQ_SNDMORE);
    zmq_send(zap, r->id, r->id_len < sizeof r->id ? r->id_len : 0, ZMQ_SNDMORE);
    zmq_send(zap, code, 3, ZMQ_SNDMORE);
    zmq_send(zap, text, strlen(text), ZMQ_SNDMORE);
    zmq_send(zap, key, in ? strlen(key) : 0, ZMQ_SNDMORE);
    zmq_send(zap, "", 0, 0);
}

void zap_serve(void *zap, bool (*may)(void *user, const char *key, const char *address), void *user)
{
    struct request r;
    while (take_request(zap, &r)) {
        char key[PROTO_KEY_CHARS + 1] = "";
        bool good = strcmp(r.version, "1.0") == 0 && strcmp(r.mechanism, "CURVE") == 0 &&
                    r.key_len == KEY_BYTES && zmq_z85_encode(key, r.key, KEY_BYTES) != NULL;
        reply(zap, &r, good && may(user, key, r.address), key);
    }
}
