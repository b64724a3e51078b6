/* make_quantized IN.gguf TYPE OUT.gguf: every matrix of IN (F32, F16, ...) in TYPE, the embedding
 * included; vectors and metadata as they are. A row that is no multiple of TYPE's block is an
 * error: the file would not be what its name says. With --list: the types, one a line, with bits a
 * weight. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "model/gguf_write.h"
#include "tests/quant/quantize.h"

static const enum tensor_type types[] = {
    TENSOR_F32,    TENSOR_F16,   TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q6_K, TENSOR_Q5_1,
    TENSOR_Q5_0,   TENSOR_Q5_K,  TENSOR_Q4_1, TENSOR_Q4_0, TENSOR_Q4_K, TENSOR_IQ4_NL,
    TENSOR_IQ4_XS, TENSOR_MXFP4, TENSOR_Q3_K, TENSOR_Q2_K,
};

static int list_types(void)
{
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        const struct tensor_type_info *info = tensor_type_find((uint32_t)types[i]);
        printf("%s %g\n", info->name, info->block_bytes * 8.0 / info->block_values);
    }
    return 0;
}

static bool is_matrix(const struct gguf_tensor *t)
{
    return t->dims_count >= 2;
}

static enum err write_rows(struct gguf_writer *w, const struct gguf_tensor *t,
                           enum tensor_type type, struct err_msg *why)
{
    uint64_t cols = t->dims[0], rows = t->dims[1] * t->dims[2] * t->dims[3];
    uint64_t in_bytes = quant_row_bytes(t->type, cols), out_bytes = quant_row_bytes(type, cols);
    double *values = calloc(cols, sizeof(*values));
    float *row = calloc(cols, sizeof(*row));
    uint8_t *out = malloc(out_bytes);
    enum err e = ERR_OK;
    if (values == NULL || row == NULL || out == NULL)
        e = err_set(why, ERR_NOMEM, "out of memory");
    for (uint64_t r = 0; e == ERR_OK && r < rows; r++) {
        quant_decode(t->type, t->data + r * in_bytes, cols, values);
        for (uint64_t c = 0; c < cols; c++)
            row[c] = (float)values[c];
        quant_encode(type, row, cols, out);
        e = gguf_write_data(w, out, out_bytes, why);
    }
    free(values);
    free(row);
    free(out);
    return e;
}

static void write_metadata(struct gguf_writer *w, const struct gguf *g, uint32_t file_type)
{
    for (size_t i = 0; i < gguf_kv_count(g); i++) {
        struct str key = gguf_kv_key(g, i);
        if (!str_eq(key, STR_LIT("general.file_type")) &&
            !str_eq(key, STR_LIT("general.quantization_version")))
            gguf_write_copy(w, g, i);
    }
    gguf_write_u32(w, "general.quantization_version", 2);
    gguf_write_u32(w, "general.file_type", file_type);
}

static enum err convert(struct gguf_writer *w, const struct gguf *g, enum tensor_type type,
                        const char *path, struct err_msg *why)
{
    write_metadata(w, g, gguf_write_file_type(type));
    for (size_t i = 0; i < gguf_tensor_count(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        gguf_write_tensor(w, t->name, is_matrix(t) ? type : t->type, t->dims_count, t->dims);
    }
    enum err e = gguf_write_begin(w, path, why);
    for (size_t i = 0; e == ERR_OK && i < gguf_tensor_count(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        e = is_matrix(t) ? write_rows(w, t, type, why)
                         : gguf_write_data(w, t->data, (size_t)t->bytes, why);
    }
    return e == ERR_OK ? gguf_write_finish(w, why) : e;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--list") == 0)
        return list_types();
    if (argc != 4) {
        fprintf(stderr, "Usage: make_quantized IN.gguf TYPE OUT.gguf | --list\n");
        return 2;
    }
    size_t at = 0;
    while (at < ARRAY_LEN(types) &&
           strcmp(tensor_type_find((uint32_t)types[at])->name, argv[2]) != 0)
        at++;
    if (at == ARRAY_LEN(types)) {
        fprintf(stderr, "make_quantized: no type \"%s\": see --list\n", argv[2]);
        return 2;
    }
    struct err_msg why = {0};
    struct gguf *g = NULL;
    struct gguf_writer *w = gguf_write_create();
    enum err e =
        w == NULL ? err_set(&why, ERR_NOMEM, "out of memory") : gguf_open(argv[1], &g, &why);
    if (e == ERR_OK)
        e = convert(w, g, types[at], argv[3], &why);
    if (e != ERR_OK)
        fprintf(stderr, "make_quantized: %s\n", why.text);
    gguf_write_destroy(&w);
    gguf_close(&g);
    return e == ERR_OK ? 0 : 1;
}
