/* See degrees.h. */
#include "worker/sensors/degrees.h"

#include "base/clock.h"

static const double rise_c = 10, fall_c = 6, deep_c = 12;
static const uint64_t rise_ns = 2 * NS_PER_S, fall_ns = 2 * NS_PER_S, deep_ns = 8 * NS_PER_S;
static const uint64_t back_ns = 10 * NS_PER_S;
static const uint64_t silence_ns = 10 * NS_PER_S;

static bool is_near(double c, double to_c)
{
    return c <= to_c + rise_c && c >= to_c - fall_c;
}

bool degrees_believe(struct degrees *d, double c, uint64_t read_ns)
{
    if (!d->known || read_ns - d->read_ns > silence_ns)
        *d = (struct degrees){.known = true, .c = c, .before_c = c};
    d->read_ns = read_ns;
    bool near = is_near(c, d->c);
    bool back = is_near(c, d->before_c) && read_ns - d->step_ns <= back_ns;
    int side = near || back ? 0 : c > d->c ? 1 : c >= d->c - deep_c ? -1 : -2;
    uint64_t wait_ns = side > 0 ? rise_ns : side == -1 ? fall_ns : deep_ns;
    if (side != d->side)
        d->since_ns = read_ns;
    d->side = side;
    if (side != 0 && read_ns - d->since_ns < wait_ns)
        return false;
    if (!near) {
        d->before_c = d->c;
        d->step_ns = read_ns;
    }
    d->side = 0;
    d->c = c;
    return true;
}
