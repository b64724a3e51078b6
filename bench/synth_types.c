/* Which type each tensor gets. q4_k_m as llama-quantize mixes it (llama.cpp, src/llama-quant.cpp):
 * more bits for some attn_v and ffn_down, Q6_K for the head; rows that are no multiple of 256 fall
 * back type by type. */
#include <string.h>
#include <strings.h>

#include "base/size.h"
#include "bench/synth.h"

/* Layers whose attn_v and ffn_down get more bits: the first and last eighth, and every third
 * between. */
static bool more_bits(uint32_t i, uint32_t n)
{
    return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
}

/* What takes the place of a type whose blocks do not fit the row. */
static enum tensor_type fall_back(enum tensor_type type, uint64_t cols)
{
    while (cols % tensor_type_find((uint32_t)type)->block_values != 0) {
        switch (type) {
        case TENSOR_Q2_K:
        case TENSOR_Q3_K:
        case TENSOR_IQ4_XS:
            type = TENSOR_IQ4_NL;
            break;
        case TENSOR_Q4_K:
            type = TENSOR_Q5_0;
            break;
        case TENSOR_Q5_K:
            type = TENSOR_Q5_1;
            break;
        case TENSOR_Q6_K:
            type = TENSOR_Q8_0;
            break;
        default:
            type = TENSOR_F16;
        }
    }
    return type;
}

static enum tensor_type q4_k_m(const struct synth_shape *s, const struct synth_tensor *t)
{
    switch (t->role) {
    case SYNTH_OUTPUT:
        return TENSOR_Q6_K;
    case SYNTH_EMBD:
        return s->flags & SYNTH_TIED ? TENSOR_Q6_K : TENSOR_Q4_K;
    case SYNTH_V:
        if (s->n_expert == 8)
            return TENSOR_Q8_0;
        return more_bits(t->layer, s->n_layer) ? TENSOR_Q6_K : TENSOR_Q4_K;
    case SYNTH_K:
        return s->n_expert == 8 ? TENSOR_Q8_0 : TENSOR_Q4_K;
    case SYNTH_QKV:
        return TENSOR_Q5_K;
    case SYNTH_ATTN_OUTPUT:
        return s->n_expert == 8 ? TENSOR_Q5_K : TENSOR_Q4_K;
    case SYNTH_DOWN:
        return more_bits(t->layer, s->n_layer) ? TENSOR_Q6_K : TENSOR_Q4_K;
    default:
        return TENSOR_Q4_K;
    }
}

static const struct tensor_type_info *find_type(const char *name)
{
#define X(type, number, values, bytes)                                                             \
    if (strcasecmp(name, #type) == 0)                                                              \
        return tensor_type_find(number);
    TENSOR_TYPES(X)
#undef X
    return NULL;
}

enum err synth_choose_types(const struct synth_shape *s, const char *mix, struct synth_tensor *t,
                            size_t count, uint32_t *ret_file_type, struct err_msg *why)
{
    enum { FILE_Q4_K_M = 15 };
    bool mixed = strcasecmp(mix, "q4_k_m") == 0;
    const struct tensor_type_info *one = find_type(mix);
    if (!mixed && one == NULL)
        return err_set(why, ERR_USAGE,
                       "--type %s: expected q4_k_m or one of F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 "
                       "Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4",
                       mix);
    for (size_t i = 0; i < count; i++) {
        if (t[i].role < SYNTH_EMBD)
            t[i].type = TENSOR_F32;
        else
            t[i].type = fall_back(mixed ? q4_k_m(s, &t[i]) : one->type, t[i].dims[0]);
    }
    *ret_file_type = mixed ? FILE_Q4_K_M : gguf_write_file_type(one->type);
    return ERR_OK;
}
