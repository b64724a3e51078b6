/* From options to a schedule. */
#include "client/schedule.h"

#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "client/when.h"

static enum err set_time(const char *option, const char *text, uint64_t now_ms, uint64_t after_ms,
                         uint64_t *ret_ms, struct err_msg *why)
{
    if (text == NULL)
        return ERR_OK;
    if (strcmp(text, "none") == 0) {
        *ret_ms = 0;
        return ERR_OK;
    }
    struct err_msg reason;
    enum err e = when_parse(text, now_ms, after_ms, ret_ms, &reason);
    return e == ERR_OK ? e : err_set(why, e, "--%s %s", option, reason.text);
}

uint64_t schedule_said(const struct schedule_options *o)
{
    uint64_t bits = 0;
    bits |= o->priority >= 0 ? SCHEDULE_BIT(priority) : 0;
    bits |= o->max_parallel >= 0 ? SCHEDULE_BIT(max_parallel) : 0;
    bits |= o->not_before != NULL ? SCHEDULE_BIT(not_before_ms) : 0;
    bits |= o->not_after != NULL ? SCHEDULE_BIT(not_after_ms) : 0;
    bits |= o->hours != NULL ? SCHEDULE_BIT(daily_from_min) | SCHEDULE_BIT(daily_until_min) : 0;
    bits |= o->deadline != NULL ? SCHEDULE_BIT(deadline_ms) : 0;
    return bits;
}

enum err schedule_apply(const struct schedule_options *o, struct rec_SCHEDULE *s,
                        struct err_msg *why)
{
    uint64_t now_ms = clock_wall_ms();
    struct err_msg reason;
    if (o->priority >= 0)
        s->priority = (uint64_t)o->priority;
    if (o->max_parallel >= 0)
        s->max_parallel = (uint64_t)o->max_parallel;
    enum err e = set_time("not-before", o->not_before, now_ms, now_ms, &s->not_before_ms, why);
    uint64_t begin_ms = max_u64(now_ms, s->not_before_ms);
    if (e == ERR_OK)
        e = set_time("not-after", o->not_after, now_ms, begin_ms, &s->not_after_ms, why);
    if (e == ERR_OK)
        e = set_time("deadline", o->deadline, now_ms, begin_ms, &s->deadline_ms, why);
    if (e == ERR_OK && o->hours != NULL) {
        e = when_parse_hours(o->hours, &s->daily_from_min, &s->daily_until_min, &reason);
        if (e != ERR_OK)
            err_set(why, e, "--hours %s", reason.text);
    }
    if (e == ERR_OK && o->not_after != NULL && s->not_after_ms > 0 && s->not_after_ms <= begin_ms)
        e = err_set(why, ERR_USAGE, "--not-after %s: over before anything could start",
                    o->not_after);
    if (e == ERR_OK && o->deadline != NULL && s->deadline_ms > 0 && s->deadline_ms <= begin_ms)
        e = err_set(why, ERR_USAGE, "--deadline %s: over before anything could start", o->deadline);
    return e;
}
