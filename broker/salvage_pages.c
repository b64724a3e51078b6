/* See salvage_pages.h: the file and its WAL, leaf pages, cells, records. */
#include "broker/salvage_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/size.h"
#include "broker/salvage_bytes.h"

struct pages {
    char path[4096];
    int fd, wal_fd;
    uint32_t page_bytes;
    uint64_t file_pages, count;   /* count: with what only the WAL has */
    uint64_t frames, good_frames; /* in the WAL; of whole, checked transactions */
    uint32_t salt[2];
    uint32_t *good, *any; /* by page: the last frame that has it, from 1; 0: none */
    uint64_t unreadable;
    unsigned char *page, *chain; /* one page each */
    unsigned char *payload;
    size_t payload_cap;
    bool late; /* overflow pages are looked for in all frames */
};

/* ---- the WAL ---- */

static uint64_t frame_at(const struct pages *p, uint64_t frame) /* from 1 */
{
    return WAL_HEADER_BYTES + (frame - 1) * (FRAME_HEADER_BYTES + (uint64_t)p->page_bytes);
}

static void add_checksum(const unsigned char *b, size_t len, bool big_endian, uint32_t sum[2])
{
    for (size_t i = 0; i + 8 <= len; i += 8) {
        uint32_t x, y;
        if (big_endian) {
            x = be32(b + i);
            y = be32(b + i + 4);
        } else {
            x = (uint32_t)b[i + 3] << 24 | (uint32_t)b[i + 2] << 16 | (uint32_t)b[i + 1] << 8 |
                b[i];
            y = (uint32_t)b[i + 7] << 24 | (uint32_t)b[i + 6] << 16 | (uint32_t)b[i + 5] << 8 |
                b[i + 4];
        }
        sum[0] += x + sum[1];
        sum[1] += y + sum[0];
    }
}

/* Page of a frame of this WAL's life; 0: of an earlier one, or damaged. */
static uint32_t frame_page(struct pages *p, uint64_t frame, unsigned char head[FRAME_HEADER_BYTES])
{
    if (!read_at(p->wal_fd, head, FRAME_HEADER_BYTES, frame_at(p, frame)) ||
        be32(head + 8) != p->salt[0] || be32(head + 12) != p->salt[1])
        return 0;
    uint32_t page = be32(head);
    return page <= p->file_pages + p->frames ? page : 0; /* a WAL grows the file by its frames */
}

/* Counts the frames of whole transactions whose checksums are right. */
static void check_frames(struct pages *p, const unsigned char header[WAL_HEADER_BYTES])
{
    bool big_endian = (header[3] & 1) != 0;
    uint32_t sum[2] = {0, 0};
    unsigned char head[FRAME_HEADER_BYTES];
    add_checksum(header, 24, big_endian, sum);
    if ((be32(header) & ~1u) != 0x377f0682 || sum[0] != be32(header + 24) ||
        sum[1] != be32(header + 28)) {
        if (p->frames > 0 && read_at(p->wal_fd, head, sizeof head, frame_at(p, 1))) {
            p->salt[0] = be32(head + 8);
            p->salt[1] = be32(head + 12);
        }
        return;
    }
    for (uint64_t f = 1; f <= p->frames; f++) {
        if (frame_page(p, f, head) == 0 ||
            !read_at(p->wal_fd, p->page, p->page_bytes, frame_at(p, f) + FRAME_HEADER_BYTES))
            return;
        add_checksum(head, 8, big_endian, sum);
        add_checksum(p->page, p->page_bytes, big_endian, sum);
        if (sum[0] != be32(head + 16) || sum[1] != be32(head + 20))
            return;
        if (be32(head + 4) != 0)
            p->good_frames = f;
    }
}

static enum err map_wal(struct pages *p, struct err_msg *why)
{
    unsigned char header[WAL_HEADER_BYTES], head[FRAME_HEADER_BYTES];
    struct stat st;
    p->count = p->file_pages;
    if (p->wal_fd >= 0 && fstat(p->wal_fd, &st) == 0 && st.st_size > WAL_HEADER_BYTES &&
        read_at(p->wal_fd, header, sizeof header, 0)) {
        p->frames = ((uint64_t)st.st_size - WAL_HEADER_BYTES) /
                    (FRAME_HEADER_BYTES + (uint64_t)p->page_bytes);
        p->salt[0] = be32(header + 16);
        p->salt[1] = be32(header + 20);
        check_frames(p, header);
    }
    p->good = calloc(p->file_pages + p->frames + 1, sizeof *p->good);
    p->any = calloc(p->file_pages + p->frames + 1, sizeof *p->any);
    if (p->good == NULL || p->any == NULL)
        return err_set(why, ERR_NOMEM, "salvage %s: out of memory", p->path);
    for (uint64_t f = 1; f <= p->frames && f <= UINT32_MAX; f++) {
        uint32_t page = frame_page(p, f, head);
        if (page == 0)
            continue;
        p->any[page] = (uint32_t)f;
        if (f <= p->good_frames)
            p->good[page] = (uint32_t)f;
        p->count = p->count > page ? p->count : page;
    }
    return ERR_OK;
}

/* ---- pages ---- */

static bool read_frame(struct pages *p, uint64_t frame, unsigned char *to)
{
    return read_at(p->wal_fd, to, p->page_bytes, frame_at(p, frame) + FRAME_HEADER_BYTES);
}

static bool read_page(struct pages *p, uint64_t page, unsigned char *to)
{
    uint32_t frame = p->late && p->any[page] != 0 ? p->any[page] : p->good[page];
    if (frame != 0)
        return read_frame(p, frame, to);
    return page <= p->file_pages && read_at(p->fd, to, p->page_bytes, (page - 1) * p->page_bytes);
}

static bool is_zero(const unsigned char *b, size_t len)
{
    return b[0] == 0 && (len == 1 || memcmp(b, b + 1, len - 1) == 0);
}

/* The payload from its part on the page and its overflow pages. */
static const unsigned char *whole_payload(struct pages *p, const unsigned char *local, size_t len,
                                          size_t local_len)
{
    if (len > p->payload_cap) {
        unsigned char *more = realloc(p->payload, len);
        if (more == NULL)
            return NULL;
        p->payload = more;
        p->payload_cap = len;
    }
    memcpy(p->payload, local, local_len);
    uint32_t next = be32(local + local_len);
    for (size_t have = local_len; have < len;) { /* ends: each page brings something */
        if (next == 0 || next > p->count || !read_page(p, next, p->chain))
            return NULL;
        size_t part = min_u64(len - have, p->page_bytes - 4);
        if (is_zero(p->chain, part + 4)) /* a page that was never written, or wiped */
            return NULL;
        memcpy(p->payload + have, p->chain + 4, part);
        have += part;
        next = be32(p->chain);
        if (have == len && next != 0) /* the chain of another row */
            return NULL;
    }
    return p->payload;
}

static bool read_value(uint64_t serial, const unsigned char **at, const unsigned char *end,
                       struct pages_value *ret)
{
    size_t len = serial_bytes(serial);
    if (len > (size_t)(end - *at))
        return false;
    *ret = (struct pages_value){.type = PAGES_INT};
    if (serial == 0) {
        ret->type = PAGES_NULL;
    } else if (serial == 7) {
        ret->type = PAGES_REAL;
    } else if (serial < 7) {
        uint64_t v = ((*at)[0] & 0x80) != 0 ? UINT64_MAX : 0;
        for (size_t i = 0; i < len; i++)
            v = v << 8 | (*at)[i];
        ret->integer = (int64_t)v;
    } else if (serial < 12) {
        ret->integer = serial == 9;
    } else {
        ret->type = serial % 2 == 0 ? PAGES_BLOB : PAGES_TEXT;
        ret->bytes = (struct str){(const char *)*at, len};
    }
    *at += len;
    return true;
}

static bool read_record(const unsigned char *payload, size_t len, struct pages_row *row)
{
    uint64_t header, serial;
    size_t at = read_varint(payload, len, &header);
    if (at == 0 || header > len || header < at)
        return false;
    const unsigned char *value = payload + header, *end = payload + len;
    row->columns = 0;
    while (at < header) {
        size_t n = read_varint(payload + at, (size_t)header - at, &serial);
        if (n == 0 || row->columns == PAGES_MAX_COLUMNS ||
            !read_value(serial, &value, end, &row->values[row->columns++]))
            return false;
        at += n;
    }
    return true; /* bytes behind the last value are damage that does no harm */
}

/* The row at `at` of the leaf page in p->page. */
static bool read_cell(struct pages *p, size_t at, struct pages_row *row)
{
    uint64_t len, rowid = 0;
    size_t size = p->page_bytes, n = read_varint(p->page + at, size - at, &len);
    if (n == 0 || len == 0 || len > MAX_PAYLOAD_BYTES)
        return false;
    at += n;
    if (!row->index) {
        n = read_varint(p->page + at, size - at, &rowid);
        if (n == 0)
            return false;
        at += n;
    }
    row->rowid = (int64_t)rowid;
    size_t local = local_bytes(size, row->index, len);
    if (at + local + (local < len ? 4 : 0) > size)
        return false;
    const unsigned char *payload = p->page + at;
    if (local < len)
        payload = whole_payload(p, payload, (size_t)len, local);
    return payload != NULL && read_record(payload, (size_t)len, row);
}

static enum err scan_page(struct pages *p,
                          enum err (*on_row)(void *user, const struct pages_row *row), void *user)
{
    struct pages_row row = {.index = p->page[0] == LEAF_INDEX};
    if (p->page[0] != LEAF_TABLE && !row.index)
        return ERR_OK;
    size_t cells = be16(p->page + 3);
    if (LEAF_HEADER_BYTES + 2 * cells > p->page_bytes) {
        p->unreadable += !row.index;
        return ERR_OK;
    }
    for (size_t i = 0; i < cells; i++) {
        size_t at = be16(p->page + LEAF_HEADER_BYTES + 2 * i);
        if (at < LEAF_HEADER_BYTES + 2 * cells || at >= p->page_bytes || !read_cell(p, at, &row)) {
            p->unreadable += !row.index;
            continue;
        }
        enum err e = on_row(user, &row);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

enum err pages_scan(struct pages *p, bool current,
                    enum err (*on_row)(void *user, const struct pages_row *row), void *user,
                    struct err_msg *why)
{
    enum err e = ERR_OK;
    p->late = !current;
    /* page 1 holds the schema, which is ours, behind the file's header */
    for (uint64_t page = 2; page <= p->count && e == ERR_OK; page++) {
        bool hidden = p->good[page] != 0 && page <= p->file_pages;
        if (current ? read_page(p, page, p->page)
                    : hidden && read_at(p->fd, p->page, p->page_bytes, (page - 1) * p->page_bytes))
            e = scan_page(p, on_row, user);
    }
    for (uint64_t f = p->frames; !current && f >= 1 && e == ERR_OK; f--) { /* the latest first */
        unsigned char head[FRAME_HEADER_BYTES];
        uint32_t page = frame_page(p, f, head);
        if (page > 1 && p->good[page] != f && read_frame(p, f, p->page))
            e = scan_page(p, on_row, user);
    }
    return e == ERR_OK ? e : err_set(why, e, "salvage %s: %s", p->path, err_name(e));
}

uint64_t pages_count(const struct pages *p)
{
    return p->count;
}

uint64_t pages_unreadable(const struct pages *p)
{
    return p->unreadable;
}

/* ---- open ---- */

enum err pages_open(const char *path, struct pages **ret, struct err_msg *why)
{
    struct stat st;
    char wal[4096];
    struct pages *p = calloc(1, sizeof *p);
    if (p == NULL)
        return err_set(why, ERR_NOMEM, "salvage %s: out of memory", path);
    snprintf(p->path, sizeof p->path, "%s", path);
    p->fd = open(path, O_RDONLY | O_CLOEXEC);
    p->wal_fd = -1;
    enum err e = ERR_OK;
    if (p->fd < 0 || fstat(p->fd, &st) != 0)
        e = err_set(why, ERR_IO, "salvage %s: cannot read: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        e = err_set(why, ERR_FORMAT, "salvage %s: expected a ledger's file", path);
    if (e != ERR_OK) {
        pages_close(&p);
        return e;
    }
    if ((size_t)snprintf(wal, sizeof wal, "%s-wal", path) < sizeof wal)
        p->wal_fd = open(wal, O_RDONLY | O_CLOEXEC); /* none: closed cleanly */
    p->page_bytes = page_size(p->fd, p->wal_fd);
    p->file_pages = div_up((uint64_t)st.st_size, p->page_bytes);
    p->page = malloc(p->page_bytes);
    p->chain = malloc(p->page_bytes);
    if (p->file_pages > UINT32_MAX)
        e = err_set(why, ERR_FORMAT, "salvage %s: expected a ledger's file", path);
    else if (p->page == NULL || p->chain == NULL)
        e = err_set(why, ERR_NOMEM, "salvage %s: out of memory", path);
    else
        e = map_wal(p, why);
    if (e != ERR_OK) {
        pages_close(&p);
        return e;
    }
    *ret = p;
    return ERR_OK;
}

void pages_close(struct pages **pages)
{
    struct pages *p = *pages;
    if (p == NULL)
        return;
    if (p->fd >= 0)
        close(p->fd);
    if (p->wal_fd >= 0)
        close(p->wal_fd);
    free(p->good);
    free(p->any);
    free(p->page);
    free(p->chain);
    free(p->payload);
    free(p);
    *pages = NULL;
}
