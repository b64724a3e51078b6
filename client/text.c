/* Times and names as text; see text.h. */
#include "client/text.h"

#include <inttypes.h>
#include <time.h>

bool text_time(uint64_t ms, char out[TEXT_TIME_BYTES])
{
    char day[40];
    time_t s = (time_t)(ms / 1000);
    struct tm tm;
    if (ms == 0 || gmtime_r(&s, &tm) == NULL ||
        strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm) == 0)
        return false;
    snprintf(out, TEXT_TIME_BYTES, "%s.%03uZ", day, (unsigned)(ms % 1000));
    return true;
}

void text_duration(double seconds, char *out, size_t size)
{
    uint64_t s = seconds < 1e9 ? (uint64_t)seconds : 0;
    if (s >= 86400)
        snprintf(out, size, "%" PRIu64 " d %" PRIu64 " h", s / 86400, s % 86400 / 3600);
    else if (s >= 3600)
        snprintf(out, size, "%" PRIu64 ":%02" PRIu64 ":%02" PRIu64, s / 3600, s % 3600 / 60,
                 s % 60);
    else
        snprintf(out, size, "%" PRIu64 ":%02" PRIu64, s / 60, s % 60);
}

void text_energy(double joules, char out[TEXT_ENERGY_BYTES])
{
    enum { FEWEST_DECIMALS = 2, MOST_DECIMALS = 12 };
    static const double joules_per_kwh = 3.6e6;
    double kwh = joules / joules_per_kwh;
    int decimals = FEWEST_DECIMALS;
    for (double left = kwh; left < 1 && decimals < MOST_DECIMALS; left *= 10)
        decimals++;
    if (joules > 0)
        snprintf(out, TEXT_ENERGY_BYTES, "%.*f kWh", decimals, kwh < 1e9 ? kwh : 1e9);
    else
        snprintf(out, TEXT_ENERGY_BYTES, "unknown");
}

static bool continues(unsigned char c)
{
    return (c & 0xc0) == 0x80;
}

int text_width(struct str s)
{
    int width = 0;
    for (size_t i = 0; i < s.len; i++)
        width += !continues((unsigned char)s.data[i]);
    return width;
}

void text_put(FILE *out, struct str s, int width)
{
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.data[i];
        unsigned char next = i + 1 < s.len ? (unsigned char)s.data[i + 1] : 0;
        if (c < 0x20 || c == 0x7f) {
            fputc('?', out);
        } else if (c == 0xc2 && next < 0xa0) { /* U+0080 to U+009F control terminals, too */
            fputc('?', out);
            i++;
        } else {
            fputc(c, out);
        }
    }
    for (int at = text_width(s); at < width; at++)
        fputc(' ', out);
}
