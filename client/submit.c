/* Lines to SUBMIT messages; see submit.h. */
#include "client/submit.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/hash.h"
#include "base/utf8.h"
#include "client/ids.h"
#include "client/lines.h"
#include "proto/codec.h"

enum { CHUNK_LINES = 512, CHUNK_BYTES = 2 << 20 };

/* A line's place in the chunk's bytes: pointers are made when the bytes stop moving. */
struct place {
    size_t id_at, id_len, body_at, body_len, hashes_at, hashes_count;
    bool refused;
};

struct chunk {
    struct buf bytes;
    struct rec_LINE lines[CHUNK_LINES];
    struct place places[CHUNK_LINES];
    uint64_t *hashes; /* [CHUNK_LINES * 64] */
    size_t count, hashes_count;
};

struct submitter {
    struct link *link;
    const struct submit_options *o;
    struct chunk *chunk;
    struct ids ids;
    struct submit_counts counts;
};

void submit_batch_name(const char *path, char ret[PROTO_MAX_ID_BYTES + 1])
{
    const char *slash = strrchr(path, '/');
    const char *name = strcmp(path, "-") == 0 ? "stdin" : slash != NULL ? slash + 1 : path;
    struct err_msg mended;
    err_set(&mended, ERR_OK, "%s", name[0] != '\0' ? name : "batch");
    size_t len = strlen(mended.text);
    len = utf8_valid_prefix(mended.text, len < PROTO_MAX_ID_BYTES ? len : PROTO_MAX_ID_BYTES);
    memcpy(ret, mended.text, len);
    ret[len] = '\0';
}

/* The value of "KEY=" in options as a shaping text has them, the key with its '='. */
static bool find_option(const char *options, const char *key, int key_len, struct str *ret)
{
    for (const char *at = options; (at = strstr(at, key)) != NULL; at++) {
        if (at > options && at[-1] != ' ')
            continue;
        *ret = (struct str){at + key_len, strcspn(at + key_len, " ")};
        return true;
    }
    return false;
}

/* The broker says all options, the batch's and ours. Of these only those that differ are of use. */
static enum err other_options(const struct submit_options *o, struct err_msg *why)
{
    static const char before[] = ": it has ", between[] = ", now asked: ";
    struct err_msg said = *why;
    char ours[512], had[200] = "", now[200] = "";
    char *old = strstr(said.text, before), *rest = NULL;
    char *end = old != NULL ? strstr(old, between) : NULL;
    if (end != NULL)
        *end = '\0';
    snprintf(ours, sizeof ours, "%s", o->shaping);
    for (char *one = strtok_r(ours, " ", &rest); one != NULL && end != NULL;
         one = strtok_r(NULL, " ", &rest)) {
        struct str value;
        char key[64], *equals = strchr(one, '=');
        int len = equals != NULL ? (int)(equals + 1 - one) : 0;
        snprintf(key, sizeof key, "%.*s", len, one);
        if (len == 0 || !find_option(old + sizeof before - 1, key, len, &value) ||
            str_eq(value, str_of(equals + 1)))
            continue;
        size_t at = strlen(had), at_now = strlen(now);
        snprintf(had + at, sizeof had - at, "%s%s%.*s", at > 0 ? ", " : "", key,
                 (int)(value.len < 70 ? value.len : 70), value.data);
        snprintf(now + at_now, sizeof now - at_now, "%s%.80s", at > 0 ? ", " : "", one);
    }
    if (had[0] == '\0')
        return err_set(why, ERR_CONFLICT, "%.350s; %s", why->text, o->otherwise_options);
    return err_set(why, ERR_CONFLICT, "batch \"%.100s\" was begun with %s, now it is %s; %s",
                   o->batch, had, now, o->otherwise_options);
}

enum err submit_open(struct link *l, const struct submit_options *o, bool *ret_existed,
                     bool *ret_complete, struct err_msg *ret_warning, struct err_msg *why)
{
    char hash[33];
    const struct msg *reply = NULL;
    struct msg m = {.type = MSG_TYPE_BATCH_NEW};
    hash128_hex(o->shaping, strlen(o->shaping), hash);
    m.batch_new.batch = str_of(o->batch);
    m.batch_new.model = str_of(o->model);
    m.batch_new.client = str_of(o->client);
    PROTO_COPY(SCHEDULE_FIELDS, &m.batch_new, &o->schedule);
    m.batch_new.max_attempts = o->max_attempts;
    m.batch_new.options_hash = str_of(hash);
    m.batch_new.options_text = str_of(o->shaping);
    enum err e = link_call(l, &m, MSG_TYPE_BATCH_OK, &reply, why);
    if (e != ERR_OK)
        return e == ERR_CONFLICT ? other_options(o, why) : e;
    *ret_existed = reply->batch_ok.existed;
    *ret_complete = reply->batch_ok.existed && reply->batch_ok.batches.count == 1 &&
                    link_batch_complete(&reply->batch_ok.batches.items[0]);
    err_set(ret_warning, ERR_OK, "%.*s", STR_ARG(reply->batch_ok.warning));
    return ERR_OK;
}

/* ---- one line into the chunk ---- */

static enum err put_id(struct chunk *c, struct place *p, struct str id)
{
    p->id_at = c->bytes.len;
    p->id_len = id.len;
    return buf_append(&c->bytes, id.data, id.len);
}

/* The request's or the refusal's body. A request that is too large for the protocol turns into a
 * refusal. */
static enum err put_body(struct chunk *c, struct place *p, struct request *r)
{
    struct err_msg problem = {{0}};
    enum err e = ERR_OK;
    p->body_at = c->bytes.len;
    if (!r->refused) {
        e = proto_encode_request(&r->request, &c->bytes, &problem);
        if (e == ERR_OK && c->bytes.len - p->body_at > PROTO_MAX_BODY_BYTES)
            e = err_set(&problem, ERR_RANGE, "%zu bytes, at most %d are possible",
                        c->bytes.len - p->body_at, PROTO_MAX_BODY_BYTES);
        if (e == ERR_RANGE) {
            c->bytes.len = p->body_at;
            e = request_refuse(r, "request_too_large", NULL, "the request is too large: %s",
                               problem.text);
        }
    }
    if (e == ERR_OK && r->refused)
        e = proto_encode_output(&r->refusal, &c->bytes, &problem);
    p->body_len = c->bytes.len - p->body_at;
    p->refused = r->refused;
    return e;
}

static enum err check_id(struct submitter *s, struct request *r, uint64_t line)
{
    uint64_t first = 0;
    /* a name that we gave makes no line fail */
    if (r->custom_id.len == 0 || r->id_is_made)
        return ERR_OK;
    enum err e = ids_add(&s->ids, r->custom_id, line, &first);
    if (e == ERR_OK && first != 0)
        e = request_refuse(r, "duplicate_custom_id", "custom_id",
                           "custom_id \"%.*s%s\" was used on line %" PRIu64,
                           (int)(r->custom_id.len > 200 ? 200 : r->custom_id.len),
                           r->custom_id.data, r->custom_id.len > 200 ? "..." : "", first);
    return e;
}

static enum err add_line(struct submitter *s, const struct line *line)
{
    struct chunk *c = s->chunk;
    struct place *p = &c->places[c->count];
    struct request r = {0};
    enum err e = ERR_OK;
    if (line->too_long)
        e = request_refuse(&r, "line_too_long", NULL, "longer than %d MiB", LINES_MAX_BYTES >> 20);
    else
        e = request_parse(line->text, line->number, &s->o->request, &r);
    if (e == ERR_OK)
        e = check_id(s, &r, line->number);
    if (e == ERR_OK)
        e = put_id(c, p, r.custom_id);
    if (e == ERR_OK)
        e = put_body(c, p, &r);
    if (e == ERR_OK) {
        p->hashes_at = c->hashes_count;
        p->hashes_count =
            p->refused ? 0 : request_prefix_hashes(&r.request, c->hashes + c->hashes_count);
        c->hashes_count += p->hashes_count;
        c->lines[c->count++] = (struct rec_LINE){.line = line->number, .hash = line->hash};
        s->counts.lines++;
        if (p->refused && s->counts.refused++ == 0)
            err_set(&s->counts.first_refusal, ERR_FORMAT, "line %" PRIu64 ": %.*s", line->number,
                    STR_ARG(r.refusal.error_message));
    }
    request_free(&r);
    return e;
}

/* ---- chunks ---- */

static enum err conflict(struct submitter *s, struct err_msg *why)
{
    uint64_t line = proto_client_error_line(s->link->client);
    struct err_msg said = *why;
    if (line > 0)
        return err_set(why, ERR_CONFLICT, "%s:%" PRIu64 ": %.250s; %s", s->o->path, line, said.text,
                       s->o->otherwise);
    return err_set(why, ERR_CONFLICT, "%s: %.250s; %s", s->o->path, said.text, s->o->otherwise);
}

/* Lines that are too many for the broker's whole quota go in smaller pieces. */
static enum err send_lines(struct submitter *s, struct rec_LINE *lines, size_t count,
                           struct err_msg *why)
{
    for (size_t at = 0, most = count; at < count;) {
        const struct msg *reply = NULL;
        struct msg m = {.type = MSG_TYPE_SUBMIT};
        m.submit.batch = str_of(s->o->batch);
        m.submit.lines.items = lines + at;
        m.submit.lines.count = count - at < most ? count - at : most;
        enum err e = link_call(s->link, &m, MSG_TYPE_SUBMIT_OK, &reply, why);
        if (e == ERR_RANGE && m.submit.lines.count > 1) {
            most = m.submit.lines.count / 2;
            continue;
        }
        if (e == ERR_RANGE)
            return err_prefix(why, e, "%s:%" PRIu64, s->o->path, lines[at].line);
        if (e == ERR_CONFLICT)
            return conflict(s, why);
        if (e != ERR_OK)
            return e;
        s->counts.accepted += reply->submit_ok.accepted;
        s->counts.duplicates += reply->submit_ok.duplicates;
        at += m.submit.lines.count;
    }
    return ERR_OK;
}

static enum err send_chunk(struct submitter *s, struct err_msg *why)
{
    struct chunk *c = s->chunk;
    if (c->count == 0)
        return ERR_OK;
    for (size_t i = 0; i < c->count; i++) {
        const struct place *p = &c->places[i];
        struct rec_LINE *line = &c->lines[i];
        struct str body = {c->bytes.data + p->body_at, p->body_len};
        line->custom_id = (struct str){c->bytes.data + p->id_at, p->id_len};
        if (p->refused)
            line->refusal = body;
        else
            line->body = body;
        line->prefix_hashes = (struct u64s){c->hashes + p->hashes_at, p->hashes_count};
    }
    enum err e = send_lines(s, c->lines, c->count, why);
    if (e != ERR_OK)
        return e;
    c->count = 0;
    c->hashes_count = 0;
    buf_clear(&c->bytes);
    if (s->o->on_progress != NULL)
        s->o->on_progress(s->o->user, s->counts.lines);
    return ERR_OK;
}

static enum err send_seal(struct submitter *s, struct err_msg *why)
{
    const struct msg *reply = NULL;
    struct msg m = {.type = MSG_TYPE_SEAL};
    m.seal.batch = str_of(s->o->batch);
    m.seal.lines = s->counts.lines;
    enum err e = link_call(s->link, &m, MSG_TYPE_OK, &reply, why);
    return e == ERR_CONFLICT ? conflict(s, why) : e;
}

static enum err look_around(struct submitter *s, struct err_msg *why)
{
    return s->link->pump != NULL ? s->link->pump(s->link->user, why) : ERR_OK;
}

/* Whoever writes into our pipe takes his time: what came is for the workers. */
static enum err while_waiting(void *user, struct err_msg *why)
{
    struct submitter *s = user;
    enum err e = look_around(s, why);
    return e == ERR_OK ? send_chunk(s, why) : e;
}

static enum err send_all(struct submitter *s, struct lines *lines, struct err_msg *why)
{
    struct line line;
    for (;;) {
        enum err e = lines_next(lines, &line, why);
        if (e == ERR_NOT_FOUND)
            break;
        if (e != ERR_OK)
            return e;
        e = add_line(s, &line);
        if (e != ERR_OK)
            return err_set(why, e, "%s:%" PRIu64 ": %s", s->o->path, line.number, err_name(e));
        if (s->chunk->count == CHUNK_LINES || s->chunk->bytes.len >= CHUNK_BYTES) {
            e = send_chunk(s, why);
            if (e == ERR_OK)
                e = look_around(s, why);
            if (e != ERR_OK)
                return e;
        }
    }
    /* Ctrl-C may have ended who writes into our pipe as well: that is not the input's end. */
    enum err e = look_around(s, why);
    if (e == ERR_OK)
        e = send_chunk(s, why);
    return e == ERR_OK ? send_seal(s, why) : e;
}

enum err submit_lines(struct link *l, const struct submit_options *o, struct submit_counts *ret,
                      struct err_msg *why)
{
    struct submitter s = {.link = l, .o = o};
    struct lines *lines = NULL;
    enum err e = lines_open(o->path, LINES_MAX_BYTES, &lines, why);
    if (e != ERR_OK)
        return e;
    s.chunk = calloc(1, sizeof *s.chunk);
    if (s.chunk != NULL)
        s.chunk->hashes = calloc(CHUNK_LINES * 64, sizeof *s.chunk->hashes);
    if (s.chunk == NULL || s.chunk->hashes == NULL)
        e = err_set(why, ERR_NOMEM, "%s: out of memory", o->path);
    lines_while_waiting(lines, while_waiting, &s);
    if (e == ERR_OK)
        e = send_all(&s, lines, why);
    if (e == ERR_OK)
        *ret = s.counts;
    if (s.chunk != NULL) {
        buf_free(&s.chunk->bytes);
        free(s.chunk->hashes);
        free(s.chunk);
    }
    ids_free(&s.ids);
    lines_close(&lines);
    return e;
}
