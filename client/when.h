/* Times as people give them on a command line, in local time. */
#ifndef OCTO_CLIENT_WHEN_H
#define OCTO_CLIENT_WHEN_H

#include <stdint.h>

#include "base/err.h"

/* "22:00": the next time after after_ms that the clock says so; "2026-11-27 22:00" (or with a T,
 * seconds if wanted); "+90m", "+8h", "+2d": from now. As Unix milliseconds. ERR_USAGE: none of
 * these, or no such day or hour. */
enum err when_parse(const char *text, uint64_t now_ms, uint64_t after_ms, uint64_t *ret_ms,
                    struct err_msg *why) MUST_CHECK;
/* "22:00-06:00" as minutes of the day; "all": both 0. */
enum err when_parse_hours(const char *text, uint64_t *ret_from_min, uint64_t *ret_until_min,
                          struct err_msg *why) MUST_CHECK;

#endif
