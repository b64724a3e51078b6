/* octoflow status: a broker's batches and workers, as tables or as JSON. */
#include <inttypes.h>
#include <stdio.h>

#include "base/size.h"
#include "client/client.h"
#include "client/json.h"
#include "client/remote.h"

struct options {
    struct remote_options remote; /* first */
    bool json;
};

static const struct option table[] = {
    {"The output", .type = OPTION_SECTION},
    {"json", 0, OPTION_FLAG, offsetof(struct options, json),
     .help = "one JSON object with everything there is to know"},
    REMOTE_OPTIONS,
};

static const struct client_command command = {
    .name = "status",
    .text = "usage: octoflow status [BATCH] [options]\n"
            "\n"
            "Shows a broker's batches (or one of them) and its workers: what is done, what runs "
            "where,\n"
            "how warm the GPUs are, and why nothing moves if nothing does.\n"
            "\n"
            "    octoflow status --broker tcp://localhost:7420\n"
            "\n",
    .options = table,
    .options_count = ARRAY_LEN(table),
    .min_arguments = 0,
    .max_arguments = 1,
    .arguments = "[BATCH]",
};

static int width_of(struct str s, int width)
{
    return (int)s.len > width ? (int)s.len : width;
}

static void print_batches(const struct msg_status_ok *m)
{
    int width = 5;
    for (size_t i = 0; i < m->batches.count; i++)
        width = width_of(m->batches.items[i].batch, width);
    printf("%-*s  %-11s %9s %9s %8s %9s %7s %9s %12s\n", width, "BATCH", "STATE", "LINES", "QUEUED",
           "RUNNING", "DONE", "FAILED", "CANCELLED", "TOKENS");
    for (size_t i = 0; i < m->batches.count; i++) {
        const struct rec_BATCH *b = &m->batches.items[i];
        printf("%-*.*s  %-11.*s %9" PRIu64 " %9" PRIu64 " %8" PRIu64 " %9" PRIu64 " %7" PRIu64
               " %9" PRIu64 " %12" PRIu64 "\n",
               width, STR_ARG(b->batch), STR_ARG(b->state), b->total, b->queued, b->leased, b->done,
               b->failed, b->cancelled, b->completion_tokens + b->running_tokens);
        if (b->problem.len > 0)
            printf("    %.*s\n", STR_ARG(b->problem));
    }
    if (m->batches.count == 0)
        printf("no batches\n");
}

static void print_workers(const struct msg_status_ok *m)
{
    int width = 6, model = 5;
    for (size_t i = 0; i < m->workers.count; i++) {
        width = width_of(m->workers.items[i].worker, width);
        model = width_of(m->workers.items[i].model, model);
    }
    printf("\n%-*s  %-8s %-*s  %7s %9s %9s %6s %6s %6s %8s  %s\n", width, "WORKER", "STATE", model,
           "MODEL", "RUNNING", "DONE", "TOKENS/S", "CACHED", "TEMP", "DUTY", "SEEN", "DEVICE");
    for (size_t i = 0; i < m->workers.count; i++) {
        const struct rec_WORKER *w = &m->workers.items[i];
        char temp[24] = "-", cached[24] = "-"; /* of all prompt tokens */
        double prompts = (double)w->prefill_tokens + (double)w->cached_tokens;
        if (prompts > 0)
            snprintf(cached, sizeof cached, "%.0f%%", (double)w->cached_tokens / prompts * 100);
        if (w->temp_known)
            snprintf(temp, sizeof temp, "%.0f C", w->temp_c);
        printf("%-*.*s  %-8.*s %-*.*s  %7" PRIu64 " %9" PRIu64
               " %9.1f %6s %6s %5.0f%% %6.1f s  %.*s\n",
               width, STR_ARG(w->worker), STR_ARG(w->state), model, STR_ARG(w->model), w->leased,
               w->done, w->decode_tokens_per_s, cached, temp, w->duty * 100,
               (double)w->seen_ms / 1000, STR_ARG(w->device));
    }
    if (m->workers.count == 0)
        printf("no workers\n");
}

/* Every field of a record, from the protocol's own table. */
#define JSON_FIELD(kind, name, limit, need, doc)                                                   \
    json_key(o, #name);                                                                            \
    JSON_PUT_##kind(o, r->name);
#define JSON_LIST(rec, name, limit, need, doc)
#define JSON_PUT_U64(o, v)  json_u64(o, v)
#define JSON_PUT_F64(o, v)  json_f64(o, v, 3)
#define JSON_PUT_BOOL(o, v) json_bool(o, v)
#define JSON_PUT_STR(o, v)  json_str(o, v)

static void json_batch(struct json_out *o, const struct rec_BATCH *r)
{
    json_open(o, '{');
    REC_BATCH(JSON_FIELD, JSON_LIST)
    json_close(o, '}');
}

static void json_worker(struct json_out *o, const struct rec_WORKER *r)
{
    json_open(o, '{');
    REC_WORKER(JSON_FIELD, JSON_LIST)
    json_close(o, '}');
}

static enum err print_json(const struct msg_status_ok *m)
{
    struct buf text = {0};
    struct json_out o = {.buf = &text};
    json_open(&o, '{');
    json_key(&o, "uptime_ms");
    json_u64(&o, m->uptime_ms);
    json_key(&o, "batches");
    json_open(&o, '[');
    for (size_t i = 0; i < m->batches.count; i++)
        json_batch(&o, &m->batches.items[i]);
    json_close(&o, ']');
    json_key(&o, "workers");
    json_open(&o, '[');
    for (size_t i = 0; i < m->workers.count; i++)
        json_worker(&o, &m->workers.items[i]);
    json_close(&o, ']');
    json_close(&o, '}');
    if (o.e == ERR_OK)
        printf("%.*s\n", (int)text.len, text.data);
    buf_free(&text);
    return o.e;
}

int cmd_status(int argc, char **argv)
{
    struct options o = {.remote = REMOTE_DEFAULTS};
    struct link l = {0};
    struct err_msg why = {{0}};
    struct msg m = {.type = MSG_TYPE_STATUS};
    const struct msg *reply = NULL;
    int count = 0;
    int code = client_parse(&command, &o, argc, argv, &count);
    if (code >= 0)
        return code;
    if (count > 0)
        m.status.batch = str_of(argv[0]);
    enum err e = remote_open(&o.remote, &l, &why);
    if (e == ERR_OK)
        e = link_call(&l, &m, MSG_TYPE_STATUS_OK, &reply, &why);
    if (e == ERR_OK && o.json) {
        e = print_json(&reply->status_ok);
    } else if (e == ERR_OK) {
        print_batches(&reply->status_ok);
        print_workers(&reply->status_ok);
    }
    link_close(&l);
    return e == ERR_OK ? EXIT_ALL_DONE : client_fail(command.name, e, &why);
}
