/* Reads the list, and finds keys in it; see allow.h. */
#include "broker/allow.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"

enum { MAX_FILE_BYTES = 16 << 20 };

struct allow {
    struct allow_entry *entries; /* [count], by key */
    size_t count;
};

static bool is_blank(char c)
{
    return isspace((unsigned char)c) != 0;
}

/* The next word of a line; empty at its end or at a comment. */
static struct str take_word(struct str *line)
{
    while (line->len > 0 && is_blank(line->data[0])) {
        line->data++;
        line->len--;
    }
    struct str word = {line->data, 0};
    while (line->len > 0 && !is_blank(line->data[0]) && (word.len > 0 || line->data[0] != '#')) {
        line->data++;
        line->len--;
        word.len++;
    }
    return word;
}

static enum err parse_line(struct str line, struct allow_entry *ret, struct err_msg *why)
{
    struct str key = take_word(&line), roles = take_word(&line), name = take_word(&line);
    struct str more = take_word(&line);
    if (!proto_curve_is_key(key))
        return err_set(why, ERR_USAGE, "key \"%.*s\": expected the 40 characters of a public key",
                       STR_ARG(key));
    if (name.len == 0)
        return err_set(why, ERR_USAGE, "%s is missing; expected KEY ROLE[,ROLE] NAME",
                       roles.len == 0 ? "ROLE" : "NAME");
    enum err e = proto_roles_parse(roles, &ret->roles, why);
    if (e != ERR_OK)
        return e;
    if (!proto_name_is_good(name))
        return err_set(why, ERR_USAGE, "name \"%.*s\": expected " PROTO_NAME_RULE, STR_ARG(name));
    if (more.len > 0)
        return err_set(why, ERR_USAGE, "\"%.*s\": expected nothing behind the name but a # comment",
                       STR_ARG(more));
    memcpy(ret->key, key.data, key.len);
    memcpy(ret->name, name.data, name.len);
    return ERR_OK;
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct allow_entry *)a)->key, ((const struct allow_entry *)b)->key);
}

static enum err parse(const char *path, struct str text, struct allow *a, struct err_msg *why)
{
    struct str line;
    size_t room = 0;
    for (unsigned number = 1; str_cut(&text, '\n', &line); number++) {
        struct str rest = line;
        if (take_word(&rest).len == 0)
            continue;
        if (a->count == room) {
            room = 2 * room + 16;
            struct allow_entry *entries = realloc(a->entries, room * sizeof *entries);
            if (entries == NULL)
                return err_set(why, ERR_NOMEM, "%s: out of memory", path);
            a->entries = entries;
        }
        struct allow_entry *entry = &a->entries[a->count];
        *entry = (struct allow_entry){.line = number};
        enum err e = parse_line(line, entry, why);
        if (e != ERR_OK)
            return err_prefix(why, e, "%s:%u", path, number);
        a->count++;
    }
    if (a->count > 0)
        qsort(a->entries, a->count, sizeof *a->entries, by_key);
    for (size_t i = 1; i < a->count; i++) {
        const struct allow_entry *x = &a->entries[i - 1], *y = &a->entries[i];
        if (strcmp(x->key, y->key) == 0)
            return err_set(why, ERR_USAGE, "%s:%u: this key is in line %u, too", path,
                           x->line > y->line ? x->line : y->line,
                           x->line > y->line ? y->line : x->line);
    }
    return ERR_OK;
}

enum err allow_read(const char *path, struct allow **ret, struct err_msg *why)
{
    struct stat st;
    if (stat(path, &st) == 0 && (st.st_mode & S_IWOTH) != 0)
        return err_set(why, ERR_USAGE, "%s: everybody may write it (mode %04o): chmod o-w %s", path,
                       (unsigned)(st.st_mode & 07777), path);
    struct buf text = {0};
    struct allow *a = calloc(1, sizeof *a);
    enum err e = a == NULL ? err_set(why, ERR_NOMEM, "%s: out of memory", path)
                           : file_read(path, MAX_FILE_BYTES, &text, why);
    if (e == ERR_OK)
        e = parse(path, (struct str){text.data, text.len}, a, why);
    buf_free(&text);
    if (e != ERR_OK) {
        allow_destroy(&a);
        return e;
    }
    *ret = a;
    return ERR_OK;
}

void allow_destroy(struct allow **allow)
{
    struct allow *a = *allow;
    *allow = NULL;
    if (a == NULL)
        return;
    free(a->entries);
    free(a);
}

const struct allow_entry *allow_find(const struct allow *a, const char *key)
{
    struct allow_entry like = {.line = 0};
    if (a->count == 0 || strlen(key) != PROTO_KEY_CHARS)
        return NULL;
    memcpy(like.key, key, sizeof like.key);
    return bsearch(&like, a->entries, a->count, sizeof *a->entries, by_key);
}

size_t allow_count(const struct allow *a)
{
    return a->count;
}
