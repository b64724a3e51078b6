/* See disk.h. One struct node a file (what is durable, what one reads, the changes between them),
 * one struct entry a name. */
#include "tests/broker/disk.h"

#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>

enum { SECTOR_BYTES = 4096, MAX_NAME = 256, MAX_ENTRIES = 16 };

struct bytes {
    unsigned char *data;
    size_t len, cap;
};

struct change {
    bool truncate; /* to off */
    size_t off, len;
    unsigned char *data;
    struct change *next;
};

struct node {
    struct bytes now, durable;
    struct change *pending, **pending_end;
};

struct entry {
    char name[MAX_NAME];
    int now, durable; /* node, -1: no such file */
};

enum event_kind { EVENT_CREATE, EVENT_REMOVE, EVENT_WRITE, EVENT_TRUNCATE, EVENT_SYNC };

struct event {
    enum event_kind kind;
    int node;
    bool dir; /* EVENT_REMOVE, EVENT_SYNC: the folder too */
    char name[MAX_NAME];
    size_t off, len;
    unsigned char *data;
};

struct disk {
    pthread_mutex_t mutex;
    struct node **nodes;
    int node_count;
    struct entry entries[MAX_ENTRIES];
    int entry_count;
    size_t event_count;
    bool recording, off;
    struct event *events;
    size_t events_cap;
    uint64_t off_after; /* 0: never */
    struct disk_fault fault;
    uint64_t fault_calls, fault_hits;
};

struct file {
    sqlite3_file base;
    struct disk *disk;
    int node;
    bool
        sync_dir; /* as SQLite's own VFS: a new journal's or WAL's first sync is the folder's too */
};

static struct disk *current;

static void *must(void *p)
{
    if (p == NULL)
        abort();
    return p;
}

/* ---- bytes and changes ---- */

static void set_size(struct bytes *b, size_t len, struct check_rng *garbage)
{
    if (len > b->cap) {
        b->cap = len * 2;
        b->data = must(realloc(b->data, b->cap));
    }
    for (size_t i = b->len; i < len; i++)
        b->data[i] = garbage == NULL ? 0 : (unsigned char)check_rng_next(garbage);
    b->len = len;
}

static void put(struct bytes *b, size_t off, const unsigned char *data, size_t len,
                struct check_rng *garbage)
{
    if (off + len > b->len)
        set_size(b, off + len, garbage);
    memcpy(b->data + off, data, len);
}

static void copy_bytes(struct bytes *to, const struct bytes *from)
{
    to->len = 0;
    set_size(to, from->len, NULL);
    if (from->len > 0)
        memcpy(to->data, from->data, from->len);
}

static void apply_change(struct bytes *to, const struct change *c, struct check_rng *garbage)
{
    if (c->truncate)
        set_size(to, c->off, garbage);
    else
        put(to, c->off, c->data, c->len, garbage);
}

static void drop_pending(struct node *n)
{
    while (n->pending != NULL) {
        struct change *next = n->pending->next;
        free(n->pending->data);
        free(n->pending);
        n->pending = next;
    }
    n->pending_end = &n->pending;
}

static int add_node(struct disk *d)
{
    d->nodes = must(realloc(d->nodes, ((size_t)d->node_count + 1) * sizeof *d->nodes));
    struct node *n = must(calloc(1, sizeof *n));
    n->pending_end = &n->pending;
    d->nodes[d->node_count] = n;
    return d->node_count++;
}

static struct entry *find_entry(struct disk *d, const char *name)
{
    for (int i = 0; i < d->entry_count; i++) {
        if (strcmp(d->entries[i].name, name) == 0)
            return &d->entries[i];
    }
    return NULL;
}

static struct entry *need_entry(struct disk *d, const char *name)
{
    struct entry *e = find_entry(d, name);
    if (e != NULL)
        return e;
    if (d->entry_count == MAX_ENTRIES || strlen(name) >= MAX_NAME)
        abort();
    e = &d->entries[d->entry_count++];
    snprintf(e->name, sizeof e->name, "%s", name);
    e->now = e->durable = -1;
    return e;
}

/* ---- events ---- */

static void change_node(struct node *n, const struct event *ev)
{
    struct change *c = must(calloc(1, sizeof *c));
    c->truncate = ev->kind == EVENT_TRUNCATE;
    c->off = ev->off;
    c->len = ev->len;
    if (ev->len > 0) {
        c->data = must(malloc(ev->len));
        memcpy(c->data, ev->data, ev->len);
    }
    apply_change(&n->now, c, NULL);
    *n->pending_end = c;
    n->pending_end = &c->next;
}

static void apply(struct disk *d, const struct event *ev)
{
    struct node *n = ev->node >= 0 && ev->node < d->node_count ? d->nodes[ev->node] : NULL;
    switch (ev->kind) {
    case EVENT_CREATE:
        need_entry(d, ev->name)->now = add_node(d);
        break;
    case EVENT_REMOVE:
        need_entry(d, ev->name)->now = -1;
        break;
    case EVENT_WRITE:
    case EVENT_TRUNCATE:
        change_node(n, ev);
        break;
    case EVENT_SYNC:
        for (struct change *c = n->pending; c != NULL; c = c->next)
            apply_change(&n->durable, c, NULL);
        drop_pending(n);
        break;
    }
    if (ev->dir) {
        for (int i = 0; i < d->entry_count; i++)
            d->entries[i].durable = d->entries[i].now;
    }
}

/* Locked. */
static void happen(struct disk *d, struct event ev)
{
    apply(d, &ev);
    if (d->recording) {
        if (d->event_count == d->events_cap) {
            d->events_cap = d->events_cap * 2 + 256;
            d->events = must(realloc(d->events, d->events_cap * sizeof *d->events));
        }
        struct event *kept = &d->events[d->event_count];
        *kept = ev;
        if (ev.len > 0) {
            kept->data = must(malloc(ev.len));
            memcpy(kept->data, ev.data, ev.len);
        }
    }
    d->event_count++;
    if (d->off_after > 0 && --d->off_after == 0)
        d->off = true;
}

/* Locked. SQLITE_OK: the call goes on; otherwise it ends with this. */
static int may(struct disk *d, enum disk_call call)
{
    if (d->off) {
        errno = EIO;
        return SQLITE_IOERR;
    }
    if ((d->fault.calls & call) == 0)
        return SQLITE_OK;
    uint64_t at = d->fault_calls++;
    if (at < d->fault.first || at - d->fault.first >= d->fault.count)
        return SQLITE_OK;
    d->fault_hits++;
    errno = d->fault.code == SQLITE_FULL ? ENOSPC : EIO;
    return d->fault.code;
}

/* ---- SQLite's file methods ---- */

static struct file *locked(sqlite3_file *base)
{
    struct file *f = (struct file *)base;
    pthread_mutex_lock(&f->disk->mutex);
    return f;
}

static int unlock(struct disk *d, int rc)
{
    pthread_mutex_unlock(&d->mutex);
    return rc;
}

static int file_close(sqlite3_file *base)
{
    (void)base;
    return SQLITE_OK;
}

static int file_read(sqlite3_file *base, void *to, int len, sqlite3_int64 off)
{
    struct file *f = locked(base);
    const struct bytes *b = &f->disk->nodes[f->node]->now;
    uint64_t hits = f->disk->fault_hits;
    int rc = may(f->disk, DISK_READ);
    if (f->disk->fault_hits > hits) {
        memset(to, 0, (size_t)len);
        return unlock(f->disk, rc);
    }
    size_t have = (size_t)off >= b->len ? 0 : b->len - (size_t)off;
    size_t part = have < (size_t)len ? have : (size_t)len;
    if (part > 0)
        memcpy(to, b->data + off, part);
    memset((char *)to + part, 0, (size_t)len - part);
    return unlock(f->disk, part == (size_t)len ? SQLITE_OK : SQLITE_IOERR_SHORT_READ);
}

static int file_write(sqlite3_file *base, const void *from, int len, sqlite3_int64 off)
{
    struct file *f = locked(base);
    struct event ev = {.kind = EVENT_WRITE, .node = f->node, .off = (size_t)off};
    int rc = may(f->disk, DISK_WRITE);
    ev.data = must(malloc((size_t)len));
    memcpy(ev.data, from, (size_t)len);
    ev.len = rc == SQLITE_OK ? (size_t)len : (size_t)len / 2; /* some of it was written */
    if (!f->disk->off && ev.len > 0)
        happen(f->disk, ev);
    free(ev.data);
    return unlock(f->disk, rc);
}

static int file_truncate(sqlite3_file *base, sqlite3_int64 size)
{
    struct file *f = locked(base);
    int rc = may(f->disk, DISK_TRUNCATE);
    if (rc == SQLITE_OK)
        happen(f->disk,
               (struct event){.kind = EVENT_TRUNCATE, .node = f->node, .off = (size_t)size});
    return unlock(f->disk, rc);
}

static int file_sync(sqlite3_file *base, int flags)
{
    struct file *f = locked(base);
    struct node *n = f->disk->nodes[f->node];
    int rc = may(f->disk, DISK_SYNC);
    (void)flags;
    if (rc == SQLITE_OK) {
        happen(f->disk, (struct event){.kind = EVENT_SYNC, .node = f->node, .dir = f->sync_dir});
        f->sync_dir = false;
    } else if (!f->disk->off && f->disk->fault.lost != DISK_PENDING) {
        drop_pending(n);
        if (f->disk->fault.lost == DISK_REVERTED)
            copy_bytes(&n->now, &n->durable);
    }
    if (rc == SQLITE_IOERR)
        rc = SQLITE_IOERR_FSYNC; /* as SQLite's own VFS says */
    return unlock(f->disk, rc);
}

static int file_size(sqlite3_file *base, sqlite3_int64 *ret)
{
    struct file *f = locked(base);
    *ret = (sqlite3_int64)f->disk->nodes[f->node]->now.len;
    return unlock(f->disk, f->disk->off ? SQLITE_IOERR : SQLITE_OK);
}

static int file_lock(sqlite3_file *base, int level)
{
    (void)base;
    (void)level;
    return SQLITE_OK;
}

static int file_check_lock(sqlite3_file *base, int *ret)
{
    (void)base;
    *ret = 0;
    return SQLITE_OK;
}

static int file_control(sqlite3_file *base, int what, void *arg)
{
    (void)base;
    (void)what;
    (void)arg;
    return SQLITE_NOTFOUND;
}

static int file_sector(sqlite3_file *base)
{
    (void)base;
    return SECTOR_BYTES;
}

static int file_device(sqlite3_file *base)
{
    (void)base;
    return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static const sqlite3_io_methods methods = {.iVersion = 1,
                                           .xClose = file_close,
                                           .xRead = file_read,
                                           .xWrite = file_write,
                                           .xTruncate = file_truncate,
                                           .xSync = file_sync,
                                           .xFileSize = file_size,
                                           .xLock = file_lock,
                                           .xUnlock = file_lock,
                                           .xCheckReservedLock = file_check_lock,
                                           .xFileControl = file_control,
                                           .xSectorSize = file_sector,
                                           .xDeviceCharacteristics = file_device};

/* ---- SQLite's VFS ---- */

static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *base, int flags,
                    int *ret_flags)
{
    struct file *f = (struct file *)base;
    struct disk *d = current;
    (void)vfs;
    *f = (struct file){.disk = d, .node = -1};
    pthread_mutex_lock(&d->mutex);
    int rc = may(d, DISK_OPEN);
    if (rc != SQLITE_OK)
        return unlock(d, rc == SQLITE_FULL ? rc : SQLITE_CANTOPEN);
    if (name == NULL) {
        f->node = add_node(d);
    } else {
        struct entry *e = find_entry(d, name);
        bool create = e == NULL || e->now < 0;
        if (create && (flags & SQLITE_OPEN_CREATE) == 0)
            return unlock(d, SQLITE_CANTOPEN);
        if (create) {
            struct event ev = {.kind = EVENT_CREATE, .node = -1};
            snprintf(ev.name, sizeof ev.name, "%s", name);
            happen(d, ev);
            f->sync_dir = (flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL)) != 0;
        }
        f->node = find_entry(d, name)->now;
    }
    if (ret_flags != NULL)
        *ret_flags = flags;
    f->base.pMethods = &methods;
    return unlock(d, SQLITE_OK);
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync_dir)
{
    struct disk *d = current;
    (void)vfs;
    pthread_mutex_lock(&d->mutex);
    int rc = may(d, DISK_DELETE);
    struct entry *e = find_entry(d, name);
    if (rc == SQLITE_OK && (e == NULL || e->now < 0))
        rc = SQLITE_IOERR_DELETE_NOENT;
    if (rc == SQLITE_OK) {
        struct event ev = {.kind = EVENT_REMOVE, .node = -1, .dir = sync_dir != 0};
        snprintf(ev.name, sizeof ev.name, "%s", name);
        happen(d, ev);
    }
    return unlock(d, rc);
}

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *ret)
{
    struct disk *d = current;
    (void)vfs;
    (void)flags;
    pthread_mutex_lock(&d->mutex);
    struct entry *e = find_entry(d, name);
    *ret = e != NULL && e->now >= 0;
    return unlock(d, d->off ? SQLITE_IOERR_ACCESS : SQLITE_OK);
}

static int vfs_full_name(sqlite3_vfs *vfs, const char *name, int size, char *ret)
{
    (void)vfs;
    snprintf(ret, (size_t)size, "%s", name);
    return SQLITE_OK;
}

static int vfs_last_error(sqlite3_vfs *vfs, int size, char *ret)
{
    (void)vfs;
    if (size > 0)
        ret[0] = '\0';
    return errno;
}

const char *disk_vfs(struct disk *d)
{
    static sqlite3_vfs vfs;
    if (vfs.zName == NULL) {
        sqlite3_vfs *own = sqlite3_vfs_find(NULL);
        vfs = *own; /* time, sleep, random numbers */
        vfs.iVersion = 1;
        vfs.szOsFile = sizeof(struct file);
        vfs.mxPathname = MAX_NAME - 16;
        vfs.pNext = NULL;
        vfs.zName = "octo-test-disk";
        vfs.xOpen = vfs_open;
        vfs.xDelete = vfs_delete;
        vfs.xAccess = vfs_access;
        vfs.xFullPathname = vfs_full_name;
        vfs.xGetLastError = vfs_last_error;
        sqlite3_vfs_register(&vfs, 0);
    }
    current = d;
    return vfs.zName;
}

/* ---- the test's side ---- */

struct disk *disk_new(void)
{
    struct disk *d = must(calloc(1, sizeof *d));
    pthread_mutex_init(&d->mutex, NULL);
    return d;
}

void disk_free(struct disk **disk)
{
    struct disk *d = *disk;
    *disk = NULL;
    if (d == NULL)
        return;
    for (int i = 0; i < d->node_count; i++) {
        drop_pending(d->nodes[i]);
        free(d->nodes[i]->now.data);
        free(d->nodes[i]->durable.data);
        free(d->nodes[i]);
    }
    for (size_t i = 0; d->recording && i < d->event_count; i++)
        free(d->events[i].data);
    free(d->nodes);
    free(d->events);
    pthread_mutex_destroy(&d->mutex);
    if (current == d)
        current = NULL;
    free(d);
}

void disk_record(struct disk *d)
{
    d->recording = true;
}

size_t disk_events(struct disk *d)
{
    pthread_mutex_lock(&d->mutex);
    size_t n = d->event_count;
    pthread_mutex_unlock(&d->mutex);
    return n;
}

void disk_replay(struct disk *to, const struct disk *from, size_t at)
{
    happen(to, from->events[at]);
}

void disk_fail(struct disk *d, struct disk_fault fault)
{
    pthread_mutex_lock(&d->mutex);
    d->fault = fault;
    d->fault_calls = d->fault_hits = 0;
    pthread_mutex_unlock(&d->mutex);
}

uint64_t disk_fault_hits(struct disk *d)
{
    pthread_mutex_lock(&d->mutex);
    uint64_t n = d->fault_hits;
    pthread_mutex_unlock(&d->mutex);
    return n;
}

void disk_power_off(struct disk *d, uint64_t events)
{
    pthread_mutex_lock(&d->mutex);
    d->off_after = events;
    d->off = events == 0;
    pthread_mutex_unlock(&d->mutex);
}

bool disk_is_off(struct disk *d)
{
    pthread_mutex_lock(&d->mutex);
    bool off = d->off;
    pthread_mutex_unlock(&d->mutex);
    return off;
}

/* ---- the cut ---- */

static size_t sector_end(size_t off, size_t end, size_t sector)
{
    size_t next = (off / sector + 1) * sector;
    return next < end ? next : end;
}

/* Any sectors of any writes, in any order. */
static void keep_subset(struct bytes *to, const struct change *pending, size_t sector,
                        struct check_rng *garbage, struct check_rng *rng)
{
    struct change *pieces = NULL;
    size_t count = 0;
    for (const struct change *c = pending; c != NULL; c = c->next) {
        size_t off = c->off, end = c->off + c->len;
        do {
            size_t next = c->truncate ? end : sector_end(off, end, sector);
            if ((count & (count - 1)) == 0)
                pieces = must(realloc(pieces, (count * 2 + 1) * sizeof *pieces));
            pieces[count++] =
                (struct change){.truncate = c->truncate,
                                .off = off,
                                .len = next - off,
                                .data = c->data == NULL ? NULL : c->data + (off - c->off)};
            off = next;
        } while (off < end);
    }
    static const uint64_t chances[] = {1, 4, 7}; /* of 8 */
    uint64_t chance = chances[check_rng_below(rng, 3)];
    bool shuffle = check_rng_below(rng, 2) == 0;
    for (size_t i = 0; i < count; i++) {
        size_t other = i + check_rng_below(rng, count - i);
        if (shuffle) {
            struct change swap = pieces[i];
            pieces[i] = pieces[other];
            pieces[other] = swap;
        }
        if (check_rng_below(rng, 8) < chance)
            apply_change(to, &pieces[i], garbage);
    }
    free(pieces);
}

static void keep_prefix(struct bytes *to, const struct change *pending, size_t sector,
                        struct check_rng *garbage, struct check_rng *rng)
{
    size_t count = 0;
    for (const struct change *c = pending; c != NULL; c = c->next)
        count++;
    size_t whole = check_rng_below(rng, count + 1);
    for (const struct change *c = pending; c != NULL; c = c->next) {
        if (whole-- > 0) {
            apply_change(to, c, garbage);
            continue;
        }
        if (!c->truncate && c->len > 0) {
            struct change torn = *c;
            size_t cut = c->off + check_rng_below(rng, c->len);
            torn.len = sector_end(cut, c->off + c->len, sector) - c->off;
            apply_change(to, &torn, garbage);
        }
        break;
    }
}

struct disk *disk_cut(struct disk *d, enum disk_keep keep, size_t sector, bool garbage,
                      struct check_rng *rng)
{
    struct disk *left = disk_new();
    struct check_rng *fill = garbage ? rng : NULL;
    pthread_mutex_lock(&d->mutex);
    for (int i = 0; i < d->entry_count; i++) {
        const struct entry *e = &d->entries[i];
        int node = keep == DISK_EVERYTHING                                ? e->now
                   : keep == DISK_NOTHING || check_rng_below(rng, 2) == 0 ? e->durable
                                                                          : e->now;
        if (node < 0)
            continue;
        struct entry *to = need_entry(left, e->name);
        to->now = to->durable = add_node(left);
        struct node *n = left->nodes[to->now];
        const struct node *from = d->nodes[node];
        copy_bytes(&n->now, &from->durable);
        if (keep == DISK_PREFIX)
            keep_prefix(&n->now, from->pending, sector, fill, rng);
        else if (keep == DISK_SUBSET)
            keep_subset(&n->now, from->pending, sector, fill, rng);
        for (const struct change *c = from->pending; c != NULL && keep == DISK_EVERYTHING;
             c = c->next)
            apply_change(&n->now, c, NULL);
        copy_bytes(&n->durable, &n->now);
    }
    pthread_mutex_unlock(&d->mutex);
    return left;
}
