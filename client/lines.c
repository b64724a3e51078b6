/* The line reader behind lines.h. */
#include "client/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/size.h"

enum { FIRST_CAP = 1 << 16, HASH_BLOCK = 1 << 20, LOOK_MS = 100 };

struct lines {
    char *path;
    int fd;
    bool eof;
    uint64_t number; /* of the last line */
    bool begun;      /* a line that is not blank was read */
    size_t max_bytes;
    char *data; /* begin..end: read, not yet given out; scanned: no newline before */
    size_t begin, end, scanned, cap;
    enum err (*waiting)(void *user, struct err_msg *why); /* NULL: none */
    void *user;
};

static enum err open_file(const char *path, int *ret_fd, struct err_msg *why)
{
    struct stat st;
    /* O_NONBLOCK: a named pipe opens before anybody writes into it */
    int fd =
        strcmp(path, "-") == 0 ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_set(why, ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        close(fd);
        return err_set(why, ERR_IO, "%s: is a folder, expected a file with a request a line", path);
    }
    *ret_fd = fd;
    return ERR_OK;
}

/* Something has come, or the end. False: not yet, after ms milliseconds or a signal. */
static bool is_ready(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int r = poll(&p, 1, ms);
    return r > 0 || (r < 0 && errno != EINTR);
}

/* Up to len bytes, when there are some; 0 at the end. */
static enum err read_some(int fd, const char *path, char *data, size_t len, size_t *ret,
                          struct err_msg *why)
{
    for (;;) {
        if (!is_ready(fd, -1))
            continue;
        ssize_t n = read(fd, data, len);
        if (n >= 0) {
            *ret = (size_t)n;
            return ERR_OK;
        }
        if (errno != EINTR && errno != EAGAIN)
            return err_set(why, ERR_IO, "%s: cannot read: %s", path, strerror(errno));
    }
}

static enum err make_room(struct lines *l, struct err_msg *why)
{
    if (l->begin > 0) {
        memmove(l->data, l->data + l->begin, l->end - l->begin);
        l->end -= l->begin;
        l->scanned -= l->begin;
        l->begin = 0;
    }
    if (l->end < l->cap)
        return ERR_OK;
    /* two more than a line may have: its CR and its newline */
    size_t cap = l->cap == 0 ? FIRST_CAP : l->cap * 2;
    cap = cap > l->max_bytes + 2 ? l->max_bytes + 2 : cap;
    char *bigger = realloc(l->data, cap);
    if (bigger == NULL)
        return err_set(why, ERR_NOMEM, "%s: out of memory for a line", l->path);
    l->data = bigger;
    l->cap = cap;
    return ERR_OK;
}

static enum err fill(struct lines *l, struct err_msg *why)
{
    size_t n = 0;
    enum err e = make_room(l, why);
    while (e == ERR_OK && l->waiting != NULL && !is_ready(l->fd, LOOK_MS))
        e = l->waiting(l->user, why);
    if (e == ERR_OK)
        e = read_some(l->fd, l->path, l->data + l->end, l->cap - l->end, &n, why);
    if (e == ERR_OK) {
        l->eof = n == 0;
        l->end += n;
    }
    return e;
}

/* Reads until a newline, the end, or a full buffer of the greatest size. *ret_len: bytes before it.
 */
static enum err find_end(struct lines *l, size_t *ret_len, bool *ret_newline, struct err_msg *why)
{
    for (;;) {
        const char *at =
            l->end > l->scanned ? memchr(l->data + l->scanned, '\n', l->end - l->scanned) : NULL;
        if (at != NULL) {
            *ret_len = (size_t)(at - l->data) - l->begin;
            *ret_newline = true;
            return ERR_OK;
        }
        l->scanned = l->end;
        *ret_len = l->end - l->begin;
        *ret_newline = false;
        if (l->eof || *ret_len >= l->max_bytes + 2)
            return ERR_OK;
        enum err e = fill(l, why);
        if (e != ERR_OK)
            return e;
    }
}

static void consume(struct lines *l, size_t len, bool newline)
{
    l->begin += len + newline;
    l->scanned = l->begin;
}

/* The rest of a line whose first max_bytes + 2 bytes fill the buffer. All pieces but the last have
 * the buffer's size, however the reads fell, so the hash is the line's own. */
static enum err skip_long(struct lines *l, uint64_t *ret_hash, struct err_msg *why)
{
    uint64_t hash = 0;
    bool newline = false;
    for (;;) {
        size_t len = 0;
        enum err e = find_end(l, &len, &newline, why);
        if (e != ERR_OK)
            return e;
        hash = hash64(l->data + l->begin, len, hash);
        consume(l, len, newline);
        if (newline || (l->eof && l->begin == l->end))
            break;
    }
    *ret_hash = hash;
    return ERR_OK;
}

static bool is_blank(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (s.data[i] != ' ' && s.data[i] != '\t' && s.data[i] != '\r')
            return false;
    }
    return true;
}

/* Files that are taken for lines of JSON: said at once, not once a line. */
static enum err check_kind(const struct lines *l, struct err_msg *why)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *is, *instead;
    } kinds[] = {
        {"\x1f\x8b", 2, "compressed (gzip)", "unpack it first"},
        {"\x28\xb5\x2f\xfd", 4, "compressed (zstd)", "unpack it first"},
        {"\xfd\x37zXZ", 5, "compressed (xz)", "unpack it first"},
        {"BZh", 3, "compressed (bzip2)", "unpack it first"},
        {"PK\x03\x04", 4, "compressed (zip)", "unpack it first"},
        {"\xff\xfe", 2, "UTF-16", "convert it to UTF-8"},
        {"\xfe\xff", 2, "UTF-16", "convert it to UTF-8"},
        {"{\0", 2, "UTF-16", "convert it to UTF-8"},
        {"\0{", 2, "UTF-16", "convert it to UTF-8"},
    };
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (l->end - l->begin >= kinds[i].len &&
            memcmp(l->data + l->begin, kinds[i].bytes, kinds[i].len) == 0)
            return err_set(why, ERR_FORMAT, "%s: is %s, expected a request in JSON a line: %s",
                           l->path, kinds[i].is, kinds[i].instead);
    }
    return ERR_OK;
}

/* "[" or "[{": a list that goes on. One that ends on its line is a bad line, and no more. */
static bool begins_list(struct str s)
{
    while (s.len > 0 && (s.data[0] == ' ' || s.data[0] == '\t'))
        s = (struct str){s.data + 1, s.len - 1};
    while (s.len > 0 && (s.data[s.len - 1] == ' ' || s.data[s.len - 1] == '\t'))
        s.len--;
    return s.len > 0 && s.data[0] == '[' && s.data[s.len - 1] != ']';
}

enum err lines_next(struct lines *l, struct line *ret, struct err_msg *why)
{
    for (;;) {
        size_t len = 0;
        bool newline = false;
        enum err e = find_end(l, &len, &newline, why);
        if (e != ERR_OK)
            return e;
        if (len == 0 && !newline)
            return ERR_NOT_FOUND;
        if (l->number == 0)
            e = check_kind(l, why);
        if (e != ERR_OK)
            return e;
        struct line line = {.number = ++l->number, .text = {l->data + l->begin, len}};
        if (line.number == 1 && len >= 3 && memcmp(line.text.data, "\xef\xbb\xbf", 3) == 0)
            line.text = (struct str){line.text.data + 3, len - 3};
        if (line.text.len > 0 && line.text.data[line.text.len - 1] == '\r')
            line.text.len--;
        /* a full buffer is a long line even where a byte order mark in it makes the text shorter */
        if (line.text.len > l->max_bytes || (!newline && len >= l->max_bytes + 2)) {
            line = (struct line){.number = line.number, .too_long = true};
            e = skip_long(l, &line.hash, why);
            if (e == ERR_OK)
                *ret = line;
            return e;
        }
        consume(l, len, newline);
        if (is_blank(line.text))
            continue;
        if (!l->begun && begins_list(line.text))
            return err_set(why, ERR_FORMAT,
                           "%s: is a list in JSON, expected a request a line: jq -c '.[]' makes "
                           "such lines of it",
                           l->path);
        l->begun = true;
        line.hash = hash64(line.text.data, line.text.len, 0);
        *ret = line;
        return ERR_OK;
    }
}

void lines_while_waiting(struct lines *l, enum err (*fn)(void *user, struct err_msg *why),
                         void *user)
{
    l->waiting = fn;
    l->user = user;
}

enum err lines_open(const char *path, size_t max_bytes, struct lines **ret, struct err_msg *why)
{
    int fd = -1;
    enum err e = open_file(path, &fd, why);
    if (e != ERR_OK)
        return e;
    struct lines *l = calloc(1, sizeof *l);
    char *copy = strdup(path);
    if (l == NULL || copy == NULL) {
        free(l);
        free(copy);
        close(fd);
        return err_set(why, ERR_NOMEM, "%s: out of memory", path);
    }
    *l = (struct lines){.path = copy, .fd = fd, .max_bytes = max_bytes};
    *ret = l;
    return ERR_OK;
}

void lines_close(struct lines **l)
{
    if (*l == NULL)
        return;
    close((*l)->fd);
    free((*l)->data);
    free((*l)->path);
    free(*l);
    *l = NULL;
}

enum err lines_check(const char *path, bool *ret_file, bool *ret_empty, struct err_msg *why)
{
    struct stat st;
    struct lines *l = NULL;
    struct line first;
    bool named = strcmp(path, "-") != 0 && stat(path, &st) == 0;
    *ret_file = named && S_ISREG(st.st_mode);
    *ret_empty = false;
    if (named && S_ISFIFO(st.st_mode)) /* who writes into it would lose its reader */
        return ERR_OK;
    enum err e = lines_open(path, LINES_MAX_BYTES, &l, why);
    if (e == ERR_OK && *ret_file)
        e = lines_next(l, &first, why);
    *ret_empty = e == ERR_NOT_FOUND;
    lines_close(&l);
    return *ret_empty ? ERR_OK : e;
}

enum err lines_hash_file(const char *path, uint64_t *ret, struct err_msg *why)
{
    int fd = -1;
    enum err e = open_file(path, &fd, why);
    if (e != ERR_OK)
        return e;
    char *block = malloc(HASH_BLOCK);
    if (block == NULL)
        e = err_set(why, ERR_NOMEM, "%s: out of memory", path);
    uint64_t hash = 0;
    size_t len = 0, n = 1;
    while (e == ERR_OK && n > 0) {
        e = read_some(fd, path, block + len, HASH_BLOCK - len, &n, why);
        if (e != ERR_OK)
            break;
        len += n;
        if (len == HASH_BLOCK || n == 0) {
            hash = hash64(block, len, hash);
            len = 0;
        }
    }
    free(block);
    close(fd);
    if (e == ERR_OK)
        *ret = hash;
    return e;
}
