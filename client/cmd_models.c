/* octoflow models: which models a broker's workers have, and which they may fetch from it. */
#include <inttypes.h>

#include "base/size.h"
#include "client/client.h"
#include "client/json.h"
#include "client/remote.h"
#include "client/text.h"

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
    .name = "models",
    .text =
        "usage: octoflow models [options]\n"
        "\n"
        "Shows the models that a broker's workers have, one line for each worker that has one: "
        "loaded,\n"
        "loading, or there to be loaded; and those in the broker's own folder, which workers may "
        "fetch.\n"
        "Lines are submitted for one of them by its name or its hash: octoflow submit --model.\n"
        "\n"
        "    octoflow models --broker tcp://localhost:7420\n"
        "\n",
    .options = table,
    .options_count = ARRAY_LEN(table),
    .min_arguments = 0,
    .max_arguments = 0,
};

static void put_table(const struct msg_models_ok *m)
{
    int width = 5;
    for (size_t i = 0; i < m->models.count; i++) {
        int name = text_width(m->models.items[i].name);
        width = name > width ? name : width;
    }
    printf("%-*s  %-32s  %12s  %-12s  %-8s  %s\n", width, "MODEL", "HASH", "SIZE", "QUANTIZATION",
           "STATE", "WHERE");
    for (size_t i = 0; i < m->models.count; i++) {
        const struct rec_MODEL_AT *r = &m->models.items[i];
        bool broker = r->worker.len == 0;
        text_put(stdout, r->name, width + 2);
        text_put(stdout, r->hash, 34);
        printf("%9.1f MB  ", (double)r->bytes / 1e6);
        text_put(stdout, r->quantization.len > 0 ? r->quantization : STR_LIT("-"), 14);
        text_put(stdout, broker ? STR_LIT("to fetch") : r->state, 10);
        text_put(stdout, broker ? STR_LIT("the broker's folder") : r->worker, 0);
        printf("\n");
    }
    if (m->models.count == 0)
        printf("no models: no worker is connected, and the broker has no --models\n");
}

static enum err put_json(const struct msg_models_ok *m)
{
    struct buf text = {0};
    struct json_out o = {.buf = &text};
    json_open(&o, '{');
    json_key(&o, "models");
    json_open(&o, '[');
    for (size_t i = 0; i < m->models.count; i++)
        JSON_RECORD(REC_MODEL_AT, &o, &m->models.items[i]);
    json_close(&o, ']');
    json_close(&o, '}');
    return json_print(&o, stdout);
}

int cmd_models(int argc, char **argv)
{
    struct options o = {.remote = REMOTE_DEFAULTS};
    struct link l = {0};
    struct err_msg why = {{0}};
    struct msg m = {.type = MSG_TYPE_MODELS};
    const struct msg *reply = NULL;
    int count = 0;
    int code = client_parse(&command, &o, argc, argv, &count);
    if (code >= 0)
        return code;
    enum err e = remote_open(&o.remote, command.name, &l, &why);
    if (e == ERR_OK)
        e = link_call(&l, &m, MSG_TYPE_MODELS_OK, &reply, &why);
    if (e == ERR_OK && o.json)
        e = put_json(&reply->models_ok);
    else if (e == ERR_OK)
        put_table(&reply->models_ok);
    link_close(&l);
    return e == ERR_OK ? EXIT_ALL_DONE : client_fail(command.name, e, &why);
}
