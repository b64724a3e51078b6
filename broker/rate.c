/* Counts that fade; see rate.h. */
#include "broker/rate.h"

#include <math.h>

#include "base/clock.h"
#include "base/size.h"

enum { FORGET_HALVES = 4 };
static const double fade_s = RATE_HALF_S / 0.6931471805599453; /* ln 2 */

static double seconds(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns <= from_ns ? 0 : (double)(to_ns - from_ns) / (double)NS_PER_S;
}

void rate_begin(struct rate *r, uint64_t now_ns)
{
    double silent_s = seconds(max_u64(r->begun_ns, r->last_ns), now_ns);
    if (r->begun_ns == 0 || silent_s > fmax(FORGET_HALVES * RATE_HALF_S, 2 * seconds(0, r->gap_ns)))
        *r = (struct rate){.begun_ns = now_ns};
}

void rate_count(struct rate *r, uint64_t now_ns, uint64_t n)
{
    if (r->begun_ns == 0)
        rate_begin(r, now_ns);
    uint64_t silent_ns = now_ns - max_u64(r->begun_ns, r->last_ns);
    if (silent_ns > NS_PER_S) /* else they end together */
        r->gap_ns = max_u64(silent_ns, r->gap_ns / 2);
    if (r->last_ns != 0)
        r->faded *= exp(-seconds(r->last_ns, now_ns) / fade_s);
    if (now_ns > r->begun_ns) /* in no time at all says nothing */
        r->faded += (double)n;
    r->last_ns = now_ns;
}

/* The mean over the time since it began, weighted as the counts are. */
static double mean(const struct rate *r, double faded, uint64_t at_ns)
{
    double weight_s = fade_s * -expm1(-seconds(r->begun_ns, at_ns) / fade_s);
    return weight_s > 0 ? faded / weight_s : 0;
}

double rate_per_s(const struct rate *r, uint64_t now_ns)
{
    double silent_s = seconds(r->last_ns, now_ns);
    if (r->last_ns == 0 || silent_s > fmax(RATE_SILENT_S, 2 * seconds(0, r->gap_ns)))
        return 0;
    return mean(r, r->faded * exp(-silent_s / fade_s), now_ns);
}

uint64_t rate_left_ms(const struct rate *r, uint64_t now_ns, uint64_t left)
{
    double per_s = rate_per_s(r, now_ns);
    double ms = per_s > 0 ? (double)left / per_s * 1000 : 0;
    return ms < 1e15 ? (uint64_t)ceil(ms) : 0;
}
