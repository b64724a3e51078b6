/* A sensor for tests and rehearsals: a text file of up to eight numbers, read anew each time:
 *
 *     TEMP_C [POWER_W [LIMIT_W [THROTTLE_BITS [MARGIN_C [MEMORY_TEMP_C [ENERGY_J [CLOCK_MHZ]]]]]]]
 *
 * "-" stands for a number that is not known. */
#include "worker/sensors/sensor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"

enum { FAKE_MAX_BYTES = 256, FAKE_VALUES = 8 };

struct sensor_fake {
    struct sensor base;
    char *path;
};

/* Fills known[i] and value[i] for the words there are. */
static enum err parse(char *text, const char *path, bool known[FAKE_VALUES],
                      double value[FAKE_VALUES], struct err_msg *why)
{
    char *rest = NULL;
    size_t i = 0;
    for (char *word = strtok_r(text, " \t\r\n", &rest); word != NULL;
         word = strtok_r(NULL, " \t\r\n", &rest), i++) {
        char *end;
        double v = strtod(word, &end);
        bool unknown = strcmp(word, "-") == 0;
        if (i == FAKE_VALUES || (!unknown && (*end != '\0' || !(v > -1e12 && v < 1e12))))
            return err_set(why, ERR_IO, "%s: \"%s\": expected up to %d numbers", path, word,
                           FAKE_VALUES);
        known[i] = !unknown;
        value[i] = v;
    }
    return i > 0 ? ERR_OK : err_set(why, ERR_IO, "%s: empty, expected a temperature", path);
}

static enum err fake_read(struct sensor *s, struct sensor_reading *ret, struct err_msg *why)
{
    struct sensor_fake *f = (struct sensor_fake *)s;
    struct buf text = {0};
    bool known[FAKE_VALUES] = {0};
    double value[FAKE_VALUES] = {0};
    enum err e = file_read(f->path, FAKE_MAX_BYTES, &text, why);
    if (e == ERR_OK && buf_cstr(&text) == NULL)
        e = err_set(why, ERR_NOMEM, "%s: out of memory", f->path);
    if (e == ERR_OK)
        e = parse(text.data, f->path, known, value, why);
    if (e == ERR_OK)
        *ret = (struct sensor_reading){
            .have_temp = known[0],
            .temp_c = value[0],
            .have_power = known[1],
            .power_w = value[1],
            .limit_w = known[2] ? value[2] : 0,
            .throttle_bits = known[3] && value[3] > 0 && value[3] < 256 ? (unsigned)value[3] : 0,
            .have_margin = known[4],
            .margin_c = value[4],
            .have_memory_temp = known[5],
            .memory_temp_c = value[5],
            .have_energy = known[6],
            .energy_j = value[6],
            .clock_mhz = known[7] ? value[7] : 0,
        };
    buf_free(&text);
    return e;
}

static void fake_close(struct sensor *s)
{
    struct sensor_fake *f = (struct sensor_fake *)s;
    free(f->path);
    free(f);
}

enum err sensor_fake_open(const char *path, struct sensor **ret, struct err_msg *why)
{
    if (access(path, R_OK) != 0) /* not opened: it may be a pipe */
        return err_set(why, ERR_IO, "%s: cannot read: %s", path, strerror(errno));
    struct sensor_fake *f = calloc(1, sizeof *f);
    if (f == NULL)
        return err_set(why, ERR_NOMEM, "sensor: out of memory");
    f->base = (struct sensor){.name = "fake", .read = fake_read, .close = fake_close};
    f->path = strdup(path);
    if (f->path == NULL) {
        free(f);
        return err_set(why, ERR_NOMEM, "sensor: out of memory");
    }
    *ret = &f->base;
    return ERR_OK;
}
