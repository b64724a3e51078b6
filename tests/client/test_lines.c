/* The line reader over every kind of file end, and over lines around the limit; names of batches;
 * the device list; progress. */
#include "check.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/hash.h"
#include "client/devices.h"
#include "client/lines.h"
#include "client/progress.h"
#include "client/submit.h"

enum { SMALL = 10 };

static char path[] = "/tmp/octo-lines-XXXXXX";

static void write_file(const void *bytes, size_t len)
{
    FILE *f = fopen(path, "wb");
    CHECK(f != NULL && fwrite(bytes, 1, len, f) == len);
    if (f != NULL)
        fclose(f);
}

/* "1:abc 3:long! ..." of all lines. */
static void read_file(size_t max_bytes, struct buf *out)
{
    struct lines *l = NULL;
    struct line line;
    struct err_msg why = {{0}};
    enum err e;
    buf_clear(out);
    CHECK_OK(lines_open(path, max_bytes, &l, &why), why);
    if (l == NULL)
        return;
    while ((e = lines_next(l, &line, &why)) == ERR_OK) {
        if (!line.too_long)
            CHECK(line.hash == hash64(line.text.data, line.text.len, 0));
        CHECK_ERR(buf_printf(out, "%llu:%.*s%s ", (unsigned long long)line.number,
                             STR_ARG(line.text), line.too_long ? "long!" : ""),
                  ERR_OK);
    }
    CHECK_ERR(e, ERR_NOT_FOUND);
    CHECK_ERR(lines_next(l, &line, &why), ERR_NOT_FOUND);
    lines_close(&l);
    CHECK(l == NULL);
}

static void test_ends(void)
{
    static const struct {
        const char *name, *content, *want;
    } cases[] = {
        {"empty", "", ""},
        {"one newline", "\n", ""},
        {"plain", "a\nb\n", "1:a 2:b "},
        {"no newline at the end", "a\nb", "1:a 2:b "},
        {"crlf", "a\r\nb\r\n", "1:a 2:b "},
        {"cr at the end", "a\r", "1:a "},
        {"blank lines", "\n\na\n \t\r\n\nb\n\n", "3:a 6:b "},
        {"byte order mark",
         "\xef\xbb\xbf"
         "a\nb\n",
         "1:a 2:b "},
        {"only a byte order mark", "\xef\xbb\xbf", ""},
        {"byte order mark, far over",
         "\xef\xbb\xbf"
         "0123456789abcdefghijklmnopqrstuvwxyz\nb\n",
         "1:long! 2:b "},
        {"mark on line 2",
         "a\n\xef\xbb\xbf"
         "b\n",
         "1:a 2:\xef\xbb\xbf"
         "b "},
        {"at the limit", "0123456789\n0123456789\r\n0123456789",
         "1:0123456789 2:0123456789 3:0123456789 "},
        {"over the limit", "0123456789a\nb\n", "1:long! 2:b "},
        {"over with crlf", "0123456789a\r\nb\n", "1:long! 2:b "},
        {"over by two", "0123456789ab\nb\n", "1:long! 2:b "},
        {"far over", "0123456789abcdefghijklmnopqrstuvwxyz0123456789\nb", "1:long! 2:b "},
        {"over at the end", "a\n0123456789abcdefghijklmnopqrstuvwxyz", "1:a 2:long! "},
        {"blanks over the limit", "            \nb\n", "1:long! 2:b "},
    };
    struct buf out = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned before = check_failures;
        write_file(cases[i].content, strlen(cases[i].content));
        read_file(SMALL, &out);
        CHECK_STR(buf_cstr(&out), cases[i].want);
        if (check_failures != before)
            fprintf(stderr, "    case \"%s\"\n", cases[i].name);
    }
    struct lines *l = NULL;
    struct line line = {0};
    write_file("a\0b\n", 4);
    CHECK_ERR(lines_open(path, SMALL, &l, NULL), ERR_OK);
    CHECK_ERR(lines_next(l, &line, NULL), ERR_OK);
    CHECK(str_eq(line.text, STR_LIT("a\0b")));
    lines_close(&l);
    buf_free(&out);
}

/* Random files against a naive splitter; and a long line's hash tells one byte from another. */
static void test_random(void)
{
    struct check_rng rng = check_rng_start(7);
    struct buf out = {0}, want = {0};
    for (int round = 0; round < 300; round++) {
        char content[300];
        size_t len = check_rng_below(&rng, sizeof content), from = 0;
        for (size_t i = 0; i < len; i++)
            content[i] =
                check_rng_below(&rng, 8) == 0 ? '\n' : (char)('a' + check_rng_below(&rng, 26));
        write_file(content, len);
        buf_clear(&want);
        unsigned number = 0;
        for (size_t i = 0; i <= len; i++) {
            if (i < len && content[i] != '\n')
                continue;
            number++;
            if (i - from > SMALL)
                CHECK_ERR(buf_printf(&want, "%u:long! ", number), ERR_OK);
            else if (i > from)
                CHECK_ERR(buf_printf(&want, "%u:%.*s ", number, (int)(i - from), content + from),
                          ERR_OK);
            from = i + 1;
        }
        read_file(SMALL, &out);
        CHECK_STR(buf_cstr(&out), buf_cstr(&want));
    }
    buf_free(&out);
    buf_free(&want);
}

static uint64_t first_hash(const char *content, size_t len)
{
    struct lines *l = NULL;
    struct line line = {0};
    write_file(content, len);
    CHECK_ERR(lines_open(path, SMALL, &l, NULL), ERR_OK);
    CHECK_ERR(lines_next(l, &line, NULL), ERR_OK);
    CHECK(line.too_long);
    lines_close(&l);
    return line.hash;
}

static void test_long_hash(void)
{
    char content[40];
    memset(content, 'x', sizeof content);
    uint64_t same = first_hash(content, sizeof content);
    CHECK(same == first_hash(content, sizeof content));
    for (size_t i = 0; i < sizeof content; i++) {
        content[i] = 'y';
        CHECK(first_hash(content, sizeof content) != same);
        content[i] = 'x';
    }
}

static void test_errors(void)
{
    struct lines *l = NULL;
    struct err_msg why = {{0}};
    CHECK_ERR(lines_open("/nowhere/at-all", SMALL, &l, &why), ERR_IO);
    CHECK_HAS(why.text, "/nowhere/at-all");
    CHECK_ERR(lines_open("/tmp", SMALL, &l, &why), ERR_IO);
    CHECK_HAS(why.text, "folder");
    uint64_t a = 0, b = 0;
    write_file("abc", 3);
    CHECK_ERR(lines_hash_file(path, &a, &why), ERR_OK);
    write_file("abd", 3);
    CHECK_ERR(lines_hash_file(path, &b, &why), ERR_OK);
    CHECK(a != b);
}

/* What is no JSON a line is said at once; a bad first line is no more than that. */
static void test_kinds(void)
{
    static const struct {
        const char *content;
        size_t len;
        const char *says; /* NULL: is taken */
    } cases[] = {
        {"\x1f\x8b\b\0\n", 5, "is compressed (gzip)"},
        {"\xff\xfe{\0\"\0", 6, "is UTF-16"},
        {"{\0\"\0\n\0", 6, "convert it to UTF-8"},
        {"[\n", 2, "is a list in JSON"},
        {"\n [ \r\n", 7, "a request a line: jq"},
        {"[{\"a\":1},\n", 10, "is a list"},
        {"[{}]\n", 5, NULL},
        {"a\n[\n", 4, NULL},
        {"\xef\xbb\xbf{}\n", 6, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct lines *l = NULL;
        struct line line;
        struct err_msg why = {{0}};
        write_file(cases[i].content, cases[i].len);
        CHECK_OK(lines_open(path, SMALL, &l, &why), why);
        CHECK_ERR(lines_next(l, &line, &why), cases[i].says != NULL ? ERR_FORMAT : ERR_OK);
        if (cases[i].says != NULL)
            CHECK_HAS(why.text, cases[i].says);
        lines_close(&l);
    }
}

static void test_names(void)
{
    char name[PROTO_MAX_ID_BYTES + 1];
    submit_batch_name("a/b/in.jsonl", name);
    CHECK_STR(name, "in.jsonl");
    submit_batch_name("-", name);
    CHECK_STR(name, "stdin");
    submit_batch_name("x\xff\n.jsonl", name);
    CHECK_STR(name, "x??.jsonl");
    char longest[400];
    for (size_t i = 0; i < sizeof longest - 1; i += 2)
        memcpy(longest + i, "\xc3\xbc", 2);
    longest[0] = 'a';
    longest[1] = 'b';
    longest[2] = 'c';
    longest[3] = '\xc3';
    for (size_t i = 4; i < sizeof longest - 1; i++)
        longest[i] = i % 2 == 0 ? '\xbc' : '\xc3';
    longest[398] = '\0';
    submit_batch_name(longest, name);
    CHECK_INT(strlen(name), 127); /* no half character */
}

static void test_devices(void)
{
    struct devices d;
    devices_parse("0  NVIDIA H200  (NVIDIA 580.1)  0000:01:00.0\n"
                  "1  AMD  (RADV)  0000:02:00.0  unusable: no buffer addresses\n"
                  "2  llvmpipe (LLVM 15)  (Mesa 22.3)    software\n"
                  "3  NVIDIA H200  (NVIDIA 580.1)  0000:03:00.0\nsome warning\n",
                  &d);
    CHECK(d.hardware == 2 && d.software == 1);
    CHECK_STR(d.first_hardware, "NVIDIA H200");
    CHECK_STR(d.first_software, "llvmpipe (LLVM 15)");
    devices_parse("no Vulkan device\n", &d);
    CHECK(d.hardware == 0 && d.software == 0);
    devices_list("/nowhere/octoflow-worker", &d);
    CHECK(d.hardware == 0 && d.software == 0);
}

static void test_progress(void)
{
    struct progress p;
    char text[300];
    struct rec_BATCH b = {.total = 100, .completion_tokens = 50};
    progress_start(&p, false);
    progress_text(&p, &b, 1000 * NS_PER_S, text, sizeof text);
    CHECK_STR(text, "0 done of 100");
    b.done = 9;
    b.failed = 1;
    b.completion_tokens = 240;
    b.running_tokens = 10;
    progress_text(&p, &b, 1010 * NS_PER_S, text, sizeof text);
    CHECK_STR(text, "9 done, 1 failed of 100, 20 tokens/s, about 1:30 left");
    b.problem = STR_LIT("no worker has the model");
    /* a long standstill: the speed is that of the last half minute, not the average since the start
     */
    for (uint64_t s = 1012; s < 1100; s += 2)
        progress_text(&p, &b, s * NS_PER_S, text, sizeof text);
    CHECK_STR(text, "9 done, 1 failed of 100 (no worker has the model)");
    b = (struct rec_BATCH){.total = 4, .done = 2, .cancelled = 1};
    progress_start(&p, false);
    progress_text(&p, &b, 1200 * NS_PER_S, text, sizeof text);
    CHECK_STR(text, "2 done, 1 cancelled of 4");
}

static void on_alarm(int number)
{
    (void)number;
}

static int waits, writes_to;

/* The first times nothing comes, then the rest of a line, at last a wish to end. */
static enum err look(void *user, struct err_msg *why)
{
    (void)user;
    if (++waits == 2)
        CHECK(write(writes_to, "c\nd", 3) == 3);
    return waits < 4 ? ERR_OK : err_set(why, ERR_CANCELLED, "asked to stop");
}

/* A pipe, and who writes into it takes his time, also in the middle of a line and between blank
 * ones; a signal comes meanwhile. */
static void test_waiting(void)
{
    int ends[2];
    char name[32];
    struct lines *l = NULL;
    struct line line;
    struct err_msg why = {{0}};
    struct itimerval soon = {.it_value.tv_usec = 10000};
    CHECK(pipe(ends) == 0);
    writes_to = ends[1];
    snprintf(name, sizeof name, "/dev/fd/%d", ends[0]);
    CHECK_OK(lines_open(name, SMALL, &l, &why), why);
    lines_while_waiting(l, look, NULL);
    CHECK(write(ends[1], "a\n\nb", 4) == 4);
    CHECK_OK(lines_next(l, &line, &why), why);
    CHECK(str_eq(line.text, STR_LIT("a")) && waits == 0);
    signal(SIGALRM, on_alarm);
    CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    CHECK_OK(lines_next(l, &line, &why), why);
    CHECK(str_eq(line.text, STR_LIT("bc")) && line.number == 3 && waits == 2);
    CHECK_ERR(lines_next(l, &line, &why), ERR_CANCELLED);
    CHECK(waits == 4);
    lines_close(&l);
    close(ends[0]);
    close(ends[1]);
}

/* A named pipe that nobody has opened to write: it opens, and waits as well. */
static void test_named_pipe(void)
{
    struct lines *l = NULL;
    struct line line;
    struct err_msg why = {{0}};
    CHECK(unlink(path) == 0 && mkfifo(path, 0600) == 0);
    CHECK_OK(lines_open(path, SMALL, &l, &why), why);
    lines_while_waiting(l, look, NULL);
    waits = 2;
    CHECK_ERR(lines_next(l, &line, &why), ERR_CANCELLED);
    CHECK(waits == 4);
    waits = 0;
    writes_to = open(path, O_WRONLY | O_CLOEXEC);
    CHECK_OK(lines_next(l, &line, &why), why);
    CHECK(str_eq(line.text, STR_LIT("c")) && waits == 2);
    close(writes_to);
    CHECK_OK(lines_next(l, &line, &why), why);
    CHECK(str_eq(line.text, STR_LIT("d")));
    CHECK_ERR(lines_next(l, &line, &why), ERR_NOT_FOUND);
    lines_close(&l);
}

int main(void)
{
    int fd = mkstemp(path);
    if (!CHECK(fd >= 0))
        return check_report();
    close(fd);
    test_ends();
    test_random();
    test_long_hash();
    test_errors();
    test_kinds();
    test_waiting();
    test_names();
    test_devices();
    test_progress();
    test_named_pipe();
    unlink(path);
    return check_report();
}
