/* Calls that wait; see link.h. */
#include "client/link.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/size.h"
#include "client/progress.h"

enum { FULL_FIRST_MS = 50, FULL_SAY_MS = 400, FULL_MOST_MS = 1600, SLOW_MS = 1000 };
#define SAY_FULL_NS (60 * NS_PER_S)

enum err link_open(struct link *l, const char *endpoint, const struct proto_curve *curve,
                   struct err_msg *why)
{
    struct proto_socket_options o = {.endpoint = endpoint, .curve = curve};
    return proto_client_open(&o, &l->client, why);
}

void link_close(struct link *l)
{
    if (l->client != NULL)
        proto_client_close(&l->client);
}

static void say(const struct link *l, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void say(const struct link *l, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (l->progress != NULL)
        progress_clear(l->progress);
    fprintf(stderr, "octoflow %s: ", l->command);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

static void on_slow(void *user, bool connected)
{
    struct link *l = user;
    const char *no_entry = proto_client_no_entry(l->client);
    const char *what = connected             ? "the broker does not answer yet"
                       : no_entry[0] != '\0' ? no_entry
                                             : "no connection to the broker yet";
    if (!l->patient || !l->answered)
        say(l, "%s, waiting for up to %.3g s (--timeout)", what, l->timeout_ms / 1000.0);
    else if (!l->said_away && no_entry[0] != '\0')
        say(l, "%s; waiting until that is so", no_entry);
    else if (!l->said_away)
        say(l, "the broker is away, waiting until it is back");
    l->said_away = l->patient && l->answered;
}

static void has_answered(struct link *l)
{
    l->answered = true;
    if (l->said_away)
        say(l, "the broker is back");
    l->said_away = false;
}

/* A broker without room, as it says; the figures change, the reason hardly. */
static void say_full(struct link *l, const struct err_msg *why, uint64_t now_ns)
{
    if (l->command == NULL || (l->said_full_ns != 0 && now_ns - l->said_full_ns < SAY_FULL_NS))
        return;
    l->said_full_ns = now_ns;
    say(l, "waiting for room: %s", why->text);
}

static uint64_t deadline_ns(const struct link *l, uint64_t now_ns)
{
    uint64_t ms = l->patient && l->answered ? INT_MAX : (uint64_t)l->timeout_ms;
    return now_ns + ms * NS_PER_MS;
}

enum err link_call(struct link *l, struct msg *m, enum msg_type want, const struct msg **ret,
                   struct err_msg *why)
{
    uint64_t now_ns = clock_mono_ns(), full_ms = FULL_FIRST_MS;
    uint64_t end_ns = deadline_ns(l, now_ns);
    int slow_ms = l->slow_ms != 0 ? l->slow_ms : SLOW_MS;
    proto_client_when_slow(l->client, l->command != NULL ? slow_ms : 0, on_slow, l);
    proto_client_while_waiting(l->client, l->pump, l->user);
    for (;;) {
        uint64_t left_ms = div_up(end_ns - now_ns, NS_PER_MS);
        enum err e = proto_client_call(l->client, m, (int)left_ms, want, ret, why);
        if (e == ERR_OK || e == ERR_FULL)
            has_answered(l);
        if (e != ERR_FULL)
            return e;
        if (full_ms > FULL_SAY_MS)
            say_full(l, why, clock_mono_ns());
        struct err_msg pump_why = {{0}};
        enum err pumped = l->pump != NULL ? l->pump(l->user, &pump_why) : ERR_OK;
        if (pumped != ERR_OK)
            return err_set(why, pumped, "%s", pump_why.text);
        clock_sleep_ns(full_ms * NS_PER_MS);
        full_ms = min_u64(2 * full_ms, FULL_MOST_MS);
        now_ns = clock_mono_ns();
        if (l->command != NULL) /* it has answered: that is what the timeout is for */
            end_ns = deadline_ns(l, now_ns);
        if (now_ns >= end_ns)
            return e;
    }
}

enum err link_status(struct link *l, const char *batch, const struct rec_BATCH **ret,
                     struct err_msg *why)
{
    struct msg m = {.type = MSG_TYPE_STATUS};
    const struct msg *reply = NULL;
    m.status.batch = str_of(batch);
    enum err e = link_call(l, &m, MSG_TYPE_STATUS_OK, &reply, why);
    if (e != ERR_OK)
        return e;
    if (reply->status_ok.batches.count != 1)
        return err_set(why, ERR_NOT_FOUND, "no batch \"%s\" here", batch);
    *ret = &reply->status_ok.batches.items[0];
    return ERR_OK;
}

uint64_t link_batch_finished(const struct rec_BATCH *b)
{
    return b->done + b->failed + b->cancelled;
}

bool link_batch_complete(const struct rec_BATCH *b)
{
    return (b->sealed || str_eq(b->state, STR_LIT("cancelled"))) &&
           link_batch_finished(b) == b->total;
}
