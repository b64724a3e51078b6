/* Prints the field tables of PROTOCOL.md, made from messages.h, and the fuzzer's dictionary; puts
 * the tables into the document between its two marker lines, or checks that they are there. Not
 * installed. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "proto/codec.h"
#include "proto/roles.h"
#include "proto/schema.h"

static const char begin_marker[] =
    "<!-- tables: begin (made by protocol_doc from messages.h) -->\n";
static const char end_marker[] = "<!-- tables: end -->";
enum { MAX_DOCUMENT_BYTES = 4 << 20 };

static enum err print_limit(const struct proto_field *f, struct buf *out)
{
    unsigned long long limit = f->limit;
    switch (f->kind) {
    case PROTO_KIND_STR:
    case PROTO_KIND_BIN:
        return buf_printf(out, "%llu bytes", limit);
    case PROTO_KIND_U64S:
    case PROTO_KIND_LIST:
        return buf_printf(out, "%llu", limit);
    case PROTO_KIND_U64:
        return limit != 0 ? buf_printf(out, "%llu", limit) : ERR_OK;
    case PROTO_KIND_F64:
    case PROTO_KIND_BOOL:
        break;
    }
    return ERR_OK;
}

/* from: who sends it, or "". */
static enum err print_table(const struct proto_schema *s, const char *from, struct buf *out)
{
    enum err e =
        buf_printf(out, "\n### %s\n\n%s%s%s| field | kind | at most | | |\n|---|---|---|---|---|\n",
                   s->name, from[0] == '\0' ? "" : "Sender: ", from, from[0] == '\0' ? "" : "\n\n");
    for (size_t i = 0; i < s->count && e == ERR_OK; i++) {
        const struct proto_field *f = &s->fields[i];
        e = buf_printf(out, "| `%s` | ", f->name);
        if (e == ERR_OK && f->kind == PROTO_KIND_LIST)
            e = buf_printf(out, "list of %s | ", f->record()->name);
        else if (e == ERR_OK)
            e = buf_printf(out, "%s | ", proto_kind_name(f->kind));
        if (e == ERR_OK)
            e = print_limit(f, out);
        if (e == ERR_OK)
            e = buf_printf(out, " | %s | %s |\n", f->required ? "REQ" : "OPT", f->doc);
    }
    return e;
}

static enum err print_tables(struct buf *out)
{
    enum err e = buf_append_str(out, "\n## Messages\n");
    for (size_t i = 1; i <= proto_message_count() && e == ERR_OK; i++)
        e = print_table(proto_message_schema((enum msg_type)i),
                        proto_role_name(proto_message_role((enum msg_type)i)), out);
    if (e == ERR_OK)
        e = buf_append_str(out, "\n## Records\n");
    for (size_t i = 0; proto_record_schema(i) != NULL && e == ERR_OK; i++)
        e = print_table(proto_record_schema(i), "", out);
    return e == ERR_OK ? buf_append_char(out, '\n') : e;
}

/* libFuzzer's format: one quoted string a line; a key as it stands in a message, head byte first.
 */
static void print_dict(void)
{
    puts("\"\\xa1v\\x01\"\n\"\\xdd\\xff\\x00\\x00\\x00\"\n\"\\xdf\"\n\"\\xdc\"\n\"\\xc6\"\n\"\\xdb"
         "\"\n\"\\xcf\"\n\"\\xcb\"");
    for (size_t i = 1; i <= proto_message_count(); i++) {
        const struct proto_schema *s = proto_message_schema((enum msg_type)i);
        printf("\"\\x%02zx%s\"\n", 0xa0 | strlen(s->name), s->name);
        for (size_t j = 0; j < s->count; j++)
            printf("\"\\x%02zx%s\"\n", 0xa0 | s->fields[j].name_len, s->fields[j].name);
    }
}

struct document {
    struct buf text;
    size_t begin, end; /* of what stands between the markers */
};

static enum err read_document(const char *path, struct document *ret, struct err_msg *why)
{
    struct document d = {{0}, 0, 0};
    enum err e = file_read(path, MAX_DOCUMENT_BYTES, &d.text, why);
    const char *text = e == ERR_OK ? buf_cstr(&d.text) : NULL;
    const char *begin = text != NULL ? strstr(text, begin_marker) : NULL;
    const char *end = begin != NULL ? strstr(begin, end_marker) : NULL;
    if (e == ERR_OK && end == NULL)
        e = err_set(why, ERR_FORMAT, "%s: its two marker lines are missing", path);
    if (e != ERR_OK) {
        buf_free(&d.text);
        return e;
    }
    d.begin = (size_t)(begin - text) + strlen(begin_marker);
    d.end = (size_t)(end - text);
    *ret = d;
    return ERR_OK;
}

static enum err check_document(const char *path, const struct buf *tables, bool write,
                               struct err_msg *why)
{
    struct document d;
    enum err e = read_document(path, &d, why);
    if (e != ERR_OK)
        return e;
    bool same = d.end - d.begin == tables->len &&
                memcmp(d.text.data + d.begin, tables->data, tables->len) == 0;
    if (!same && !write) {
        e = err_set(why, ERR_CONFLICT,
                    "%s: its tables differ from messages.h; run protocol_doc --write %s", path,
                    path);
    } else if (!same) {
        struct buf out = {0};
        e = buf_append(&out, d.text.data, d.begin);
        if (e == ERR_OK)
            e = buf_append(&out, tables->data, tables->len);
        if (e == ERR_OK)
            e = buf_append(&out, d.text.data + d.end, d.text.len - d.end);
        if (e == ERR_OK)
            e = file_write_atomic(path, out.data, out.len, why);
        else
            err_set(why, e, "out of memory");
        buf_free(&out);
    }
    buf_free(&d.text);
    return e;
}

int main(int argc, char **argv)
{
    struct buf tables = {0};
    struct err_msg why = {{0}};
    enum err e = print_tables(&tables);
    if (e != ERR_OK) {
        err_set(&why, e, "out of memory");
    } else if (argc == 1) {
        fwrite(tables.data, 1, tables.len, stdout);
    } else if (argc == 2 && strcmp(argv[1], "--dict") == 0) {
        print_dict();
    } else if (argc == 3 && (strcmp(argv[1], "--check") == 0 || strcmp(argv[1], "--write") == 0)) {
        e = check_document(argv[2], &tables, strcmp(argv[1], "--write") == 0, &why);
    } else {
        e = err_set(&why, ERR_USAGE, "usage: protocol_doc [--dict | --check FILE | --write FILE]");
    }
    buf_free(&tables);
    if (e != ERR_OK)
        fprintf(stderr, "protocol_doc: %s\n", why.text);
    return e == ERR_OK ? 0 : e == ERR_USAGE ? 2 : 1;
}
