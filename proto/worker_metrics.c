/* The lines of the page; see worker_metrics.h. */
#include "proto/worker_metrics.h"

#include "base/size.h"

enum worker_metric {
#define X(ID, name, type, label, value, known, help) ID,
    WORKER_METRICS(X)
#undef X
        METRIC_COUNT
};

static const struct metric_row rows[] = {
#define X(ID, name, type, label, value, known, help) {name, #type, label, help},
    WORKER_METRICS(X)
#undef X
};

/* False: not known. */
static bool value_of(const struct rec_WORKER *w, size_t metric, double *ret)
{
    switch ((enum worker_metric)metric) {
#define X(ID, name, type, label, value, known, help)                                               \
    case ID:                                                                                       \
        *ret = value;                                                                              \
        return known;
        WORKER_METRICS(X)
#undef X
    case METRIC_COUNT:
        break;
    }
    return false;
}

static enum err put_line(struct buf *out, const struct rec_WORKER *w, size_t metric, double v)
{
    const struct metric_row *row = &rows[metric];
    enum err e = buf_printf(out, "%s{", row->name);
    if (e == ERR_OK)
        e = prometheus_label(out, "worker", w->worker);
    if (e == ERR_OK && metric == W_UP) {
        static const char *const keys[] = {",host", ",device", ",model"};
        const struct str texts[] = {w->host, w->device, w->model};
        for (size_t i = 0; i < ARRAY_LEN(keys) && e == ERR_OK; i++)
            e = prometheus_label(out, keys[i], texts[i]);
    }
    if (e == ERR_OK && row->label[0] != '\0')
        e = buf_printf(out, ",%s", row->label);
    if (e == ERR_OK)
        e = buf_append_char(out, '}');
    return e == ERR_OK ? prometheus_value(out, v) : e;
}

enum err worker_metrics_render(const struct rec_WORKER *workers, size_t count, struct buf *out)
{
    enum err e = ERR_OK;
    for (size_t i = 0; i < METRIC_COUNT && e == ERR_OK; i++) {
        if (rows[i].help[0] != '\0')
            e = prometheus_head(out, &rows[i]);
        for (size_t k = 0; k < min_u64(count, METRICS_WORKERS) && e == ERR_OK; k++) {
            const struct rec_WORKER *w = &workers[k];
            double v = 0;
            bool known = value_of(w, i, &v);
            if (known && (i == W_UP || !str_eq(w->state, STR_LIT("lost"))))
                e = put_line(out, w, i, v);
        }
    }
    return e;
}

enum err worker_metrics_document(struct buf *out)
{
    return prometheus_document(out, rows, METRIC_COUNT, "`worker`");
}
