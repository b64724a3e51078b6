/* Log lines on standard error: "2026-11-24T16:57:54.123Z level program: event key=value ...".
 *
 * Whoever floods a program must not fill the disk with its log: of warnings and information at most
 * LOG_BURST lines come at once and LOG_PER_S a second in the long run; a line says how many were
 * left out. Not so at level debug.
 *
 * Libraries (model, engine, proto) log at debug only; programs log once, where a thing is handled.
 * Prompt and output text never goes into a log. Thread-safe: one write(2) a line. */
#ifndef OCTO_BASE_LOG_H
#define OCTO_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

enum { LOG_BURST = 2000, LOG_PER_S = 100 };

/* Both may be called once, at start, before threads exist. `program` is kept, not copied. */
void log_init(const char *program, enum log_level level);
/* "error", "warn", "info", "debug"; ERR_USAGE otherwise. */
enum err log_level_parse(const char *text, enum log_level *ret_level,
                         struct err_msg *why) MUST_CHECK;
enum log_level log_level_now(void);

/* The limit by itself. True: the line may be written, after one that says *ret_left_out are missing
 * (0: none). Zero-initialised is full of room. */
struct log_limit {
    uint64_t used_m, at_ns, left_out; /* used_m: thousandths of lines */
};
bool log_limit_take(struct log_limit *l, uint64_t now_ns, uint64_t *ret_left_out);

void log_line(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
