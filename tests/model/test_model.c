/* Models: the shipped files, and a file that is wrong in one thing for each rule. */
#include <unistd.h>

#include "base/size.h"
#include "check.h"
#include "model/gguf_build.h"
#include "model/model.h"

static void test_shipped(const char *dir)
{
    static const struct {
        const char *name, *quantization;
        enum tensor_type q;
    } files[] = {{"octo-tiny-f16", "F16", TENSOR_F16},
                 {"octo-tiny-q8_0", "Q8_0", TENSOR_Q8_0},
                 {"octo-tiny-q4_k_m", "Q4_K", TENSOR_Q4_K}};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char path[4096];
        struct model *m = NULL;
        struct err_msg why;
        snprintf(path, sizeof(path), "%s/%s.gguf", dir, files[i].name);
        CHECK_OK(model_open(path, &m, &why), why);
        if (m == NULL)
            continue;
        CHECK_STR(m->name, files[i].name);
        CHECK_STR(m->architecture, "qwen2");
        CHECK_STR(m->quantization, files[i].quantization);
        CHECK_INT(m->n_layer, 8);
        CHECK_INT(m->n_embd, 256);
        CHECK_INT(m->n_ff, 768);
        CHECK_INT(m->n_head, 4);
        CHECK_INT(m->n_head_kv, 2);
        CHECK_INT(m->head_size, 64);
        CHECK_INT(m->rope_dims, 64);
        CHECK_INT(m->n_vocab, 4096);
        CHECK_INT(m->n_ctx_train, 2048);
        CHECK_INT(m->weight_count, 7348480);
        CHECK(m->rope.base == 1e6f && m->rms_eps == 1e-6f);
        CHECK(m->output == m->token_embd);
        CHECK_INT(m->layers[7].attn_q->type, files[i].q);
        CHECK(str_eq(m->layers[7].ffn_down->name, STR_LIT("blk.7.ffn_down.weight")));
        CHECK(m->layers[0].attn_k_bias != NULL && m->layers[0].attn_k_bias->dims[0] == 128);
        model_close(&m);
        CHECK(m == NULL);
        model_close(&m);
    }
}

/* A change to the tiny model: what is left out, and what is put in its place. */
struct variant {
    const char *name;
    const char *skip;
    void (*change)(struct gguf_build *g);
    enum err e; /* ERR_OK: it is fine */
    const char *words;
};

static void other_architecture(struct gguf_build *g)
{
    build_kv_str(g, "general.architecture", "bloom");
}
static void zero_layers(struct gguf_build *g)
{
    build_kv_u32(g, "qwen2.block_count", 0);
}
static void many_layers(struct gguf_build *g)
{
    build_kv_u32(g, "qwen2.block_count", 513);
}
static void two_layers(struct gguf_build *g)
{
    build_kv_u32(g, "qwen2.block_count", 2);
}
static void text_layers(struct gguf_build *g)
{
    build_kv_str(g, "qwen2.block_count", "1");
}
static void three_heads(struct gguf_build *g)
{
    build_kv_u32(g, "qwen2.attention.head_count", 3);
}
static void eight_heads(struct gguf_build *g)
{
    build_kv_u32(g, "qwen2.attention.head_count", 8);
}
static void three_kv_heads(struct gguf_build *g)
{
    build_kv_u32(g, "qwen2.attention.head_count_kv", 3);
}
static void nan_eps(struct gguf_build *g)
{
    build_kv_f32(g, "qwen2.attention.layer_norm_rms_epsilon", __builtin_nanf(""));
}
static void zero_rope(struct gguf_build *g)
{
    build_kv_f32(g, "qwen2.rope.freq_base", 0);
}
static void inf_rope(struct gguf_build *g)
{
    build_kv_f32(g, "qwen2.rope.freq_base", __builtin_inff());
}
static void rope_too_wide(struct gguf_build *g)
{
    build_kv_u32(g, "qwen2.rope.dimension_count", 6);
}
static void rope_half(struct gguf_build *g)
{
    build_kv_u32(g, "qwen2.rope.dimension_count", 2);
}
static void value_length(struct gguf_build *g)
{
    build_kv_u32(g, "qwen2.attention.value_length", 8);
}
static void yarn(struct gguf_build *g)
{
    build_kv_str(g, "qwen2.rope.scaling.type", "yarn");
}
static void scaling_unknown(struct gguf_build *g)
{
    build_kv_str(g, "qwen2.rope.scaling.type", "twist");
}
static void scaling_none(struct gguf_build *g)
{
    build_kv_str(g, "qwen2.rope.scaling.type", "none");
}
static void scaling_factor(struct gguf_build *g)
{
    build_kv_f32(g, "qwen2.rope.scaling.factor", 4);
}
static void experts(struct gguf_build *g)
{
    build_kv_u32(g, "qwen2.expert_count", 8);
}
static void sliding(struct gguf_build *g)
{
    build_kv_u32(g, "qwen2.attention.sliding_window", 32);
}
static void not_causal(struct gguf_build *g)
{
    build_kv_bool(g, "qwen2.attention.causal", 0);
}
static void norm_f16(struct gguf_build *g)
{
    build_tensor(g, "output_norm.weight", TENSOR_F16, 8, 0);
}
static void bias_f16(struct gguf_build *g)
{
    build_tensor(g, "blk.0.attn_q.bias", TENSOR_F16, 8, 0);
}
static void weight_bf16(struct gguf_build *g)
{
    build_tensor(g, "blk.0.attn_q.weight", TENSOR_BF16, 8, 8);
}
static void weight_turned(struct gguf_build *g)
{
    build_tensor(g, "blk.0.ffn_down.weight", TENSOR_F16, 8, 16);
}
static void weight_3d(struct gguf_build *g)
{
    uint64_t dims[3] = {8, 8, 2};
    build_tensor_at(g, "blk.0.attn_q.weight", TENSOR_F16, 3, dims, 0);
}
static void bias_long(struct gguf_build *g)
{
    build_tensor(g, "blk.0.attn_k.bias", TENSOR_F32, 8, 0);
}
static void embd_short(struct gguf_build *g)
{
    build_tensor(g, "token_embd.weight", TENSOR_F16, 8, TINY_VOCAB - 1);
}
static void own_output(struct gguf_build *g)
{
    build_tensor(g, "output.weight", TENSOR_F32, 8, TINY_VOCAB);
}
static void output_short(struct gguf_build *g)
{
    build_tensor(g, "output.weight", TENSOR_F32, 8, 5);
}
static void surplus(struct gguf_build *g)
{
    build_tensor(g, "blk.0.attn_q_norm.weight", TENSOR_F32, 4, 0);
}
static void layer_beyond(struct gguf_build *g)
{
    build_tensor(g, "blk.1.attn_norm.weight", TENSOR_F32, 8, 0);
}
static void nothing(struct gguf_build *g)
{
    (void)g;
}

static const struct variant variants[] = {
    {"as it is", NULL, nothing, ERR_OK, ""},
    {"no architecture", "general.architecture", nothing, ERR_FORMAT,
     "no key 'general.architecture'"},
    {"other architecture", "general.architecture", other_architecture, ERR_UNSUPPORTED,
     "architecture 'bloom' is not supported (supported: llama, qwen2"},
    {"no block_count", "qwen2.block_count", nothing, ERR_FORMAT, "no key 'qwen2.block_count'"},
    {"0 layers", "qwen2.block_count", zero_layers, ERR_RANGE,
     "'qwen2.block_count' is 0, expected 1 to 512"},
    {"513 layers", "qwen2.block_count", many_layers, ERR_RANGE, "'qwen2.block_count' is 513"},
    {"2 layers, 1 there", "qwen2.block_count", two_layers, ERR_FORMAT,
     "tensor 'blk.1.attn_norm.weight' is missing"},
    {"layers as text", "qwen2.block_count", text_layers, ERR_FORMAT,
     "'qwen2.block_count' is str, expected an integer"},
    {"no context_length", "qwen2.context_length", nothing, ERR_FORMAT, "'qwen2.context_length'"},
    {"no epsilon", "qwen2.attention.layer_norm_rms_epsilon", nothing, ERR_FORMAT, "rms_epsilon'"},
    {"epsilon NaN", "qwen2.attention.layer_norm_rms_epsilon", nan_eps, ERR_RANGE,
     "rms_epsilon' is nan"},
    {"3 heads", "qwen2.attention.head_count", three_heads, ERR_FORMAT,
     "a width of 8 cannot be cut into 3 heads"},
    {"heads of one value", "qwen2.attention.head_count", eight_heads, ERR_FORMAT,
     "heads of 1 values"},
    {"3 kv heads", "qwen2.attention.head_count_kv", three_kv_heads, ERR_FORMAT,
     "2 heads cannot share 3 key/value heads"},
    {"kv heads missing: as many as heads", "qwen2.attention.head_count_kv", nothing, ERR_FORMAT,
     "tensor 'blk.0.attn_k.weight' is 8 x 4, expected 8 x 8"},
    {"rope base missing", "qwen2.rope.freq_base", nothing, ERR_OK, ""},
    {"rope base 0", "qwen2.rope.freq_base", zero_rope, ERR_RANGE, "'qwen2.rope.freq_base' is 0"},
    {"rope base infinite", "qwen2.rope.freq_base", inf_rope, ERR_RANGE,
     "'qwen2.rope.freq_base' is inf"},
    {"rope over more than a head", NULL, rope_too_wide, ERR_FORMAT, "RoPE over 6 values"},
    {"rope over half a head", NULL, rope_half, ERR_OK, ""},
    {"values of another size", NULL, value_length, ERR_UNSUPPORTED,
     "values of 8 and keys of 4 a head"},
    {"yarn without a factor", NULL, yarn, ERR_FORMAT, "'rope.scaling.factor' is missing"},
    {"unknown scaling", NULL, scaling_unknown, ERR_UNSUPPORTED,
     "'qwen2.rope.scaling.type' is 'twist', supported are none, linear"},
    {"scaling none", NULL, scaling_none, ERR_OK, ""},
    {"scaling factor", NULL, scaling_factor, ERR_OK, ""},
    {"experts", NULL, experts, ERR_UNSUPPORTED, "'qwen2.expert_count' is 8: a mixture of experts"},
    {"sliding window", NULL, sliding, ERR_OK, ""},
    {"not causal", NULL, not_causal, ERR_UNSUPPORTED, "only causal attention"},
    {"no embedding", "token_embd.weight", nothing, ERR_FORMAT,
     "tensor 'token_embd.weight' is missing"},
    {"a tensor missing", "blk.0.ffn_up.weight", nothing, ERR_FORMAT,
     "tensor 'blk.0.ffn_up.weight' is missing"},
    {"a bias missing", "blk.0.attn_v.bias", nothing, ERR_FORMAT,
     "tensor 'blk.0.attn_v.bias' is missing"},
    {"norm in F16", "output_norm.weight", norm_f16, ERR_UNSUPPORTED,
     "tensor 'output_norm.weight' has type F16, expected F32"},
    {"bias in F16", "blk.0.attn_q.bias", bias_f16, ERR_UNSUPPORTED,
     "tensor 'blk.0.attn_q.bias' has type F16"},
    {"weight in BF16", "blk.0.attn_q.weight", weight_bf16, ERR_OK, ""},
    {"weight turned", "blk.0.ffn_down.weight", weight_turned, ERR_FORMAT,
     "tensor 'blk.0.ffn_down.weight' is 8 x 16, expected 16 x 8"},
    {"weight in 3 dimensions", "blk.0.attn_q.weight", weight_3d, ERR_FORMAT,
     "'blk.0.attn_q.weight' is 8 x 8 x 2"},
    {"bias too long", "blk.0.attn_k.bias", bias_long, ERR_FORMAT,
     "tensor 'blk.0.attn_k.bias' is 8, expected 4"},
    {"embedding of another vocabulary", "token_embd.weight", embd_short, ERR_FORMAT,
     "tensor 'token_embd.weight' has 262 rows, the vocabulary 263 tokens"},
    {"output of its own", NULL, own_output, ERR_OK, ""},
    {"output of another size", NULL, output_short, ERR_FORMAT, "tensor 'output.weight' is 8 x 5"},
    {"a tensor without a role", NULL, surplus, ERR_UNSUPPORTED,
     "tensor 'blk.0.attn_q_norm.weight' has no place"},
    {"a layer too many", NULL, layer_beyond, ERR_UNSUPPORTED,
     "tensor 'blk.1.attn_norm.weight' has no place"},
    {"no tokens", "tokenizer.ggml.tokens", nothing, ERR_OK, ""},
};

static void test_variant(const struct variant *v)
{
    struct gguf_build build = {.skip = v->skip};
    struct gguf *g = NULL;
    struct model *m = NULL;
    struct err_msg why = {{0}};
    build_tiny_model(&build);
    build.skip = NULL;
    v->change(&build);
    struct buf file = build_finish(&build);
    CHECK_OK(gguf_open_memory(file.data, file.len, "dir/tiny.gguf", &g, &why), why);
    enum err e = g == NULL ? ERR_INTERNAL : model_from_gguf(&g, &m, &why);
    if (e != v->e)
        fprintf(stderr, "%s: %s: \"%s\"\n", v->name, err_name(e), why.text);
    CHECK_INT(e, v->e);
    if (e == ERR_OK) {
        CHECK(g == NULL);
        CHECK_STR(m->name, "tiny");
        CHECK((m->output == m->token_embd) == (v->change != own_output));
        CHECK(v->change != rope_half || m->rope_dims == 2);
        CHECK(m->rope.base ==
              (v->skip != NULL && strstr(v->skip, "freq_base") != NULL ? 10000.0f : 1e6f));
    } else {
        CHECK(g != NULL && m == NULL); /* the file stays the caller's */
        CHECK_HAS(why.text, v->words);
        CHECK_HAS(why.text, "dir/tiny.gguf: ");
    }
    model_close(&m);
    gguf_close(&g);
    buf_free(&file);
}

/* The name goes into messages: it is always short and UTF-8. */
static void test_name(const char *path, const char *want)
{
    struct gguf_build build = {0};
    struct gguf *g = NULL;
    struct model *m = NULL;
    struct err_msg why;
    build_tiny_model(&build);
    struct buf file = build_finish(&build);
    CHECK_OK(gguf_open_memory(file.data, file.len, path, &g, &why), why);
    CHECK_OK(model_from_gguf(&g, &m, &why), why);
    if (m != NULL)
        CHECK_STR(m->name, want);
    model_close(&m);
    gguf_close(&g);
    buf_free(&file);
}

static void test_vocab_only(const char *path)
{
    struct model *m = NULL;
    struct err_msg why = {{0}};
    CHECK_ERR(model_open(path, &m, &why), ERR_FORMAT);
    CHECK(m == NULL);
    CHECK_HAS(why.text, path);
}

int main(int argc, char **argv)
{
    char vocab[4096], long_name[201], long_want[129];
    (void)argc;
    test_shipped(argv[1]);
    for (size_t i = 0; i < ARRAY_LEN(variants); i++)
        test_variant(&variants[i]);
    test_name("a.gguf", "a");
    test_name("/x/.gguf", ".gguf");
    test_name("b\n\xff\xc3.gguf", "b???");
    memset(long_name, 'n', 200);
    memcpy(long_name + 127, "\xc3\xa4", 2); /* the cut falls into it */
    long_name[200] = '\0';
    memset(long_want, 'n', 127);
    long_want[127] = '\0';
    test_name(long_name, long_want);
    snprintf(vocab, sizeof(vocab), "%s/vocab/ggml-vocab-qwen2.gguf", argv[2]);
    test_vocab_only(vocab);
    return check_report();
}
