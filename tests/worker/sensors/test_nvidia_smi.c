/* The nvidia-smi sensor over a program that answers as the vendor's does: cards and drivers of all
 * ages, refusals, a driver that hangs, no program at all; and its parser over any bytes.
 * usage: test_nvidia_smi FAKE_NVIDIA_SMI */
#include <unistd.h>

#include "base/clock.h"
#include "base/size.h"
#include "check.h"
#include "worker/sensors/nvidia_smi.h"

enum { PATIENCE_MS = 10000, SHORT_PATIENCE_MS = 300 };
static const struct sensor_target target = {.pci = "0000:19:00.0"};
static const char *program;
static char fixture[] = "/tmp/octo-smi-XXXXXX";

static void write_file(const char *text)
{
    FILE *f = fopen(fixture, "w");
    CHECK(f != NULL && fputs(text, f) >= 0);
    if (f != NULL)
        fclose(f);
}

/* A data centre card with a driver of 2024: its limits are a margin only. */
static const char h200[] = "pci.bus_id=00000000:19:00.0\n"
                           "temperature.gpu=42\n"
                           "temperature.gpu.tlimit=45\n"
                           "temperature.memory=46\n"
                           "power.draw.instant=116.25\n"
                           "power.draw=121.03\n"
                           "enforced.power.limit=700.00\n"
                           "power.limit=700.00\n"
                           "clocks.sm=1980\n"
                           "clocks_event_reasons.active=0x0000000000000000\n"
                           "clocks_throttle_reasons.active=0x0000000000000000\n";

/* A desktop card under load, held back by its power limit. */
static const char geforce[] = "pci.bus_id=00000000:19:00.0\n"
                              "temperature.gpu=71\n"
                              "temperature.gpu.tlimit=N/A\n"
                              "temperature.memory=N/A\n"
                              "power.draw.instant=448.71\n"
                              "enforced.power.limit=450.00\n"
                              "clocks.sm=2520\n"
                              "clocks_event_reasons.active=0x0000000000000004\n";

/* A laptop's card with a driver of 2021: old names, no margin, no power, in brackets. */
static const char laptop[] = "pci.bus_id=00000000:19:00.0\n"
                             "temperature.gpu=83\n"
                             "temperature.memory=[N/A]\n"
                             "power.draw=[N/A]\n"
                             "enforced.power.limit=[Not Supported]\n"
                             "clocks.sm=1341\n"
                             "clocks_throttle_reasons.active=0x0000000000000028\n";

/* One of 2013, which knows little. */
static const char old[] = "pci.bus_id=00000000:19:00.0\n"
                          "temperature.gpu=55\n"
                          "power.draw=48.10\n"
                          "power.limit=120.00\n";

static struct sensor_reading read_once(const char *text)
{
    struct sensor *s = NULL;
    struct sensor_reading in = {0};
    struct err_msg why = {{0}};
    write_file(text);
    CHECK_OK(sensor_smi_open_as(program, PATIENCE_MS, &target, &s, &why), why);
    if (s == NULL)
        return in;
    CHECK_STR(sensor_name(s), "nvidia-smi");
    CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
    sensor_close(&s);
    return in;
}

static void test_cards(void)
{
    struct sensor_reading in = read_once(h200);
    CHECK(in.have_temp && in.temp_c == 42 && in.have_margin && in.margin_c == 45);
    CHECK(in.have_memory_temp && in.memory_temp_c == 46);
    CHECK(in.have_power && in.power_w == 116.25 && in.limit_w == 700);
    CHECK(in.clock_mhz == 1980 && in.throttle_bits == 0 && !in.have_energy);
    in = read_once(geforce);
    CHECK(in.have_temp && in.temp_c == 71 && !in.have_margin && !in.have_memory_temp);
    CHECK(in.have_power && in.power_w == 448.71 && in.limit_w == 450 && in.clock_mhz == 2520);
    CHECK_INT(in.throttle_bits, THROTTLE_POWER);
    in = read_once(laptop);
    CHECK(in.have_temp && in.temp_c == 83 && !in.have_margin && !in.have_memory_temp);
    CHECK(!in.have_power && in.limit_w == 0 && in.clock_mhz == 1341);
    CHECK_INT(in.throttle_bits, THROTTLE_THERMAL | THROTTLE_BRAKE);
    in = read_once(old);
    CHECK(in.have_temp && in.temp_c == 55 && in.have_power && in.power_w == 48.1);
    CHECK(in.limit_w == 120 && in.clock_mhz == 0 && in.throttle_bits == 0);
}

/* The card falls off the bus, comes back, then says nothing that can be true. */
static void test_while_it_runs(void)
{
    struct sensor *s = NULL;
    struct sensor_reading in = {0};
    struct err_msg why = {{0}};
    write_file(h200);
    CHECK_OK(sensor_smi_open_as(program, PATIENCE_MS, &target, &s, &why), why);
    write_file("!say Unable to determine the device handle for GPU0000:19:00.0: GPU is lost.\n"
               "!exit 15\n");
    CHECK_ERR(sensor_read(s, NS_PER_S, &in, &why), ERR_IO);
    CHECK_HAS(why.text, "GPU is lost");
    write_file(h200);
    CHECK_OK(sensor_read(s, NS_PER_S, &in, &why), why);
    CHECK(in.temp_c == 42);
    write_file("!say WARNING: infoROM is corrupted at gpu 0000:19:00.0\n"
               "pci.bus_id=00000000:19:00.0\n"
               "temperature.gpu=[Unknown Error]\n"
               "temperature.gpu.tlimit=-3\n"
               "temperature.memory=65535\n"
               "power.draw.instant=-1.00\n"
               "enforced.power.limit=99999.00\n"
               "clocks.sm=[GPU is lost]\n"
               "clocks_event_reasons.active=Active\n");
    CHECK_ERR(sensor_read(s, 2 * NS_PER_S, &in, &why), ERR_IO); /* a margin 48 degrees less */
    CHECK_HAS(why.text, "can be true");
    CHECK_OK(sensor_read(s, 4 * NS_PER_S, &in, &why), why);
    CHECK(!in.have_temp && in.have_margin && in.margin_c == -3 && !in.have_memory_temp);
    CHECK(!in.have_power && in.limit_w == 0 && in.clock_mhz == 0 && in.throttle_bits == 0);
    sensor_close(&s);
}

/* Within a moment after a SIGKILL; a zombie of somebody else's is dead enough. */
static bool dies(long pid)
{
    char path[64], state = 'Z';
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    for (int ms = 0; ms < 5000; ms++) {
        FILE *f = fopen(path, "r");
        if (f == NULL)
            return true;
        if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
            state = 'Z';
        fclose(f);
        if (state == 'Z')
            return true;
        clock_sleep_ns(NS_PER_MS);
    }
    return false;
}

/* The program and what it started are gone; the next call answers. */
static void test_hangs(void)
{
    struct sensor *s = NULL;
    struct err_msg why = {{0}};
    char path[64];
    long pids[2] = {0};
    write_file("!hang\n");
    CHECK_ERR(sensor_smi_open_as(program, SHORT_PATIENCE_MS, &target, &s, &why), ERR_NOT_FOUND);
    CHECK_HAS(why.text, "did not answer within 300 ms");
    write_file(h200);
    CHECK_OK(sensor_smi_open_as(program, PATIENCE_MS, &target, &s, &why), why);
    sensor_close(&s);
    snprintf(path, sizeof path, "%s.pid", fixture);
    FILE *f = fopen(path, "r");
    CHECK(f != NULL && fscanf(f, "%ld %ld", &pids[0], &pids[1]) == 2);
    if (f != NULL)
        fclose(f);
    unlink(path);
    CHECK(pids[0] > 1 && dies(pids[0]) && pids[1] > 1 && dies(pids[1]));
}

static void test_not_there(void)
{
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"!say NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"
         "!exit 9\n",
         "couldn't communicate"},
        {"pci.bus_id=00000000:65:00.0\ntemperature.gpu=40\n", "No devices were found"},
        {"!say 00000000:18:00.0, 1, 2, 3, 4, 5, 6, 0x0\n!exit 0\n", "no GPU at PCI address"},
        {"!exit 0\n", "no GPU at PCI address 0000:19:00.0"},
        {"!say No devices were found\n!exit 0\n", "No devices were found"},
        {"!say 00000000:19:00.0, 42\n!exit 0\n", "says nothing of temperature.gpu.tlimit"},
        {"!say 00000000:19:00.0, 1, 2, 3, 4, 5, 6, 0x0, 8\n!exit 0\n", "more than was asked"},
        {"!say Field \"pci.bus_id\" is not a valid field to query.\n!exit 2\n", "pci.bus_id"},
        {"!say Field \"temperature\" is not a valid field to query.\n!exit 2\n", "temperature"},
    };
    struct sensor *s = NULL;
    struct err_msg why = {{0}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        write_file(cases[i].text);
        CHECK_ERR(sensor_smi_open_as(program, PATIENCE_MS, &target, &s, &why), ERR_NOT_FOUND);
        CHECK_HAS(why.text, cases[i].want);
    }
    CHECK_ERR(sensor_smi_open_as("octo-no-such-program", PATIENCE_MS, &target, &s, &why),
              ERR_NOT_FOUND);
    CHECK_HAS(why.text, "octo-no-such-program is not on PATH");
    CHECK_ERR(sensor_smi_open_as("yes", PATIENCE_MS, &target, &s, &why), ERR_NOT_FOUND);
    static const struct sensor_target unknown = {0};
    CHECK_ERR(sensor_smi_open_as(program, PATIENCE_MS, &unknown, &s, &why), ERR_NOT_FOUND);
    CHECK_HAS(why.text, "PCI address");
    CHECK(s == NULL);
}

/* Lines of the words that occur, cut and changed: an answer or an error, never a crash. */
static void test_any_bytes(void)
{
    static const char *const words[] = {
        "00000000:19:00.0", "0000:19:00.0", ", ",    ",",   "42",   "-3.5", "[N/A]", "N/A", "\n",
        "[Unknown Error]",  "0x4",          "1e999", "nan", "\r\n", " ",    "x"};
    static const char *const asked[SMI_FIELDS] = {"pci.bus_id", "a", NULL, "b", "c", "d", "e", "f"};
    struct err_msg why = {{0}};
    struct check_rng rng = check_rng_start(1);
    unsigned whole = 0;
    for (int round = 0; round < 200000; round++) {
        char text[256] = "";
        size_t len = 0, count = check_rng_below(&rng, 20);
        if (round % 2 == 0)
            len = (size_t)snprintf(text, sizeof text, "0000:19:00.0");
        for (size_t i = 0; i < count; i++) {
            const char *word = round % 2 == 0 && i % 2 == 0
                                   ? ", "
                                   : words[check_rng_below(&rng, ARRAY_LEN(words))];
            len += (size_t)snprintf(text + len, sizeof text - len, "%s", word);
            if (check_rng_below(&rng, 50) == 0)
                text[len - 1] = (char)check_rng_next(&rng);
        }
        struct sensor_reading in = {.temp_c = 12345};
        enum err e = smi_parse(text, target.pci, asked, &in, &why);
        CHECK(e == ERR_OK || (in.temp_c == 12345 && why.text[0] != '\0'));
        whole += e == ERR_OK;
    }
    CHECK(whole > 1000);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    program = argv[1];
    int fd = mkstemp(fixture);
    CHECK(fd >= 0 && close(fd) == 0);
    setenv("FAKE_SMI", fixture, 1);
    test_cards();
    test_while_it_runs();
    test_hangs();
    test_not_there();
    test_any_bytes();
    unlink(fixture);
    return check_report();
}
