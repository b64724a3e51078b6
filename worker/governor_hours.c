/* See governor_hours.h. */
#include "worker/governor_hours.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"

enum { MAX_TEXT_BYTES = 1024 };

/* "7:05", "22:00", "24:00"; moves *at behind it. */
static bool parse_minute(const char **at, unsigned *ret)
{
    unsigned hour, minute;
    int used = 0;
    if (sscanf(*at, "%2u:%2u%n", &hour, &minute, &used) != 2 || used == 0 || **at < '0' ||
        **at > '9' || (*at)[used - 2] < '0' || (*at)[used - 3] != ':' || minute > 59 ||
        hour * 60 + minute > MINUTES_A_DAY)
        return false;
    *at += used;
    *ret = hour * 60 + minute;
    return true;
}

/* "70C", "200W", "50%"; moves *at behind it. Each at most once. */
static bool parse_limit(const char **at, struct governor_limits *l)
{
    char *end;
    if (**at < '0' || **at > '9')
        return false;
    double value = strtod(*at, &end);
    const struct {
        char unit;
        double *to, low, high, scale;
    } kinds[] = {
        {'C', &l->target_c, 30, 110, 1},
        {'W', &l->max_watts, 1, 100000, 1},
        {'%', &l->duty_max, 1, 100, 0.01},
    };
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (*end != kinds[i].unit)
            continue;
        if (!(value >= kinds[i].low && value <= kinds[i].high) || *kinds[i].to != 0)
            return false;
        *kinds[i].to = value * kinds[i].scale;
        *at = end + 1;
        return true;
    }
    return false;
}

static bool parse_one(const char *text, struct governor_quiet *ret)
{
    *ret = (struct governor_quiet){0};
    if (!parse_minute(&text, &ret->from) || *text++ != '-' || !parse_minute(&text, &ret->to) ||
        *text != '=' || ret->from == ret->to)
        return false;
    do {
        text++;
        if (!parse_limit(&text, &ret->limits))
            return false;
    } while (*text == '/');
    return *text == '\0';
}

static bool covers(const struct governor_quiet *q, unsigned minute)
{
    if (q->from < q->to)
        return minute >= q->from && minute < q->to;
    return minute >= q->from || minute < q->to;
}

/* Of two that overlap one covers the other's first minute. */
static bool overlap(const struct governor_quiet *a, const struct governor_quiet *b)
{
    return covers(a, b->from % MINUTES_A_DAY) || covers(b, a->from % MINUTES_A_DAY);
}

enum err governor_hours_parse(const char *text, struct governor_hours *ret, struct err_msg *why)
{
    char copy[MAX_TEXT_BYTES], *rest = NULL;
    struct governor_hours h = {.count = 0};
    if (strlen(text) >= sizeof copy)
        return err_set(why, ERR_USAGE, "more than %d bytes", MAX_TEXT_BYTES - 1);
    strcpy(copy, text);
    for (char *one = strtok_r(copy, ", ", &rest); one != NULL; one = strtok_r(NULL, ", ", &rest)) {
        if (h.count == GOVERNOR_MAX_HOURS)
            return err_set(why, ERR_USAGE, "more than %d times", GOVERNOR_MAX_HOURS);
        if (!parse_one(one, &h.list[h.count]))
            return err_set(
                why, ERR_USAGE,
                "\"%s\": expected a time and limits (30..110C, W, 1..100%% of duty) like "
                "22:00-07:00=70C/200W/50%%",
                one);
        for (size_t i = 0; i < h.count; i++) {
            if (overlap(&h.list[i], &h.list[h.count]))
                return err_set(why, ERR_USAGE, "\"%s\": overlaps with time %zu", one, i + 1);
        }
        h.count++;
    }
    if (h.count == 0)
        return err_set(why, ERR_USAGE, "\"%s\": expected times like 22:00-07:00=70C/200W", text);
    *ret = h;
    return ERR_OK;
}

struct governor_limits governor_hours_at(const struct governor_hours *h, unsigned minute,
                                         struct governor_limits usual)
{
    for (size_t i = 0; i < h->count; i++) {
        const struct governor_limits *l = &h->list[i].limits;
        if (!covers(&h->list[i], minute))
            continue;
        if (l->target_c > 0)
            usual.target_c = l->target_c;
        if (l->max_watts > 0)
            usual.max_watts = l->max_watts;
        if (l->duty_max > 0)
            usual.duty_max = l->duty_max;
    }
    return usual;
}
