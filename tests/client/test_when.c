/* when.c: times as people type them, in a zone with summer time. */
#include "client/when.h"

#include <stdlib.h>
#include <time.h>

#include "tests/check.h"

static const uint64_t hour_ms = 3600000;
static const uint64_t noon_ms = UINT64_C(1795690800000); /* 2026-11-26 12:00 in Paris, UTC+1 */

static uint64_t parse(const char *text, uint64_t after_ms)
{
    uint64_t ms = 0;
    struct err_msg why;
    CHECK_OK(when_parse(text, noon_ms, after_ms, &ms, &why), why);
    return ms;
}

static void bad(const char *text, const char *says)
{
    uint64_t ms = 0;
    struct err_msg why;
    CHECK_ERR(when_parse(text, noon_ms, noon_ms, &ms, &why), ERR_USAGE);
    CHECK_HAS(why.text, text);
    CHECK_HAS(why.text, says);
}

static void test_moments(void)
{
    CHECK_INT(parse("22:00", noon_ms), noon_ms + 10 * hour_ms);
    CHECK_INT(parse("12:00", noon_ms), noon_ms + 24 * hour_ms); /* not now: the next */
    CHECK_INT(parse("06:30", noon_ms + 10 * hour_ms), noon_ms + 18 * hour_ms + hour_ms / 2);
    CHECK_INT(parse("2026-11-26 12:00", 0), noon_ms);
    CHECK_INT(parse("2026-11-26T12:00:07", 0), noon_ms + 7000);
    CHECK_INT(parse("2026-07-01 12:00", 0), UINT64_C(1782900000000)); /* UTC+2 */
    CHECK_INT(parse("+90m", 0), noon_ms + hour_ms + hour_ms / 2);
    CHECK_INT(parse("+8h", 0), noon_ms + 8 * hour_ms);
    CHECK_INT(parse("+2d", 0), noon_ms + 48 * hour_ms);
    /* the night of 2026-10-25 has one hour more */
    uint64_t before_ms = parse("2026-10-24 22:00", 0);
    CHECK_INT(parse("06:00", before_ms), before_ms + 9 * hour_ms);
}

static void test_bad_moments(void)
{
    static const char *const texts[] = {"",
                                        "now",
                                        "24:00",
                                        "22:60",
                                        "2:00",
                                        " 2:00",
                                        "22:00:",
                                        "22:000",
                                        "+8",
                                        "+h",
                                        "+8hours",
                                        "8h",
                                        "+-8h",
                                        "2026-11-26",
                                        "2026-11-26 ",
                                        "2026-11-26x22:00",
                                        "26-11-2026 22:00",
                                        "2026-11-26 22:00:61",
                                        "2026-11-26 22:00 ",
                                        "+99999999999h"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        bad(texts[i], "expected a time");
    bad("2026-02-30 22:00", "no such day");
    bad("2026-13-01 22:00", "no such day");
}

static void test_hours(void)
{
    uint64_t from = 7, until = 7;
    struct err_msg why;
    CHECK_OK(when_parse_hours("22:00-06:30", &from, &until, &why), why);
    CHECK_INT(from, 22 * 60);
    CHECK_INT(until, 6 * 60 + 30);
    CHECK_OK(when_parse_hours("all", &from, &until, &why), why);
    CHECK_INT(from + until, 0);
    static const char *const texts[] = {
        "", "22:00", "22:00-", "22:00-6:00", "22:00-22:00", "always", "22:00-06:00,", "22-06"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        CHECK_ERR(when_parse_hours(texts[i], &from, &until, &why), ERR_USAGE);
        CHECK_HAS(why.text, "expected hours as 22:00-06:00, or all");
    }
}

int main(void)
{
    setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
    tzset();
    test_moments();
    test_bad_moments();
    test_hours();
    return check_report();
}
