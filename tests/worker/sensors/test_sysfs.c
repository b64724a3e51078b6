/* The sensors that read /sys, over trees with the files that the kernel documents for each driver:
 * whole, of older kernels, and broken. */
#include "base/clock.h"
#include "base/size.h"
#include "check.h"
#include "tests/worker/sensors/tree.h"
#include "worker/sensors/sensor.h"

/* No machine has a GPU at this address, so no other sensor answers for it. */
#define CARD "bus/pci/devices/fedc:83:00.0/"
static const struct sensor_target gpu = {.pci = "fedc:83:00.0", .sysfs = tree_root};
static const struct sensor_target processor = {.pci = "", .software = true, .sysfs = tree_root};

static bool near(double got, double want)
{
    return got - want < 1e-6 && want - got < 1e-6;
}

static struct sensor *open_or_stop(const char *spec, const struct sensor_target *target,
                                   const char *name)
{
    struct sensor *s = NULL;
    struct err_msg why = {{0}};
    CHECK_OK(sensor_open(spec, target, &s, &why), why);
    if (s == NULL)
        exit(check_report());
    CHECK_STR(sensor_name(s), name);
    return s;
}

static struct sensor_reading read_at(struct sensor *s, unsigned at_s)
{
    struct sensor_reading in = {0};
    struct err_msg why = {{0}};
    CHECK_OK(sensor_read(s, at_s * NS_PER_S, &in, &why), why);
    return in;
}

static struct sensor_reading read_tree(const char *spec, const struct sensor_target *target,
                                       const char *name, const struct tree_file *files,
                                       size_t count)
{
    tree_make(files, count);
    struct sensor *s = open_or_stop(spec, target, name);
    struct sensor_reading in = read_at(s, 1);
    sensor_close(&s);
    return in;
}

/* A desktop card: three temperatures with limits, a mean power. */
static const struct tree_file radeon[] = {
    {CARD "hwmon/hwmon3/name", "nvme\n"},
    {CARD "hwmon/hwmon5/name", "amdgpu\n"},
    {CARD "hwmon/hwmon5/temp1_label", "edge\n"},
    {CARD "hwmon/hwmon5/temp1_input", "62000\n"},
    {CARD "hwmon/hwmon5/temp1_crit", "100000\n"},
    {CARD "hwmon/hwmon5/temp1_emergency", "105000\n"},
    {CARD "hwmon/hwmon5/temp2_label", "junction\n"},
    {CARD "hwmon/hwmon5/temp2_input", "81000\n"},
    {CARD "hwmon/hwmon5/temp2_crit", "110000\n"},
    {CARD "hwmon/hwmon5/temp3_label", "mem\n"},
    {CARD "hwmon/hwmon5/temp3_input", "88000\n"},
    {CARD "hwmon/hwmon5/temp3_crit", "108000\n"},
    {CARD "hwmon/hwmon5/power1_label", "PPT\n"},
    {CARD "hwmon/hwmon5/power1_average", "287000000\n"},
    {CARD "hwmon/hwmon5/power1_cap", "339000000\n"},
    {CARD "hwmon/hwmon5/freq1_label", "sclk\n"},
    {CARD "hwmon/hwmon5/freq1_input", "2482000000\n"},
    {CARD "hwmon/hwmon5/freq2_label", "mclk\n"},
    {CARD "hwmon/hwmon5/freq2_input", "1249000000\n"},
};

/* A data centre card: no edge, and the power of the moment. */
static const struct tree_file instinct[] = {
    {CARD "hwmon/hwmon9/name", "amdgpu\n"},
    {CARD "hwmon/hwmon9/temp2_label", "junction\n"},
    {CARD "hwmon/hwmon9/temp2_input", "44000\n"},
    {CARD "hwmon/hwmon9/temp2_crit", "100000\n"},
    {CARD "hwmon/hwmon9/temp3_label", "mem\n"},
    {CARD "hwmon/hwmon9/temp3_input", "35000\n"},
    {CARD "hwmon/hwmon9/power1_input", "142000000\n"},
    {CARD "hwmon/hwmon9/power1_cap", "750000000\n"},
    {CARD "hwmon/hwmon9/freq1_input", "132000000\n"},
};

/* A card on a kernel from before the labels. */
static const struct tree_file polaris[] = {
    {CARD "hwmon/hwmon0/name", "amdgpu\n"},
    {CARD "hwmon/hwmon0/temp1_input", "67000\n"},
    {CARD "hwmon/hwmon0/temp1_crit", "94000\n"},
    {CARD "hwmon/hwmon0/power1_average", "118044000\n"},
};

/* A GPU within a processor: no limits at all. */
static const struct tree_file apu[] = {
    {CARD "hwmon/hwmon2/name", "amdgpu\n"},
    {CARD "hwmon/hwmon2/temp1_label", "edge\n"},
    {CARD "hwmon/hwmon2/temp1_input", "47000\n"},
    {CARD "hwmon/hwmon2/power1_input", "11021000\n"},
    {CARD "hwmon/hwmon2/freq1_input", "400000000\n"},
};

static void test_amdgpu(void)
{
    struct sensor_reading in = read_tree("sysfs", &gpu, "amdgpu", radeon, ARRAY_LEN(radeon));
    CHECK(in.have_temp && near(in.temp_c, 62) && in.have_margin && near(in.margin_c, 29));
    CHECK(in.have_memory_temp && near(in.memory_temp_c, 88));
    CHECK(in.have_power && near(in.power_w, 287) && near(in.limit_w, 339));
    CHECK(near(in.clock_mhz, 2482) && in.throttle_bits == 0 && !in.have_energy);
    in = read_tree("sysfs", &gpu, "amdgpu", instinct, ARRAY_LEN(instinct));
    CHECK(in.have_temp && near(in.temp_c, 44) && in.have_margin && near(in.margin_c, 56));
    CHECK(in.have_memory_temp && near(in.memory_temp_c, 35));
    CHECK(in.have_power && near(in.power_w, 142) && near(in.limit_w, 750));
    in = read_tree("sysfs", &gpu, "amdgpu", polaris, ARRAY_LEN(polaris));
    CHECK(in.have_temp && near(in.temp_c, 67) && in.have_margin && near(in.margin_c, 27));
    CHECK(in.have_power && near(in.power_w, 118.044) && in.limit_w == 0 && in.clock_mhz == 0);
    CHECK(!in.have_memory_temp);
    in = read_tree("sysfs", &gpu, "amdgpu", apu, ARRAY_LEN(apu));
    CHECK(in.have_temp && near(in.temp_c, 47) && !in.have_margin && !in.have_memory_temp);
    CHECK(in.have_power && near(in.power_w, 11.021) && near(in.clock_mhz, 400));
}

#define ALL_READ                                                                                   \
    {                                                                                              \
        .have_temp = true, .have_margin = true, .have_memory_temp = true, .have_power = true       \
    }

/* A file is gone, empty, text, too long, unreadable, absurd: that value is unknown, no other. */
static void test_amdgpu_broken(void)
{
    static const char *const contents[] = {NULL,
                                           "",
                                           "\n",
                                           "N/A\n",
                                           "0x3e\n",
                                           "12 34\n",
                                           "nan\n",
                                           "inf\n",
                                           TREE_UNREADABLE,
                                           "1000000000000000000000000000000000000000000\n",
                                           "-99000000000\n"};
    tree_make(radeon, ARRAY_LEN(radeon));
    struct sensor *s = open_or_stop("sysfs", &gpu, "amdgpu");
    for (size_t i = 0; i < ARRAY_LEN(contents); i++) {
        static const struct {
            const char *path, *good;
            struct sensor_reading want;
        } files[] = {
            {CARD "hwmon/hwmon5/temp3_input",
             "88000\n",
             {.have_temp = true, .have_margin = true, .have_power = true}},
            {CARD "hwmon/hwmon5/power1_average",
             "287000000\n",
             {.have_temp = true, .have_margin = true, .have_memory_temp = true}},
            {CARD "hwmon/hwmon5/power1_cap", "339000000\n", ALL_READ},
            {CARD "hwmon/hwmon5/freq1_input", "2482000000\n", ALL_READ},
        };
        for (size_t k = 0; k < ARRAY_LEN(files); k++) {
            tree_set(files[k].path, contents[i]);
            struct sensor_reading in = read_at(s, 1), want = files[k].want;
            CHECK(in.have_temp == want.have_temp && in.have_margin == want.have_margin);
            CHECK(in.have_memory_temp == want.have_memory_temp);
            CHECK(in.have_power == want.have_power && near(in.temp_c, 62));
            CHECK((in.limit_w == 0) == (k == 2) && (in.clock_mhz == 0) == (k == 3));
            tree_set(files[k].path, NULL);
            tree_set(files[k].path, files[k].good);
        }
    }
    /* Without the edge the hottest point is the temperature; without both power is left. */
    tree_set(CARD "hwmon/hwmon5/temp1_input", "");
    CHECK(!read_at(s, 2).have_temp); /* 19 degrees more, not so soon */
    struct sensor_reading in = read_at(s, 4);
    CHECK(in.have_temp && near(in.temp_c, 81) && near(in.margin_c, 29));
    tree_set(CARD "hwmon/hwmon5/temp2_input", "edge\n");
    in = read_at(s, 5);
    CHECK(!in.have_temp && !in.have_margin && in.have_power);
    /* The card falls off the bus, and comes back. */
    struct err_msg why = {{0}};
    check_remove(tree_root);
    CHECK_ERR(sensor_read(s, 6 * NS_PER_S, &in, &why), ERR_IO);
    CHECK_HAS(why.text, "hwmon5");
    tree_make(radeon, ARRAY_LEN(radeon));
    CHECK(near(read_at(s, 7).temp_c, 62));
    sensor_close(&s);
}

/* A card on a kernel that labels its temperatures. */
static const struct tree_file battlemage[] = {
    {CARD "hwmon/hwmon4/name", "xe\n"},
    {CARD "hwmon/hwmon4/temp2_label", "pkg\n"},
    {CARD "hwmon/hwmon4/temp2_input", "58000\n"},
    {CARD "hwmon/hwmon4/temp3_label", "vram\n"},
    {CARD "hwmon/hwmon4/temp3_input", "64000\n"},
    {CARD "hwmon/hwmon4/energy1_label", "card\n"},
    {CARD "hwmon/hwmon4/energy1_input", "40000000000\n"},
    {CARD "hwmon/hwmon4/energy2_label", "pkg\n"},
    {CARD "hwmon/hwmon4/energy2_input", "30000000000\n"},
    {CARD "hwmon/hwmon4/power1_max", "0\n"},
    {CARD "hwmon/hwmon4/power1_rated_max", "190000000\n"},
    {CARD "hwmon/hwmon4/power1_cap", "228000000\n"},
    {CARD "hwmon/hwmon4/power1_crit", "300000000\n"},
    {CARD "tile0/gt0/freq0/act_freq", "2850\n"},
    {CARD "tile0/gt0/freq0/throttle/status", "0\n"},
    {CARD "tile0/gt0/freq0/throttle/reason_pl1", "0\n"},
    {CARD "tile0/gt0/freq0/throttle/reason_pl4", "0\n"},
    {CARD "tile0/gt0/freq0/throttle/reason_thermal", "0\n"},
    {CARD "tile0/gt0/freq0/throttle/reason_soc_thermal", "0\n"},
};

static void test_xe(void)
{
    tree_make(battlemage, ARRAY_LEN(battlemage));
    struct sensor *s = open_or_stop("sysfs", &gpu, "xe");
    struct sensor_reading in = read_at(s, 1);
    CHECK(in.have_temp && near(in.temp_c, 58) && in.have_memory_temp && in.memory_temp_c == 64);
    CHECK(in.have_energy && near(in.energy_j, 40000) && !in.have_power && near(in.limit_w, 190));
    CHECK(in.clock_mhz == 2850 && in.throttle_bits == 0 && !in.have_margin);
    tree_set(CARD "hwmon/hwmon4/energy1_input", "40000300000\n");
    tree_set(CARD "hwmon/hwmon4/power1_max", "170000000\n");
    tree_set(CARD "hwmon/hwmon4/temp2_crit", "100000\n");
    tree_set(CARD "tile0/gt0/freq0/throttle/reason_pl1", "1\n"); /* but status says 0 */
    in = read_at(s, 3);
    CHECK(in.have_power && near(in.power_w, 0.15) && near(in.limit_w, 170));
    CHECK(in.have_margin && near(in.margin_c, 42) && in.throttle_bits == 0);
    tree_set(CARD "tile0/gt0/freq0/throttle/status", "1\n");
    CHECK_INT(read_at(s, 4).throttle_bits, THROTTLE_POWER);
    tree_set(CARD "tile0/gt0/freq0/throttle/reason_soc_thermal", "1\n");
    tree_set(CARD "tile0/gt0/freq0/throttle/reason_pl4", "1\n");
    CHECK_INT(read_at(s, 5).throttle_bits, THROTTLE_POWER | THROTTLE_THERMAL | THROTTLE_BRAKE);
    tree_set(CARD "hwmon/hwmon4/temp2_input", "");
    tree_set(CARD "hwmon/hwmon4/energy1_input", NULL);
    struct err_msg why = {{0}};
    CHECK_ERR(sensor_read(s, 6 * NS_PER_S, &in, &why), ERR_IO);
    CHECK_HAS(why.text, "hwmon4");
    sensor_close(&s);
    /* No labels, no counter of the whole card, no GT. */
    static const struct tree_file plain[] = {
        {CARD "hwmon/hwmon4/name", "xe\n"},
        {CARD "hwmon/hwmon4/temp2_input", "51000\n"},
        {CARD "hwmon/hwmon4/energy1_input", TREE_UNREADABLE},
        {CARD "hwmon/hwmon4/energy2_input", "7000000\n"},
        {CARD "hwmon/hwmon4/power1_max", "190000000\n"},
        {CARD "hwmon/hwmon4/power2_max", "150000000\n"},
    };
    in = read_tree("sysfs", &gpu, "xe", plain, ARRAY_LEN(plain));
    CHECK(in.have_temp && in.temp_c == 51 && in.have_energy && in.energy_j == 7);
    CHECK(near(in.limit_w, 150) && !in.have_memory_temp && in.clock_mhz == 0);
}

/* A card with a hwmon of its own and one for its GT; no temperature. */
static const struct tree_file alchemist[] = {
    {CARD "hwmon/hwmon6/name", "i915_gt0\n"},
    {CARD "hwmon/hwmon6/energy1_input", "5000000\n"},
    {CARD "hwmon/hwmon7/name", "i915\n"},
    {CARD "hwmon/hwmon7/energy1_input", "9000000000\n"},
    {CARD "hwmon/hwmon7/power1_max", "190000000\n"},
    {CARD "hwmon/hwmon7/power1_rated_max", "225000000\n"},
    {CARD "drm/renderD129/name", "\n"},
    {CARD "drm/card1/gt/gt0/rps_act_freq_mhz", "2400\n"},
    {CARD "drm/card1/gt/gt0/throttle_reason_status", "1\n"},
    {CARD "drm/card1/gt/gt0/throttle_reason_thermal", "1\n"},
    {CARD "drm/card1/gt/gt0/throttle_reason_pl1", "0\n"},
};

static void test_i915(void)
{
    tree_make(alchemist, ARRAY_LEN(alchemist));
    struct sensor *s = open_or_stop("sysfs", &gpu, "i915");
    struct sensor_reading in = read_at(s, 1);
    CHECK(!in.have_temp && !in.have_margin && !in.have_power && in.have_energy);
    CHECK(near(in.energy_j, 9000) && near(in.limit_w, 190) && in.clock_mhz == 2400);
    CHECK_INT(in.throttle_bits, THROTTLE_THERMAL);
    tree_set(CARD "hwmon/hwmon7/energy1_input", "9300000000\n");
    in = read_at(s, 3);
    CHECK(in.have_power && near(in.power_w, 150));
    /* Newer kernels have one temperature. */
    tree_set(CARD "hwmon/hwmon7/temp1_input", "66000\n");
    in = read_at(s, 4);
    CHECK(in.have_temp && in.temp_c == 66);
    sensor_close(&s);
}

/* Two sockets, and what a machine has beside them. */
static const struct tree_file xeons[] = {
    {"class/hwmon/hwmon0/name", "acpitz\n"},
    {"class/hwmon/hwmon0/temp1_input", "99000\n"},
    {"class/hwmon/hwmon1/name", "coretemp\n"},
    {"class/hwmon/hwmon1/temp1_label", "Package id 0\n"},
    {"class/hwmon/hwmon1/temp1_input", "61000\n"},
    {"class/hwmon/hwmon1/temp1_crit", "100000\n"},
    {"class/hwmon/hwmon1/temp2_label", "Core 0\n"},
    {"class/hwmon/hwmon1/temp2_input", "71000\n"},
    {"class/hwmon/hwmon2/name", "coretemp\n"},
    {"class/hwmon/hwmon2/temp1_label", "Package id 1\n"},
    {"class/hwmon/hwmon2/temp1_input", "64000\n"},
    {"class/hwmon/hwmon2/temp1_crit", "95000\n"},
    {"class/powercap/intel-rapl:0/name", "package-0\n"},
    {"class/powercap/intel-rapl:0/energy_uj", "262143000000\n"},
    {"class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850\n"},
    {"class/powercap/intel-rapl:0/constraint_0_power_limit_uw", "150000000\n"},
    {"class/powercap/intel-rapl:0:0/name", "core\n"},
    {"class/powercap/intel-rapl:0:0/energy_uj", "777\n"},
    {"class/powercap/intel-rapl:1/name", "package-1\n"},
    {"class/powercap/intel-rapl:1/energy_uj", "1000000\n"},
    {"class/powercap/intel-rapl:1/max_energy_range_uj", "262143328850\n"},
    {"class/powercap/intel-rapl:1/constraint_0_power_limit_uw", "150000000\n"},
    {"class/powercap/intel-rapl:2/name", "psys\n"},
    {"class/powercap/intel-rapl:2/energy_uj", "888\n"},
};

static void test_cpu(void)
{
    tree_make(xeons, ARRAY_LEN(xeons));
    struct sensor *s = open_or_stop("auto", &processor, "cpu");
    struct sensor_reading in = read_at(s, 1);
    CHECK(in.have_temp && in.temp_c == 64 && in.have_margin && in.margin_c == 31);
    CHECK(in.have_energy && near(in.energy_j, 262144) && near(in.limit_w, 300));
    tree_set("class/hwmon/hwmon1/temp1_input", "70000\n");
    CHECK(read_at(s, 2).temp_c == 70); /* the hotter one, whichever is read last */
    tree_set("class/hwmon/hwmon1/temp1_input", "61000\n");
    /* One counter begins again: 0.328850 J to its end, then 99.671150 J. */
    tree_set("class/powercap/intel-rapl:0/energy_uj", "99671150\n");
    tree_set("class/powercap/intel-rapl:1/energy_uj", "21000000\n");
    in = read_at(s, 2000000000);
    CHECK(in.have_energy && near(in.energy_j, 262144 + 120));
    tree_set("class/powercap/intel-rapl:0/energy_uj", "199671150\n");
    in = read_at(s, 2000000001);
    CHECK(in.have_power && near(in.power_w, 100));
    tree_set("class/powercap/intel-rapl:1/energy_uj", TREE_UNREADABLE);
    in = read_at(s, 2000000002);
    CHECK(in.have_temp && !in.have_energy && !in.have_power);
    sensor_close(&s);
    /* A counter for root only, on an AMD processor. */
    static const struct tree_file ryzen[] = {
        {"class/hwmon/hwmon0/name", "k10temp\n"},
        {"class/hwmon/hwmon0/temp1_label", "Tctl\n"},
        {"class/hwmon/hwmon0/temp1_input", "82750\n"},
        {"class/hwmon/hwmon0/temp2_label", "Tdie\n"},
        {"class/hwmon/hwmon0/temp2_input", "55750\n"},
        {"class/powercap/intel-rapl:0/name", "package-0\n"},
        {"class/powercap/intel-rapl:0/energy_uj", TREE_UNREADABLE},
    };
    in = read_tree("cpu", &processor, "cpu", ryzen, ARRAY_LEN(ryzen));
    CHECK(in.have_temp && in.temp_c == 55.75 && !in.have_margin && !in.have_energy);
    static const struct tree_file zone[] = {
        {"class/thermal/thermal_zone0/type", "acpitz\n"},
        {"class/thermal/thermal_zone0/temp", "27800\n"},
        {"class/thermal/thermal_zone12/type", "x86_pkg_temp\n"},
        {"class/thermal/thermal_zone12/temp", "73000\n"},
    };
    in = read_tree("cpu", &processor, "cpu", zone, ARRAY_LEN(zone));
    CHECK(in.have_temp && in.temp_c == 73);
    static const struct tree_file board[] = {
        {"class/hwmon/hwmon0/name", "cpu_thermal\n"},
        {"class/hwmon/hwmon0/temp1_input", "48686\n"},
    };
    in = read_tree("cpu", &processor, "cpu", board, ARRAY_LEN(board));
    CHECK(in.have_temp && near(in.temp_c, 48.686));
}

static void check_refused(const char *spec, const struct sensor_target *target, const char *want)
{
    struct sensor *s = NULL;
    struct err_msg why = {{0}};
    CHECK_ERR(sensor_open(spec, target, &s, &why), ERR_NOT_FOUND);
    CHECK_HAS(why.text, want);
    CHECK(s == NULL);
}

static void test_not_there(void)
{
    static const struct sensor_target nowhere = {.pci = "", .sysfs = tree_root};
    static const struct tree_file other[] = {
        {"bus/pci/devices/fedc:84:00.0/hwmon/hwmon1/name", "amdgpu\n"},
        {"bus/pci/devices/fedc:84:00.0/hwmon/hwmon1/temp1_input", "50000\n"},
        {"class/powercap/intel-rapl:0/name", "package-0\n"},
        {"class/powercap/intel-rapl:0/energy_uj", TREE_UNREADABLE},
    };
    static const struct tree_file nouveau[] = {
        {CARD "hwmon/hwmon1/name", "nouveau\n"},
        {CARD "hwmon/hwmon1/temp1_input", "50000\n"},
        {CARD "hwmon/hwmon2/name", "\n"},
        {CARD "hwmon/hwmonX/name", "amdgpu\n"},
    };
    tree_make(other, ARRAY_LEN(other));
    check_refused("sysfs", &gpu, "fedc:83:00.0");
    check_refused("sysfs", &nowhere, "PCI address");
    check_refused("cpu", &processor, "root only");
    check_refused("auto", &processor, "cpu: ");
    tree_make(nouveau, ARRAY_LEN(nouveau));
    check_refused("sysfs", &gpu, "none of amdgpu, xe or i915");
    check_refused("cpu", &processor, "nor its energy");
    /* One line that says all that was tried. */
    struct sensor *s = NULL;
    struct err_msg why = {{0}};
    CHECK_ERR(sensor_open("auto", &gpu, &s, &why), ERR_NOT_FOUND);
    CHECK_HAS(why.text, "nvml: ");
    CHECK_HAS(why.text, "; nvidia-smi: ");
    CHECK_HAS(why.text, "; sysfs: ");
    CHECK(strstr(why.text, "cpu") == NULL && strchr(why.text, '\n') == NULL);
    /* "auto" goes past what opens and cannot be read. */
    static const struct tree_file mute[] = {{CARD "hwmon/hwmon1/name", "amdgpu\n"},
                                            {CARD "hwmon/hwmon1/temp1_input", "\n"}};
    tree_make(mute, ARRAY_LEN(mute));
    check_refused("auto", &gpu, "neither temperature nor power can be read");
    tree_make(radeon, ARRAY_LEN(radeon));
    s = open_or_stop("auto", &gpu, "amdgpu");
    sensor_close(&s);
}

/* Any bytes in any file: an error or a reading in which everything can be. */
static void test_any_bytes(const char *name, const struct tree_file *files, size_t count,
                           struct check_rng *rng)
{
    static const char words[] = "0123456789-.+eEx \n\0aN";
    const struct sensor_target *target = strcmp(name, "cpu") == 0 ? &processor : &gpu;
    tree_make(files, count);
    struct sensor *s = open_or_stop("auto", target, name);
    for (unsigned round = 1; round <= 200; round++) {
        char text[48];
        size_t len = check_rng_below(rng, sizeof text);
        for (size_t i = 0; i < len; i++)
            text[i] = check_rng_below(rng, 20) == 0 ? (char)check_rng_next(rng)
                                                    : words[check_rng_below(rng, sizeof words)];
        tree_write(files[check_rng_below(rng, count)].path, text, len);
        struct sensor_reading in = {0};
        struct err_msg why = {{0}};
        if (sensor_read(s, round * NS_PER_S, &in, &why) != ERR_OK)
            continue;
        CHECK(!in.have_temp || (in.temp_c >= -40 && in.temp_c <= 150));
        CHECK(!in.have_margin || (in.margin_c >= -190 && in.margin_c <= 190));
        CHECK(!in.have_power || (in.power_w >= 0 && in.power_w <= 5000));
        CHECK(!in.have_energy || in.energy_j >= 0);
        CHECK(in.limit_w >= 0 && in.limit_w <= 5000 && in.clock_mhz >= 0);
    }
    sensor_close(&s);
    /* What is there now may be no sensor at all. */
    struct err_msg why = {{0}};
    enum err e = sensor_open("auto", target, &s, &why);
    CHECK(e == ERR_OK || e == ERR_NOT_FOUND);
    sensor_close(&s);
}

int main(void)
{
    if (!CHECK(mkdtemp(tree_root) != NULL))
        return check_report();
    test_amdgpu();
    test_amdgpu_broken();
    test_xe();
    test_i915();
    test_cpu();
    test_not_there();
    struct check_rng rng = check_rng_start(1);
    test_any_bytes("amdgpu", radeon, ARRAY_LEN(radeon), &rng);
    test_any_bytes("xe", battlemage, ARRAY_LEN(battlemage), &rng);
    test_any_bytes("i915", alchemist, ARRAY_LEN(alchemist), &rng);
    test_any_bytes("cpu", xeons, ARRAY_LEN(xeons), &rng);
    check_remove(tree_root);
    return check_report();
}
