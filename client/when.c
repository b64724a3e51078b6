/* Parsing with the C library's calendar; see when.h. */
#include "client/when.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* "22:00" from the start of text; returns what follows, NULL when it is none. */
static const char *clock_time(const char *text, int *ret_min)
{
    int hour = 0, minute = 0, len = 0;
    if (text[0] < '0' || text[0] > '9' || sscanf(text, "%2d:%2d%n", &hour, &minute, &len) != 2 ||
        len != 5 || hour < 0 || hour > 23 || minute < 0 || minute > 59)
        return NULL;
    *ret_min = hour * 60 + minute;
    return text + len;
}

static enum err unclear(const char *text, struct err_msg *why)
{
    return err_set(why, ERR_USAGE,
                   "\"%s\": expected a time as 22:00, \"2026-11-27 22:00\" or +8h (m, h, d)", text);
}

static enum err from_now(const char *text, uint64_t now_ms, uint64_t *ret_ms, struct err_msg *why)
{
    unsigned long long count = 0;
    char unit = 0;
    int len = 0;
    if (text[1] < '0' || text[1] > '9' || sscanf(text, "+%9llu%c%n", &count, &unit, &len) != 2 ||
        text[len] != '\0' || strchr("mhd", unit) == NULL)
        return unclear(text, why);
    uint64_t minutes = count * (unit == 'm' ? 1 : unit == 'h' ? 60 : 1440);
    *ret_ms = now_ms + minutes * 60000;
    return ERR_OK;
}

/* Midnight's day and its time of the day; days of 23 and 25 hours are the C library's business. */
static uint64_t moment(struct tm day, int minute)
{
    day.tm_hour = minute / 60;
    day.tm_min = minute % 60;
    day.tm_sec = 0;
    day.tm_isdst = -1;
    time_t seconds = mktime(&day);
    return seconds < 0 ? 0 : (uint64_t)seconds * 1000;
}

static enum err on_a_day(const char *text, uint64_t *ret_ms, struct err_msg *why)
{
    struct tm day = {0};
    int len = 0, second = 0, minute = 0;
    char between = 0;
    if (sscanf(text, "%4d-%2d-%2d%c%n", &day.tm_year, &day.tm_mon, &day.tm_mday, &between, &len) !=
            4 ||
        len != 11 || (between != ' ' && between != 'T'))
        return unclear(text, why);
    const char *rest = clock_time(text + len, &minute);
    if (rest == NULL || (*rest != '\0' && (sscanf(rest, ":%2d%n", &second, &len) != 1 || len != 3 ||
                                           rest[len] != '\0' || second < 0 || second > 59)))
        return unclear(text, why);
    struct tm asked = day;
    day.tm_year -= 1900;
    day.tm_mon -= 1;
    *ret_ms = moment(day, minute) + (uint64_t)second * 1000;
    time_t seconds = (time_t)(*ret_ms / 1000);
    struct tm is;
    if (localtime_r(&seconds, &is) == NULL || is.tm_mday != asked.tm_mday ||
        is.tm_mon + 1 != asked.tm_mon || is.tm_year + 1900 != asked.tm_year)
        return err_set(why, ERR_USAGE, "\"%s\": there is no such day", text);
    return ERR_OK;
}

enum err when_parse(const char *text, uint64_t now_ms, uint64_t after_ms, uint64_t *ret_ms,
                    struct err_msg *why)
{
    int minute = 0;
    const char *rest = clock_time(text, &minute);
    if (text[0] == '+')
        return from_now(text, now_ms, ret_ms, why);
    if (rest == NULL || *rest != '\0')
        return on_a_day(text, ret_ms, why);
    struct tm day;
    time_t after = (time_t)(after_ms / 1000);
    if (localtime_r(&after, &day) == NULL)
        return unclear(text, why);
    *ret_ms = moment(day, minute);
    if (*ret_ms <= after_ms) {
        day.tm_mday++;
        *ret_ms = moment(day, minute);
    }
    return ERR_OK;
}

enum err when_parse_hours(const char *text, uint64_t *ret_from_min, uint64_t *ret_until_min,
                          struct err_msg *why)
{
    int from = 0, until = 0;
    if (strcmp(text, "all") != 0) {
        const char *rest = clock_time(text, &from);
        if (rest != NULL && *rest == '-')
            rest = clock_time(rest + 1, &until);
        else
            rest = NULL;
        if (rest == NULL || *rest != '\0' || from == until)
            return err_set(why, ERR_USAGE, "\"%s\": expected hours as 22:00-06:00, or all", text);
    }
    *ret_from_min = (uint64_t)from;
    *ret_until_min = (uint64_t)until;
    return ERR_OK;
}
