/* The page and the table; see metrics.h. */
#include "broker/metrics.h"

static const struct metric_row rows[] = {
#define X(ID, name, type, label, help) {name, #type, label, help},
    METRICS(X)
#undef X
};

static const struct metric_row commits = {
    "octoflow_ledger_commit_duration_seconds", "histogram", "",
    "transactions of what is acknowledged, from their begin until they are synced to the disk"};

static enum err put_commits(struct buf *out, const struct histogram *h)
{
    enum err e = prometheus_head(out, &commits);
    uint64_t below = 0;
    for (int i = 0; i < HISTOGRAM_CLASSES && e == ERR_OK; i++) {
        below += h->classes[i];
        e = buf_printf(out, "%s_bucket{le=\"%g\"} %llu\n", commits.name,
                       (double)histogram_bounds_ms[i] / 1000, (unsigned long long)below);
    }
    if (e == ERR_OK)
        e = buf_printf(out, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.9g\n%s_count %llu\n",
                       commits.name, (unsigned long long)h->count, commits.name,
                       (double)h->sum_ns / 1e9, commits.name, (unsigned long long)h->count);
    return e;
}

enum err metrics_render(const struct metrics *m, struct buf *out)
{
    enum err e = prometheus_rows(out, rows, m->values, METRIC_COUNT);
    if (e == ERR_OK)
        e = put_commits(out, &m->commits);
    return e == ERR_OK ? worker_metrics_render(m->workers, m->worker_count, out) : e;
}

enum err metrics_document(struct buf *out)
{
    enum err e = buf_append_str(out, "| metric | type | labels | what |\n|---|---|---|---|\n");
    if (e == ERR_OK)
        e = prometheus_document(out, rows, METRIC_COUNT, "");
    if (e == ERR_OK)
        e = prometheus_document(out, &commits, 1, "");
    return e == ERR_OK ? worker_metrics_document(out) : e;
}
