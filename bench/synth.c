/* octoflow-bench synth: writes a model with random weights, for benchmarks and tests. The same
 * options give the same bytes. */
#include "bench/synth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/size.h"
#include "bench/bench.h"

enum { CHUNK_BYTES = 1 << 20 };

struct synth_options {
    const char *shape, *type, *output;
    int64_t layers, seed, ctx;
};

static const struct option table[] = {
    {"shape", 's', OPTION_STRING, offsetof(struct synth_options, shape), .arg = "NAME",
     .help = "which model's shape (required); a wrong name lists them"},
    {"type", 't', OPTION_STRING, offsetof(struct synth_options, type), .arg = "MIX",
     .help =
         "q4_k_m, or one tensor type for every matrix: f32, f16, bf16, q8_0, q4_0, iq4_xs, mxfp4, "
         "... (default q4_k_m)"},
    {"output", 'o', OPTION_STRING, offsetof(struct synth_options, output), .arg = "FILE",
     .help = "the GGUF file to write (required)"},
    {"layers", 'l', OPTION_INT, offsetof(struct synth_options, layers), .min = 1,
     .max = MODEL_MAX_LAYERS, .arg = "N", .help = "layers (default: as many as the model has)"},
    {"ctx", 'c', OPTION_INT, offsetof(struct synth_options, ctx), .min = 16, .max = 1 << 24,
     .arg = "N", .help = "context length in tokens (default: the model's)"},
    {"seed", 0, OPTION_INT, offsetof(struct synth_options, seed), .min = 0, .max = 9e15, .arg = "N",
     .help = "of the weights (default 1)"},
};

/* Llama 3's frequency factors, as Meta's reference has them: factor 32 over an original context of
 * 8192. */
static float freq_factor(const struct synth_shape *s, uint64_t i)
{
    const double factor = 32, low = 1, high = 4, original = 8192;
    double frequency = pow((double)s->rope_base, -2.0 * (double)i / s->head_size);
    double turns = original * frequency / (2 * M_PI);
    if (turns > high)
        return 1;
    if (turns < low)
        return (float)factor;
    double smooth = (turns - low) / (high - low);
    return (float)(1 / ((1 - smooth) / factor + smooth));
}

static float vector_value(const struct synth_shape *s, const struct synth_tensor *t, uint64_t i,
                          struct synth_rng *r)
{
    float rise = (float)i / (float)t->dims[0];
    switch (t->role) {
    case SYNTH_NORM:
        return 1 + 0.05f * synth_gauss(r);
    case SYNTH_FREQS:
        return freq_factor(s, i);
    case SYNTH_FACTORS_SHORT:
        return 1 + 0.5f * rise;
    case SYNTH_FACTORS_LONG:
        return 1 + 40 * rise * rise;
    default:
        return 0.1f * synth_gauss(r);
    }
}

static enum err write_vector(struct gguf_writer *w, const struct synth_shape *s,
                             const struct synth_tensor *t, struct synth_rng *r, struct err_msg *why)
{
    float *values = malloc(t->dims[0] * sizeof(*values));
    if (values == NULL)
        return err_set(why, ERR_NOMEM, "out of memory");
    for (uint64_t i = 0; i < t->dims[0]; i++)
        values[i] = vector_value(s, t, i, r);
    enum err e = gguf_write_data(w, values, t->dims[0] * sizeof(*values), why);
    free(values);
    return e;
}

static enum err write_matrix(struct gguf_writer *w, const struct synth_tensor *t,
                             struct synth_rng *r, uint8_t *chunk, struct err_msg *why)
{
    struct synth_fill fill;
    enum err e = synth_fill_init(&fill, t->type, 1 / sqrtf((float)t->dims[0]), r, why);
    uint64_t values = t->dims[0] * t->dims[1] * (t->dims_count == 3 ? t->dims[2] : 1);
    uint64_t left = values / fill.type->block_values * fill.type->block_bytes;
    uint64_t most = CHUNK_BYTES / fill.type->block_bytes * fill.type->block_bytes;
    while (e == ERR_OK && left > 0) {
        size_t bytes = (size_t)min_u64(left, most);
        synth_fill_blocks(&fill, r, chunk, bytes);
        e = gguf_write_data(w, chunk, bytes, why);
        left -= bytes;
    }
    synth_fill_free(&fill);
    return e;
}

/* Each tensor has a stream of its own, keyed by its name: a layer's weights do not depend on how
 * many there are. */
static enum err write_data(struct gguf_writer *w, const struct synth_shape *s,
                           const struct synth_tensor *t, size_t count, uint64_t seed,
                           struct err_msg *why)
{
    uint8_t *chunk = malloc(CHUNK_BYTES);
    enum err e = chunk == NULL ? err_set(why, ERR_NOMEM, "out of memory") : ERR_OK;
    for (size_t i = 0; e == ERR_OK && i < count; i++) {
        struct synth_rng r = {hash64(t[i].name, strlen(t[i].name), seed)};
        e = t[i].dims_count == 1 ? write_vector(w, s, &t[i], &r, why)
                                 : write_matrix(w, &t[i], &r, chunk, why);
    }
    free(chunk);
    return e;
}

static enum err write_model(const struct synth_shape *s, const struct synth_options *o,
                            uint64_t *ret_bytes, struct err_msg *why)
{
    struct synth_tensor *tensors = NULL;
    size_t count = 0;
    uint32_t file_type = 0;
    struct gguf_writer *w = gguf_write_create();
    enum err e = w == NULL ? err_set(why, ERR_NOMEM, "out of memory") : ERR_OK;
    if (e == ERR_OK)
        e = synth_tensors(s, &tensors, &count, why);
    if (e == ERR_OK)
        e = synth_choose_types(s, o->type, tensors, count, &file_type, why);
    if (e == ERR_OK) {
        synth_write_metadata(w, s);
        gguf_write_u32(w, "general.file_type", file_type);
        gguf_write_u32(w, "general.quantization_version", 2);
        e = synth_write_vocab(w, s, why);
    }
    for (size_t i = 0; e == ERR_OK && i < count; i++)
        gguf_write_tensor(w, str_of(tensors[i].name), tensors[i].type, tensors[i].dims_count,
                          tensors[i].dims);
    if (e == ERR_OK)
        e = gguf_write_begin(w, o->output, why);
    if (e == ERR_OK)
        e = write_data(w, s, tensors, count, (uint64_t)o->seed, why);
    if (e == ERR_OK) {
        *ret_bytes = gguf_write_file_bytes(w);
        e = gguf_write_finish(w, why);
    }
    gguf_write_destroy(&w);
    free(tensors);
    return e;
}

static enum err find_shape(const struct synth_options *o, struct synth_shape *ret,
                           struct err_msg *why)
{
    const struct synth_shape *found = o->shape == NULL ? NULL : synth_shape_find(o->shape);
    if (found == NULL) {
        struct buf names = {0};
        size_t count;
        const struct synth_shape *all = synth_shape_list(&count);
        enum err e = ERR_OK;
        for (size_t i = 0; e == ERR_OK && i < count; i++)
            e = buf_printf(&names, "%s%s", i == 0 ? "" : ", ", all[i].name);
        e = e == ERR_OK && buf_cstr(&names) != NULL
                ? err_set(why, ERR_USAGE, "--shape %s: expected one of %s",
                          o->shape == NULL ? "is missing" : o->shape, names.data)
                : err_set(why, ERR_NOMEM, "out of memory");
        buf_free(&names);
        return e;
    }
    *ret = *found;
    if (o->layers > 0)
        ret->n_layer = (uint32_t)o->layers;
    if (o->ctx > 0)
        ret->n_ctx = (uint32_t)o->ctx;
    return ERR_OK;
}

int cmd_synth(int argc, char **argv)
{
    struct synth_options o = {.type = "q4_k_m", .seed = 1};
    struct synth_shape shape;
    struct err_msg why = {0};
    uint64_t bytes = 0, start = clock_mono_ns();
    int code;
    if (!bench_parse(table, ARRAY_LEN(table), &o,
                     "Usage: octoflow-bench synth --shape NAME [--type MIX] -o FILE", argc, argv,
                     &code))
        return code;
    enum err e = find_shape(&o, &shape, &why);
    if (e == ERR_OK && o.output == NULL)
        e = err_set(&why, ERR_USAGE, "-o FILE is missing: where to write the model?");
    if (e == ERR_OK)
        e = write_model(&shape, &o, &bytes, &why);
    if (e != ERR_OK) {
        bench_fail(e, &why);
        return e == ERR_USAGE ? BENCH_USAGE : BENCH_FATAL;
    }
    printf("%s: %s, %s, %u layers, %.1f MB in %.2f s\n", o.output, shape.name, o.type,
           shape.n_layer, (double)bytes / 1e6, (double)(clock_mono_ns() - start) / 1e9);
    return BENCH_OK;
}
