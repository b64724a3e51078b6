/* Whole files and log lines: what reaches the disk and standard error. */
#include "base/file.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/utf8.h"
#include "tests/check.h"

static char dir[64];

static const char *in_dir(const char *name)
{
    return check_path(dir, name);
}

static void test_files(void)
{
    struct err_msg why = {{0}};
    struct buf b = {0};
    char path[128];
    snprintf(path, sizeof path, "%s", in_dir("f"));
    CHECK_ERR(file_read(path, 100, &b, &why), ERR_IO);
    CHECK_HAS(why.text, path);
    CHECK_HAS(why.text, "cannot open: No such file");
    CHECK_OK(file_write_atomic(path, "one", 3, &why), why);
    CHECK_OK(file_write_atomic(path, "second", 6, &why), why);
    CHECK(access(in_dir("f.tmp"), F_OK) != 0);
    CHECK_ERR(buf_append_str(&b, "front "), ERR_OK);
    CHECK_OK(file_read(path, 6, &b, &why), why); /* exactly the limit */
    CHECK_STR(buf_cstr(&b), "front second");
    CHECK_ERR(file_read(path, 5, &b, &why), ERR_RANGE);
    CHECK_HAS(why.text, "longer than 5 bytes");
    CHECK_STR(buf_cstr(&b), "front second");
    CHECK_OK(file_write_atomic(path, NULL, 0, &why), why);
    buf_clear(&b);
    CHECK_OK(file_read(path, 0, &b, &why), why);
    CHECK_INT(b.len, 0);
    CHECK_ERR(file_read(dir, 100, &b, &why), ERR_IO); /* a directory */
    CHECK_ERR(file_write_atomic(in_dir("no/such/f"), "x", 1, &why), ERR_IO);
    CHECK_HAS(why.text, "no/such/f.tmp: cannot create");

    /* Where the rename cannot work the old content stays and nothing is left behind. */
    CHECK_INT(mkdir(in_dir("d"), 0700), 0);
    CHECK_ERR(file_write_atomic(in_dir("d"), "x", 1, &why), ERR_IO);
    CHECK_HAS(why.text, "cannot rename");
    CHECK(access(in_dir("d.tmp"), F_OK) != 0);
    /* A full disk. */
    CHECK_INT(symlink("/dev/full", in_dir("g.tmp")), 0);
    CHECK_ERR(file_write_atomic(in_dir("g"), "x", 1, &why), ERR_IO);
    CHECK_HAS(why.text, "No space left on device");
    CHECK(access(in_dir("g"), F_OK) != 0);

    char longer[5000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    CHECK_ERR(file_write_atomic(longer, "x", 1, &why), ERR_RANGE);
    CHECK_ERR(file_sync_dir(longer, &why), ERR_RANGE);
    CHECK_OK(file_sync_dir(path, &why), why);
    rmdir(in_dir("d"));
    unlink(path);
    buf_free(&b);
}

static int saved_stderr = -1;

static void capture_start(void)
{
    saved_stderr = dup(STDERR_FILENO);
    int fd = open(in_dir("log"), O_CREAT | O_TRUNC | O_WRONLY | O_APPEND, 0600);
    if (saved_stderr < 0 || fd < 0 || dup2(fd, STDERR_FILENO) < 0)
        abort();
    close(fd);
}

static void capture_end(struct buf *b)
{
    if (dup2(saved_stderr, STDERR_FILENO) < 0 ||
        file_read(in_dir("log"), 1 << 24, b, NULL) != ERR_OK)
        abort();
    close(saved_stderr);
    unlink(in_dir("log"));
}

enum { THREADS = 4, LINES = 200 };

static void *log_many(void *arg)
{
    for (int i = 0; i < LINES; i++)
        log_warn("thread=%d line=%d", *(int *)arg, i);
    return NULL;
}

/* Virtual time: a burst, then so many a second, and each gap is told once. */
static void test_log_limit(void)
{
    struct log_limit l = {0};
    uint64_t now_ns = 77 * NS_PER_S, left_out = 99, written = 0, told = 0;
    for (int i = 0; i < 3 * LOG_BURST; i++)
        written += log_limit_take(&l, now_ns, &left_out);
    CHECK_INT(written, LOG_BURST);
    CHECK_INT(left_out, 0);
    now_ns += NS_PER_S / 2;
    CHECK(log_limit_take(&l, now_ns, &left_out));
    CHECK_INT(left_out, 2 * LOG_BURST);
    written = 0;
    for (int i = 0; i < 60000; i++) { /* a minute of 1,000 a second */
        now_ns += NS_PER_MS;
        bool may = log_limit_take(&l, now_ns, &left_out);
        written += may;
        told += may ? left_out : 0;
    }
    CHECK(written >= 60 * LOG_PER_S && written <= 61 * LOG_PER_S);
    CHECK(told + written + l.left_out == 60000);
    CHECK(log_limit_take(&l, now_ns + 3600 * NS_PER_S, &left_out));
    CHECK_INT(l.used_m, 1000); /* an hour later it is forgotten */
}

static void test_log(void)
{
    struct err_msg why = {{0}};
    enum log_level level = LOG_LEVEL_INFO;
    CHECK_OK(log_level_parse("warn", &level, &why), why);
    CHECK_INT(level, LOG_LEVEL_WARN);
    CHECK_ERR(log_level_parse("loud", &level, &why), ERR_USAGE);
    CHECK_STR(why.text, "log level \"loud\": expected error, warn, info or debug");
    CHECK_INT(level, LOG_LEVEL_WARN);
    struct buf b = {0};
    char longer[5000];
    for (size_t i = 0; i + 1 < sizeof longer; i += 2)
        memcpy(longer + i, "\xc3\xa9", 2);
    longer[4998] = '\0';
    log_init("test", LOG_LEVEL_WARN);
    CHECK_INT(log_level_now(), LOG_LEVEL_WARN);
    capture_start();
    log_info("not shown");
    log_error("forged\n2026-01-01 line\x1b[0m");
    log_warn("%s", longer);
    log_warn("a%s", longer); /* one of the two cuts a character */
    log_warn("%s", "");
    capture_end(&b);
    const char *text = buf_cstr(&b);
    CHECK(strstr(text, "not shown") == NULL);
    CHECK_HAS(text, "Z error test: forged?2026-01-01 line?[0m\n");
    CHECK(utf8_is_valid(b.data, b.len));
    unsigned lines = 0;
    for (const char *p = text; (p = strchr(p, '\n')) != NULL; p++)
        lines++;
    CHECK_INT(lines, 4);
    CHECK(b.len > 2 * 2000 && b.len < 2 * 2048 + 200);
    CHECK(text[4] == '-' && text[10] == 'T' && text[19] == '.' && text[23] == 'Z');

    /* A program name of any length leaves room for the message. */
    log_init(longer, LOG_LEVEL_WARN);
    buf_clear(&b);
    capture_start();
    log_warn("still here");
    capture_end(&b);
    CHECK_HAS(buf_cstr(&b), ": still here\n");

    /* Lines of several threads stay whole. */
    log_init("test", LOG_LEVEL_WARN);
    buf_clear(&b);
    pthread_t threads[THREADS];
    int ids[THREADS];
    capture_start();
    for (int i = 0; i < THREADS; i++) {
        ids[i] = i;
        if (pthread_create(&threads[i], NULL, log_many, &ids[i]) != 0)
            abort();
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    capture_end(&b);
    unsigned whole = 0;
    if (buf_cstr(&b) == NULL)
        abort();
    for (char *line = strtok(b.data, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        int id, n, end = 0;
        const char *message = strstr(line, "Z warn test: ");
        whole += message == line + 23 &&
                 sscanf(message + 13, "thread=%d line=%d%n", &id, &n, &end) == 2 &&
                 message[13 + end] == '\0';
    }
    CHECK_INT(whole, THREADS * LINES);
    buf_free(&b);
}

static const char *cache_dir(const char *own, const char *systemd, const char *xdg,
                             const char *home)
{
    static char path[64];
    const char *const vars[][2] = {{"OCTOFLOW_CACHE_DIR", own},
                                   {"CACHE_DIRECTORY", systemd},
                                   {"XDG_CACHE_HOME", xdg},
                                   {"HOME", home}};
    for (size_t i = 0; i < 4; i++) {
        if (vars[i][1] != NULL)
            setenv(vars[i][0], vars[i][1], 1);
        else
            unsetenv(vars[i][0]);
    }
    return file_cache_dir(path, sizeof path) ? path : "none";
}

static void test_cache_dir(void)
{
    char longer[200];
    CHECK_STR(cache_dir("/own", "/systemd", "/xdg", "/h"), "/own");
    CHECK_STR(cache_dir("", "/systemd", "/xdg", "/h"), "none");
    CHECK_STR(cache_dir(NULL, "/systemd", "/xdg", "/h"), "/systemd");
    CHECK_STR(cache_dir(NULL, "/one:/two", NULL, NULL), "/one");
    CHECK_STR(cache_dir(NULL, NULL, "/xdg", "/h"), "/xdg/octoflow");
    CHECK_STR(cache_dir(NULL, NULL, "relative", "/h"), "/h/.cache/octoflow");
    CHECK_STR(cache_dir(NULL, NULL, "", NULL), "none");
    CHECK_STR(cache_dir(NULL, NULL, NULL, NULL), "none");
    memset(longer, 'x', sizeof longer);
    longer[0] = '/';
    longer[sizeof longer - 1] = '\0';
    CHECK_STR(cache_dir(longer, NULL, NULL, NULL), "none");
}

int main(void)
{
    snprintf(dir, sizeof dir, "/tmp/octo-base-XXXXXX");
    if (mkdtemp(dir) == NULL)
        abort();
    test_files();
    test_log_limit();
    test_log();
    CHECK_INT(rmdir(dir), 0); /* nothing was left behind */
    test_cache_dir();
    return check_report();
}
