/* Prints the tables of metrics and of events, in Markdown, for docs/make_operations.py. Not
 * installed. */
#include <stdio.h>

#include "broker/events.h"
#include "broker/metrics.h"

int main(int argc, char **argv)
{
    struct buf out = {0};
    if (argc == 2 && strcmp(argv[1], "events") == 0) {
        puts("| kind | what |\n|---|---|");
#define X(KIND, name, doc) puts("| `" name "` | " doc " |");
        EVENT_KINDS(X)
#undef X
        return 0;
    }
    if (argc != 2 || strcmp(argv[1], "metrics") != 0 || metrics_document(&out) != ERR_OK) {
        fprintf(stderr, "usage: tables_doc events | metrics\n");
        return 2;
    }
    fwrite(out.data, 1, out.len, stdout);
    buf_free(&out);
    return 0;
}
