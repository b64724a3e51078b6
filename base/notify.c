/* Datagrams to a service manager; see notify.h. */
#include "base/notify.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { FEEDS = 4 /* in the watchdog's time */ };

static int dial(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof at.sun_path || (path[0] != '/' && path[0] != '@'))
        return -1;
    memcpy(at.sun_path, path, len);
    if (path[0] == '@') /* a name that is no file */
        at.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&at, size) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* WATCHDOG_USEC, when it is meant for this process. */
static uint64_t watchdog_ns(void)
{
    const char *text = getenv("WATCHDOG_USEC"), *process = getenv("WATCHDOG_PID");
    if (text == NULL || (process != NULL && strtoll(process, NULL, 10) != getpid()))
        return 0;
    return strtoull(text, NULL, 10) * 1000;
}

void notify_open(struct notify *n)
{
    const char *path = getenv("NOTIFY_SOCKET");
    *n = (struct notify){.fd = path == NULL ? -1 : dial(path)};
    n->watchdog_ns = n->fd >= 0 ? watchdog_ns() : 0;
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

void notify_close(struct notify *n)
{
    if (n->fd >= 0)
        close(n->fd);
    n->fd = -1;
}

void notify_send(const struct notify *n, const char *state)
{
    if (n->fd >= 0) /* a full socket loses a status, never holds the program up */
        (void)!send(n->fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT);
}

uint64_t notify_interval_ms(const struct notify *n)
{
    uint64_t feed_ms = n->watchdog_ns / FEEDS / 1000000;
    return n->watchdog_ns == 0 || feed_ms > 1000 ? 1000 : feed_ms < 1 ? 1 : feed_ms;
}

void notify_feed(struct notify *n, uint64_t now_ns)
{
    if (n->watchdog_ns == 0 || (n->fed_ns != 0 && now_ns - n->fed_ns < n->watchdog_ns / FEEDS))
        return;
    n->fed_ns = now_ns;
    notify_send(n, "WATCHDOG=1");
}

void notify_feed_work(struct notify *n, bool idle, uint64_t done, uint64_t now_ns)
{
    if (idle || done != n->done || n->moved_ns == 0)
        n->moved_ns = now_ns;
    n->done = done;
    if (now_ns - n->moved_ns <= n->watchdog_ns / 2)
        notify_feed(n, now_ns);
}
