/* See keep_clock.h. */
#include "broker/keep_clock.h"

#include "base/clock.h"
#include "base/size.h"

/* What a broker was not running for, or clocks differ by, and is believed at once. */
static uint64_t believed_ms(const struct keep_clock *c)
{
    return c->keep_ms / 2;
}

bool keep_clock_start(struct keep_clock *c, const struct keep_note *noted, uint64_t newest_ms,
                      uint64_t wall_ms, uint64_t keep_ms)
{
    uint64_t at_ms = noted->at_ms > 0 ? noted->at_ms : newest_ms > 0 ? newest_ms : wall_ms;
    uint64_t ahead_ms = wall_ms > at_ms ? wall_ms - at_ms : 0;
    *c = (struct keep_clock){.note = *noted, .keep_ms = keep_ms};
    if (ahead_ms <= believed_ms(c)) {
        c->note = (struct keep_note){.at_ms = max_u64(at_ms, wall_ms)};
    } else if (noted->ahead_ms > 0 && ahead_ms >= noted->ahead_ms &&
               ahead_ms - noted->ahead_ms <= believed_ms(c)) {
        uint64_t away_ms = ahead_ms - noted->ahead_ms; /* since the last run: not seen */
        c->note.at_ms = at_ms + away_ms;
        c->note.from_ms += away_ms;
    } else {
        c->note = (struct keep_note){.at_ms = at_ms, .ahead_ms = ahead_ms, .from_ms = at_ms};
    }
    c->start_ms = c->note.at_ms;
    return c->note.ahead_ms > 0;
}

uint64_t keep_clock_ms(struct keep_clock *c, uint64_t wall_ms, uint64_t since_start_ns)
{
    struct keep_note *n = &c->note;
    n->at_ms = c->start_ms + since_start_ns / NS_PER_MS;
    if (n->ahead_ms > 0 && n->at_ms - n->from_ms >= c->keep_ms) {
        if (wall_ms + believed_ms(c) >= n->at_ms + n->ahead_ms) { /* it still is */
            c->start_ms += n->ahead_ms;
            n->at_ms += n->ahead_ms;
        }
        n->ahead_ms = 0;
    }
    return min_u64(wall_ms, n->at_ms);
}
