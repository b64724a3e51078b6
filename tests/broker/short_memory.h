/* Allocations that fail: the programs that include this are linked with --wrap for malloc, calloc,
 * realloc, strdup and strndup, so that all of ours come here; SQLite's come by its own allocator
 * interface. Those of other libraries do not. Include it in one file. */
#ifndef OCTO_TESTS_BROKER_SHORT_MEMORY_H
#define OCTO_TESTS_BROKER_SHORT_MEMORY_H

#include <sqlite3.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef bool memory_fails_fn(void);

/* Says for each allocation whether it fails. NULL: none does. */
static memory_fails_fn *_Atomic memory_fails;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t len);

static bool memory_fail(void)
{
    memory_fails_fn *fails = memory_fails;
    return fails != NULL && fails();
}

void *__wrap_malloc(size_t size)
{
    return memory_fail() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return memory_fail() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return memory_fail() ? NULL : __real_realloc(old, size);
}

char *__wrap_strndup(const char *text, size_t len)
{
    size_t have = strnlen(text, len);
    char *copy = memory_fail() ? NULL : __real_malloc(have + 1);
    if (copy != NULL) {
        memcpy(copy, text, have);
        copy[have] = '\0';
    }
    return copy;
}

char *__wrap_strdup(const char *text)
{
    return __wrap_strndup(text, strlen(text));
}

static sqlite3_mem_methods memory_sqlite;

static void *memory_sqlite_malloc(int size)
{
    return memory_fail() ? NULL : memory_sqlite.xMalloc(size);
}

static void *memory_sqlite_realloc(void *old, int size)
{
    return memory_fail() ? NULL : memory_sqlite.xRealloc(old, size);
}

/* Before anything else of SQLite. */
static bool memory_watch_sqlite(void)
{
    if (sqlite3_config(SQLITE_CONFIG_GETMALLOC, &memory_sqlite) != SQLITE_OK)
        return false;
    sqlite3_mem_methods ours = memory_sqlite;
    ours.xMalloc = memory_sqlite_malloc;
    ours.xRealloc = memory_sqlite_realloc;
    return sqlite3_config(SQLITE_CONFIG_MALLOC, &ours) == SQLITE_OK;
}

#endif
