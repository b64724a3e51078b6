/* See reach.h. */
#include "proto/reach.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { THREAD_WAIT_MS = 5000 };

/* 0, or why not. */
static int try_address(const struct sockaddr *at, socklen_t size, int wait_ms)
{
    int fd = socket(at->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int e = fd >= 0 && connect(fd, at, size) == 0 ? 0 : errno;
    if (fd >= 0 && e == EINPROGRESS) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        socklen_t len = sizeof e;
        if (poll(&p, 1, wait_ms) <= 0)
            e = ETIMEDOUT;
        else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len) != 0)
            e = errno;
    }
    if (fd >= 0)
        close(fd);
    return e == EAGAIN ? 0 : e; /* EAGAIN of a socket file: its listener is busy */
}

static void try_path(const char *path, char ret_why[REACH_WHY_BYTES])
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
    int e = try_address((struct sockaddr *)&at, sizeof at, 0);
    snprintf(ret_why, REACH_WHY_BYTES, "%s", e == 0 ? "" : strerror(e));
}

/* Addresses of the kind that ZeroMQ takes: IPv6 only in brackets. */
static void try_host(const char *place, int wait_ms, char ret_why[REACH_WHY_BYTES])
{
    char host[256];
    bool six = place[0] == '[';
    const char *colon = strrchr(place, ':');
    if (colon == NULL)
        return;
    snprintf(host, sizeof host, "%.*s", (int)(colon - place) - 2 * six, place + six);
    struct addrinfo want = {.ai_family = six ? AF_INET6 : AF_INET,
                            .ai_socktype = SOCK_STREAM,
                            .ai_flags = AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    int e = getaddrinfo(host, colon + 1, &want, &list);
    if (e != 0) {
        snprintf(ret_why, REACH_WHY_BYTES, "%s: %s", host,
                 e == EAI_SYSTEM ? strerror(errno) : gai_strerror(e));
        return;
    }
    e = -1;
    for (const struct addrinfo *a = list; a != NULL && e != 0; a = a->ai_next)
        e = try_address(a->ai_addr, a->ai_addrlen, wait_ms);
    if (e > 0)
        snprintf(ret_why, REACH_WHY_BYTES, "%s", strerror(e));
    freeaddrinfo(list);
}

void reach_try(const char *endpoint, int wait_ms, char ret_why[REACH_WHY_BYTES])
{
    ret_why[0] = '\0';
    if (strncmp(endpoint, "ipc://", 6) == 0)
        try_path(endpoint + 6, ret_why);
    else if (strncmp(endpoint, "tcp://", 6) == 0)
        try_host(endpoint + 6, wait_ms, ret_why);
}

/* ---- on a thread, which may outlive whoever asked ---- */

enum { UNDER_WAY, ENDED, FORGOTTEN };

struct reach {
    atomic_int state; /* who comes second frees it */
    char endpoint[512];
    char why[REACH_WHY_BYTES];
};

static void *run(void *arg)
{
    struct reach *r = arg;
    reach_try(r->endpoint, THREAD_WAIT_MS, r->why);
    if (atomic_exchange(&r->state, ENDED) == FORGOTTEN)
        free(r);
    return NULL;
}

struct reach *reach_begin(const char *endpoint)
{
    pthread_t thread;
    struct reach *r = calloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    snprintf(r->endpoint, sizeof r->endpoint, "%s", endpoint);
    if (pthread_create(&thread, NULL, run, r) != 0) {
        free(r);
        return NULL;
    }
    pthread_detach(thread);
    return r;
}

bool reach_ended(struct reach **r, char ret_why[REACH_WHY_BYTES])
{
    if (atomic_load(&(*r)->state) != ENDED)
        return false;
    memcpy(ret_why, (*r)->why, REACH_WHY_BYTES);
    free(*r);
    *r = NULL;
    return true;
}

void reach_forget(struct reach **r)
{
    if (*r != NULL && atomic_exchange(&(*r)->state, FORGOTTEN) == ENDED)
        free(*r);
    *r = NULL;
}
