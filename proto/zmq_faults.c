/* Two faults of libzmq 4.3 with which whoever can connect ends the process, kept away from it.
 * libzmq calls accept4() and epoll_wait() of the C library; the dynamic linker prefers a program's
 * own symbols, so in our programs it finds these. With another libzmq (linked statically, say) all
 * is as before.
 *
 * 1. A connection to an ipc socket for which there is no file descriptor left: libzmq aborts. Here
 * it is taken by a descriptor kept for this, closed, and reported as one that ended by itself.
 *
 * 2. A connection that ends while its messages wait for room in our queue (ZMQ_RCVHWM): libzmq
 * notes an I/O error and goes on with what it has read. A PING among that, or its own timer for
 * one, makes it write, and it aborts: "Assertion failed: !_io_error" (libzmq's issues 3937, 4364).
 * So it does not hear of the end while it does not read: it finds it when it reads again. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "proto/zmq_faults.h"

/* <sys/socket.h> declares it with unions of pointers, which only its own definition could match. */
int accept4(int fd, void *address, void *address_len, int flags);

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int spare = -1; /* under the mutex */

void zmq_faults_keep_spare(void)
{
    pthread_mutex_lock(&mutex);
    if (spare < 0)
        spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
    pthread_mutex_unlock(&mutex);
}

int accept4(int fd, void *address, void *address_len, int flags)
{
    int got = (int)syscall(SYS_accept4, fd, address, address_len, flags);
    if (got >= 0 || (errno != EMFILE && errno != ENFILE))
        return got;
    pthread_mutex_lock(&mutex);
    if (spare >= 0) {
        close(spare);
        got = (int)syscall(SYS_accept4, fd, NULL, NULL, O_CLOEXEC);
        if (got >= 0)
            close(got);
    }
    spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
    pthread_mutex_unlock(&mutex);
    errno = ECONNABORTED;
    return -1;
}

/* libzmq names its threads; the kernel keeps 15 characters. */
static bool is_zmq_thread(void)
{
    static _Thread_local int known; /* 1: yes, 2: no */
    char name[16] = "";
    if (known == 0)
        known = prctl(PR_GET_NAME, name) == 0 && strncmp(name, "ZMQbg/IO", 8) == 0 ? 1 : 2;
    return known == 1;
}

/* A connection's end makes it readable as well, and that libzmq handles: when it reads, at once;
 * when it does not (EPOLLIN is not asked for then), later. Told of the end beside EPOLLIN it would
 * come twice, and the second time it may have stopped reading. Whoever connects waits for EPOLLOUT,
 * and sees an error by it. */
static int hide_ends(struct epoll_event *events, int count)
{
    int kept = 0;
    for (int i = 0; i < count; i++) {
        struct epoll_event e = events[i];
        e.events &= ~(uint32_t)(EPOLLHUP | EPOLLERR);
        if (e.events != 0)
            events[kept++] = e;
    }
    return kept;
}

int epoll_wait(int epoll, struct epoll_event *events, int max, int timeout_ms)
{
    int count = (int)syscall(SYS_epoll_pwait, epoll, events, max, timeout_ms, NULL, 0);
    if (count <= 0 || !is_zmq_thread())
        return count;
    int kept = hide_ends(events, count);
    if (kept == 0) { /* they would come again at once: the reader needs a moment to make room */
        struct timespec moment = {.tv_nsec = 1000000};
        nanosleep(&moment, NULL);
    }
    return kept;
}
