/* The chunks of model files that workers fetch: one at a time for each, read on other threads. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"
#include "broker/server_internal.h"

struct chunk_read {
    uv_work_t work;
    struct server *s;
    uint64_t session, offset;
    struct proto_peer peer;
    char hash[33];
    char *path;
    char *data; /* [PROTO_MAX_CHUNK_BYTES] */
    size_t len;
    enum err err;
    struct err_msg why;
};

static void free_chunk(struct chunk_read *c)
{
    free(c->path);
    free(c->data);
    free(c);
}

static void read_chunk(uv_work_t *work)
{
    struct chunk_read *c = work->data;
    int fd = open(c->path, O_RDONLY | O_CLOEXEC);
    ssize_t n = 0;
    while (fd >= 0 && c->len < PROTO_MAX_CHUNK_BYTES &&
           ((n = pread(fd, c->data + c->len, PROTO_MAX_CHUNK_BYTES - c->len,
                       (off_t)(c->offset + c->len))) > 0 ||
            (n < 0 && errno == EINTR)))
        c->len += n > 0 ? (size_t)n : 0;
    if (fd < 0 || n < 0)
        c->err = err_set(&c->why, ERR_IO, "%s: cannot read: %s", c->path, strerror(errno));
    if (fd >= 0)
        close(fd);
}

static void chunk_was_read(uv_work_t *work, int status)
{
    struct chunk_read *c = work->data;
    struct server *s = c->s;
    struct session *w = worker_find_session(s, c->session);
    if (w != NULL)
        w->chunk_busy = false;
    if (c->err != ERR_OK)
        log_warn("a model cannot be fetched any more worker=%s error=\"%s\"",
                 w == NULL ? "" : w->worker, c->why.text);
    if (status == 0 && w != NULL && !s->closing) {
        size_t len = c->err == ERR_OK ? c->len : 0;
        struct msg m = {.type = MSG_TYPE_MODEL_CHUNK};
        m.model_chunk = (struct msg_model_chunk){.session = c->session,
                                                 .hash = str_of(c->hash),
                                                 .offset = c->offset,
                                                 .data = {c->data, len},
                                                 .sum = hash64(c->data, len, 0)};
        server_send(s, &c->peer, &m);
    }
    free_chunk(c);
    server_handle_closed(s);
}

void chunks_send(struct server *s, struct session *w, const struct msg_model_fetch *m)
{
    char hash[sizeof w->fetch];
    snprintf(hash, sizeof hash, "%.*s", STR_ARG(m->hash));
    const struct catalog_file *f = catalog_find(&s->models.catalog, hash);
    if (w->chunk_busy) /* it asked twice */
        return;
    /* it goes on with what an earlier session was told; or waits for one of the others to end */
    if (f != NULL && w->fetch[0] == '\0' && models_fetching(s) < MAX_FETCHING)
        memcpy(w->fetch, hash, sizeof hash);
    if (f != NULL && strcmp(w->fetch, hash) != 0)
        return;
    struct chunk_read *c = calloc(1, sizeof *c);
    if (c == NULL)
        return; /* it asks again */
    *c = (struct chunk_read){.s = s, .session = w->number, .offset = m->offset, .peer = w->peer};
    snprintf(c->hash, sizeof c->hash, "%.32s", hash);
    c->path = strdup(f == NULL ? "" : f->path);
    c->data = malloc(PROTO_MAX_CHUNK_BYTES);
    c->work.data = c;
    if (c->path == NULL || c->data == NULL ||
        uv_queue_work(s->loop, &c->work, read_chunk, chunk_was_read) != 0) {
        free_chunk(c);
        return;
    }
    s->open_handles++;
    w->chunk_busy = true;
}
