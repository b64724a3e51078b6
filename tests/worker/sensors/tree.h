/* A /sys of a test's own, made from a table. */
#ifndef OCTO_TESTS_TREE_H
#define OCTO_TESTS_TREE_H

#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

/* In place of a file's content: a folder is there, which opens but cannot be read as a file. */
#define TREE_UNREADABLE ((const char *)-1)

struct tree_file {
    const char *path;    /* below the root */
    const char *content; /* NULL: not there */
};

static char tree_root[] = "/tmp/octo-sysfs-XXXXXX";

static inline void tree_write(const char *path, const void *content, size_t len)
{
    char whole[512];
    snprintf(whole, sizeof whole, "%s/%s", tree_root, path);
    for (char *at = whole + strlen(tree_root) + 1; (at = strchr(at, '/')) != NULL; *at++ = '/') {
        *at = '\0';
        mkdir(whole, 0755);
    }
    remove(whole);
    FILE *f = fopen(whole, "w");
    CHECK(f != NULL && fwrite(content, 1, len, f) == len);
    if (f != NULL)
        fclose(f);
}

static inline void tree_set(const char *path, const char *content)
{
    char whole[512];
    snprintf(whole, sizeof whole, "%s/%s", tree_root, path);
    if (content != NULL && content != TREE_UNREADABLE) {
        tree_write(path, content, strlen(content));
        return;
    }
    remove(whole);
    if (content == TREE_UNREADABLE)
        CHECK(mkdir(whole, 0755) == 0);
}

/* A new tree, with nothing of the one before. */
static inline void tree_make(const struct tree_file *files, size_t count)
{
    check_remove(tree_root);
    CHECK(mkdir(tree_root, 0755) == 0);
    for (size_t i = 0; i < count; i++)
        tree_set(files[i].path, files[i].content);
}

#endif
