/* A table of connections by file descriptor; see guard.h. */
#include "proto/guard.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <zmq.h>

#include "base/clock.h"
#include "base/size.h"
#include "proto/curve.h"
#include "proto/monitor.h"
#include "proto/moved.h"
#include "proto/zmq_faults.h"

enum { MAX_FD = 1 << 20, BURST_S = 2 };
static const uint64_t scan_every_ns = NS_PER_S / 4;
static const uint64_t stood_still_ns = 2 * NS_PER_S;
/* Of so many that were cut off, what still waits in the queue is thrown away when they are gone. */
enum { CUT_LAST = 64 };
static const size_t fault_bytes = (size_t)1 << 20; /* as bad as one more message */

struct connection {
    bool open, cut;
    bool mute; /* has said nothing, and is in the list of these, oldest first */
    int older, newer;
    struct proto_peer peer;        /* of its last message; len 0: none yet */
    char key[PROTO_KEY_CHARS + 1]; /* "": without, or no message yet */
    uint64_t since_ns, heard_ns;
    /* Leaky buckets: what is in them now, in thousandths, and since when it leaks. */
    uint64_t faults_m, messages_m, leaked_ns;
};

struct guard {
    void *monitor;
    struct proto_limits limits;
    struct connection *table;        /* [table_len], by file descriptor */
    size_t table_len, open, cutting; /* cutting: of the open ones, those cut off */
    int oldest_mute, newest_mute;    /* -1: none */
    uint64_t cuts, scanned_ns;
    struct proto_peer cut_last[CUT_LAST]; /* those that had said something, round and round */
    size_t cut_last_next;
    void (*told)(void *user, const char *why);
    void *user;
};

static struct connection *find(struct guard *g, int fd)
{
    return fd >= 0 && (size_t)fd < g->table_len && g->table[fd].open ? &g->table[fd] : NULL;
}

static bool is_of(const struct connection *c, const struct proto_peer *peer)
{
    return c->peer.len == peer->len && memcmp(c->peer.id, peer->id, peer->len) == 0;
}

static bool was_cut(const struct guard *g, const struct proto_peer *peer)
{
    for (size_t i = 0; i < CUT_LAST; i++)
        if (g->cut_last[i].len == peer->len && peer->len > 0 &&
            memcmp(g->cut_last[i].id, peer->id, peer->len) == 0)
            return true;
    return false;
}

static void add_mute(struct guard *g, struct connection *c)
{
    int fd = (int)(c - g->table);
    c->mute = true;
    c->older = g->newest_mute;
    c->newer = -1;
    *(c->older >= 0 ? &g->table[c->older].newer : &g->oldest_mute) = fd;
    g->newest_mute = fd;
}

static void remove_mute(struct guard *g, struct connection *c)
{
    if (!c->mute)
        return;
    c->mute = false;
    *(c->older >= 0 ? &g->table[c->older].newer : &g->oldest_mute) = c->newer;
    *(c->newer >= 0 ? &g->table[c->newer].older : &g->newest_mute) = c->older;
}

static void forget(struct guard *g, struct connection *c)
{
    remove_mute(g, c);
    g->open -= c->open;
    g->cutting -= c->cut;
    *c = (struct connection){0};
}

static void cut(struct guard *g, struct connection *c, const char *what)
{
    int fd = (int)(c - g->table);
    remove_mute(g, c);
    c->cut = true;
    g->cutting++;
    g->cuts++;
    if (c->peer.len > 0)
        g->cut_last[g->cut_last_next++ % CUT_LAST] = c->peer;
    if (shutdown(fd, SHUT_RDWR) != 0) /* gone already */
        forget(g, c);
    if (g->told != NULL)
        g->told(g->user, what);
}

/* ---- who comes and goes ---- */

static void came(struct guard *g, int fd, uint64_t now_ns)
{
    if (fd < 0 || fd >= MAX_FD)
        return;
    if ((size_t)fd >= g->table_len) {
        size_t len = (size_t)fd + 64;
        struct connection *table = realloc(g->table, len * sizeof *table);
        if (table == NULL)
            return; /* a connection nobody guards */
        memset(table + g->table_len, 0, (len - g->table_len) * sizeof *table);
        g->table = table;
        g->table_len = len;
    }
    struct connection *c = &g->table[fd];
    forget(g, c);
    *c = (struct connection){
        .open = true, .since_ns = now_ns, .heard_ns = now_ns, .leaked_ns = now_ns};
    g->open++;
    if (g->limits.max_connections > 0 && g->open - g->cutting > g->limits.max_connections)
        cut(g, g->oldest_mute >= 0 ? &g->table[g->oldest_mute] : c, "too many connections");
    if (c->open && !c->cut)
        add_mute(g, c);
}

static void read_events(struct guard *g, uint64_t now_ns)
{
    uint16_t event = 0;
    int32_t value = -1;
    while (monitor_read(g->monitor, &event, &value)) {
        struct connection *c = find(g, value);
        if (event == ZMQ_EVENT_ACCEPTED)
            came(g, value, now_ns);
        else if (event == ZMQ_EVENT_DISCONNECTED && c != NULL)
            forget(g, c);
    }
}

static void cut_silent(struct guard *g, uint64_t now_ns)
{
    uint64_t greet_ns = g->limits.greet_ms * NS_PER_MS, idle_ns = g->limits.idle_ms * NS_PER_MS;
    for (size_t fd = 0; fd < g->table_len; fd++) {
        struct connection *c = &g->table[fd];
        if (!c->open || c->cut)
            continue;
        if (greet_ns > 0 && c->mute && now_ns - c->since_ns > greet_ns)
            cut(g, c, "connected without a message");
        else if (idle_ns > 0 && now_ns - c->heard_ns > idle_ns)
            cut(g, c, "silent");
    }
}

/* Of those from whom no message came yet ZeroMQ may hold what they have sent. Over the limit, who
 * has sent as much as the mean or more goes. */
static void cut_greedy(struct guard *g)
{
    uint64_t all = 0, count = 0;
    for (int fd = g->oldest_mute; fd >= 0; fd = g->table[fd].newer, count++)
        all += proto_fd_moved(fd).received;
    if (g->limits.max_mute_bytes == 0 || all <= g->limits.max_mute_bytes)
        return;
    for (int fd = g->oldest_mute, next; fd >= 0; fd = next) {
        next = g->table[fd].newer;
        if (proto_fd_moved(fd).received >= all / count)
            cut(g, &g->table[fd], "sends much and no message");
    }
}

/* We stood still (stopped, no turn of the loop): what they said meanwhile is still to be read. */
static void forgive(struct guard *g, uint64_t gap_ns, uint64_t now_ns)
{
    for (size_t fd = 0; fd < g->table_len; fd++) {
        struct connection *c = &g->table[fd];
        c->since_ns = min_u64(c->since_ns + gap_ns, now_ns);
        c->heard_ns = min_u64(c->heard_ns + gap_ns, now_ns);
    }
}

void guard_tick(struct guard *g, uint64_t now_ns)
{
    read_events(g, now_ns);
    uint64_t gap_ns = now_ns - g->scanned_ns;
    if (gap_ns < scan_every_ns)
        return;
    g->scanned_ns = now_ns;
    if (gap_ns > stood_still_ns)
        forgive(g, gap_ns, now_ns);
    else
        cut_greedy(g);
    cut_silent(g, now_ns);
}

/* ---- what they say ---- */

static void leak(struct guard *g, struct connection *c, uint64_t now_ns)
{
    uint64_t ms = (now_ns - c->leaked_ns) / NS_PER_MS;
    if (ms == 0)
        return;
    uint64_t messages_m = ms * g->limits.max_per_s; /* a thousandth of a second's */
    c->faults_m -= ms < c->faults_m ? ms : c->faults_m;
    c->messages_m -= messages_m < c->messages_m ? messages_m : c->messages_m;
    c->leaked_ns = now_ns;
}

bool guard_heard(struct guard *g, int fd, const struct proto_peer *from, const char *key,
                 uint64_t now_ns)
{
    struct connection *c = find(g, fd);
    if (c == NULL || c->cut || !is_of(c, from)) { /* the descriptor may be another's by now */
        read_events(g, now_ns);
        c = find(g, fd);
    }
    if (c != NULL && c->cut)
        return false;
    if ((c == NULL || !is_of(c, from)) && was_cut(g, from))
        return false; /* its connection is gone, and the descriptor may be another's */
    if (c == NULL)
        return true;                          /* gone by itself: what it said before counts */
    if (c->peer.len > 0 && !is_of(c, from)) { /* something of the one before is read late */
        c->faults_m = c->messages_m = 0;
        c->key[0] = '\0';
    }
    remove_mute(g, c);
    c->peer = *from;
    if (key != NULL && c->key[0] == '\0') /* a connection has one, for good */
        snprintf(c->key, sizeof c->key, "%s", key);
    c->heard_ns = now_ns;
    leak(g, c, now_ns);
    c->messages_m += 1000;
    if (g->limits.max_per_s == 0 || c->messages_m <= (uint64_t)g->limits.max_per_s * BURST_S * 1000)
        return true;
    read_events(g, now_ns);
    c = find(g, fd);
    if (c != NULL && c->messages_m > 0)
        cut(g, c, "a flood of messages");
    return false;
}

void guard_blame(struct guard *g, int fd, size_t bytes, const char *what, uint64_t now_ns)
{
    struct connection *c = find(g, fd);
    if (c == NULL || c->cut || g->limits.max_faults == 0)
        return;
    leak(g, c, now_ns);
    c->faults_m += 1000 * (1 + bytes / fault_bytes);
    if (c->faults_m <= (uint64_t)g->limits.max_faults * 1000)
        return;
    read_events(g, now_ns);
    c = find(g, fd);
    if (c != NULL && c->faults_m > 0)
        cut(g, c, what);
}

int guard_find_fd(const struct guard *g, const struct proto_peer *peer)
{
    for (size_t fd = 0; fd < g->table_len; fd++) {
        const struct connection *c = &g->table[fd];
        if (c->open && !c->cut && is_of(c, peer))
            return (int)fd;
    }
    return -1;
}

bool guard_cut_peer(struct guard *g, const struct proto_peer *peer, const char *what,
                    uint64_t now_ns)
{
    read_events(g, now_ns);
    int fd = guard_find_fd(g, peer);
    if (fd < 0)
        return false;
    cut(g, &g->table[fd], what);
    return true;
}

void guard_cut_keys(struct guard *g, bool (*may)(void *user, const char *key), void *user,
                    uint64_t now_ns)
{
    read_events(g, now_ns);
    for (size_t fd = 0; fd < g->table_len; fd++) {
        struct connection *c = &g->table[fd];
        if (c->open && !c->cut && c->key[0] != '\0' && !may(user, c->key))
            cut(g, c, "its key is not on the list any more");
    }
}

int guard_fd(const struct guard *g)
{
    int fd = -1;
    size_t size = sizeof fd;
    return zmq_getsockopt(g->monitor, ZMQ_FD, &fd, &size) == 0 ? fd : -1;
}

size_t guard_connections(const struct guard *g)
{
    return g->open;
}

uint64_t guard_cuts(const struct guard *g)
{
    return g->cuts;
}

/* ---- opening and closing ---- */

enum err guard_open(void *context, void *socket, const struct proto_limits *limits,
                    struct guard **ret, struct err_msg *why)
{
    struct guard *g = calloc(1, sizeof *g);
    if (g == NULL)
        return err_set(why, ERR_NOMEM, "out of memory");
    g->limits = *limits;
    g->oldest_mute = g->newest_mute = -1;
    zmq_faults_keep_spare();
    g->monitor = monitor_open(context, socket, ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED, why);
    if (g->monitor == NULL) {
        free(g);
        return ERR_IO;
    }
    *ret = g;
    return ERR_OK;
}

void guard_tell(struct guard *g, void (*fn)(void *user, const char *why), void *user)
{
    g->told = fn;
    g->user = user;
}

void guard_close(struct guard **guard, void *socket)
{
    struct guard *g = *guard;
    *guard = NULL;
    if (g == NULL)
        return;
    monitor_close(g->monitor, socket);
    free(g->table);
    free(g);
}
