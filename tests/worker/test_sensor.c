/* Sensors: the fake one's file format; a missing one says so. */
#include <unistd.h>

#include "check.h"
#include "worker/sensor.h"

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
    struct governor_input in = {0};
    struct err_msg why = {{0}};
    CHECK_OK(sensor_open(spec, NULL, &s, &why), why);
    CHECK_STR(sensor_name(s), "fake");
    write_file("61.5\n");
    CHECK_OK(sensor_read(s, &in, &why), why);
    CHECK(in.have_temp && in.temp_c == 61.5 && !in.have_power && !in.have_margin);
    write_file("70 310 700 1 12");
    CHECK_OK(sensor_read(s, &in, &why), why);
    CHECK(in.have_temp && in.temp_c == 70 && in.have_power && in.power_w == 310 &&
          in.limit_w == 700 && in.throttle_bits == THROTTLE_THERMAL && in.have_margin &&
          in.margin_c == 12);
    write_file("- - - - 9");
    CHECK_OK(sensor_read(s, &in, &why), why);
    CHECK(!in.have_temp && !in.have_power && in.limit_w == 0 && in.have_margin && in.margin_c == 9);
    /* Bad content: an error that names the file, and the old reading stays. */
    static const char *const bad[] = {"", "warm", "50 x", "nan", "1 2 3 4 5 6", "1e999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        write_file(bad[i]);
        CHECK_ERR(sensor_read(s, &in, &why), ERR_IO);
        CHECK_HAS(why.text, path);
        CHECK(in.margin_c == 9);
    }
    unlink(path);
    CHECK(sensor_read(s, &in, &why) != ERR_OK);
    CHECK_HAS(why.text, path);
    sensor_close(&s);
    CHECK(s == NULL);
    sensor_close(&s);
}

static void test_missing(void)
{
    struct sensor *s = NULL;
    struct err_msg why = {{0}};
    CHECK_ERR(sensor_open("none", NULL, &s, &why), ERR_NOT_FOUND);
    CHECK_ERR(sensor_open("thermometer", NULL, &s, &why), ERR_USAGE);
    CHECK_HAS(why.text, "thermometer");
    /* No machine has a GPU at this address; most test machines have no NVML at all. */
    CHECK_ERR(sensor_open("nvml", "ffff:ff:1f.7", &s, &why), ERR_NOT_FOUND);
    CHECK_HAS(why.text, "NVML");
    CHECK_ERR(sensor_open("auto", "", &s, &why), ERR_NOT_FOUND);
    CHECK_HAS(why.text, "NVML");
    CHECK(s == NULL);
}

int main(void)
{
    test_fake();
    test_missing();
    return check_report();
}
