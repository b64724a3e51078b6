/* Child processes with real short-lived programs: restarts, what is fatal, stopping, and that
 * looking after them never waits for good. The child is this program again. */
#include "check.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "client/children.h"
#include "client/rundir.h"

static const char *self;
static char dir[] = "/tmp/octo-children-XXXXXX";
static char log_path[64];

/* A line for each start, then what the name says. */
static int child(const char *what)
{
    fprintf(stderr, "2026-01-01T00:00:00.000Z info child: started %s\n", what);
    if (strcmp(what, "fatal") == 0) {
        fprintf(stderr, "2026-01-01T00:00:00.000Z error child: no such card \"x\"\n");
        fprintf(stderr, "2026-01-01T00:00:00.000Z info child: bye\n");
        return 3;
    }
    if (strcmp(what, "dies") == 0) {
        fprintf(stderr, "2026-01-01T00:00:00.000Z error child: the card is gone\n");
        return 4;
    }
    if (strcmp(what, "away") == 0) { /* its GPU, for a start */
        struct stat st;
        off_t line = (off_t)strlen("2026-01-01T00:00:00.000Z info child: started away\n");
        off_t starts = fstat(2, &st) == 0 ? st.st_size / line : 0;
        if (starts <= 2)
            return starts == 1 ? 4 : 3;
    }
    if (strcmp(what, "stubborn") == 0)
        signal(SIGTERM, SIG_IGN);
    fprintf(stderr, "ready\n");
    for (;;)
        pause();
}

static struct child_spec spec_of(const char *what)
{
    return (struct child_spec){
        .name = "the-child", .path = self, .log = log_path, .args = {self, "--child", what}};
}

static unsigned count_in_log(const char *text)
{
    struct buf log = {0};
    unsigned count = 0;
    if (file_read(log_path, 1 << 20, &log, NULL) == ERR_OK && buf_cstr(&log) != NULL) {
        for (const char *p = log.data; (p = strstr(p, text)) != NULL; p++)
            count++;
    }
    buf_free(&log);
    return count;
}

static struct children *start(const char *what)
{
    struct children *c = NULL;
    struct err_msg why = {{0}};
    struct child_spec spec = spec_of(what);
    unlink(log_path);
    CHECK_OK(children_create(NULL, NULL, &c, &why), why);
    CHECK_OK(children_start(c, &spec, &why), why);
    return c;
}

/* Pumps until `text` stands `times` in the log, or an error, or 20 s. */
static enum err pump_until(struct children *c, const char *text, unsigned times,
                           struct err_msg *why)
{
    uint64_t end_ns = clock_mono_ns() + 20 * NS_PER_S;
    enum err e = ERR_OK;
    while (e == ERR_OK && count_in_log(text) < times && clock_mono_ns() < end_ns)
        e = children_pump(c, 10, why);
    return e;
}

static void test_pump_returns(void)
{
    struct err_msg why = {{0}};
    struct children *c = start("waits");
    for (int i = 0; i < 2000; i++)
        CHECK_OK(children_pump(c, i % 100 == 0, &why), why);
    CHECK(children_pid(c, 0) > 0 && children_pid(c, 1) == 0);
    children_destroy(&c);
    CHECK(c == NULL);
    CHECK_OK(children_create(NULL, NULL, &c, &why), why);
    CHECK_OK(children_pump(c, 0, &why), why);
    CHECK_OK(children_pump(c, 1, &why), why);
    children_destroy(&c);
}

static void test_restart(void)
{
    struct err_msg why = {{0}};
    struct children *c = start("waits");
    CHECK_OK(pump_until(c, "ready", 1, &why), why);
    kill(children_pid(c, 0), SIGKILL);
    CHECK_OK(pump_until(c, "ready", 2, &why), why);
    CHECK_INT(count_in_log("ready"), 2);
    CHECK(children_pid(c, 0) > 0);
    children_stop(c, 10000);
    CHECK(children_pid(c, 0) == 0);
    CHECK_INT(count_in_log("ready"), 2);
    children_destroy(&c);
}

/* Why it died is said with its first new start, and only then. */
static void test_last_words(void)
{
    struct err_msg why = {{0}};
    struct buf said = {0};
    char path[80];
    snprintf(path, sizeof path, "%s/said.log", dir);
    int before = dup(2), file = open(path, O_RDWR | O_CREAT | O_APPEND, 0600);
    CHECK(before >= 0 && dup2(file, 2) == 2);
    log_init("test", LOG_LEVEL_WARN);
    struct children *c = start("dies");
    enum err e = pump_until(c, "started", 3, &why);
    children_destroy(&c);
    log_init("test", LOG_LEVEL_ERROR);
    dup2(before, 2);
    close(before);
    close(file);
    CHECK_OK(e, why);
    CHECK(file_read(path, 1 << 20, &said, NULL) == ERR_OK && buf_cstr(&said) != NULL);
    const char *first =
        strstr(said.data, "exit=4 signal=0 wait_ms=100 last_words=\"the card is gone\"");
    CHECK(first != NULL && strstr(first, "exit=4 signal=0 wait_ms=200\n") != NULL);
    buf_free(&said);
}

/* More deaths in a row than are put up with, but work gets done in between. */
static void test_deaths_between_work(void)
{
    struct err_msg why = {{0}};
    struct children *c = start("waits");
    CHECK_OK(pump_until(c, "ready", 1, &why), why);
    for (unsigned i = 1; i <= 12; i++) {
        children_do_well(c);
        kill(children_pid(c, 0), SIGKILL);
        CHECK_OK(pump_until(c, "ready", 1 + i, &why), why);
    }
    CHECK_INT(count_in_log("ready"), 13);
    children_stop(c, 10000);
    children_destroy(&c);
}

static void test_fatal(void)
{
    struct err_msg why = {{0}};
    struct children *c = start("fatal");
    CHECK_ERR(pump_until(c, "never", 1, &why), ERR_IO);
    CHECK_HAS(why.text, "the-child cannot run: no such card \"x\"");
    CHECK_HAS(why.text, log_path);
    CHECK_INT(count_in_log("started"), 1);
    children_destroy(&c);

    /* not behind a GPU that was lost */
    c = start("away");
    CHECK_OK(pump_until(c, "ready", 1, &why), why);
    CHECK_INT(count_in_log("started"), 3);
    children_destroy(&c);

    struct child_spec spec = spec_of("waits");
    spec.path = "/nowhere/program";
    CHECK_OK(children_create(NULL, NULL, &c, &why), why);
    CHECK_ERR(children_start(c, &spec, &why), ERR_IO);
    CHECK_HAS(why.text, "/nowhere/program");
    children_destroy(&c);
}

static void test_stop(void)
{
    struct err_msg why = {{0}};
    struct children *c = start("stubborn");
    CHECK_OK(pump_until(c, "ready", 1, &why), why);
    int pid = children_pid(c, 0);
    uint64_t begun_ns = clock_mono_ns();
    children_stop(c, 100);
    CHECK(clock_mono_ns() - begun_ns >= 100 * NS_PER_MS);
    CHECK(kill(pid, 0) != 0);
    children_destroy(&c);
    /* one that has died and waits to be started again is not */
    c = start("dies");
    CHECK_OK(pump_until(c, "started", 2, &why), why);
    children_stop(c, 1000);
    unsigned starts = count_in_log("started");
    CHECK_OK(children_pump(c, 300, &why), why);
    CHECK_INT(count_in_log("started"), starts);
    children_destroy(&c);
}

/* Under SIGSTOP it hears no SIGTERM: nobody waits until it is killed. */
static void test_stop_of_a_stopped_one(void)
{
    struct err_msg why = {{0}};
    struct children *c = start("waits");
    CHECK_OK(pump_until(c, "ready", 1, &why), why);
    kill(children_pid(c, 0), SIGSTOP);
    uint64_t begun_ns = clock_mono_ns();
    children_stop(c, 10000);
    CHECK(clock_mono_ns() - begun_ns < 5 * NS_PER_S);
    children_destroy(&c);
}

static void test_rundir(void)
{
    struct rundir a, b;
    struct err_msg why = {{0}};
    char out[300], deep[300];
    snprintf(out, sizeof out, "%s/out.jsonl", dir);
    CHECK_OK(rundir_open(out, &a, &why), why);
    CHECK_HAS(a.endpoint, "out.jsonl.octoflow/broker.sock");
    CHECK_HAS(a.partial, "out.jsonl.partial");
    CHECK(!rundir_has_ledger(&a));
    CHECK_ERR(rundir_open(out, &b, &why), ERR_CONFLICT);
    char process[32];
    snprintf(process, sizeof process, "process %d", (int)getpid());
    CHECK_HAS(why.text, process);
    rundir_close(&a);
    CHECK_OK(rundir_open(out, &a, &why), why);
    rundir_close(&a);
    CHECK_ERR(rundir_open(dir, &a, &why), ERR_IO);
    CHECK_ERR(rundir_open("/nowhere/at/all", &a, &why), ERR_IO);
    snprintf(deep, sizeof deep, "%s/%0150d.jsonl", dir, 0);
    CHECK_OK(rundir_open(deep, &a, &why), why);
    CHECK(strlen(a.endpoint) <= strlen("ipc://") + 107 && a.socket_dir[0] != '\0');
    struct stat st;
    CHECK(stat(a.socket_dir, &st) == 0 && (st.st_mode & 0777) == 0700);
    rundir_close(&a);
    CHECK(stat(a.socket_dir, &st) != 0);
    char path[PATH_MAX];
    CHECK_ERR(rundir_find_program("octoflow-nothing", path, &why), ERR_NOT_FOUND);
    CHECK_HAS(why.text, "octoflow-nothing");
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--child") == 0)
        return child(argv[2]);
    log_init("test", LOG_LEVEL_ERROR);
    char path[PATH_MAX];
    self = realpath("/proc/self/exe", path);
    if (!CHECK(self != NULL && mkdtemp(dir) != NULL))
        return check_report();
    snprintf(log_path, sizeof log_path, "%s/child.log", dir);
    test_pump_returns();
    test_restart();
    test_last_words();
    test_deaths_between_work();
    test_fatal();
    test_stop();
    test_stop_of_a_stopped_one();
    test_rundir();
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    CHECK(system(command) == 0);
    return check_report();
}
