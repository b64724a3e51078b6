/* Lines of the text format; see prometheus.h. */
#include "proto/prometheus.h"

#include <math.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

enum err prometheus_head(struct buf *out, const struct metric_row *row)
{
    return buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", row->name, row->help, row->name,
                      row->type);
}

enum err prometheus_label(struct buf *out, const char *key, struct str text)
{
    enum err e = buf_printf(out, "%s=\"", key);
    for (size_t i = 0; i < text.len && e == ERR_OK; i++) {
        char c = text.data[i];
        if (c == '\n')
            e = buf_append_str(out, "\\n");
        else if (c == '"' || c == '\\')
            e = buf_append(out, (char[]){'\\', c}, 2);
        else
            e = buf_append_char(out, c);
    }
    return e == ERR_OK ? buf_append_char(out, '"') : e;
}

enum err prometheus_value(struct buf *out, double v)
{
    return buf_printf(out, " %.15g\n", isfinite(v) ? v : 0);
}

enum err prometheus_rows(struct buf *out, const struct metric_row *rows, const double *values,
                         size_t count)
{
    enum err e = ERR_OK;
    for (size_t i = 0; i < count && e == ERR_OK; i++) {
        const struct metric_row *row = &rows[i];
        if (row->help[0] != '\0')
            e = prometheus_head(out, row);
        if (e == ERR_OK && row->label[0] != '\0')
            e = buf_printf(out, "%s{%s}", row->name, row->label);
        else if (e == ERR_OK)
            e = buf_append_str(out, row->name);
        if (e == ERR_OK)
            e = prometheus_value(out, values[i]);
    }
    return e;
}

enum err prometheus_document(struct buf *out, const struct metric_row *rows, size_t count,
                             const char *labels)
{
    enum err e = ERR_OK;
    for (size_t i = 0; i < count && e == ERR_OK; i++) {
        if (rows[i].help[0] == '\0')
            continue;
        e = buf_printf(out, "| `%s` | %s | %s", rows[i].name, rows[i].type, labels);
        const char *sep = labels[0] == '\0' ? "" : ", ";
        for (size_t k = i; k < count && strcmp(rows[k].name, rows[i].name) == 0 && e == ERR_OK;
             k++) {
            if (rows[k].label[0] == '\0')
                continue;
            e = buf_printf(out, "%s`%s`", sep, rows[k].label);
            sep = ", ";
        }
        if (e == ERR_OK)
            e = buf_printf(out, " | %s |\n", rows[i].help);
    }
    return e;
}

double prometheus_memory_bytes(void)
{
    unsigned long long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL)
        return 0;
    if (fscanf(f, "%llu %llu", &pages, &resident) != 2)
        resident = 0;
    fclose(f);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

double prometheus_cpu_s(void)
{
    struct rusage u;
    if (getrusage(RUSAGE_SELF, &u) != 0)
        return 0;
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}
