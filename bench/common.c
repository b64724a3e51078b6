/* What the commands share: options, opening, data files. */
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/size.h"
#include "bench/bench.h"

bool bench_parse(const struct option *table, size_t count, void *target, const char *usage,
                 int argc, char **argv, int *ret_exit)
{
    struct err_msg why;
    int positional = 0;
    enum err e = options_parse(table, count, target, argc, argv, &positional, &why);
    if (e == ERR_OK && positional == 0)
        return true;
    if (e == ERR_CANCELLED) {
        printf("%s\n\nOptions:\n", usage);
        options_print(table, count, stdout);
        *ret_exit = BENCH_OK;
        return false;
    }
    if (e == ERR_OK)
        err_set(&why, ERR_USAGE, "\"%s\" is no option: expected only options here", argv[0]);
    fprintf(stderr, "octoflow-bench: %s\n", why.text);
    *ret_exit = BENCH_USAGE;
    return false;
}

int bench_fail(enum err e, const struct err_msg *why)
{
    fprintf(stderr, "octoflow-bench: %s\n", why->text[0] != '\0' ? why->text : err_name(e));
    return e == ERR_USAGE ? BENCH_USAGE : e == ERR_CONFLICT ? BENCH_FAILED : BENCH_FATAL;
}

enum err bench_open_model(const struct bench_common *c, struct model **ret, struct err_msg *why)
{
    if (c->model == NULL)
        return err_set(why, ERR_USAGE, "-m FILE is missing: which model?");
    return model_open(c->model, ret, why);
}

enum err bench_choose_device(const struct bench_common *c, struct gpu_device_info *ret,
                             uint64_t *ret_free_bytes, struct err_msg *why)
{
    struct gpu_device_info list[GPU_MAX_DEVICES];
    size_t count = 0, index = 0;
    struct gpu *g = NULL;
    enum err e = gpu_list(list, &count, why);
    if (e == ERR_OK)
        e = gpu_choose(list, count, c->device, &index, why);
    if (e == ERR_OK && ret_free_bytes != NULL)
        e = gpu_create(&(struct gpu_options){.device_index = list[index].index}, &g, why);
    if (e != ERR_OK)
        return e;
    if (ret_free_bytes != NULL)
        *ret_free_bytes = gpu_memory_free(g);
    gpu_destroy(&g);
    *ret = list[index];
    return ERR_OK;
}

enum err bench_open_engine(const struct bench_common *c, const struct model *m,
                           struct engine_options o, struct engine **ret, struct err_msg *why)
{
    struct gpu_device_info device;
    enum err e = bench_choose_device(c, &device, NULL, why);
    if (e != ERR_OK)
        return e;
    char cache_dir[PATH_MAX];
    o.device_index = device.index;
    o.validate = c->validate;
    o.cache_dir = file_cache_dir(cache_dir, sizeof cache_dir) ? cache_dir : NULL;
    o.no_tiles = c->no_tiles;
    struct tuning tuning = tuning_defaults();
    e = c->set != NULL ? tuning_parse(c->set, &tuning, why) : ERR_OK;
    if (e != ERR_OK)
        return e;
    o.tuning = &tuning;
    if (c->family == NULL || strcmp(c->family, "auto") == 0)
        o.family = ENGINE_AUTO;
    else if (strcmp(c->family, "plain") == 0)
        o.family = ENGINE_PLAIN;
    else if (strcmp(c->family, "emulated") == 0)
        o.family = ENGINE_EMULATED;
    else
        return err_set(why, ERR_USAGE, "--family %s: expected auto, plain or emulated", c->family);
    return engine_create(m, &o, ret, why);
}

static enum err read_entries(struct buf *text, const char *path, json_t **ret, struct err_msg *why)
{
    json_error_t at;
    json_t *all = json_loadb(text->data, text->len, JSON_REJECT_DUPLICATES, &at);
    if (json_is_array(all)) {
        *ret = all;
        return ERR_OK;
    }
    json_decref(all);
    all = json_array();
    size_t line = 1;
    for (size_t begin = 0; begin < text->len; line++) {
        const char *end = memchr(text->data + begin, '\n', text->len - begin);
        size_t len = end == NULL ? text->len - begin : (size_t)(end - (text->data + begin));
        json_t *one =
            len == 0 ? NULL : json_loadb(text->data + begin, len, JSON_REJECT_DUPLICATES, &at);
        if (len > 0 && (!json_is_object(one) || json_array_append_new(all, one) != 0)) {
            json_decref(all);
            return err_set(why, ERR_FORMAT, "%s:%zu: expected a JSON object: %s", path, line,
                           at.text);
        }
        begin += len + 1;
    }
    *ret = all;
    return ERR_OK;
}

static enum err read_ids(json_t *entry, struct bench_ids *ret)
{
    json_t *ids = json_object_get(entry, "ids");
    if (ids == NULL)
        ids = json_object_get(entry, "prompt_ids");
    if (!json_is_array(ids) || json_array_size(ids) == 0)
        return ERR_FORMAT;
    ret->count = json_array_size(ids);
    ret->ids = malloc(ret->count * sizeof *ret->ids);
    if (ret->ids == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < ret->count; i++) {
        json_int_t id = json_integer_value(json_array_get(ids, i));
        if (id < 0 || id > INT32_MAX)
            return ERR_FORMAT;
        ret->ids[i] = (uint32_t)id;
    }
    json_int_t start = json_integer_value(json_object_get(entry, "answer_start"));
    ret->answer_start = start > 0 ? (size_t)start : 0;
    return ERR_OK;
}

enum err bench_load_data(const char *path, int64_t limit, struct bench_data *ret,
                         struct err_msg *why)
{
    if (path == NULL)
        return err_set(why, ERR_USAGE, "--data FILE is missing");
    struct buf text = {0};
    json_t *all = NULL;
    struct bench_data d = {0};
    enum err e = file_read(path, 1u << 30, &text, why);
    if (e == ERR_OK)
        e = read_entries(&text, path, &all, why);
    buf_free(&text);
    if (e != ERR_OK)
        return e;
    d.json = all;
    size_t count = json_array_size(all);
    if (limit > 0)
        count = (size_t)min_u64(count, (uint64_t)limit);
    d.entries = calloc(count > 0 ? count : 1, sizeof *d.entries);
    while (e == ERR_OK && d.entries != NULL && d.count < count) {
        e = read_ids(json_array_get(all, d.count), &d.entries[d.count]);
        d.count++;
    }
    if (e == ERR_OK && d.entries != NULL && count > 0) {
        *ret = d;
        return ERR_OK;
    }
    e = err_set(why, e == ERR_OK ? ERR_FORMAT : e,
                "%s: entry %zu: expected \"ids\", a list of token ids", path, d.count);
    bench_free_data(&d);
    return e;
}

void bench_free_data(struct bench_data *d)
{
    for (size_t i = 0; d->entries != NULL && i < d->count; i++)
        free(d->entries[i].ids);
    free(d->entries);
    json_decref(d->json);
    *d = (struct bench_data){0};
}

enum err bench_drain(struct engine *e, bench_event_fn *on_event, void *user, struct err_msg *why)
{
    while (engine_live(e) > 0) {
        const struct engine_event *events;
        size_t count;
        enum err r = engine_step(e, &events, &count, NULL, why);
        if (r != ERR_OK)
            return r;
        for (size_t i = 0; on_event != NULL && i < count; i++)
            on_event(user, &events[i]);
    }
    if (engine_validation_errors(e) > 0)
        return err_set(why, ERR_DEVICE, "%u messages of the validation layer",
                       engine_validation_errors(e));
    return ERR_OK;
}
