#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/utf8.h"

static const char *program_name = "octoflow";
static enum log_level max_level = LOG_LEVEL_INFO;
static struct log_limit limit;
static pthread_mutex_t limit_mutex = PTHREAD_MUTEX_INITIALIZER;
static const char *const level_names[] = {"error", "warn", "info", "debug"};

void log_init(const char *program, enum log_level level)
{
    program_name = program;
    max_level = level;
}

enum log_level log_level_now(void)
{
    return max_level;
}

enum err log_level_parse(const char *text, enum log_level *ret_level, struct err_msg *why)
{
    for (int i = 0; i < 4; i++) {
        if (strcmp(text, level_names[i]) == 0) {
            *ret_level = (enum log_level)i;
            return ERR_OK;
        }
    }
    return err_set(why, ERR_USAGE, "log level \"%s\": expected error, warn, info or debug", text);
}

/* "time level program: "; returns its length, which leaves most of the line to the message. */
static size_t format_head(char *line, size_t size, enum log_level level)
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t used = strftime(line, size, "%Y-%m-%dT%H:%M:%S", &utc);
    int n = snprintf(line + used, size - used, ".%03ldZ %s %.64s: ", now.tv_nsec / 1000000,
                     level_names[level], program_name);
    return used + (size_t)n;
}

bool log_limit_take(struct log_limit *l, uint64_t now_ns, uint64_t *ret_left_out)
{
    /* NS_PER_MS more are a thousandth of LOG_PER_S lines */
    uint64_t drained_m = (now_ns - l->at_ns) / NS_PER_MS * LOG_PER_S;
    if (drained_m > 0) {
        l->used_m -= drained_m < l->used_m ? drained_m : l->used_m;
        l->at_ns = now_ns;
    }
    if (l->used_m + 1000 > LOG_BURST * 1000) {
        l->left_out++;
        return false;
    }
    l->used_m += 1000;
    *ret_left_out = l->left_out;
    l->left_out = 0;
    return true;
}

static bool may_write(enum log_level level, uint64_t *ret_left_out)
{
    if (level == LOG_LEVEL_ERROR || max_level == LOG_LEVEL_DEBUG)
        return true;
    pthread_mutex_lock(&limit_mutex);
    bool may = log_limit_take(&limit, clock_mono_ns(), ret_left_out);
    pthread_mutex_unlock(&limit_mutex);
    return may;
}

static void write_line(enum log_level level, const char *fmt, va_list args)
{
    int saved_errno = errno;
    char line[2048];
    size_t head = format_head(line, sizeof line, level);
    size_t used = head;
    int n = vsnprintf(line + used, sizeof line - used - 1, fmt, args);
    bool cut = n > 0 && (size_t)n >= sizeof line - used - 1;
    if (n > 0)
        used += cut ? sizeof line - used - 2 : (size_t)n;
    /* A character cut in two goes whole. */
    size_t valid = head + utf8_valid_prefix(line + head, used - head);
    if (cut && utf8_is_partial(line + valid, used - valid))
        used = valid;
    for (size_t i = head; i < used; i++) {
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    }
    line[used++] = '\n';
    for (size_t done = 0; done < used;) {
        ssize_t wrote = write(STDERR_FILENO, line + done, used - done);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            break; /* nobody reads our log: nothing to do about it */
        done += (size_t)wrote;
    }
    errno = saved_errno;
}

static void write_left_out(const char *fmt, ...) PRINTF_LIKE(1, 2);

static void write_left_out(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    write_line(LOG_LEVEL_WARN, fmt, args);
    va_end(args);
}

void log_line(enum log_level level, const char *fmt, ...)
{
    uint64_t left_out = 0;
    if (level > max_level || !may_write(level, &left_out))
        return;
    if (left_out > 0)
        write_left_out("too many lines, some were left out count=%llu",
                       (unsigned long long)left_out);
    va_list args;
    va_start(args, fmt);
    write_line(level, fmt, args);
    va_end(args);
}
