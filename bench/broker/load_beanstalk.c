/* beanstalkd's two ends (its protocol is text: doc/protocol.txt of its sources). Both pipeline: the
 * producer has --window puts without an answer. A consumer sends the deletes of what it got before
 * and --credit reserves at once. A reserve that waits holds up everything behind it, deletes too:
 * so only the first of them waits, the others take what is there. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/size.h"
#include "bench/broker/load.h"

enum { READ_BYTES = 256 << 10, MAX_WINDOW = 100000, IDLE_MS = 2000 };

struct conn {
    int fd;
    struct buf in, out;
    size_t in_at, out_at; /* parsed, sent */
};

static bool open_conn(struct conn *c, const char *endpoint)
{
    const char *colon = strrchr(endpoint, ':');
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)atoi(colon == NULL ? "0" : colon + 1))};
    int on = 1;
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return false;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return connect(c->fd, (struct sockaddr *)&to, sizeof to) == 0 || errno == EINPROGRESS;
}

static void close_conn(struct conn *c)
{
    close(c->fd);
    buf_free(&c->in);
    buf_free(&c->out);
}

/* Waits for the socket, writes and reads what it takes. False: the connection is gone, or nothing
 * happened for IDLE_MS. */
static bool turn(struct conn *c)
{
    struct pollfd p = {c->fd, (short)(POLLIN | (c->out_at < c->out.len ? POLLOUT : 0)), 0};
    if (poll(&p, 1, IDLE_MS) <= 0)
        return false;
    if ((p.revents & POLLOUT) != 0) {
        ssize_t n = write(c->fd, c->out.data + c->out_at, c->out.len - c->out_at);
        if (n > 0)
            c->out_at += (size_t)n;
        if (c->out_at == c->out.len)
            c->out.len = c->out_at = 0;
    }
    if ((p.revents & (POLLIN | POLLHUP | POLLERR)) == 0)
        return true;
    memmove(c->in.data, c->in.data + c->in_at, c->in.len - c->in_at);
    c->in.len -= c->in_at;
    c->in_at = 0;
    if (buf_reserve(&c->in, READ_BYTES) != ERR_OK)
        return false;
    ssize_t n = read(c->fd, c->in.data + c->in.len, READ_BYTES);
    if (n > 0)
        c->in.len += (size_t)n;
    return n > 0 || (n < 0 && errno == EAGAIN);
}

/* The next line without its end; false: not whole yet. */
static bool next_line(struct conn *c, char *line, size_t size)
{
    char *start = c->in.data + c->in_at;
    char *end = c->in.len == c->in_at ? NULL : memchr(start, '\n', c->in.len - c->in_at);
    if (end == NULL)
        return false;
    size_t len = min_u64((uint64_t)(end - start), size - 1);
    memcpy(line, start, len);
    line[len > 0 && line[len - 1] == '\r' ? len - 1 : len] = '\0';
    c->in_at += (size_t)(end - start) + 1;
    return true;
}

static bool put(struct conn *c, const struct load_options *o, uint64_t n)
{
    static char body[65536];
    load_fill(body, (size_t)o->body, n, LOAD_REQUEST);
    return buf_printf(&c->out, "put 1 0 60 %lld\r\n", (long long)o->body) == ERR_OK &&
           buf_append(&c->out, body, (size_t)o->body) == ERR_OK &&
           buf_append(&c->out, "\r\n", 2) == ERR_OK;
}

int load_producer(const struct load_options *o)
{
    static uint64_t sent_ns[MAX_WINDOW];
    static struct load_times acks;
    struct conn c = {0};
    char line[256];
    if (buf_reserve(&c.in, READ_BYTES) != ERR_OK || !open_conn(&c, o->connect))
        return 1;
    uint64_t sent = 0, acked = 0, jobs = (uint64_t)o->jobs, begun_ns = clock_mono_ns();
    bool ok = true;
    while (acked < jobs && ok) {
        for (; sent < jobs && sent - acked < (uint64_t)o->window; sent++) {
            sent_ns[sent % MAX_WINDOW] = clock_mono_ns();
            ok = ok && put(&c, o, (uint64_t)o->first + sent);
        }
        ok = ok && turn(&c);
        while (acked < sent && next_line(&c, line, sizeof line)) {
            if (strncmp(line, "INSERTED ", 9) != 0) {
                fprintf(stderr, "octoflow-load producer: \"%s\"\n", line);
                ok = false;
            }
            load_times_add(&acks, clock_mono_ns() - sent_ns[acked++ % MAX_WINDOW]);
        }
    }
    printf("{\"submitted\":%llu,\"begun_ns\":%llu,\"submit_s\":%.6f,", (unsigned long long)acked,
           (unsigned long long)begun_ns, (double)(clock_mono_ns() - begun_ns) * 1e-9);
    load_times_print("acks", &acks);
    printf("}\n");
    close_conn(&c);
    return ok ? 0 : 1;
}

struct consumer {
    struct conn conn;
    uint64_t taken, deleted, bad, last_ns;
    size_t asked, got; /* reserves on the way, jobs they brought so far */
};

/* Handles one answer. False: more has to be read first. */
static bool take(struct consumer *c, const struct load_options *o)
{
    char line[256];
    struct conn *k = &c->conn;
    size_t before = k->in_at, size;
    unsigned long long id;
    if (!next_line(k, line, sizeof line))
        return false;
    if (strcmp(line, "DELETED") == 0) {
        c->deleted++;
        c->last_ns = clock_mono_ns();
        return true;
    }
    if (strcmp(line, "TIMED_OUT") == 0) {
        c->asked--;
        return true;
    }
    if (sscanf(line, "RESERVED %llu %zu", &id, &size) != 2) {
        c->bad++;
        return true;
    }
    if (k->in.len - k->in_at < size + 2) {
        k->in_at = before;
        return false;
    }
    uint64_t n = load_line_of(k->in.data + k->in_at, size, LOAD_REQUEST);
    c->bad += n < (uint64_t)o->first;
    k->in_at += size + 2;
    c->taken++;
    c->asked--;
    c->got++;
    c->bad += buf_printf(&k->out, "delete %llu\r\n", id) != ERR_OK;
    return true;
}

int load_consumer(const struct load_options *o)
{
    struct consumer c = {0};
    if (buf_reserve(&c.conn.in, READ_BYTES) != ERR_OK || !open_conn(&c.conn, o->connect))
        return 1;
    bool ok = true;
    do { /* until nothing comes any more: all consumers together take what the producer sends */
        /* asking for more than there is costs the server as much as a job */
        c.asked = min_u64((uint64_t)o->credit, 2 * c.got + 1);
        c.got = 0;
        for (size_t i = 0, count = c.asked; i < count; i++)
            ok = ok && buf_printf(&c.conn.out, "reserve-with-timeout %d\r\n", i == 0) == ERR_OK;
        while (c.asked > 0 && ok) {
            ok = turn(&c.conn);
            while (take(&c, o)) {
            }
        }
    } while (c.got > 0 && ok);
    printf("{\"done\":%llu,\"deleted\":%llu,\"bad\":%llu,\"last_ns\":%llu}\n",
           (unsigned long long)c.taken, (unsigned long long)c.deleted, (unsigned long long)c.bad,
           (unsigned long long)c.last_ns);
    close_conn(&c.conn);
    return c.bad > 0 || !ok;
}
