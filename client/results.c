/* FETCH to files; see results.h. */
#include "client/results.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

enum { FETCH_MOST = 512 };

static enum err fetch(struct link *l, const char *batch, bool by_line, uint64_t after,
                      const struct msg **ret, struct err_msg *why)
{
    struct msg m = {.type = MSG_TYPE_FETCH};
    m.fetch.batch = str_of(batch);
    m.fetch.by_line = by_line;
    m.fetch.after = after;
    m.fetch.max = FETCH_MOST;
    return link_call(l, &m, MSG_TYPE_FETCH_OK, ret, why);
}

static enum err write_all(int fd, const char *path, const struct buf *b, struct err_msg *why)
{
    for (size_t done = 0; done < b->len;) {
        ssize_t n = write(fd, b->data + done, b->len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(why, ERR_IO,
                           "%s: cannot write: %s; nothing is lost, the results are in the ledger",
                           path, strerror(errno));
        done += (size_t)n;
    }
    return ERR_OK;
}

static void count(struct results_counts *c, const struct output_summary *s)
{
    c->lines++;
    c->answered += s->kind == OUTPUT_ANSWER;
    c->failed += s->kind == OUTPUT_FAILED;
    c->cancelled += s->kind == OUTPUT_CANCELLED;
    c->prompt_tokens += s->prompt_tokens;
    c->completion_tokens += s->completion_tokens;
    if (s->energy_j > 0) {
        c->energy_j += s->energy_j;
        c->energy_answers++;
        c->energy_tokens += s->completion_tokens;
    }
    if (s->kind != OUTPUT_ANSWER && c->reasons_count < RESULTS_REASONS)
        snprintf(c->reasons[c->reasons_count++], sizeof c->reasons[0], "%s", s->reason);
}

/* Everything by line to fd. */
static enum err copy_all(struct link *l, const char *batch, int fd, const char *path,
                         struct results_counts *ret, struct err_msg *why)
{
    struct results_counts counts = {0};
    struct buf out = {0};
    uint64_t after = 0;
    enum err e;
    for (;;) {
        const struct msg *reply = NULL;
        e = fetch(l, batch, true, after, &reply, why);
        if (e != ERR_OK || reply->fetch_ok.results.count == 0)
            break;
        buf_clear(&out);
        for (size_t i = 0; i < reply->fetch_ok.results.count && e == ERR_OK; i++) {
            struct output_summary summary;
            const struct rec_FETCHED *f = &reply->fetch_ok.results.items[i];
            if (f->line <= after) {
                e = err_set(why, ERR_PROTO, "the broker's results are not in the lines' order");
                break;
            }
            after = f->line;
            e = output_append(batch, f, &out, &summary);
            if (e == ERR_OK)
                count(&counts, &summary);
            else
                err_set(why, e, "%s: out of memory", path);
        }
        if (e == ERR_OK)
            e = write_all(fd, path, &out, why);
        if (e != ERR_OK)
            break;
    }
    buf_free(&out);
    if (e == ERR_OK)
        *ret = counts;
    return e;
}

enum err results_check_path(const char *path, struct err_msg *why)
{
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return err_set(why, ERR_IO, "%s: is %s, expected a file to write the results to", path,
                       S_ISDIR(st.st_mode) ? "a folder" : "no plain file");
    char folder[PATH_MAX];
    if ((size_t)snprintf(folder, sizeof folder, "%s", path) >= sizeof folder)
        return err_set(why, ERR_RANGE, "%s: path too long", path);
    if (access(dirname(folder), W_OK | X_OK) != 0)
        return err_set(why, ERR_IO, "%s: cannot write there: %s", path, strerror(errno));
    return ERR_OK;
}

/* A new file beside path: another command may be writing the same results. */
static enum err open_temp(const char *path, char temp[PATH_MAX], int *ret_fd, struct err_msg *why)
{
    unsigned number = 0;
    do {
        if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number)
            return err_set(why, ERR_IO, "%s: no random numbers: %s", path, strerror(errno));
        if (snprintf(temp, PATH_MAX, "%s.%08x.tmp", path, number) >= PATH_MAX)
            return err_set(why, ERR_RANGE, "%s: path too long", path);
        *ret_fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    } while (*ret_fd < 0 && errno == EEXIST);
    return *ret_fd >= 0 ? ERR_OK
                        : err_set(why, ERR_IO, "%s: cannot create: %s", temp, strerror(errno));
}

enum err results_write(struct link *l, const char *batch, const char *path,
                       struct results_counts *ret, struct err_msg *why)
{
    char temp[PATH_MAX];
    struct results_counts counts = {0};
    if (path == NULL)
        return copy_all(l, batch, STDOUT_FILENO, "standard output", ret, why);
    enum err e = results_check_path(path, why);
    if (e != ERR_OK)
        return e;
    int fd = -1;
    e = open_temp(path, temp, &fd, why);
    if (e != ERR_OK)
        return e;
    e = copy_all(l, batch, fd, temp, &counts, why);
    if (e == ERR_OK && fsync(fd) != 0)
        e = err_set(why, ERR_IO,
                    "%s: cannot write: %s; nothing is lost, the results are in the "
                    "ledger",
                    temp, strerror(errno));
    close(fd);
    if (e == ERR_OK && rename(temp, path) != 0)
        e = err_set(why, ERR_IO, "%s: cannot rename to %s: %s", temp, path, strerror(errno));
    if (e != ERR_OK) {
        unlink(temp);
        return e;
    }
    *ret = counts;
    return file_sync_dir(path, why);
}

struct partial {
    char *path;
    int fd;
    uint64_t after; /* the last seq written */
    struct buf out;
};

enum err partial_open(const char *path, struct partial **ret, struct err_msg *why)
{
    struct partial *p = calloc(1, sizeof *p);
    char *copy = strdup(path);
    if (p == NULL || copy == NULL) {
        free(p);
        free(copy);
        return err_set(why, ERR_NOMEM, "%s: out of memory", path);
    }
    *p = (struct partial){.path = copy, .fd = -1};
    p->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_APPEND, 0644);
    if (p->fd < 0) {
        enum err e = err_set(why, ERR_IO, "%s: cannot create: %s", path, strerror(errno));
        partial_close(&p, false);
        return e;
    }
    *ret = p;
    return ERR_OK;
}

enum err partial_fetch(struct partial *p, struct link *l, const char *batch, uint64_t *ret_count,
                       struct err_msg *why)
{
    const struct msg *reply = NULL;
    enum err e = fetch(l, batch, false, p->after, &reply, why);
    if (e != ERR_OK)
        return e;
    uint64_t after = p->after;
    buf_clear(&p->out);
    for (size_t i = 0; i < reply->fetch_ok.results.count; i++) {
        struct output_summary summary;
        e = output_append(batch, &reply->fetch_ok.results.items[i], &p->out, &summary);
        if (e != ERR_OK)
            return err_set(why, e, "%s: out of memory", p->path);
        after = reply->fetch_ok.results.items[i].seq;
    }
    off_t end = lseek(p->fd, 0, SEEK_END);
    e = write_all(p->fd, p->path, &p->out, why);
    if (e != ERR_OK) {
        /* no half line stays */
        if (end >= 0 && ftruncate(p->fd, end) != 0)
            return err_prefix(why, e, "half a line may be left");
        return e;
    }
    p->after = after;
    *ret_count = reply->fetch_ok.results.count;
    return ERR_OK;
}

void partial_close(struct partial **p, bool remove_it)
{
    if (*p == NULL)
        return;
    if ((*p)->fd >= 0)
        close((*p)->fd);
    if (remove_it)
        unlink((*p)->path);
    buf_free(&(*p)->out);
    free((*p)->path);
    free(*p);
    *p = NULL;
}
