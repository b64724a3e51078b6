/* `octoflow inspect MODEL`: what a GGUF file holds, and whether it runs here: as a file (tokenizer,
 * chat template, architecture, types), and on this machine's GPU, which octoflow-worker is asked
 * about. Reads only the header and the tables, so it is quick on any size (except with --hash). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/options.h"
#include "base/size.h"
#include "client/commands.h"
#include "client/devices.h"
#include "client/rundir.h"
#include "model/chat.h"
#include "model/model.h"
#include "model/tokenizer.h"

struct inspect_options {
    const char *model;
    bool hash;
    bool tensors;
    int64_t width, ctx;
    const char *device;
};

static const struct option options[] = {
    {"model", 'm', OPTION_STRING, offsetof(struct inspect_options, model), .arg = "FILE",
     .help = "The GGUF file; also as the only argument without a name."},
    {"tensors", 't', OPTION_FLAG, offsetof(struct inspect_options, tensors),
     .help = "List the tensors (default; --no-tensors leaves them out)."},
    {"width", 0, OPTION_INT, offsetof(struct inspect_options, width), .min = 8, .max = 1e6,
     .arg = "BYTES", .help = "Cut metadata values after this many bytes (default 100)."},
    {"device", 0, OPTION_STRING, offsetof(struct inspect_options, device), .arg = "WHICH",
     .help = "The GPU that is asked about, by number or by a part of its name (default auto)."},
    {"ctx", 0, OPTION_INT, offsetof(struct inspect_options, ctx), .min = 0, .max = 1 << 24,
     .arg = "TOKENS", .help = "Longest prompt and completion together (default 0: the model's)."},
    {"hash", 0, OPTION_FLAG, offsetof(struct inspect_options, hash),
     .help = "Print the model hash of the results' provenance; reads the whole file."},
};

static void print_help(FILE *out)
{
    fputs("Usage: octoflow inspect MODEL\n\n"
          "Prints a GGUF file's metadata, tensors, type mix and sizes, and whether it runs here: "
          "on which\ndevice, with how many sequences at a time at which context, or why not.\n\n",
          out);
    options_print(options, ARRAY_LEN(options), out);
    fputs(
        "\nExit codes: 0 printed (also when it cannot run here), 2 wrong usage, 3 no GGUF file.\n",
        out);
}

static void print_bytes(uint64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes / 1024;
    size_t unit = 0;
    if (bytes < 1024) {
        printf("%" PRIu64 " bytes", bytes);
        return;
    }
    for (; value >= 1024 && unit + 1 < ARRAY_LEN(units); unit++)
        value /= 1024;
    printf("%.1f %s", value, units[unit]);
}

static enum err print_metadata(const struct gguf *g, size_t width)
{
    static const char *const kinds[] = {"u8",   "i8",  "u16",   "i16", "u32", "i32", "f32",
                                        "bool", "str", "array", "u64", "i64", "f64"};
    struct buf value = {0};
    enum err e = ERR_OK;
    printf("\nMetadata, %zu keys\n", gguf_kv_count(g));
    for (size_t i = 0; e == ERR_OK && i < gguf_kv_count(g); i++) {
        struct str key = gguf_kv_key(g, i);
        buf_clear(&value);
        e = gguf_kv_print(g, i, width, &value);
        if (e == ERR_OK)
            printf("  %-44.*s %-5s %.*s\n", STR_ARG(key), kinds[gguf_kv_kind(g, i)], (int)value.len,
                   value.len == 0 ? "" : value.data);
    }
    buf_free(&value);
    return e;
}

static void print_tensors(const struct gguf *g)
{
    printf("\nTensors, %zu (fastest dimension first)\n", gguf_tensor_count(g));
    for (size_t i = 0; i < gguf_tensor_count(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        char shape[96];
        size_t len = 0;
        for (uint32_t d = 0; d < t->dims_count; d++)
            len += (size_t)snprintf(shape + len, sizeof(shape) - len, "%s%" PRIu64,
                                    d == 0 ? "" : " x ", t->dims[d]);
        printf("  %-44.*s %-6s %-20s ", STR_ARG(t->name), tensor_type_find(t->type)->name, shape);
        print_bytes(t->bytes);
        putchar('\n');
    }
}

/* Types in the order of their numbers. */
static void print_types(const struct gguf *g)
{
    uint64_t all_bytes = 0, all_values = 0;
    for (size_t i = 0; i < gguf_tensor_count(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        all_bytes += t->bytes;
        all_values += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
    }
    printf("\nTypes, ");
    print_bytes(all_bytes);
    printf(" for %" PRIu64 " weights", all_values);
    if (all_values > 0)
        printf(" (%.2f bits each)", 8 * (double)all_bytes / (double)all_values);
    putchar('\n');
    for (uint32_t number = 0; number < 64; number++) {
        const struct tensor_type_info *type = tensor_type_find(number);
        uint64_t bytes = 0;
        size_t count = 0;
        for (size_t i = 0; type != NULL && i < gguf_tensor_count(g); i++)
            if (gguf_tensor_at(g, i)->type == type->type) {
                bytes += gguf_tensor_at(g, i)->bytes;
                count++;
            }
        if (count == 0)
            continue;
        printf("  %-6s %5zu tensor%s ", type->name, count, count == 1 ? " " : "s");
        print_bytes(bytes);
        printf(" (%.1f %%)\n", 100 * (double)bytes / (double)all_bytes);
    }
}

static void print_model(const struct model *m)
{
    printf("  model:     yes: %s, %" PRIu32 " layers, width %" PRIu32 ", feed-forward %" PRIu32
           ", %" PRIu32 " heads (%" PRIu32 " key/value) of %" PRIu32 ", context %" PRIu32
           ", vocabulary %" PRIu32 ", %s\n",
           m->architecture, m->n_layer, m->n_embd, m->n_ff, m->n_head, m->n_head_kv, m->head_size,
           m->n_ctx_train, m->n_vocab, m->quantization);
}

/* A string of the file, cut and without control characters. */
static const char *name_in(const struct gguf *g, const char *key, struct err_msg *store)
{
    struct str value;
    if (gguf_get_str(g, key, &value, NULL) != ERR_OK)
        return "none";
    (void)err_set(store, ERR_OK, "%.*s", (int)(value.len < 60 ? value.len : 60), value.data);
    return store->text;
}

static void print_tokenizer(const struct gguf *g)
{
    struct err_msg why, kind, pre;
    struct tokenizer *tok = NULL;
    bool good = tokenizer_create(g, NULL, &tok, &why) == ERR_OK;
    printf("  tokenizer: %s (%s, pre-tokenizer %s)", good ? "yes" : "no",
           name_in(g, "tokenizer.ggml.model", &kind), name_in(g, "tokenizer.ggml.pre", &pre));
    if (good)
        printf(": %" PRIu32 " tokens\n", tokenizer_vocab_size(tok));
    else
        printf(": %s\n", why.text);
    tokenizer_destroy(&tok);
}

static void print_chat(const struct gguf *g)
{
    struct err_msg why;
    struct chat_template *chat = NULL;
    struct str source;
    if (chat_template_create(g, NULL, &chat, &why) == ERR_OK)
        printf("  chat:      yes\n");
    else if (gguf_get_str(g, "tokenizer.chat_template", &source, NULL) == ERR_NOT_FOUND)
        printf("  chat:      no: the file has no chat template; --chat-template names one, and "
               "prompts "
               "need none\n");
    else
        printf("  chat:      no: %s\n", why.text);
    chat_template_destroy(&chat);
}

/* What octoflow-worker --plan says, indented. */
static void print_plan(const char *path, const struct inspect_options *o)
{
    struct err_msg why = {{0}};
    struct buf answer = {0};
    char worker[PATH_MAX], ctx[32];
    enum err e = rundir_find_program("octoflow-worker", worker, &why);
    if (e != ERR_OK) {
        printf("  runs:      unknown: %s\n", why.text);
        return;
    }
    snprintf(ctx, sizeof ctx, "%" PRId64, o->ctx);
    const char *args[] = {"octoflow-worker", "--plan",  "--model", path, "--ctx", ctx,
                          "--device",        o->device, NULL};
    e = devices_ask(worker, args, &answer, &why);
    const char *text = buf_cstr(&answer);
    if (e == ERR_OK && (text == NULL || strstr(text, "runs: ") == NULL))
        e = err_set(&why, ERR_IO, "%s --plan said nothing of it", worker);
    for (; e == ERR_OK && *text != '\0'; text += strspn(text, "\n")) {
        size_t len = strcspn(text, "\n");
        printf("  %.*s\n", (int)len, text);
        text += len;
    }
    if (e != ERR_OK)
        printf("  runs:      unknown: %s\n", why.text);
    buf_free(&answer);
}

static void print_verdict(struct gguf **g, const struct inspect_options *o, const char *path)
{
    struct err_msg why;
    struct model *m = NULL;
    printf("\nRuns here\n");
    print_tokenizer(*g);
    print_chat(*g);
    if (model_from_gguf(g, &m, &why) != ERR_OK) {
        bool empty = gguf_tensor_count(*g) == 0;
        printf("  model:     no: %s\n  runs:      no\n",
               empty ? "a vocabulary without tensors: there is nothing to run" : why.text);
        return;
    }
    print_model(m);
    fflush(stdout);
    print_plan(path, o);
    model_close(&m);
}

int cmd_inspect(int argc, char **argv)
{
    struct inspect_options o = {.tensors = true, .width = 100, .device = "auto"};
    struct err_msg why;
    struct gguf *g = NULL;
    int positional = 0;
    enum err e = options_parse(options, ARRAY_LEN(options), &o, argc, argv, &positional, &why);
    if (e == ERR_CANCELLED) {
        print_help(stdout);
        return 0;
    }
    if (e == ERR_OK && positional + (o.model != NULL) != 1)
        e = err_set(&why, ERR_USAGE, "expected one MODEL, got %d; see octoflow inspect --help",
                    positional + (o.model != NULL));
    if (e != ERR_OK) {
        fprintf(stderr, "octoflow inspect: %s\n", why.text);
        return 2;
    }
    const char *path = o.model != NULL ? o.model : argv[0];
    e = gguf_open(path, &g, &why);
    if (e != ERR_OK) {
        fprintf(stderr, "octoflow inspect: %s\n", why.text);
        return 3;
    }
    printf("%s: GGUF version %" PRIu32 ", ", gguf_path(g), gguf_version(g));
    print_bytes(gguf_file_bytes(g));
    putchar('\n');
    if (o.hash)
        printf("hash %s\n", gguf_hash(g));
    e = print_metadata(g, (size_t)o.width);
    if (o.tensors)
        print_tensors(g);
    print_types(g);
    print_verdict(&g, &o, path);
    gguf_close(&g);
    if (e != ERR_OK || fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "octoflow inspect: %s\n",
                e != ERR_OK ? err_name(e) : "cannot write to standard output");
        return 3;
    }
    return 0;
}
