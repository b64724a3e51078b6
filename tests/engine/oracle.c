/* The forward pass in double precision, one naive function a step. The differences between
 * architectures stand where they matter, by name. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/engine/oracle_impl.h"

struct pass {
    const struct oracle *o;
    const struct oracle_case *c;
    uint32_t count;                             /* tokens */
    double *x, *normed, *q, *k, *v, *attn, *y;  /* [count][...] */
    double *router, *gate, *up, *expert, *sums; /* of one token */
    double margin;
};

static bool is(const struct pass *p, const char *architecture)
{
    return strcmp(p->c->architecture, architecture) == 0;
}

static bool is_gemma(const struct pass *p)
{
    return is(p, "gemma2") || is(p, "gemma3");
}

/* Round to nearest even, as a Vulkan device's packHalf2x16 does. */
static double to_half(double x)
{
    int exponent;
    if (x == 0)
        return x;
    frexp(x, &exponent);
    double ulp = ldexp(1, (exponent < -13 ? -13 : exponent) - 11);
    return nearbyint(x / ulp) * ulp;
}

/* y[rows] = w[rows][cols] x (+ bias) */
static void multiply(const float *w, const float *bias, const double *x, size_t rows, size_t cols,
                     double *y)
{
    for (size_t r = 0; r < rows; r++) {
        double sum = bias == NULL ? 0 : bias[r];
        for (size_t i = 0; i < cols; i++)
            sum += (double)w[r * cols + i] * x[i];
        y[r] = sum;
    }
}

/* Zhang & Sennrich 2019, arXiv 1910.07467. (Gemma's 1 + w is added by the converters.) */
static void rms_norm(const double *x, const float *w, size_t n, double *y)
{
    double squares = 0;
    for (size_t i = 0; i < n; i++)
        squares += x[i] * x[i];
    double scale = 1 / sqrt(squares / (double)n + (double)oracle_eps);
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * scale * w[i];
}

/* Layers that see a window. Gemma 2: every other one from the first on; Gemma 3: five of six;
 * Mistral and Phi 3: all. */
static bool slides(const struct pass *p, uint32_t layer)
{
    if (is(p, "gemma2"))
        return layer % 2 == 0;
    if (is(p, "gemma3"))
        return (layer + 1) % 6 != 0;
    return p->c->window != 0;
}

static uint32_t window_of(const struct pass *p)
{
    return is(p, "gemma2") && p->c->window == 0 ? 4096 : p->c->window;
}

/* YaRN (arXiv 2309.00071, section 3.2 and the reference code's rounding): wavelengths that fit the
 * original context more than beta_fast = 32 times keep their frequency, those that fit less than
 * beta_slow = 1 time are interpolated, with a ramp over the pairs between. */
static double yarn_frequency(const struct oracle_case *c, uint32_t pair)
{
    double d = c->rope_dims, log_base = log((double)c->rope_base);
    double extrapolated = exp(-2.0 * pair / d * log_base);
    double interpolated = extrapolated / (double)c->factor;
    double low = floor(d * log(c->original_ctx / (32 * 2 * M_PI)) / (2 * log_base));
    double high = ceil(d * log(c->original_ctx / (1 * 2 * M_PI)) / (2 * log_base));
    low = low < 0 ? 0 : low;
    high = high > d - 1 ? d - 1 : high;
    double ramp = (pair - low) / (high - low);
    ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
    return interpolated * ramp + extrapolated * (1 - ramp);
}

/* A pair's angle a position, and what its cos and sin are multiplied by. */
static double frequency(const struct pass *p, uint32_t layer, uint32_t pair, double *magnitude)
{
    const struct oracle_case *c = p->c;
    *magnitude = 1;
    if (is(p, "gemma3") && slides(p, layer)) /* arXiv 2503.19786: 10k on local layers, unscaled */
        return pow(c->local_base != 0 ? (double)c->local_base : 10000.0,
                   -2.0 * pair / c->rope_dims);
    double plain = pow((double)c->rope_base, -2.0 * pair / c->rope_dims);
    switch (c->rope) {
    case ORACLE_PLAIN:
        return plain;
    case ORACLE_LINEAR:
    case ORACLE_OLD_LINEAR:
        return plain / (double)c->factor;
    case ORACLE_YARN:
        *magnitude = 0.1 * log((double)c->factor) + 1;
        if (c->attn_factor != 0)
            *magnitude *= (double)c->attn_factor;
        return yarn_frequency(c, pair);
    case ORACLE_FREQS:
        return plain / (double)oracle_tensor(p->o, -1, "rope_freqs.weight")[pair];
    case ORACLE_LONGROPE: /* arXiv 2402.13753 */
        *magnitude = c->attn_factor;
        return plain / (double)oracle_tensor(p->o, -1,
                                             c->max_ctx > c->original_ctx
                                                 ? "rope_factors_long.weight"
                                                 : "rope_factors_short.weight")[pair];
    }
    abort();
}

/* RoFormer, arXiv 2104.09864: pairs of neighbours (LLaMA's own layout, which GGUF's llama has), or
 * of the two halves (Hugging Face's layout, all others). */
static void rotate(const struct pass *p, uint32_t layer, double position, double *head)
{
    uint32_t pairs = p->c->rope_dims / 2;
    bool neighbours = is(p, "llama");
    for (uint32_t i = 0; i < pairs; i++) {
        double magnitude, angle = position * frequency(p, layer, i, &magnitude);
        double *a = &head[neighbours ? 2 * i : i];
        double *b = &head[neighbours ? 2 * i + 1 : i + pairs];
        double x = *a, y = *b;
        *a = (x * cos(angle) - y * sin(angle)) * magnitude;
        *b = (x * sin(angle) + y * cos(angle)) * magnitude;
    }
}

static void project(struct pass *p, uint32_t layer)
{
    const struct oracle_case *c = p->c;
    const struct oracle *o = p->o;
    int l = (int)layer;
    uint32_t head = c->head_size, q_size = c->n_head * head, kv_size = c->n_head_kv * head;
    const float *wq = oracle_tensor(o, l, "attn_q.weight");
    const float *wk = oracle_tensor(o, l, "attn_k.weight");
    const float *wv = oracle_tensor(o, l, "attn_v.weight");
    const float *q_norm = oracle_tensor(o, l, "attn_q_norm.weight");
    const float *k_norm = oracle_tensor(o, l, "attn_k_norm.weight");
    if (is(p, "phi3")) { /* rows of q, then of k, then of v */
        wq = oracle_tensor(o, l, "attn_qkv.weight");
        wk = wq + (size_t)q_size * c->n_embd;
        wv = wk + (size_t)kv_size * c->n_embd;
    }
    for (uint32_t t = 0; t < p->count; t++) {
        const double *x = &p->normed[(size_t)t * c->n_embd];
        double *q = &p->q[(size_t)t * q_size], *k = &p->k[(size_t)t * kv_size];
        double *v = &p->v[(size_t)t * kv_size];
        multiply(wq, oracle_tensor(o, l, "attn_q.bias"), x, q_size, c->n_embd, q);
        multiply(wk, oracle_tensor(o, l, "attn_k.bias"), x, kv_size, c->n_embd, k);
        multiply(wv, oracle_tensor(o, l, "attn_v.bias"), x, kv_size, c->n_embd, v);
        for (uint32_t h = 0; h < c->n_head; h++) {
            if (q_norm != NULL)
                rms_norm(&q[h * head], q_norm, head, &q[h * head]);
            rotate(p, layer, t, &q[h * head]);
        }
        for (uint32_t h = 0; h < c->n_head_kv; h++) {
            if (k_norm != NULL)
                rms_norm(&k[h * head], k_norm, head, &k[h * head]);
            rotate(p, layer, t, &k[h * head]);
        }
        for (uint32_t i = 0; i < kv_size; i++) {
            k[i] = to_half(k[i]);
            v[i] = to_half(v[i]);
        }
    }
}

/* Of q . k: Gemma's query_pre_attn_scalar is the head's size, but n_embd / n_head in the largest
 * Gemma 2 (46 layers) and Gemma 3 (62). */
static double attention_scale(const struct pass *p)
{
    const struct oracle_case *c = p->c;
    bool largest = (is(p, "gemma2") && c->n_layer == 46) || (is(p, "gemma3") && c->n_layer == 62);
    return 1 / sqrt(largest ? c->n_embd / c->n_head : c->head_size);
}

/* One head of one token's query: softmax(q . k) . v over the keys it sees. */
static void attend(const struct pass *p, uint32_t layer, uint32_t t, uint32_t h, double *out)
{
    const struct oracle_case *c = p->c;
    uint32_t size = c->head_size, kv_size = c->n_head_kv * size;
    uint32_t kv_head = h / (c->n_head / c->n_head_kv), first = 0;
    const double *q = &p->q[((size_t)t * c->n_head + h) * size];
    double cap = c->attn_cap, total = 0, largest = -INFINITY;
    if (cap == 0 && is(p, "gemma2"))
        cap = 50;
    if (slides(p, layer) && t + 1 > window_of(p))
        first = t + 1 - window_of(p);
    for (uint32_t s = first; s <= t; s++) {
        const double *k = &p->k[(size_t)s * kv_size + kv_head * size];
        double dot = 0;
        for (uint32_t i = 0; i < size; i++)
            dot += q[i] * k[i];
        dot *= attention_scale(p);
        p->sums[s] = cap != 0 ? cap * tanh(dot / cap) : dot;
        largest = fmax(largest, p->sums[s]);
    }
    memset(out, 0, size * sizeof *out);
    for (uint32_t s = first; s <= t; s++) {
        double weight = exp(p->sums[s] - largest);
        total += weight;
        for (uint32_t i = 0; i < size; i++)
            out[i] += weight * p->v[(size_t)s * kv_size + kv_head * size + i];
    }
    for (uint32_t i = 0; i < size; i++)
        out[i] /= total;
}

/* x += block's output, through Gemma's norm after the block. */
static void add(const struct pass *p, uint32_t layer, uint32_t t, double *y, const char *post_norm)
{
    uint32_t n = p->c->n_embd;
    if (is_gemma(p))
        rms_norm(y, oracle_tensor(p->o, (int)layer, post_norm), n, y);
    for (uint32_t i = 0; i < n; i++)
        p->x[(size_t)t * n + i] += y[i];
}

static void attention_block(struct pass *p, uint32_t layer)
{
    const struct oracle_case *c = p->c;
    uint32_t q_size = c->n_head * c->head_size;
    const float *norm = oracle_tensor(p->o, (int)layer, "attn_norm.weight");
    for (uint32_t t = 0; t < p->count; t++)
        rms_norm(&p->x[(size_t)t * c->n_embd], norm, c->n_embd, &p->normed[(size_t)t * c->n_embd]);
    project(p, layer);
    for (uint32_t t = 0; t < p->count; t++) {
        for (uint32_t h = 0; h < c->n_head; h++)
            attend(p, layer, t, h, &p->attn[h * c->head_size]);
        multiply(oracle_tensor(p->o, (int)layer, "attn_output.weight"),
                 oracle_tensor(p->o, (int)layer, "attn_output.bias"), p->attn, c->n_embd, q_size,
                 p->y);
        add(p, layer, t, p->y, "post_attention_norm.weight");
    }
}

static double activation(const struct pass *p, double x)
{
    if (is_gemma(p)) /* gelu_pytorch_tanh */
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    return x / (1 + exp(-x)); /* silu */
}

/* GLU variants, arXiv 2002.05202: y += weight * down (act(gate x) * up x) */
static void gated(struct pass *p, const float *gate, const float *up, const float *down,
                  const double *x, double weight, double *y)
{
    const struct oracle_case *c = p->c;
    multiply(gate, NULL, x, c->n_ff, c->n_embd, p->gate);
    multiply(up, NULL, x, c->n_ff, c->n_embd, p->up);
    for (uint32_t i = 0; i < c->n_ff; i++)
        p->gate[i] = activation(p, p->gate[i]) * p->up[i];
    multiply(down, NULL, p->gate, c->n_embd, c->n_ff, p->expert);
    for (uint32_t i = 0; i < c->n_embd; i++)
        y[i] += weight * p->expert[i];
}

/* Mixtral (arXiv 2401.04088): softmax over the logits of the best experts. Qwen3 MoE
 * (norm_topk_prob): softmax over all, the best ones' made to add up to 1. Computed here the second
 * way; it is the same number. */
static void experts(struct pass *p, uint32_t layer, const double *x, double *y)
{
    const struct oracle_case *c = p->c;
    int l = (int)layer;
    size_t size = (size_t)c->n_ff * c->n_embd;
    double total = 0, kept = 0, worst = INFINITY, best = -INFINITY;
    bool chosen[64] = {false};
    multiply(oracle_tensor(p->o, l, "ffn_gate_inp.weight"), NULL, x, c->n_expert, c->n_embd,
             p->router);
    for (uint32_t e = 0; e < c->n_expert; e++)
        total += exp(p->router[e]);
    for (uint32_t n = 0; n < c->n_expert_used; n++) {
        uint32_t pick = UINT32_MAX;
        for (uint32_t e = 0; e < c->n_expert; e++)
            if (!chosen[e] && (pick == UINT32_MAX || p->router[e] > p->router[pick]))
                pick = e;
        chosen[pick] = true;
        worst = p->router[pick];
        kept += exp(p->router[pick]) / total;
    }
    for (uint32_t e = 0; e < c->n_expert; e++) {
        if (!chosen[e]) {
            best = fmax(best, p->router[e]);
            continue;
        }
        gated(p, oracle_tensor(p->o, l, "ffn_gate_exps.weight") + e * size,
              oracle_tensor(p->o, l, "ffn_up_exps.weight") + e * size,
              oracle_tensor(p->o, l, "ffn_down_exps.weight") + e * size, x,
              exp(p->router[e]) / total / kept, y);
    }
    p->margin = fmin(p->margin, worst - best);
}

static void feed_forward_block(struct pass *p, uint32_t layer)
{
    const struct oracle_case *c = p->c;
    int l = (int)layer;
    const float *gate = oracle_tensor(p->o, l, "ffn_gate.weight");
    const float *up = oracle_tensor(p->o, l, "ffn_up.weight");
    if (is(p, "phi3")) { /* gate_up_proj: rows of the gate, then of up */
        gate = up;
        up = gate + (size_t)c->n_ff * c->n_embd;
    }
    for (uint32_t t = 0; t < p->count; t++) {
        rms_norm(&p->x[(size_t)t * c->n_embd], oracle_tensor(p->o, l, "ffn_norm.weight"), c->n_embd,
                 p->normed);
        memset(p->y, 0, c->n_embd * sizeof *p->y);
        if (c->n_expert > 0)
            experts(p, layer, p->normed, p->y);
        else
            gated(p, gate, up, oracle_tensor(p->o, l, "ffn_down.weight"), p->normed, 1, p->y);
        add(p, layer, t, p->y, "post_ffw_norm.weight");
    }
}

static void logits(const struct pass *p, uint32_t t, double *ret)
{
    const struct oracle_case *c = p->c;
    const float *w = oracle_tensor(p->o, -1, "output.weight");
    double cap = c->logit_cap == 0 && is(p, "gemma2") ? 30 : (double)c->logit_cap;
    if (c->tied)
        w = oracle_tensor(p->o, -1, "token_embd.weight");
    rms_norm(&p->x[(size_t)t * c->n_embd], oracle_tensor(p->o, -1, "output_norm.weight"), c->n_embd,
             p->normed);
    multiply(w, NULL, p->normed, ORACLE_VOCAB, c->n_embd, ret);
    for (uint32_t i = 0; cap != 0 && i < ORACLE_VOCAB; i++)
        ret[i] = cap * tanh(ret[i] / cap);
}

enum err oracle_forward(const struct oracle *o, const uint32_t *ids, uint32_t count, double *ret,
                        double *ret_margin)
{
    const struct oracle_case *c = &o->c;
    struct pass p = {.o = o, .c = c, .count = count, .margin = INFINITY};
    size_t q = (size_t)c->n_head * c->head_size, kv = (size_t)c->n_head_kv * c->head_size;
    size_t n = c->n_embd, ff = c->n_ff;
    double *memory =
        calloc(count * (2 * n + q + 2 * kv + 1) + q + 2 * n + 2 * ff + c->n_expert, sizeof *memory);
    if (memory == NULL)
        return ERR_NOMEM;
    p.x = memory;
    p.normed = p.x + count * n;
    p.q = p.normed + count * n;
    p.k = p.q + count * q;
    p.v = p.k + count * kv;
    p.sums = p.v + count * kv;
    p.attn = p.sums + count;
    p.y = p.attn + q;
    p.expert = p.y + n;
    p.gate = p.expert + n;
    p.up = p.gate + ff;
    p.router = p.up + ff;
    for (uint32_t t = 0; t < count; t++)
        for (size_t i = 0; i < n; i++)
            p.x[t * n + i] = (double)oracle_tensor(o, -1, "token_embd.weight")[ids[t] * n + i] *
                             (is_gemma(&p) ? sqrt((double)n) : 1);
    for (uint32_t layer = 0; layer < c->n_layer; layer++) {
        attention_block(&p, layer);
        feed_forward_block(&p, layer);
    }
    for (uint32_t t = 0; t < count; t++)
        logits(&p, t, &ret[(size_t)t * ORACLE_VOCAB]);
    *ret_margin = p.margin;
    free(memory);
    return ERR_OK;
}
