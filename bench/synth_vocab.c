/* Vocabularies of a model's exact size that every GGUF program can load and that encode any text:
 * the family's special tokens at their usual ids, all bytes, and then made-up words: all strings of
 * letters with an optional space before them, shortest first. A word is the merge of the word
 * without its last letter and that letter, so every merge's parts and result exist. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/size.h"
#include "bench/synth.h"

/* Numbers of tokenizer.ggml.token_type. */
enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };
enum { NOWHERE = -1, LLAMA3_SPECIALS = 256, PHI3_SPECIALS = 64 };

struct special {
    int at; /* after the family's first special id */
    const char *text;
    int type;
};

static const struct special qwen_specials[] = {
    {0, "<|endoftext|>", CONTROL},
    {1, "<|im_start|>", CONTROL},
    {2, "<|im_end|>", CONTROL},
    {3, "<|object_ref_start|>", CONTROL},
    {4, "<|object_ref_end|>", CONTROL},
    {5, "<|box_start|>", CONTROL},
    {6, "<|box_end|>", CONTROL},
    {7, "<|quad_start|>", CONTROL},
    {8, "<|quad_end|>", CONTROL},
    {9, "<|vision_start|>", CONTROL},
    {10, "<|vision_end|>", CONTROL},
    {11, "<|vision_pad|>", CONTROL},
    {12, "<|image_pad|>", CONTROL},
    {13, "<|video_pad|>", CONTROL},
    {14, "<tool_call>", USER_DEFINED},
    {15, "</tool_call>", USER_DEFINED},
    {16, "<|fim_prefix|>", CONTROL},
    {17, "<|fim_middle|>", CONTROL},
    {18, "<|fim_suffix|>", CONTROL},
    {19, "<|fim_pad|>", CONTROL},
    {20, "<|repo_name|>", CONTROL},
    {21, "<|file_sep|>", CONTROL},
    /* from here on Qwen 3 */
    {22, "<tool_response>", USER_DEFINED},
    {23, "</tool_response>", USER_DEFINED},
    {24, "<think>", USER_DEFINED},
    {25, "</think>", USER_DEFINED},
};
static const struct special llama3_specials[] = {
    {0, "<|begin_of_text|>", CONTROL},
    {1, "<|end_of_text|>", CONTROL},
    {4, "<|finetune_right_pad_id|>", CONTROL},
    {6, "<|start_header_id|>", CONTROL},
    {7, "<|end_header_id|>", CONTROL},
    {8, "<|eom_id|>", CONTROL},
    {9, "<|eot_id|>", CONTROL},
    {10, "<|python_tag|>", CONTROL},
};
static const struct special smollm_specials[] = {
    {0, "<|endoftext|>", CONTROL},     {1, "<|im_start|>", CONTROL},
    {2, "<|im_end|>", CONTROL},        {3, "<repo_name>", CONTROL},
    {4, "<reponame>", CONTROL},        {5, "<file_sep>", CONTROL},
    {6, "<filename>", CONTROL},        {7, "<gh_stars>", CONTROL},
    {8, "<issue_start>", CONTROL},     {9, "<issue_comment>", CONTROL},
    {10, "<issue_closed>", CONTROL},   {11, "<jupyter_start>", CONTROL},
    {12, "<jupyter_text>", CONTROL},   {13, "<jupyter_code>", CONTROL},
    {14, "<jupyter_output>", CONTROL}, {15, "<jupyter_script>", CONTROL},
    {16, "<empty_output>", CONTROL},
};
static const struct special llama2_specials[] = {
    {0, "<unk>", UNKNOWN},
    {1, "<s>", CONTROL},
    {2, "</s>", CONTROL},
};
static const struct special gemma_specials[] = {
    {0, "<pad>", CONTROL},           {1, "<eos>", CONTROL},  {2, "<bos>", CONTROL},
    {3, "<unk>", UNKNOWN},           {4, "<mask>", CONTROL}, {106, "<start_of_turn>", CONTROL},
    {107, "<end_of_turn>", CONTROL},
};
static const struct special phi3_specials[] = {
    {0, "<|endoftext|>", CONTROL}, {1, "<|assistant|>", CONTROL}, {6, "<|system|>", CONTROL},
    {7, "<|end|>", CONTROL},       {10, "<|user|>", CONTROL},
};

#define TURNS(open, middle, close)                                                                 \
    "{%- for turn in messages -%}{{- '" open "' ~ turn['role'] ~ '" middle                         \
    "' ~ turn['content'] ~ '" close                                                                \
    "' -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- '" open "assistant" middle             \
    "' -}}{%- endif -%}"
#define CHATML                                                                                     \
    "{%- set open = '<|im_start|>' -%}\n"                                                          \
    "{%- set close = '<|im_end|>\\n' -%}\n"                                                        \
    "{%- for turn in messages -%}\n"                                                               \
    "    {{- open ~ turn['role'] ~ '\\n' ~ turn['content'] ~ close -}}\n"                          \
    "{%- endfor -%}\n"                                                                             \
    "{%- if add_generation_prompt -%}\n"                                                           \
    "    {{- open ~ 'assistant\\n' -}}\n"                                                          \
    "{%- endif -%}\n"
static const char zephyr[] =
    "{%- for turn in messages -%}{{- '<|' ~ turn['role'] ~ '|>\\n' ~ turn['content'] ~ eos_token ~ "
    "'\\n' -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif "
    "-%}";
static const char mistral[] =
    "{{- bos_token -}}{%- for turn in messages -%}{%- if turn['role'] == 'assistant' -%}{{- "
    "turn['content'] ~ eos_token -}}{%- else -%}{{- '[INST] ' ~ turn['content'] ~ ' [/INST]' -}}"
    "{%- endif -%}{%- endfor -%}";
static const char gemma[] =
    "{{- bos_token -}}{%- for turn in messages -%}{%- set role = 'model' if turn['role'] == "
    "'assistant' else turn['role'] -%}{{- '<start_of_turn>' ~ role ~ '\\n' ~ turn['content'] | "
    "trim "
    "~ '<end_of_turn>\\n' -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- "
    "'<start_of_turn>model\\n' -}}{%- endif -%}";

/* Ids count from 0; `first` is where the special tokens begin in a vocabulary of the real size, and
 * `last_ids` how many ids from there on are no words (0: the special tokens come first). */
static const struct family {
    const char *pre; /* NULL: SentencePiece */
    const struct special *specials;
    size_t count;
    uint32_t first, last_ids;
    int bos, eos, pad, unknown; /* after the first special id */
    bool add_bos, no_space_prefix;
    const char *chat_template;
} families[] = {
    [VOCAB_QWEN2] = {"qwen2", qwen_specials, 22, 151643, 32, 0, 2, 0, NOWHERE, false, false,
                     CHATML},
    [VOCAB_QWEN3] = {"qwen2", qwen_specials, 26, 151643, 32, 0, 2, 0, NOWHERE, false, false,
                     CHATML},
    [VOCAB_LLAMA3] = {"llama-bpe", llama3_specials, ARRAY_LEN(llama3_specials), 128000,
                      LLAMA3_SPECIALS, 0, 9, 4, NOWHERE, true, false,
                      "{{- bos_token -}}" TURNS("<|start_header_id|>", "<|end_header_id|>\\n\\n",
                                                "<|eot_id|>")},
    [VOCAB_SMOLLM] = {"smollm", smollm_specials, ARRAY_LEN(smollm_specials), 0, 0, 1, 2, 2, 0,
                      false, true, CHATML},
    [VOCAB_LLAMA2] = {NULL, llama2_specials, 3, 0, 0, 1, 2, 2, 0, true, false, zephyr},
    [VOCAB_MISTRAL] = {NULL, llama2_specials, 3, 0, 0, 1, 2, NOWHERE, 0, true, false, mistral},
    [VOCAB_GEMMA] = {NULL, gemma_specials, ARRAY_LEN(gemma_specials), 0, 0, 2, 1, 0, 3, true, true,
                     gemma},
    /* besides Llama 2's own: see put_specials() */
    [VOCAB_PHI3] = {NULL, phi3_specials, ARRAY_LEN(phi3_specials), 32000, PHI3_SPECIALS, NOWHERE, 0,
                    0, NOWHERE, true, false, TURNS("<|", "|>\\n", "<|end|>\\n")},
};

struct vocab {
    const struct family *family;
    struct arena arena;
    struct str *tokens, *merges;
    float *scores;
    int32_t *types;
    uint32_t count, merge_count;
    uint32_t first;  /* special id */
    uint32_t next;   /* the first id that may be free */
    uint32_t ranked; /* SentencePiece words so far */
    bool failed;     /* out of memory */
};

static struct str keep(struct vocab *v, const char *text)
{
    size_t len = strlen(text);
    const char *copy = arena_copy(&v->arena, text, len);
    v->failed = v->failed || copy == NULL;
    return (struct str){copy, copy == NULL ? 0 : len};
}

static void put(struct vocab *v, uint32_t id, const char *text, int type)
{
    if (id >= v->count)
        return;
    v->tokens[id] = keep(v, text);
    v->types[id] = type;
}

static bool is_free(const struct vocab *v, uint32_t id)
{
    return v->types[id] == 0;
}

static void put_next(struct vocab *v, const char *text, int type)
{
    while (v->next < v->count && !is_free(v, v->next))
        v->next++;
    put(v, v->next, text, type);
}

/* Names for the free ids of a range, so that what comes next leaves them alone. */
static void fill_range(struct vocab *v, uint32_t from, uint32_t to, const char *format, int type)
{
    unsigned number = 0;
    char text[64];
    for (uint32_t id = from; id < to && id < v->count; id++)
        if (is_free(v, id)) {
            snprintf(text, sizeof(text), format, number++);
            put(v, id, text, type);
        }
}

static void put_specials(struct vocab *v, enum synth_vocab kind)
{
    const struct family *f = v->family;
    for (size_t i = 0; i < f->count; i++)
        put(v, v->first + (uint32_t)f->specials[i].at, f->specials[i].text, f->specials[i].type);
    if (kind == VOCAB_LLAMA3)
        fill_range(v, v->first, v->count, "<|reserved_special_token_%u|>", CONTROL);
    else if (kind == VOCAB_PHI3)
        fill_range(v, v->first, v->count, "<|placeholder%u|>", CONTROL);
    else if (kind == VOCAB_GEMMA)
        fill_range(v, 0, 217, "<unused%u>", UNUSED);
    else if (f->last_ids > 0)
        fill_range(v, v->first, v->count, "[PAD%u]", UNUSED);
    if (kind == VOCAB_PHI3)
        for (size_t i = 0; i < ARRAY_LEN(llama2_specials); i++)
            put(v, (uint32_t)llama2_specials[i].at, llama2_specials[i].text,
                llama2_specials[i].type);
}

/* The word number n: `ret_last` points to its last letter. */
static void make_word(uint64_t n, const char *space, char word[24], char **ret_last)
{
    uint64_t of_length = 27 * 26;
    int len = 2;
    for (; n >= of_length; of_length *= 26, len++)
        n -= of_length;
    char letters[16];
    for (int i = len - 1; i > 0; i--, n /= 26)
        letters[i] = (char)('a' + n % 26);
    size_t at = 0;
    if (n == 0)
        at = (size_t)snprintf(word, 8, "%s", space);
    else
        word[at++] = (char)('a' + n - 1);
    memcpy(word + at, letters + 1, (size_t)len - 1);
    word[at + (size_t)len - 1] = '\0';
    *ret_last = word + at + (size_t)len - 2;
}

/* The bytes as GPT-2 writes them: printable Latin-1 as itself and first, the others as U+0100 and
 * up. */
static void put_byte_chars(struct vocab *v)
{
    for (int pass = 0, other = 256; pass < 2; pass++)
        for (int b = 0; b < 256; b++) {
            bool itself = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
            if (itself != (pass == 0))
                continue;
            int c = itself ? b : other++;
            char text[3] = {(char)c, 0, 0};
            if (c >= 0x80) {
                text[0] = (char)(0xc0 | c >> 6);
                text[1] = (char)(0x80 | (c & 0x3f));
            }
            put_next(v, text, NORMAL);
        }
}

static void put_bpe_words(struct vocab *v)
{
    uint32_t left = 0;
    for (uint32_t id = 0; id < v->count; id++)
        left += is_free(v, id);
    v->merges = arena_alloc(&v->arena, left, sizeof(*v->merges));
    v->failed = v->failed || v->merges == NULL;
    for (uint32_t i = 0; i < left && !v->failed; i++) {
        char word[24], merge[32], *last;
        make_word(i, "\xc4\xa0", word, &last);
        put_next(v, word, NORMAL);
        snprintf(merge, sizeof(merge), "%.*s %s", (int)(last - word), word, last);
        v->merges[v->merge_count++] = keep(v, merge);
    }
}

static void put_ranked(struct vocab *v, const char *text)
{
    put_next(v, text, NORMAL);
    if (v->next < v->count)
        v->scores[v->next] = -(float)v->ranked++;
}

/* Byte tokens, words by falling score, and single characters last, as SentencePiece orders them. */
static void put_sentence_pieces(struct vocab *v)
{
    enum { SINGLES = 1 + 0x7e - 0x20 };
    char text[24], *last;
    uint32_t left = 0;
    for (unsigned b = 0; b < 256; b++) {
        snprintf(text, sizeof(text), "<0x%02X>", b);
        put_next(v, text, BYTE);
    }
    for (uint32_t id = 0; id < v->count; id++)
        left += is_free(v, id);
    for (uint32_t i = 0; i + SINGLES < left && !v->failed; i++) {
        make_word(i, "\xe2\x96\x81", text, &last);
        put_ranked(v, text);
    }
    put_ranked(v, "\xe2\x96\x81");
    for (char c = 0x21; c <= 0x7e; c++)
        put_ranked(v, (char[]){c, 0});
}

static void write_id(const struct vocab *v, struct gguf_writer *w, const char *key, int at)
{
    if (at != NOWHERE)
        gguf_write_u32(w, key, v->first + (uint32_t)at);
}

static void write_keys(const struct vocab *v, struct gguf_writer *w)
{
    const struct family *f = v->family;
    gguf_write_str(w, "tokenizer.ggml.model", f->pre == NULL ? "llama" : "gpt2");
    gguf_write_str(w, "tokenizer.ggml.pre", f->pre == NULL ? "default" : f->pre);
    gguf_write_strs(w, "tokenizer.ggml.tokens", v->tokens, v->count);
    if (f->pre == NULL)
        gguf_write_array(w, "tokenizer.ggml.scores", GGUF_F32, v->scores, v->count);
    gguf_write_array(w, "tokenizer.ggml.token_type", GGUF_I32, v->types, v->count);
    if (f->pre != NULL)
        gguf_write_strs(w, "tokenizer.ggml.merges", v->merges, v->merge_count);
    write_id(v, w, "tokenizer.ggml.bos_token_id", f->bos);
    write_id(v, w, "tokenizer.ggml.eos_token_id", f->eos);
    write_id(v, w, "tokenizer.ggml.padding_token_id", f->pad);
    write_id(v, w, "tokenizer.ggml.unknown_token_id", f->unknown);
    if (f == &families[VOCAB_PHI3]) {
        gguf_write_u32(w, "tokenizer.ggml.bos_token_id", 1);
        gguf_write_u32(w, "tokenizer.ggml.unknown_token_id", 0);
    }
    gguf_write_bool(w, "tokenizer.ggml.add_bos_token", f->add_bos);
    if (f->pre == NULL)
        gguf_write_bool(w, "tokenizer.ggml.add_eos_token", false);
    if (f->no_space_prefix)
        gguf_write_bool(w, "tokenizer.ggml.add_space_prefix", false);
    gguf_write_str(w, "tokenizer.chat_template", f->chat_template);
}

enum err synth_write_vocab(struct gguf_writer *w, const struct synth_shape *s, struct err_msg *why)
{
    const struct family *f = &families[s->vocab];
    struct vocab v = {.family = f, .count = s->n_vocab};
    v.tokens = arena_alloc(&v.arena, v.count, sizeof(*v.tokens));
    v.scores = arena_alloc(&v.arena, v.count, sizeof(*v.scores));
    v.types = arena_alloc(&v.arena, v.count, sizeof(*v.types));
    v.failed = v.tokens == NULL || v.scores == NULL || v.types == NULL;
    if (f->last_ids > 0) /* at the real ids if there is room, else at the end */
        v.first = v.count >= f->first + f->last_ids ? f->first : v.count - f->last_ids;
    if (!v.failed) {
        put_specials(&v, s->vocab);
        if (f->pre == NULL) {
            put_sentence_pieces(&v);
        } else {
            put_byte_chars(&v);
            put_bpe_words(&v);
        }
    }
    if (!v.failed)
        write_keys(&v, w);
    arena_free(&v.arena);
    return v.failed ? err_set(why, ERR_NOMEM, "out of memory for a vocabulary") : ERR_OK;
}
