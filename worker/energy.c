/* See energy.h. */
#include "worker/energy.h"

#include "base/clock.h"
#include "base/size.h"

static double seconds(uint64_t ns)
{
    return (double)ns / (double)NS_PER_S;
}

static uint64_t since(const struct energy_meter *m, uint64_t now_ns)
{
    return now_ns > m->at_ns ? now_ns - m->at_ns : 0;
}

/* Joules between the last reading and this one; false: nobody can tell. A counter that fell was
 * started anew. */
static bool measure(const struct energy_meter *m, const struct sensor_reading *in, double gap_s,
                    bool kept, double *ret)
{
    bool counted = m->have_counter && in->have_energy && in->energy_j >= m->counter_j;
    if (counted)
        *ret = in->energy_j - m->counter_j;
    else if (kept && m->have_power && in->have_power)
        *ret = (m->power_w + in->power_w) / 2 * gap_s;
    else
        return false;
    return true;
}

void energy_reading(struct energy_meter *m, const struct sensor_reading *in)
{
    if (!in->have_power && !in->have_energy)
        return;
    uint64_t gap_ns = m->at_ns == 0 ? 0 : since(m, in->read_ns);
    bool kept = m->known && gap_ns > 0 && gap_ns <= ENERGY_KEEPS_NS;
    double gap_s = seconds(gap_ns), used = 0;
    bool measured = measure(m, in, gap_s, kept, &used);
    bool rate_known = measured && gap_ns > 0;
    m->joules += m->watts * seconds(min_u64(gap_ns, ENERGY_KEEPS_NS));
    m->measured_j += used;
    m->watts = in->have_power ? in->power_w : rate_known ? used / gap_s : 0;
    if (kept && measured) {
        m->watts += (m->measured_j - m->joules) / gap_s;
    } else { /* what was used while nobody could tell is nobody's: no making up for it */
        if (m->joules < m->measured_j)
            m->joules = m->measured_j;
        m->measured_j = m->joules;
    }
    if (m->watts < 0)
        m->watts = 0;
    m->known = in->have_power || rate_known;
    m->at_ns = in->read_ns;
    m->have_power = in->have_power;
    m->power_w = in->power_w;
    m->have_counter = in->have_energy;
    m->counter_j = in->energy_j;
}

bool energy_at(const struct energy_meter *m, uint64_t now_ns, double *ret_joules)
{
    if (!m->known || since(m, now_ns) > ENERGY_KEEPS_NS)
        return false;
    *ret_joules = m->joules + m->watts * seconds(since(m, now_ns));
    return true;
}

double energy_total(struct energy_meter *m, uint64_t now_ns)
{
    double joules;
    if (!energy_at(m, now_ns, &joules))
        joules = m->joules;
    if (joules > m->total_j)
        m->total_j = joules;
    return m->total_j;
}
