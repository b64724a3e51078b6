/* Log lines on standard error: "2026-11-24T16:57:54.123Z level program: event key=value ...".
 *
 * Libraries (model, engine, proto) log at debug only; programs log once, where a thing is handled.
 * Prompt and output text never goes into a log. Thread-safe: one write(2) a line. */
#ifndef OCTO_BASE_LOG_H
#define OCTO_BASE_LOG_H

#include "base/err.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Both may be called once, at start, before threads exist. `program` is kept, not copied. */
void log_init(const char *program, enum log_level level);
/* "error", "warn", "info", "debug"; ERR_USAGE otherwise. */
enum err log_level_parse(const char *text, enum log_level *ret_level,
                         struct err_msg *why) MUST_CHECK;
enum log_level log_level_now(void);

void log_line(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
