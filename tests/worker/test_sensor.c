/* Sensors: the fake one's file format; a missing one says so. */
#include <unistd.h>

#include "base/clock.h"
#include "base/size.h"
#include "check.h"
#include "worker/sensors/sensor.h"

static const struct sensor_target target = {.pci = "ffff:ff:1f.7"};
static char path[] = "/tmp/octo-sensor-XXXXXX";

static void write_file(const char *text)
{
    FILE *f = fopen(path, "w");
    CHECK(f != NULL && fputs(text, f) >= 0);
    if (f != NULL)
        fclose(f);
}

static void test_fake(void)
{
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    close(fd);
    char spec[64];
    snprintf(spec, sizeof spec, "fake:%s", path);
    struct sensor *s = NULL;
    struct sensor_reading in = {0};
    struct err_msg why = {{0}};
    CHECK_OK(sensor_open(spec, &target, &s, &why), why);
    CHECK_STR(sensor_name(s), "fake");
    write_file("61.5\n");
    CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
    CHECK(in.have_temp && in.temp_c == 61.5 && !in.have_power && !in.have_margin);
    write_file("70 310 700 1 12");
    CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
    CHECK(in.have_temp && in.temp_c == 70 && in.have_power && in.power_w == 310 &&
          in.limit_w == 700 && in.throttle_bits == THROTTLE_THERMAL && in.have_margin &&
          in.margin_c == 12);
    write_file("- - - - 9");
    CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
    CHECK(!in.have_temp && !in.have_power && in.limit_w == 0 && in.have_margin && in.margin_c == 9);
    write_file("71 - - - - 84 1500.5 1410");
    CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
    CHECK(in.have_temp && in.have_memory_temp && in.memory_temp_c == 84 && in.have_energy &&
          in.energy_j == 1500.5 && in.clock_mhz == 1410 && !in.have_power && !in.have_margin);
    write_file("- - - - 9");
    CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
    /* Bad content: an error that names the file, and the old reading stays. */
    static const char *const bad[] = {
        "", "warm", "50 x", "nan", "1 2 3 4 5 6 7 8 9", "1 2 3 4 5 6 7 x", "1e999", "61,5"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        write_file(bad[i]);
        CHECK_ERR(sensor_read(s, NS_PER_S, &in, &why), ERR_IO);
        CHECK_HAS(why.text, path);
        CHECK(in.margin_c == 9);
    }
    /* Nothing in it that can be true. */
    static const char *const empty[] = {"-", "- - 300 1", "-41", "151 -1", "- 5001 - - 191"};
    for (size_t i = 0; i < ARRAY_LEN(empty); i++) {
        write_file(empty[i]);
        CHECK_ERR(sensor_read(s, NS_PER_S, &in, &why), ERR_IO);
        CHECK_HAS(why.text, "neither temperature");
        CHECK(in.margin_c == 9);
    }
    unlink(path);
    CHECK(sensor_read(s, NS_PER_S, &in, &why) != ERR_OK);
    CHECK_HAS(why.text, path);
    sensor_close(&s);
    CHECK(s == NULL);
    sensor_close(&s);
}

/* Watts of a device that only counts joules. */
static void test_power_from_energy(void)
{
    static const struct {
        const char *text;
        double at_s, want_w; /* -1: unknown */
    } steps[] = {
        {"50 - - - - - 1000", 10, -1},    /* nothing to compare with */
        {"50 - - - - - 1001", 10.05, -1}, /* too soon: the counter's own steps */
        {"50 - - - - - 1150", 11, 150},       {"50 - - - - - 1150", 12, 0},
        {"50 - - - - - -", 13, -1}, /* left out: the next one is a mean */
        {"50 - - - - - 1450", 15, 100},       {"50 - - - - - 20", 16, -1}, /* counts anew */
        {"50 - - - - - 90", 17, -1},          {"50 - - - - - 290", 18, 200},
        {"50 - - - - - 9e9", 19, -1}, /* nine gigawatts */
        {"50 - - - - - 9000000100", 20, -1},  {"50 - - - - - 9000000400", 21, 300},
        {"50 77 - - - - 9000000500", 22, 77}, /* what the device tells itself is better */
    };
    /* Without the steps that cannot be: down to 20, and up to 9e9. */
    static const double sum_j = 1450 + 270 + 500;
    struct sensor *s = NULL;
    struct sensor_reading in = {0};
    struct err_msg why = {{0}};
    char spec[64];
    snprintf(spec, sizeof spec, "fake:%s", path);
    write_file("50"); /* it has to be there */
    CHECK_OK(sensor_open(spec, &target, &s, &why), why);
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        write_file(steps[i].text);
        CHECK_OK(sensor_read(s, (uint64_t)(steps[i].at_s * (double)NS_PER_S), &in, &why), why);
        double got_w = in.have_power ? in.power_w : -1;
        if (!CHECK(got_w - steps[i].want_w < 0.01 && steps[i].want_w - got_w < 0.01))
            fprintf(stderr, "    at %.2f s: got %.3f W, expected %.0f W\n", steps[i].at_s, got_w,
                    steps[i].want_w);
    }
    CHECK(in.have_energy && in.energy_j > sum_j - 0.01 && in.energy_j < sum_j + 0.01);
    unlink(path);
    sensor_close(&s);
}

/* Degrees a second of a fake sensor ("-": none); want: what is told then, -100: unknown. */
struct told {
    double at_s, degrees_c, want_c;
};

static void tell_degrees(const char *format, const struct told *list, size_t count)
{
    struct sensor *s = NULL;
    struct err_msg why = {{0}};
    char spec[64], text[64];
    snprintf(spec, sizeof spec, "fake:%s", path);
    write_file("50"); /* it has to be there */
    CHECK_OK(sensor_open(spec, &target, &s, &why), why);
    for (size_t i = 0; i < count; i++) {
        struct sensor_reading in = {0};
        snprintf(text, sizeof text, format, list[i].degrees_c);
        write_file(text);
        CHECK_OK(sensor_read(s, (uint64_t)(list[i].at_s * (double)NS_PER_S), &in, &why), why);
        double got = in.have_temp ? in.temp_c : in.have_margin ? -in.margin_c : -100;
        if (!CHECK(got == list[i].want_c))
            fprintf(stderr, "    at %.2f s: got %.1f C, expected %.1f C\n", list[i].at_s, got,
                    list[i].want_c);
    }
    unlink(path);
    sensor_close(&s);
}

/* Degrees that cannot be so soon after those before are unknown, a few in a row as well; what is
 * true is told, sooner when it is hotter. */
static void test_degrees(void)
{
    static const struct told list[] = {
        {1, 75, 75},     {2, 0, -100},   {3, 0, -100},      {4, 140, -100},  {5, 140, -100},
        {6, 0, -100},    {7, 76, 76},    {7.05, 116, -100}, {7.1, 36, -100}, {7.15, 79, 79},
        {8, 89, 89},     {9, 100, -100}, /* true, and two seconds later it counts */
        {10, 104, -100}, {11, 108, 108}, {12, 112, 112},    {22, 90, -100}, /* the work ended */
        {23, 80, -100},  {26, 60, -100}, {29, 56, -100},    {30, 55, 55},    {40, 127, -100},
        {41, 127, -100}, {42, 127, 127}, /* too many to be seen through */
        {43, 56, 56},    {44, 55, 55},   {53, 0, -100},     {55, 0, -100},   {60, 0, -100},
        {61, 0, 0},      {62, 0, 0},     {63, 57, 57},      {72, 50, -100},  {77, 57, 57},
        {78, 50, -100},                                /* each anew */
        {79, 50, -100},  {80, 50, 50},   {91, 20, 20}, /* after a silence */
    };
    tell_degrees("%g 100 300", list, ARRAY_LEN(list));
    /* A large chip (an H100) whose duty changes: true from one second to the next. */
    static const struct told leaps[] = {{1, 44, 44}, {2, 52, 52}, {3, 54, 54},
                                        {4, 48, 48}, {5, 51, 51}, {6, 45, 45}};
    tell_degrees("%g 100 300", leaps, ARRAY_LEN(leaps));
    static const struct told falls[] = {{100, 46, 46},   {101, 52, 52}, {102, 44, -100},
                                        {103, 43, -100}, {104, 42, 42}, {105, 43, 43}};
    tell_degrees("%g 100 300", falls, ARRAY_LEN(falls));
    /* The margin to a card's limit, which falls when it heats up. */
    static const struct told margins[] = {{1, 30, -30}, {2, 127, -100}, {3, 31, -31},
                                          {4, 22, -22}, {5, -60, -100}, {6, 21, -21},
                                          {7, 5, -100}, {8, 5, -100},   {9, 4, -4}};
    tell_degrees("- 100 300 - %g", margins, ARRAY_LEN(margins));
}

/* Whatever is in the file: an error or a reading, and nothing in it that cannot be. */
static void test_any_bytes(void)
{
    static const char words[] = "0123456789.-+eEnaif \t\n\0x";
    struct sensor *s = NULL;
    struct err_msg why = {{0}};
    struct check_rng rng = check_rng_start(1);
    char spec[64], text[64];
    snprintf(spec, sizeof spec, "fake:%s", path);
    write_file("50"); /* it has to be there */
    CHECK_OK(sensor_open(spec, &target, &s, &why), why);
    for (int round = 0; round < 400; round++) {
        struct sensor_reading in = {0};
        size_t len = 0;
        for (len = 0; len < sizeof text && check_rng_below(&rng, 24) != 0; len++)
            text[len] = check_rng_below(&rng, 40) == 0 ? (char)check_rng_next(&rng)
                                                       : words[check_rng_below(&rng, sizeof words)];
        FILE *f = fopen(path, "w");
        CHECK(f != NULL && fwrite(text, 1, len, f) == len && fclose(f) == 0);
        if (sensor_read(s, (uint64_t)round * NS_PER_S, &in, &why) != ERR_OK)
            continue;
        CHECK(!in.have_temp || (in.temp_c >= -40 && in.temp_c <= 150));
        CHECK(!in.have_power || (in.power_w >= 0 && in.power_w <= 5000));
        CHECK(in.limit_w >= 0 && in.clock_mhz >= 0);
    }
    unlink(path);
    sensor_close(&s);
}

static void test_missing(void)
{
    struct sensor *s = NULL;
    struct err_msg why = {{0}};
    static const struct sensor_target software = {.pci = "", .software = true};
    CHECK_ERR(sensor_open("none", &target, &s, &why), ERR_NOT_FOUND);
    CHECK_ERR(sensor_open("thermometer", &target, &s, &why), ERR_USAGE);
    CHECK_HAS(why.text, "thermometer");
    CHECK_ERR(sensor_open("fake:/nowhere/heat", &target, &s, &why), ERR_IO);
    CHECK_STR(why.text, "/nowhere/heat: cannot read: No such file or directory");
    /* No machine has a GPU at this address; most test machines have no NVML at all. */
    CHECK_ERR(sensor_open("nvml", &target, &s, &why), ERR_NOT_FOUND);
    CHECK_ERR(sensor_open("auto", &target, &s, &why), ERR_NOT_FOUND);
    CHECK_HAS(why.text, "nvml: ");
    CHECK_ERR(sensor_open("auto", &software, &s, &why), ERR_NOT_FOUND);
    CHECK(s == NULL);
}

int main(void)
{
    test_fake();
    test_power_from_energy();
    test_degrees();
    test_any_bytes();
    test_missing();
    return check_report();
}
