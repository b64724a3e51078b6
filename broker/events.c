/* A ring for each kind of event; see events.h. */
#include "broker/events.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/utf8.h"

struct event {
    uint64_t seq, at_ms; /* seq 0: none */
    char subject[PROTO_MAX_ID_BYTES + 1];
    char text[EVENTS_TEXT_BYTES + 1];
};

struct events {
    uint64_t last_seq;
    struct ring {
        uint64_t count; /* ever added */
        struct event kept[EVENTS_KEPT];
    } rings[EVENT_KIND_COUNT];
};

static const struct str kind_names[] = {
#define X(KIND, name, doc) [EVENT_##KIND] = {name, sizeof(name) - 1},
    EVENT_KINDS(X)
#undef X
};

enum err events_create(uint32_t generation, struct events **ret)
{
    struct events *e = calloc(1, sizeof *e);
    if (e == NULL)
        return ERR_NOMEM;
    e->last_seq = (uint64_t)generation << 32;
    *ret = e;
    return ERR_OK;
}

void events_destroy(struct events **e)
{
    free(*e);
    *e = NULL;
}

/* A text that was cut ends with a whole character. */
static void trim(char *text)
{
    text[utf8_valid_prefix(text, strlen(text))] = '\0';
}

void events_add(struct events *e, enum event_kind kind, uint64_t at_ms, const char *subject,
                const char *fmt, va_list args)
{
    struct ring *r = &e->rings[kind];
    struct event *at = &r->kept[r->count++ % EVENTS_KEPT];
    at->seq = ++e->last_seq;
    at->at_ms = at_ms;
    snprintf(at->subject, sizeof at->subject, "%s", subject);
    vsnprintf(at->text, sizeof at->text, fmt, args);
    trim(at->subject);
    trim(at->text);
}

/* The ring's first one after `after`; NULL: none. */
static const struct event *first_after(const struct ring *r, uint64_t after)
{
    uint64_t low = r->count > EVENTS_KEPT ? r->count - EVENTS_KEPT : 0, high = r->count;
    while (low < high) {
        uint64_t mid = low + (high - low) / 2;
        if (r->kept[mid % EVENTS_KEPT].seq <= after)
            low = mid + 1;
        else
            high = mid;
    }
    return low < r->count ? &r->kept[low % EVENTS_KEPT] : NULL;
}

size_t events_read(const struct events *e, uint64_t after, struct rec_EVENT *ret, size_t max)
{
    size_t count = 0;
    while (count < max) {
        const struct event *next = NULL;
        int kind = 0;
        for (int k = 0; k < EVENT_KIND_COUNT; k++) {
            const struct event *first = first_after(&e->rings[k], after);
            if (first != NULL && (next == NULL || first->seq < next->seq)) {
                next = first;
                kind = k;
            }
        }
        if (next == NULL)
            break;
        ret[count++] = (struct rec_EVENT){.seq = next->seq,
                                          .at_ms = next->at_ms,
                                          .kind = kind_names[kind],
                                          .subject = str_of(next->subject),
                                          .text = str_of(next->text)};
        after = next->seq;
    }
    return count;
}
