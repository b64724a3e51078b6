/* Prometheus' text format, version 0.0.4, piece by piece:
 * https://prometheus.io/docs/instrumenting/exposition_formats/ */
#ifndef OCTO_PROTO_PROMETHEUS_H
#define OCTO_PROTO_PROMETHEUS_H

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

/* A line of the page but for its value. label: pairs as they stand between braces, or "". help "":
 * the row belongs to the name of the one before it. */
struct metric_row {
    const char *name, *type, *label, *help;
};

enum err prometheus_head(struct buf *out, const struct metric_row *row) MUST_CHECK;
/* KEY="TEXT", the text escaped. */
enum err prometheus_label(struct buf *out, const char *key, struct str text) MUST_CHECK;
/* " VALUE" and the line's end; what is not finite is 0. */
enum err prometheus_value(struct buf *out, double v) MUST_CHECK;
/* Rows without other labels than their own; values[i] belongs to rows[i]. */
enum err prometheus_rows(struct buf *out, const struct metric_row *rows, const double *values,
                         size_t count) MUST_CHECK;
/* Lines of a table in Markdown: metric, type, labels (`labels` first), what. */
enum err prometheus_document(struct buf *out, const struct metric_row *rows, size_t count,
                             const char *labels) MUST_CHECK;

/* Of this process: resident bytes, and seconds of processor time. */
double prometheus_memory_bytes(void);
double prometheus_cpu_s(void);

#endif
