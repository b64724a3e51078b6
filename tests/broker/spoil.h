/* Damage to one row of a ledger that is in use: requests and results of a MiB, each of one letter,
 * so that their pages are found in the file, and so many that SQLite's cache has not all of them.
 */
#ifndef OCTO_TESTS_BROKER_SPOIL_H
#define OCTO_TESTS_BROKER_SPOIL_H

#include <fcntl.h>
#include <unistd.h>

#include "broker/ledger.h"
#include "tests/check.h"

enum { SPOIL_LINES = 24, SPOIL_BYTES = 1 << 20 };

static char spoil_bodies[2 * SPOIL_LINES][SPOIL_BYTES];

/* Of a line (from 1): 'q' its request, 'r' its result. */
static struct str spoil_body(size_t line, char what)
{
    size_t i = line - 1 + (what == 'r' ? SPOIL_LINES : 0);
    memset(spoil_bodies[i], '0' + (int)i, SPOIL_BYTES);
    return (struct str){spoil_bodies[i], SPOIL_BYTES};
}

static bool is_page_of(const char *page, struct str body)
{
    static const char end[4];
    return memcmp(page, end, 4) != 0 && memcmp(page + 4, body.data, LEDGER_PAGE_BYTES - 4) == 0;
}

/* Ends the body's chain of pages behind one of them. */
static void spoil(const char *file, struct str body)
{
    static char page[LEDGER_PAGE_BYTES];
    int fd = open(file, O_RDWR | O_CLOEXEC);
    off_t at = 0;
    while (pread(fd, page, sizeof page, at) == (ssize_t)sizeof page && !is_page_of(page, body))
        at += LEDGER_PAGE_BYTES;
    CHECK(is_page_of(page, body));
    CHECK(pwrite(fd, "\0\0\0", 4, at) == 4);
    close(fd);
}

#endif
