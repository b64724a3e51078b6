/* Files of each architecture that lack one key or tensor, or have one number wrong: what must be
 * there is named, what may be missing is taken as written in docs/architectures.md. Argument: the
 * directory for model files. */
#include <math.h>
#include <unistd.h>

#include "base/size.h"
#include "model/model.h"
#include "tests/check.h"
#include "tests/engine/oracle.h"

#define SHAPE(arch)                                                                                \
    .architecture = (arch), .n_layer = 2, .n_embd = 64, .n_head = 4, .n_head_kv = 2, .n_ff = 96

static const struct {
    struct oracle_case c;
    const char *omit;
    enum err e;
    const char *words;
} files[] = {
    {{SHAPE("llama")}, "output.weight", ERR_OK, ""},
    {{SHAPE("llama")}, "blk.1.attn_q.weight", ERR_FORMAT, "'blk.1.attn_q.weight' is missing"},
    {{SHAPE("llama"), .biases = true}, "blk.0.attn_k.bias", ERR_OK, ""},
    {{SHAPE("llama"), .rope = ORACLE_FREQS, .rope_dims = 12}, NULL, ERR_OK, ""},
    {{SHAPE("llama"), .rope = ORACLE_FREQS, .rope_dims = 12},
     "llama.rope.dimension_count",
     ERR_FORMAT,
     "'rope_freqs.weight' is 6, expected 8"},
    {{SHAPE("llama"), .rope = ORACLE_YARN, .factor = 4},
     "llama.rope.scaling.factor",
     ERR_FORMAT,
     "'rope.scaling.factor' is missing"},
    {{SHAPE("llama"), .n_expert = 4, .n_expert_used = 2}, NULL, ERR_OK, ""},
    {{SHAPE("llama"), .n_expert = 4, .n_expert_used = 2},
     "llama.expert_used_count",
     ERR_FORMAT,
     "0 of 4 experts a token, expected 1 to 4"},
    {{SHAPE("llama"), .n_expert = 4, .n_expert_used = 5},
     NULL,
     ERR_FORMAT,
     "5 of 4 experts a token, expected 1 to 4"},
    {{SHAPE("llama"), .n_expert = 4, .n_expert_used = 2},
     "blk.1.ffn_gate_inp.weight",
     ERR_FORMAT,
     "'blk.1.ffn_gate_inp.weight' is missing"},
    {{SHAPE("llama"), .n_expert = 4, .n_expert_used = 2},
     "blk.0.ffn_up_exps.weight",
     ERR_FORMAT,
     "'blk.0.ffn_up_exps.weight' is missing"},
    {{SHAPE("llama"), .n_expert = 4, .n_expert_used = 2},
     "llama.expert_count",
     ERR_FORMAT,
     "'blk.0.ffn_gate.weight' is missing"},
    {{SHAPE("qwen2"), .biases = true},
     "blk.1.attn_v.bias",
     ERR_FORMAT,
     "'blk.1.attn_v.bias' is missing"},
    {{SHAPE("qwen3"), .head_size = 32}, NULL, ERR_OK, ""},
    {{SHAPE("qwen3"), .head_size = 32},
     "blk.0.attn_q_norm.weight",
     ERR_FORMAT,
     "'blk.0.attn_q_norm.weight' is missing"},
    {{SHAPE("qwen3"), .head_size = 32},
     "qwen3.attention.key_length",
     ERR_UNSUPPORTED,
     "values of 32 and keys of 16 a head"},
    {{SHAPE("qwen3moe"), .n_expert = 4, .n_expert_used = 2},
     "qwen3moe.expert_count",
     ERR_FORMAT,
     "'qwen3moe.expert_count' is missing"},
    {{SHAPE("qwen3moe"), .n_expert = 4, .n_expert_used = 2},
     "blk.1.ffn_down_exps.weight",
     ERR_FORMAT,
     "'blk.1.ffn_down_exps.weight' is missing"},
    {{SHAPE("gemma2"), .window = 24},
     "blk.0.post_attention_norm.weight",
     ERR_FORMAT,
     "'blk.0.post_attention_norm.weight' is missing"},
    {{SHAPE("gemma2"), .window = 24, .biases = true},
     NULL,
     ERR_UNSUPPORTED,
     "'blk.0.attn_q.bias' has no place in a model of architecture 'gemma2'"},
    {{SHAPE("gemma3"), .window = 24},
     "blk.1.post_ffw_norm.weight",
     ERR_FORMAT,
     "'blk.1.post_ffw_norm.weight' is missing"},
    {{SHAPE("gemma3"), .window = 24},
     "blk.1.attn_k_norm.weight",
     ERR_FORMAT,
     "'blk.1.attn_k_norm.weight' is missing"},
    {{SHAPE("gemma3")}, NULL, ERR_OK, ""},
    {{SHAPE("gemma3"), .window = 24, .attn_cap = NAN},
     NULL,
     ERR_RANGE,
     "'gemma3.attn_logit_softcapping' is nan"},
    {{SHAPE("phi3")}, "blk.0.attn_qkv.weight", ERR_FORMAT, "'blk.0.attn_qkv.weight' is missing"},
    {{SHAPE("phi3"), .rope = ORACLE_LONGROPE, .original_ctx = 64, .attn_factor = 1.2f},
     "phi3.rope.scaling.original_context_length",
     ERR_OK,
     ""},
    {{SHAPE("phi3"), .rope = ORACLE_LONGROPE, .original_ctx = 64, .attn_factor = -1},
     NULL,
     ERR_RANGE,
     "'phi3.rope.scaling.attn_factor' is -1"},
    {{SHAPE("phi3"), .n_expert = 4, .n_expert_used = 2},
     NULL,
     ERR_UNSUPPORTED,
     "a mixture of experts is not supported in this architecture"},
};

int main(int argc, char **argv)
{
    char path[1024];
    if (argc < 2)
        return 2;
    snprintf(path, sizeof path, "%s/architecture-%d.gguf", argv[1], (int)getpid());
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        struct err_msg why = {{0}};
        struct oracle *o = NULL;
        struct model *m = NULL;
        CHECK_INT(oracle_create(&files[i].c, i, &o), ERR_OK);
        CHECK_OK(oracle_write(o, path, files[i].omit, &why), why);
        enum err e = model_open(path, &m, &why);
        if (!CHECK(e == files[i].e) || strstr(why.text, files[i].words) == NULL)
            fprintf(stderr, "    %s without %s: %s: \"%s\"\n", files[i].c.architecture,
                    files[i].omit == NULL ? "nothing" : files[i].omit, err_name(e), why.text);
        CHECK((m != NULL) == (e == ERR_OK));
        CHECK_HAS(why.text, files[i].words);
        model_close(&m);
        oracle_destroy(&o);
        unlink(path);
    }
    return check_report();
}
