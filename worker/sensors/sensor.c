/* Which sensor a name means; what of a reading can be true. */
#include "worker/sensors/sensor.h"

#include <stdatomic.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"

/* Best first. */
static const struct kind {
    const char *name;
    sensor_open_fn *open;
    bool of_processor;
} kinds[] = {
    {"nvml", sensor_nvml_open, false},
    {"nvidia-smi", sensor_smi_open, false},
    {"sysfs", sensor_sysfs_open, false},
    {"cpu", sensor_cpu_open, true},
};

static enum err open_best(const struct sensor_target *target, struct sensor **ret,
                          struct err_msg *why)
{
    struct err_msg tried = {{0}};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct sensor *s = NULL;
        struct sensor_reading first;
        struct err_msg reason = {{0}}, before = tried;
        if (kinds[i].of_processor != target->software)
            continue;
        enum err e = kinds[i].open(target, &s, &reason);
        if (e == ERR_OK)
            e = sensor_read(s, clock_mono_ns(), &first, &reason);
        if (e == ERR_OK) {
            *ret = s;
            return ERR_OK;
        }
        sensor_close(&s);
        err_set(&tried, e, "%s%s%s: %s", before.text, before.text[0] == '\0' ? "" : "; ",
                kinds[i].name, reason.text);
    }
    return err_set(why, ERR_NOT_FOUND, "%s", tried.text);
}

enum err sensor_open(const char *spec, const struct sensor_target *target, struct sensor **ret,
                     struct err_msg *why)
{
    if (strcmp(spec, "auto") == 0)
        return open_best(target, ret, why);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (strcmp(spec, kinds[i].name) == 0)
            return kinds[i].open(target, ret, why);
    }
    if (strncmp(spec, "fake:", 5) == 0)
        return sensor_fake_open(spec + 5, ret, why);
    if (strcmp(spec, "none") == 0)
        return err_set(why, ERR_NOT_FOUND, "no sensor wanted");
    return err_set(why, ERR_USAGE,
                   "sensor \"%s\": expected auto, none, nvml, nvidia-smi, sysfs, cpu or fake:FILE",
                   spec);
}

const char *sensor_name(const struct sensor *s)
{
    return s->name;
}

static const double most_w = 5000;

/* False for what is no number, too. */
static bool within(double v, double least, double most)
{
    return v >= least && v <= most;
}

static void drop_implausible(struct sensor_reading *in)
{
    static const double coldest_c = -40, hottest_c = 150, most_mhz = 10000, most_j = 1e15;
    in->have_temp &= within(in->temp_c, coldest_c, hottest_c);
    in->have_memory_temp &= within(in->memory_temp_c, coldest_c, hottest_c);
    in->have_margin &= within(in->margin_c, coldest_c - hottest_c, hottest_c - coldest_c);
    in->have_power &= within(in->power_w, 0, most_w);
    if (!within(in->limit_w, 0, most_w))
        in->limit_w = 0;
    if (!within(in->clock_mhz, 0, most_mhz))
        in->clock_mhz = 0;
    in->have_energy &= within(in->energy_j, 0, most_j);
}

/* Nor beside what was read before. */
static void drop_unbelievable(struct sensor *s, struct sensor_reading *in)
{
    in->have_temp = in->have_temp && degrees_believe(&s->temp, in->temp_c, in->read_ns);
    in->have_margin = in->have_margin && degrees_believe(&s->margin, -in->margin_c, in->read_ns);
}

/* A driver that was loaded anew counts from 0 again; for one whose counter goes round, and on a
 * machine that slept, that looks like a step that no device can take. Either step is told as
 * unknown, then the sum goes on. */
static void follow_energy(struct sensor *s, struct sensor_reading *in)
{
    static const double coarse_s = 1; /* counters are brought up to date this seldom at worst */
    if (!in->have_energy)
        return;
    double step_j = in->energy_j - s->energy.raw_j;
    double seconds = (double)(in->read_ns - s->energy.raw_ns) / (double)NS_PER_S;
    bool broken = s->energy.known && !within(step_j, 0, most_w * (seconds + coarse_s));
    if (!s->energy.known)
        s->energy.sum_j = in->energy_j;
    else if (!broken)
        s->energy.sum_j += step_j;
    if (broken)
        s->energy.power_ns = 0;
    s->energy.known = true;
    s->energy.raw_j = in->energy_j;
    s->energy.raw_ns = in->read_ns;
    in->energy_j = s->energy.sum_j;
    in->have_energy = !broken;
}

/* Over less than shortest_ns the counter's own steps would make the power. */
static void power_from_energy(struct sensor *s, struct sensor_reading *in)
{
    static const uint64_t shortest_ns = NS_PER_S / 10;
    if (in->have_power || !in->have_energy)
        return;
    uint64_t ns = in->read_ns - s->energy.power_ns;
    bool began = s->energy.power_ns != 0;
    if (began && ns < shortest_ns)
        return;
    in->power_w = (in->energy_j - s->energy.power_j) * (double)NS_PER_S / (double)ns;
    in->have_power = began && within(in->power_w, 0, most_w);
    s->energy.power_j = in->energy_j;
    s->energy.power_ns = in->read_ns;
}

enum err sensor_read(struct sensor *s, uint64_t now_ns, struct sensor_reading *ret,
                     struct err_msg *why)
{
    struct sensor_reading in = {0};
    enum err e = s->read(s, &in, why);
    if (e != ERR_OK)
        return e;
    in.read_ns = now_ns;
    drop_implausible(&in);
    drop_unbelievable(s, &in);
    follow_energy(s, &in);
    power_from_energy(s, &in);
    if (!in.have_temp && !in.have_margin && !in.have_power && !in.have_energy)
        return err_set(why, ERR_IO,
                       "%s reads neither temperature nor power nor energy that can be true",
                       s->name);
    *ret = in;
    return ERR_OK;
}

void sensor_came(struct sensor_reading *in, uint64_t now_ns)
{
    if (now_ns - in->read_ns <= SENSOR_KEEPS_NS)
        in->read_ns = now_ns;
}

void sensor_close(struct sensor **s)
{
    if (s == NULL || *s == NULL)
        return;
    (*s)->close(*s);
    *s = NULL;
}

static atomic_bool any_hung;

void sensor_abandon(struct sensor **s)
{
    *s = NULL;
    atomic_store(&any_hung, true);
}

bool sensor_any_hung(void)
{
    return atomic_load(&any_hung);
}
