/* What salvage_*.c know of SQLite's file format: numbers, places, sizes. Private to them. */
#ifndef OCTO_BROKER_SALVAGE_BYTES_H
#define OCTO_BROKER_SALVAGE_BYTES_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

enum {
    LEAF_TABLE = 0x0d,
    LEAF_INDEX = 0x0a,
    FILE_HEADER_BYTES = 100,
    LEAF_HEADER_BYTES = 8,
    WAL_HEADER_BYTES = 32,
    FRAME_HEADER_BYTES = 24,
    MAX_PAYLOAD_BYTES = 256 << 20
};

static inline uint32_t be32(const unsigned char *b)
{
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static inline uint32_t be16(const unsigned char *b)
{
    return (uint32_t)b[0] << 8 | b[1];
}

/* Reads what is there; the rest is zeros. False: nothing is. */
static inline bool read_at(int fd, void *to, size_t len, uint64_t off)
{
    size_t have = 0;
    while (have < len) {
        ssize_t n = pread(fd, (char *)to + have, len - have, (off_t)(off + have));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        have += (size_t)n;
    }
    if (have < len)
        memset((char *)to + have, 0, len - have);
    return have > 0;
}

/* Its bytes, from 1 to 9; 0: it does not end. */
static inline size_t read_varint(const unsigned char *b, size_t len, uint64_t *ret)
{
    uint64_t v = 0;
    for (size_t i = 0; i < len && i < 9; i++) {
        if (i == 8) {
            *ret = v << 8 | b[i];
            return 9;
        }
        v = v << 7 | (b[i] & 0x7f);
        if ((b[i] & 0x80) == 0) {
            *ret = v;
            return i + 1;
        }
    }
    return 0;
}

/* Bytes of a payload of `len` that stand on the page itself, of `size` bytes. */
static inline size_t local_bytes(size_t size, bool index, uint64_t len)
{
    size_t most = index ? (size - 12) * 64 / 255 - 23 : size - 35;
    size_t least = (size - 12) * 32 / 255 - 23;
    if (len <= most)
        return (size_t)len;
    size_t local = least + ((size_t)len - least) % (size - 4);
    return local > most ? least : local;
}

/* The bytes of a value of that type; SIZE_MAX: there is no such type. */
static inline size_t serial_bytes(uint64_t serial)
{
    static const unsigned char int_bytes[] = {0, 1, 2, 3, 4, 6, 8, 8, 0, 0};
    if (serial == 10 || serial == 11)
        return SIZE_MAX;
    return serial < 10 ? int_bytes[serial] : (size_t)((serial - 12) / 2);
}

/* salvage_size.c: of the pages of a file and its WAL (-1: none), whatever is left of their headers.
 */
uint32_t page_size(int fd, int wal_fd);

#endif
