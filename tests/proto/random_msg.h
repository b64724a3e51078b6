/* Messages of every type, filled at random from the tables: what the codec's round trip and the
 * fuzzer's corpus start from. */
#ifndef OCTO_TESTS_PROTO_RANDOM_MSG_H
#define OCTO_TESTS_PROTO_RANDOM_MSG_H

#include "base/arena.h"
#include "proto/schema.h"
#include "tests/check.h"

static inline struct str random_text(struct check_rng *r, struct arena *a, size_t limit)
{
    static const char *const pieces[] = {
        "a", "Z", "0", " ", "\n", "\"", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x90\x99"};
    char text[256];
    size_t len = 0, want = check_rng_below(r, 4) == 0 ? 0 : check_rng_below(r, 64);
    for (size_t i = 0; i < want; i++) {
        const char *p = pieces[check_rng_below(r, sizeof pieces / sizeof pieces[0])];
        if (len + strlen(p) > limit || len + strlen(p) > sizeof text)
            break;
        memcpy(text + len, p, strlen(p));
        len += strlen(p);
    }
    return (struct str){arena_copy(a, text, len), len};
}

static inline struct str random_bytes(struct check_rng *r, struct arena *a, size_t limit)
{
    size_t len = check_rng_below(r, 4) == 0 ? 0 : check_rng_below(r, limit < 300 ? limit + 1 : 300);
    char *p = arena_alloc(a, len + 1, 1);
    for (size_t i = 0; i < len; i++)
        p[i] = (char)check_rng_next(r);
    return (struct str){p, len};
}

static inline uint64_t random_u64(struct check_rng *r, uint64_t limit)
{
    uint64_t v = check_rng_next(r) >> check_rng_below(r, 64);
    if (check_rng_below(r, 8) == 0)
        v = limit != 0 ? limit : UINT64_MAX;
    if (check_rng_below(r, 4) == 0)
        v = 0;
    return limit != 0 && v > limit ? v % (limit + 1) : v;
}

static inline void random_fields(struct check_rng *r, struct arena *a, const struct proto_schema *s,
                                 char *to)
{
    for (size_t i = 0; i < s->count; i++) {
        const struct proto_field *f = &s->fields[i];
        uint64_t u = random_u64(r, f->limit);
        double d = (double)(int64_t)check_rng_next(r) / 1e6;
        bool b = u & 1;
        struct str text;
        struct proto_list list = {NULL, check_rng_below(r, f->limit < 4 ? f->limit + 1 : 4)};
        switch (f->kind) {
        case PROTO_KIND_U64:
            memcpy(to + f->offset, &u, sizeof u);
            break;
        case PROTO_KIND_F64:
            if (b)
                memcpy(to + f->offset, &d, sizeof d);
            break;
        case PROTO_KIND_BOOL:
            memcpy(to + f->offset, &b, sizeof b);
            break;
        case PROTO_KIND_STR:
        case PROTO_KIND_BIN:
            text = f->kind == PROTO_KIND_STR ? random_text(r, a, f->limit)
                                             : random_bytes(r, a, f->limit);
            memcpy(to + f->offset, &text, sizeof text);
            break;
        case PROTO_KIND_U64S:
            list.items = arena_alloc(a, list.count, sizeof(uint64_t));
            for (size_t j = 0; j < list.count; j++)
                ((uint64_t *)list.items)[j] = random_u64(r, 0);
            memcpy(to + f->offset, &list, sizeof list);
            break;
        case PROTO_KIND_LIST:
            list.items = arena_alloc(a, list.count, f->record()->size);
            for (size_t j = 0; j < list.count; j++)
                random_fields(r, a, f->record(), (char *)list.items + j * f->record()->size);
            memcpy(to + f->offset, &list, sizeof list);
            break;
        }
    }
}

static inline void random_msg(struct check_rng *r, struct arena *a, enum msg_type type,
                              struct msg *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->type = type;
    random_fields(r, a, proto_message_schema(type), (char *)&ret->hello);
}

static inline bool same_fields(const struct proto_schema *s, const char *x, const char *y)
{
    for (size_t i = 0; i < s->count; i++) {
        const struct proto_field *f = &s->fields[i];
        struct proto_list l, m;
        struct str t, u;
        double v, w;
        switch (f->kind) {
        case PROTO_KIND_F64: /* numbers: -0.0 and 0.0 are one */
            memcpy(&v, x + f->offset, sizeof v);
            memcpy(&w, y + f->offset, sizeof w);
            if (v != w)
                return false;
            break;
        case PROTO_KIND_U64:
            if (memcmp(x + f->offset, y + f->offset, 8) != 0)
                return false;
            break;
        case PROTO_KIND_BOOL:
            if (x[f->offset] != y[f->offset])
                return false;
            break;
        case PROTO_KIND_STR:
        case PROTO_KIND_BIN:
            memcpy(&t, x + f->offset, sizeof t);
            memcpy(&u, y + f->offset, sizeof u);
            if (!str_eq(t, u))
                return false;
            break;
        case PROTO_KIND_U64S:
        case PROTO_KIND_LIST:
            memcpy(&l, x + f->offset, sizeof l);
            memcpy(&m, y + f->offset, sizeof m);
            if (l.count != m.count)
                return false;
            for (size_t j = 0; j < l.count; j++) {
                size_t size = f->kind == PROTO_KIND_LIST ? f->record()->size : 8;
                const char *p = (const char *)l.items + j * size,
                           *q = (const char *)m.items + j * size;
                if (f->kind == PROTO_KIND_LIST ? !same_fields(f->record(), p, q)
                                               : memcmp(p, q, 8) != 0)
                    return false;
            }
            break;
        }
    }
    return true;
}

#endif
