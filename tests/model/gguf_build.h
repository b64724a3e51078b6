/* Writes small GGUF files in memory, good ones and, with a little help, bad ones. Out of memory
 * aborts the test. */
#ifndef OCTO_TESTS_GGUF_BUILD_H
#define OCTO_TESTS_GGUF_BUILD_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "model/gguf.h"

struct gguf_build {
    uint32_t version; /* 0: 3 */
    uint64_t kv_count, tensor_count;
    struct buf kvs, tensors, data;
    const char *skip;   /* keys and tensors of this name are not added */
    uint32_t alignment; /* 0: 32 */
};

static inline void build_bytes(struct buf *b, const void *bytes, size_t len)
{
    if (buf_append(b, bytes, len) != ERR_OK)
        abort();
}

static inline void build_u32(struct buf *b, uint32_t v)
{
    build_bytes(b, &v, sizeof(v));
}

static inline void build_u64(struct buf *b, uint64_t v)
{
    build_bytes(b, &v, sizeof(v));
}

static inline void build_text(struct buf *b, const char *text)
{
    build_u64(b, strlen(text));
    build_bytes(b, text, strlen(text));
}

static inline bool build_key(struct gguf_build *g, const char *key, uint32_t kind)
{
    if (g->skip != NULL && strcmp(g->skip, key) == 0)
        return false;
    g->kv_count++;
    build_text(&g->kvs, key);
    build_u32(&g->kvs, kind);
    return true;
}

static inline void build_kv_u32(struct gguf_build *g, const char *key, uint32_t v)
{
    if (build_key(g, key, GGUF_U32))
        build_u32(&g->kvs, v);
}

static inline void build_kv_f32(struct gguf_build *g, const char *key, float v)
{
    if (build_key(g, key, GGUF_F32))
        build_bytes(&g->kvs, &v, sizeof(v));
}

static inline void build_kv_bool(struct gguf_build *g, const char *key, uint8_t v)
{
    if (build_key(g, key, GGUF_BOOL))
        build_bytes(&g->kvs, &v, 1);
}

static inline void build_kv_str(struct gguf_build *g, const char *key, const char *text)
{
    if (build_key(g, key, GGUF_STR))
        build_text(&g->kvs, text);
}

static inline bool build_kv_array(struct gguf_build *g, const char *key, uint32_t elem,
                                  uint64_t count)
{
    if (!build_key(g, key, GGUF_ARRAY))
        return false;
    build_u32(&g->kvs, elem);
    build_u64(&g->kvs, count);
    return true;
}

/* Room for alignment after what is there. */
static inline void build_pad(struct gguf_build *g, struct buf *b)
{
    uint32_t a = g->alignment == 0 ? 32 : g->alignment;
    while (b->len % a != 0)
        build_bytes(b, "", 1);
}

static inline void build_tensor_at(struct gguf_build *g, const char *name, uint32_t type,
                                   uint32_t dims_count, const uint64_t *dims, uint64_t offset)
{
    g->tensor_count++;
    build_text(&g->tensors, name);
    build_u32(&g->tensors, dims_count);
    for (uint32_t i = 0; i < dims_count; i++)
        build_u64(&g->tensors, dims[i]);
    build_u32(&g->tensors, type);
    build_u64(&g->tensors, offset);
}

/* With zeros for data. */
static inline void build_tensor(struct gguf_build *g, const char *name, uint32_t type,
                                uint64_t cols, uint64_t rows)
{
    const struct tensor_type_info *info = tensor_type_find(type);
    uint64_t dims[2] = {cols, rows};
    if (g->skip != NULL && strcmp(g->skip, name) == 0)
        return;
    build_pad(g, &g->data);
    build_tensor_at(g, name, type, rows == 0 ? 1 : 2, dims, g->data.len);
    uint64_t bytes = cols / info->block_values * info->block_bytes * (rows == 0 ? 1 : rows);
    for (uint64_t i = 0; i < bytes; i++)
        build_bytes(&g->data, "", 1);
}

/* The file; the caller frees it. Empties the builder. */
static inline struct buf build_finish(struct gguf_build *g)
{
    struct buf out = {0};
    build_bytes(&out, "GGUF", 4);
    build_u32(&out, g->version == 0 ? 3 : g->version);
    build_u64(&out, g->tensor_count);
    build_u64(&out, g->kv_count);
    build_bytes(&out, g->kvs.data, g->kvs.len);
    build_bytes(&out, g->tensors.data, g->tensors.len);
    if (g->tensor_count > 0) {
        build_pad(g, &out);
        build_bytes(&out, g->data.data, g->data.len);
    }
    buf_free(&g->kvs);
    buf_free(&g->tensors);
    buf_free(&g->data);
    *g = (struct gguf_build){0};
    return out;
}

/* The byte as GPT-2 writes it. */
static inline void build_byte_token(unsigned byte, char out[4])
{
    unsigned c = byte, shift = 0;
    for (unsigned b = 0; b <= byte; b++) {
        bool itself = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        if (!itself)
            c = 256 + shift++;
        else
            c = b;
    }
    if (c < 0x80)
        snprintf(out, 4, "%c", (char)c);
    else
        snprintf(out, 4, "%c%c", (char)(0xc0 | c >> 6), (char)(0x80 | (c & 0x3f)));
}

enum {
    TINY_MERGES = 4,
    TINY_END = 256 + TINY_MERGES, /* <|im_end|> */
    TINY_START = TINY_END + 1,    /* <|im_start|> */
    TINY_TOOL = TINY_END + 2,     /* <tool>, user-defined */
    TINY_VOCAB = TINY_END + 3
};

/* Byte tokens 0..255 by byte, then "ab" 256, "abc" 257, " a" 258, "aa" 259, then three special
 * ones. */
static inline void build_tiny_vocab(struct gguf_build *g)
{
    static const char *const made[] = {"ab", "abc", "\xc4\xa0\x61", "aa"};
    static const char *const merges[] = {"a b", "ab c", "\xc4\xa0 a", "a a"};
    static const char *const special[] = {"<|im_end|>", "<|im_start|>", "<tool>"};
    build_kv_str(g, "tokenizer.ggml.model", "gpt2");
    build_kv_str(g, "tokenizer.ggml.pre", "qwen2");
    if (build_kv_array(g, "tokenizer.ggml.tokens", GGUF_STR, TINY_VOCAB)) {
        for (unsigned b = 0; b < 256; b++) {
            char text[4];
            build_byte_token(b, text);
            build_text(&g->kvs, text);
        }
        for (size_t i = 0; i < TINY_MERGES; i++)
            build_text(&g->kvs, made[i]);
        for (size_t i = 0; i < 3; i++)
            build_text(&g->kvs, special[i]);
    }
    if (build_kv_array(g, "tokenizer.ggml.token_type", GGUF_I32, TINY_VOCAB))
        for (uint32_t i = 0; i < TINY_VOCAB; i++)
            build_u32(&g->kvs, i < TINY_END ? 1 : i < TINY_TOOL ? 3 : 4);
    if (build_kv_array(g, "tokenizer.ggml.merges", GGUF_STR, TINY_MERGES))
        for (size_t i = 0; i < TINY_MERGES; i++)
            build_text(&g->kvs, merges[i]);
    build_kv_u32(g, "tokenizer.ggml.eos_token_id", TINY_END);
    build_kv_str(g, "tokenizer.chat_template",
                 "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
                 "message['content'] + "
                 "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
                 "'<|im_start|>assistant\n' "
                 "}}{% endif %}");
}

/* qwen2: one layer of width 8, 2 heads of 4 with 1 key/value head, feed-forward 16. */
static inline void build_tiny_model(struct gguf_build *g)
{
    build_kv_str(g, "general.architecture", "qwen2");
    build_kv_u32(g, "qwen2.block_count", 1);
    build_kv_u32(g, "qwen2.context_length", 64);
    build_kv_u32(g, "qwen2.embedding_length", 8);
    build_kv_u32(g, "qwen2.feed_forward_length", 16);
    build_kv_u32(g, "qwen2.attention.head_count", 2);
    build_kv_u32(g, "qwen2.attention.head_count_kv", 1);
    build_kv_f32(g, "qwen2.attention.layer_norm_rms_epsilon", 1e-6f);
    build_kv_f32(g, "qwen2.rope.freq_base", 1e6f);
    build_tiny_vocab(g);
    build_tensor(g, "token_embd.weight", TENSOR_F16, 8, TINY_VOCAB);
    build_tensor(g, "output_norm.weight", TENSOR_F32, 8, 0);
    build_tensor(g, "blk.0.attn_norm.weight", TENSOR_F32, 8, 0);
    build_tensor(g, "blk.0.attn_q.weight", TENSOR_F16, 8, 8);
    build_tensor(g, "blk.0.attn_q.bias", TENSOR_F32, 8, 0);
    build_tensor(g, "blk.0.attn_k.weight", TENSOR_F16, 8, 4);
    build_tensor(g, "blk.0.attn_k.bias", TENSOR_F32, 4, 0);
    build_tensor(g, "blk.0.attn_v.weight", TENSOR_F16, 8, 4);
    build_tensor(g, "blk.0.attn_v.bias", TENSOR_F32, 4, 0);
    build_tensor(g, "blk.0.attn_output.weight", TENSOR_F32, 8, 8);
    build_tensor(g, "blk.0.ffn_norm.weight", TENSOR_F32, 8, 0);
    build_tensor(g, "blk.0.ffn_gate.weight", TENSOR_F16, 8, 16);
    build_tensor(g, "blk.0.ffn_up.weight", TENSOR_F16, 8, 16);
    build_tensor(g, "blk.0.ffn_down.weight", TENSOR_F16, 16, 8);
}

#endif
