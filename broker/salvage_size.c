/* The size of a damaged file's pages. Its header and the WAL's say it, but both may be gone, or
 * wrong: so every size that SQLite allows is tried, and the one counts with which most pages make
 * sense. With pages taken for larger ones than they are at most half of them are seen; taken for
 * smaller ones, their cells lie outside. */
#include <stdlib.h>
#include <sys/stat.h>

#include "broker/ledger.h"
#include "broker/salvage_bytes.h"

enum { SMALLEST = 512, SIZES = 8, LARGEST = SMALLEST << (SIZES - 1) };

/* A record's types fit its length. local: what the page has of it. */
static bool is_record(const unsigned char *record, size_t local, uint64_t len)
{
    uint64_t header, serial;
    size_t at = read_varint(record, local, &header);
    if (at == 0 || header > local || header < at)
        return false;
    uint64_t sum = header;
    while (at < header) {
        size_t n = read_varint(record + at, (size_t)header - at, &serial);
        size_t bytes = n == 0 ? SIZE_MAX : serial_bytes(serial);
        if (bytes > len)
            return false;
        sum += bytes;
        at += n;
    }
    return sum == len;
}

/* A leaf that is not empty, all of whose cells can be such. */
static bool is_leaf(const unsigned char *page, size_t size)
{
    bool index = page[0] == LEAF_INDEX;
    size_t cells = be16(page + 3), first = LEAF_HEADER_BYTES + 2 * cells;
    if ((page[0] != LEAF_TABLE && !index) || cells == 0 || first > size)
        return false;
    for (size_t i = 0; i < cells; i++) {
        uint64_t len, rowid;
        size_t at = be16(page + LEAF_HEADER_BYTES + 2 * i);
        size_t n = at < first || at >= size ? 0 : read_varint(page + at, size - at, &len);
        if (n == 0 || len == 0 || len > MAX_PAYLOAD_BYTES)
            return false;
        at += n;
        n = index ? 0 : read_varint(page + at, size - at, &rowid);
        if (!index && n == 0)
            return false;
        at += n;
        size_t local = local_bytes(size, index, len);
        if (local > size - at || !is_record(page + at, local, len))
            return false;
    }
    return true;
}

static uint64_t file_bytes(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* Leaves among the file's pages, by their size. */
static void count_in_file(int fd, unsigned char *block, uint64_t leaves[SIZES])
{
    for (uint64_t off = 0, end = file_bytes(fd); off < end; off += LARGEST) {
        bool there = read_at(fd, block, LARGEST, off); /* or a bad sector: the others count */
        for (unsigned i = 0; i < SIZES && there; i++) {
            for (size_t at = 0; at < LARGEST; at += SMALLEST << i)
                leaves[i] += is_leaf(block + at, SMALLEST << i);
        }
    }
}

static void count_in_wal(int fd, unsigned char *page, uint64_t leaves[SIZES])
{
    for (unsigned i = 0; i < SIZES; i++) {
        size_t size = SMALLEST << i;
        uint64_t off = WAL_HEADER_BYTES + FRAME_HEADER_BYTES, end = file_bytes(fd);
        for (; off < end; off += size + FRAME_HEADER_BYTES)
            leaves[i] += read_at(fd, page, size, off) && is_leaf(page, size);
    }
}

static bool is_page_size(uint32_t size)
{
    return size >= SMALLEST && size <= LARGEST && (size & (size - 1)) == 0;
}

/* From the file's header, else from the WAL's, else what a new ledger has. */
static uint32_t said_size(int fd, int wal_fd)
{
    unsigned char header[FILE_HEADER_BYTES], wal[WAL_HEADER_BYTES];
    (void)read_at(fd, header, sizeof header, 0);
    uint32_t size = be16(header + 16) == 1 ? 65536 : be16(header + 16);
    if (memcmp(header, "SQLite format 3", 16) == 0 && is_page_size(size))
        return size;
    if (wal_fd >= 0 && read_at(wal_fd, wal, sizeof wal, 0) && is_page_size(be32(wal + 8)))
        return be32(wal + 8);
    return LEDGER_PAGE_BYTES;
}

uint32_t page_size(int fd, int wal_fd)
{
    uint32_t said = said_size(fd, wal_fd), best = said;
    uint64_t leaves[SIZES] = {0}, most = 0;
    unsigned char *block = malloc(LARGEST);
    if (block == NULL)
        return said;
    count_in_file(fd, block, leaves);
    if (wal_fd >= 0)
        count_in_wal(wal_fd, block, leaves);
    free(block);
    for (unsigned i = 0; i < SIZES; i++) {
        uint32_t size = (uint32_t)SMALLEST << i;
        if (leaves[i] > most || (leaves[i] == most && size == said)) {
            most = leaves[i];
            best = size;
        }
    }
    return best;
}
