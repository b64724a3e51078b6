/* Notifications to a socket of our own, by file and by abstract name; how often a watchdog is fed;
 * and that there may be nobody who listens. */
#include "base/notify.h"

#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/check.h"

static char got[256];

static int listen_at(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    size_t len = strlen(path);
    memcpy(at.sun_path, path, len);
    if (path[0] == '@')
        at.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    CHECK(bind(fd, (struct sockaddr *)&at,
               (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) == 0);
    return fd;
}

static const char *next(int fd)
{
    ssize_t n = recv(fd, got, sizeof got - 1, 0);
    got[n > 0 ? n : 0] = '\0';
    return got;
}

static void test_socket(const char *path)
{
    struct notify n;
    int fd = listen_at(path);
    setenv("NOTIFY_SOCKET", path, 1);
    unsetenv("WATCHDOG_USEC");
    notify_open(&n);
    CHECK(getenv("NOTIFY_SOCKET") == NULL); /* not for child processes */
    notify_send(&n, "READY=1\nSTATUS=2 of 5 lines");
    CHECK_STR(next(fd), "READY=1\nSTATUS=2 of 5 lines");
    notify_feed(&n, NS_PER_S);
    CHECK_STR(next(fd), ""); /* there is no watchdog */
    close(fd);
    notify_send(&n, "STOPPING=1"); /* nobody there any more */
    notify_close(&n);
    notify_close(&n);
}

static void test_watchdog(const char *path)
{
    struct notify n;
    char process[32];
    int fd = listen_at(path), fed = 0;
    setenv("NOTIFY_SOCKET", path, 1);
    setenv("WATCHDOG_USEC", "10000000", 1);
    snprintf(process, sizeof process, "%d", (int)getpid());
    setenv("WATCHDOG_PID", process, 1);
    notify_open(&n);
    CHECK_INT(n.watchdog_ns, 10 * NS_PER_S);
    CHECK_INT(notify_interval_ms(&n), 1000);
    CHECK_INT(notify_interval_ms(&(struct notify){.watchdog_ns = NS_PER_S}), 250);
    for (int i = 0; i < 1000; i++) { /* ten of its times */
        notify_feed(&n, 5000 * NS_PER_S + (uint64_t)i * 100 * NS_PER_MS);
        fed += strcmp(next(fd), "WATCHDOG=1") == 0;
    }
    CHECK_INT(fed, 40);
    notify_close(&n);
    setenv("NOTIFY_SOCKET", path, 1);
    setenv("WATCHDOG_USEC", "10000000", 1);
    setenv("WATCHDOG_PID", "1", 1); /* meant for another */
    notify_open(&n);
    CHECK_INT(n.watchdog_ns, 0);
    notify_close(&n);
    close(fd);
}

/* Work stands still for a minute and goes on: the watchdog of 20 s was hungry meanwhile. */
static void test_work(const char *path)
{
    struct notify n;
    int fd = listen_at(path);
    uint64_t last_s = 1000, done = 0;
    setenv("NOTIFY_SOCKET", path, 1);
    setenv("WATCHDOG_USEC", "20000000", 1);
    unsetenv("WATCHDOG_PID");
    notify_open(&n);
    for (uint64_t s = 1000; s < 1400; s++) {
        bool idle = s >= 1300, still = s >= 1100 && s < 1160;
        done += !idle && !still;
        notify_feed_work(&n, idle, done, s * NS_PER_S);
        bool fed = strcmp(next(fd), "WATCHDOG=1") == 0;
        if (fed)
            CHECK(s <= 1110 || s >= 1160);
        if (s < 1110 || s > 1170) /* always in time */
            CHECK(s - last_s <= 6 || (fed && s < 1180));
        last_s = fed ? s : last_s;
    }
    notify_close(&n);
    close(fd);
}

/* A service manager that does not read: nothing blocks. */
static void test_full(const char *path)
{
    struct notify n;
    int fd = listen_at(path);
    setenv("NOTIFY_SOCKET", path, 1);
    notify_open(&n);
    for (int i = 0; i < 100000; i++)
        notify_send(&n, "STATUS=x");
    CHECK_STR(next(fd), "STATUS=x");
    notify_close(&n);
    close(fd);
}

static void test_nobody(void)
{
    static const char *const bad[] = {NULL, "", "relative", "/nowhere/there/is",
                                      "@octo-nobody-listens"};
    char text[300];
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct notify n;
        if (bad[i] != NULL)
            setenv("NOTIFY_SOCKET", bad[i], 1);
        setenv("WATCHDOG_USEC", "1000", 1);
        notify_open(&n);
        CHECK(n.fd == -1 && n.watchdog_ns == 0);
        notify_send(&n, "READY=1");
        notify_feed(&n, NS_PER_S);
        notify_close(&n);
    }
    memset(text, 'x', sizeof text - 1);
    text[0] = '/';
    text[sizeof text - 1] = '\0';
    setenv("NOTIFY_SOCKET", text, 1);
    struct notify n;
    notify_open(&n);
    CHECK(n.fd == -1);
}

int main(void)
{
    char path[] = "/tmp/octo-notify-XXXXXX", name[64];
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    close(fd);
    unlink(path);
    test_socket(path);
    unlink(path);
    test_watchdog(path);
    unlink(path);
    test_work(path);
    unlink(path);
    test_full(path);
    unlink(path);
    snprintf(name, sizeof name, "@octo-notify-%d", (int)getpid());
    test_socket(name);
    test_nobody();
    return check_report();
}
