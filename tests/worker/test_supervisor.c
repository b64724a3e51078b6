/* The supervisor over children that are this program again, told by --device what to do: end well,
 * end for good, die twice by a signal and then end well, wait for SIGTERM; and under a watchdog
 * stand still, and be well meanwhile. What a child did is counted in a file by its bytes. */
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/notify.h"
#include "check.h"
#include "worker/supervisor.h"

enum { DEATHS = 2, WATCHDOG_MS = 2000 };

static void on_term(int number)
{
    (void)number;
    _exit(0);
}

/* Starts counted so far, this one included. */
static long count_start(const char *dir, const char *device)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, device);
    FILE *f = fopen(path, "a");
    if (f == NULL)
        return -1;
    fputc('x', f);
    fclose(f);
    struct stat st;
    return stat(path, &st) == 0 ? (long)st.st_size : -1;
}

static long starts_at(const char *dir, const char *device)
{
    char path[512];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, device);
    return stat(path, &st) == 0 ? (long)st.st_size : 0;
}

/* Well until the one that stands still has been started again. */
static int is_well(const char *dir)
{
    struct notify n;
    notify_open(&n);
    notify_send(&n, "READY=1");
    while (starts_at(dir, "still") < 2) {
        notify_feed(&n, clock_mono_ns());
        clock_sleep_ns(notify_interval_ms(&n) * NS_PER_MS);
    }
    return n.watchdog_ns == WATCHDOG_MS * NS_PER_MS ? 0 : 3;
}

static int stands_still(long starts)
{
    struct notify n;
    notify_open(&n);
    notify_send(&n, "READY=1\nSTATUS=well");
    if (starts == 1)
        raise(SIGSTOP);
    return starts == 2 ? 0 : 3;
}

/* child DIR --device WHAT --name NAME --die-with-parent */
static int child(int argc, char **argv)
{
    if (argc != 8 || strcmp(argv[3], "--device") != 0 || strcmp(argv[5], "--name") != 0 ||
        strcmp(argv[7], "--die-with-parent") != 0)
        return 2;
    const char *what = argv[4];
    long starts = count_start(argv[2], what);
    if (strcmp(what, "fatal") == 0)
        return 3;
    if (strcmp(what, "dies") == 0 && starts <= DEATHS)
        raise(SIGKILL);
    if (strcmp(what, "lost") == 0 && starts <= DEATHS)
        return 4;
    if (strcmp(what, "away") == 0) /* its GPU, for two starts */
        return starts == 1 ? 4 : starts <= 3 ? 3 : 0;
    if (strcmp(what, "feeds") == 0)
        return is_well(argv[2]);
    if (strcmp(what, "still") == 0)
        return stands_still(starts);
    if (strcmp(what, "waits") == 0) {
        signal(SIGTERM, on_term);
        kill(getppid(), SIGTERM);
        for (;;)
            pause();
    }
    return 0;
}

static long starts_of(const char *dir, const char *device)
{
    char path[512];
    long starts = starts_at(dir, device);
    snprintf(path, sizeof path, "%s/%s", dir, device);
    unlink(path);
    return starts;
}

static int run(char *dir, const struct supervisor_child *children, size_t count)
{
    char program[] = "test_supervisor", word[] = "child";
    char *argv[] = {program, word, dir};
    struct supervisor_options o = {
        .argv = argv, .argc = 3, .children = children, .count = count, .wait_first_ms = 1};
    return supervisor_run(&o);
}

/* A service manager has a watchdog on us: each child has one, too. */
static void test_watchdog(char *dir)
{
    static const struct supervisor_child watched[] = {{"still", "a"}, {"feeds", "b"}};
    char usec[32], name[64];
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(name, sizeof name, "@octo-supervisor-%d", (int)getpid());
    memcpy(at.sun_path + 1, name + 1, strlen(name) - 1);
    CHECK(bind(fd, (struct sockaddr *)&at,
               (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))) == 0);
    snprintf(usec, sizeof usec, "%d", WATCHDOG_MS * 1000);
    setenv("NOTIFY_SOCKET", name, 1);
    setenv("WATCHDOG_USEC", usec, 1);
    unsetenv("WATCHDOG_PID");
    CHECK_INT(run(dir, watched, 2), 0);
    CHECK_INT(starts_of(dir, "still"), 2);
    CHECK_INT(starts_of(dir, "feeds"), 1);
    CHECK(getenv("NOTIFY_SOCKET") == NULL);
    close(fd);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "child") == 0)
        return child(argc, argv);
    char dir[] = "/tmp/octo-supervisor-XXXXXX";
    if (!CHECK(mkdtemp(dir) != NULL))
        return check_report();
    static const struct supervisor_child healing[] = {
        {"well", "a"}, {"dies", "b"}, {"lost", "c"}, {"away", "d"}};
    CHECK_INT(run(dir, healing, 4), 0);
    CHECK_INT(starts_of(dir, "away"), 4);
    CHECK_INT(starts_of(dir, "well"), 1);
    CHECK_INT(starts_of(dir, "dies"), DEATHS + 1);
    CHECK_INT(starts_of(dir, "lost"), DEATHS + 1);
    static const struct supervisor_child fatal[] = {{"well", "a"}, {"fatal", "b"}};
    CHECK_INT(run(dir, fatal, 2), 3);
    CHECK_INT(starts_of(dir, "well"), 1);
    CHECK_INT(starts_of(dir, "fatal"), 1);
    static const struct supervisor_child waiting[] = {{"waits", "a"}};
    CHECK_INT(run(dir, waiting, 1), 0);
    CHECK_INT(starts_of(dir, "waits"), 1);
    test_watchdog(dir);
    rmdir(dir);
    return check_report();
}
