/* octoflow-bench: the engine without sockets. One file a command; this header is what they share.
 */
#ifndef OCTO_BENCH_BENCH_H
#define OCTO_BENCH_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/options.h"
#include "engine/engine.h"
#include "model/model.h"

/* Exit codes of every command. */
enum { BENCH_OK = 0, BENCH_FAILED = 1, BENCH_USAGE = 2, BENCH_FATAL = 3 };

/* Options that every command with a model takes; BENCH_ENGINE_OPTIONS(type, member) are their table
 * rows. */
struct bench_common {
    const char *model;
    const char *device;
    const char *data; /* JSON or JSONL of token ids */
    int64_t limit;    /* most entries of data; 0: all */
    bool validate;
    const char *family; /* of kernels: auto, plain, emulated */
    bool no_tiles;
    const char *set; /* NULL: the tunables as they are */
};
#define BENCH_COMMON_OPTIONS(type)                                                                 \
    {"model",       'm',                                                                           \
     OPTION_STRING, offsetof(struct type, common.model),                                           \
     .arg = "FILE", .help = "GGUF file (required)"},                                               \
        {"device",                                                                                 \
         0,                                                                                        \
         OPTION_STRING,                                                                            \
         offsetof(struct type, common.device),                                                     \
         .arg = "NAME",                                                                            \
         .help = "index or part of the name, as `octoflow-bench devices` lists them (default: "    \
                 "the first GPU)"},                                                                \
        {"family",                                                                                 \
         0,                                                                                        \
         OPTION_STRING,                                                                            \
         offsetof(struct type, common.family),                                                     \
         .arg = "NAME",                                                                            \
         .help =                                                                                   \
             "kernels: auto (matrix units where there are), plain, or emulated (default auto)"},   \
        {"no-tiles", 0, OPTION_FLAG, offsetof(struct type, common.no_tiles),                       \
         .help = "matrix units read weights as the file has them, whatever fits"},                 \
        {"set",                                                                                    \
         0,                                                                                        \
         OPTION_STRING,                                                                            \
         offsetof(struct type, common.set),                                                        \
         .arg = "NAME=N,...",                                                                      \
         .help = "tunables of the matrix family, same bits with each; the defaults:" TUNING_HELP}, \
        {"validate", 0, OPTION_FLAG, offsetof(struct type, common.validate),                       \
         .help = "run under the Vulkan validation layer; a message from it fails the run"},        \
        {"data",        0,                                                                         \
         OPTION_STRING, offsetof(struct type, common.data),                                        \
         .arg = "FILE", .help = "input: see `octoflow-bench help`"},                               \
    {                                                                                              \
        "limit", 0, OPTION_INT, offsetof(struct type, common.limit),                               \
            .min = 0, .max = 1e9, .arg = "N",                                                      \
            .help = "only the first N entries of the data (default 0: all)"                        \
    }

/* Parses; on a mistake prints one line and returns the exit code in *ret_exit. */
bool bench_parse(const struct option *table, size_t count, void *target, const char *usage,
                 int argc, char **argv, int *ret_exit);
/* Prints; returns the exit code: ERR_USAGE 2, ERR_CONFLICT (a comparison failed) 1, others 3. */
int bench_fail(enum err e, const struct err_msg *why);

enum err bench_open_model(const struct bench_common *c, struct model **ret,
                          struct err_msg *why) MUST_CHECK;
/* The device that c asks for; its free memory (0: unknown) may be NULL. */
enum err bench_choose_device(const struct bench_common *c, struct gpu_device_info *ret,
                             uint64_t *ret_free_bytes, struct err_msg *why) MUST_CHECK;
/* o: everything but the device, which comes from c. */
enum err bench_open_engine(const struct bench_common *c, const struct model *m,
                           struct engine_options o, struct engine **ret,
                           struct err_msg *why) MUST_CHECK;

/* Entries of golden files: arrays of token ids. */
struct bench_ids {
    uint32_t *ids;
    size_t count;
    size_t answer_start; /* perplexity files; 0: none */
};
struct bench_data {
    struct bench_ids *entries;
    size_t count;
    void *json; /* json_t array of the entries, for commands that need more of them */
};
/* A JSON array of objects, or JSON lines; each needs "ids" (or "prompt_ids"). */
enum err bench_load_data(const char *path, int64_t limit, struct bench_data *ret,
                         struct err_msg *why) MUST_CHECK;
void bench_free_data(struct bench_data *d);

/* Runs until no sequence is live; on_event may be NULL. */
typedef void bench_event_fn(void *user, const struct engine_event *ev);
enum err bench_drain(struct engine *e, bench_event_fn *on_event, void *user,
                     struct err_msg *why) MUST_CHECK;

int cmd_devices(int argc, char **argv);
int cmd_ppl(int argc, char **argv);
int cmd_logits(int argc, char **argv);
int cmd_invariance(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_device(int argc, char **argv);
int cmd_mixed(int argc, char **argv);
int cmd_governor(int argc, char **argv);
int cmd_governor_live(int argc, char **argv);
int cmd_synth(int argc, char **argv);

#endif
