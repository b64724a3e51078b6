/* A disk in memory for SQLite, whose power can be cut: a VFS that keeps, for every file, what is
 * durable, what was written since and not synced, and for every name the same. After a cut,
 * unsynced writes are there, gone, or torn; unsynced names (files created, deleted) may be either.
 *
 * Every call that changes the disk is a numbered event; with disk_record() they are kept, so that
 * a second disk can be brought to the state before any of them. Faults fail the calls that
 * they name.
 *
 * What is assumed of real disks is what SQLite's own VFS assumes: a write does not touch bytes
 * outside its range, and what fsync() said is durable is.
 *
 * Thread-safe, except that disk_free() needs all files closed. */
#ifndef OCTO_TESTS_BROKER_DISK_H
#define OCTO_TESTS_BROKER_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/check.h"

enum disk_call {
    DISK_OPEN = 1,
    DISK_WRITE = 2,
    DISK_SYNC = 4,
    DISK_TRUNCATE = 8,
    DISK_DELETE = 16,
    DISK_READ = 32,
    DISK_CHANGES = DISK_OPEN | DISK_WRITE | DISK_SYNC | DISK_TRUNCATE | DISK_DELETE
};

/* What a failed sync leaves of the writes that it should have made durable. */
enum disk_lost {
    DISK_PENDING,  /* they stay unsynced: the next sync tries them again */
    DISK_GONE,     /* they can still be read, and no later sync writes them (Linux, ext4) */
    DISK_REVERTED, /* they are gone, also for who reads (Linux, XFS) */
    DISK_LOST_WAYS
};

struct disk_fault {
    unsigned calls;        /* enum disk_call, or-ed; 0: no fault */
    uint64_t first, count; /* the calls of these kinds, counted from now on: skip, then fail */
    int code;              /* SQLITE_FULL, SQLITE_IOERR, ...; SQLITE_OK: a read brings zeros */
    enum disk_lost lost;   /* for DISK_SYNC */
};

struct disk;

struct disk *disk_new(void);
void disk_free(struct disk **disk);
/* The name of a VFS whose files, from now on, are opened on this disk. */
const char *disk_vfs(struct disk *d);

void disk_record(struct disk *d);
/* How many events there were. */
size_t disk_events(struct disk *d);
/* Does on `to` (empty at 0) what the event at `at` did on `from`. */
void disk_replay(struct disk *to, const struct disk *from, size_t at);

void disk_fail(struct disk *d, struct disk_fault fault);
/* Calls that failed since disk_fail(). */
uint64_t disk_fault_hits(struct disk *d);
/* After `events` more, everything fails and nothing changes until the cut. */
void disk_power_off(struct disk *d, uint64_t events);
bool disk_is_off(struct disk *d);

enum disk_keep {
    DISK_NOTHING,    /* only what was synced */
    DISK_EVERYTHING, /* as after kill -9 */
    DISK_PREFIX,     /* writes in their order, up to one that is torn */
    DISK_SUBSET,     /* any sectors of any writes, in any order */
    DISK_KEEP_WAYS
};

/* A new disk with what a cut leaves: all of it durable. `sector` is 512 or 4096 bytes. Holes (the
 * file is longer, the data did not arrive) are zeros, or garbage. */
struct disk *disk_cut(struct disk *d, enum disk_keep keep, size_t sector, bool garbage,
                      struct check_rng *rng);

#endif
