/* The pre-tokenizers by the names that GGUF files give in tokenizer.ggml.pre: regular expressions
 * (PCRE2), flags.
 *
 * The expressions are those of the models' own tokenizer.json (Hugging Face tokenizers: Split,
 * Digits, Punctuation and ByteLevel in sequence), the names and flags those that llama.cpp's
 * converter writes. An expression cuts the text into what it matches and what lies between; the
 * next one cuts each of those pieces again. */
#include <stdio.h>

#include "base/size.h"
#include "model/tokenizer_pre.h"

/* Unicode's White_Space, written out: PCRE2's own \s also has U+180E. */
#define SPACES                                                                                     \
    "\\t-\\r "                                                                                     \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define S     "[" SPACES "]"
#define NOT_S "[^" SPACES "]"
/* White space: all of it if the text ends, else all but the last character, else that one. */
#define SPACE_RUN S "+(?!" NOT_S ")|" S "+"
/* 's 't 'm 'd 're 've 'll in any case. */
#define CONTRACTION "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"

/* GPT-2's (ByteLevel with use_regex). */
#define GPT2                                                                                       \
    "'(?:[stmd]|re|ve|ll)"                                                                         \
    "| ?\\p{L}+"                                                                                   \
    "| ?\\p{N}+"                                                                                   \
    "| ?[^" SPACES "\\p{L}\\p{N}]+"                                                                \
    "|" SPACE_RUN
/* The family of cl100k: a letter word takes one character before it, digits come in groups. */
#define CL100K(letter, digits, other, newlines)                                                    \
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?" letter "+"                                               \
                "|" digits "| ?[^" SPACES other "]+" newlines "|" S "*[\\r\\n]+"                   \
                "|" SPACE_RUN
#define LETTER "\\p{L}"
#define OTHER  "\\p{L}\\p{N}"
/* The family of o200k: words end where capitals begin again. */
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define O200K(suffix, digits)                                                                      \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER  \
    "*" suffix "|" digits "| ?[^" SPACES OTHER "]+[\\r\\n/]*|" S "*[\\r\\n]+|" SPACE_RUN

/* What DeepSeek's first models hold for letters of Latin, Greek, Cyrillic and their like. */
#define DEEPSEEK_LETTERS                                                                           \
    "\\x{41}-\\x{5a}\\x{61}-\\x{7a}\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}"          \
    "\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}"                         \
    "\\x{376}-\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}"                  \
    "\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}"                         \
    "\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}"                   \
    "\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}"                 \
    "\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}"                 \
    "\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}"         \
    "\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}"                           \
    "\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}"                 \
    "\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}"         \
    "\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}"         \
    "\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}-\\x{2184}"                  \
    "\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}-\\x{2cf3}"                 \
    "\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}"                 \
    "\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}"                 \
    "\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}"             \
    "\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}"         \
    "\\x{1e900}-\\x{1e943}"
/* Their ideographs, kana, hangul and all between U+0800 and U+4E00. */
#define DEEPSEEK_ASIAN "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
#define DEEPSEEK_MARKS                                                                             \
    "!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}"

static const struct pre_definition definitions[] = {
    {"default", {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}, 0},
    {"gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum modern-bert "
     "exaone4",
     {GPT2},
     0},
    {"mpt olmo jais trillion granite-docling", {GPT2}, 0},
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
     {CL100K(LETTER, "\\p{N}{1,3}", OTHER, "[\\r\\n]*")},
     PRE_IGNORE_MERGES | PRE_ADD_BOS},
    {"dbrx smaug-bpe", {CL100K(LETTER, "\\p{N}{1,3}", OTHER, "[\\r\\n]*")}, 0},
    {"chatglm-bpe", {CL100K(LETTER, "\\p{N}{1,3}", OTHER, "[\\r\\n]*")}, PRE_NO_BOS},
    {"glm4", {CL100K(LETTER, "\\p{N}{1,3}", OTHER, "[\\r\\n]*")}, PRE_IGNORE_MERGES | PRE_NO_BOS},
    {"qwen2 deepseek-r1-qwen stablelm2 hunyuan megrez kormo solar-open grok-2",
     {CL100K(LETTER, "\\p{N}", OTHER, "[\\r\\n]*")},
     0},
    {"qwen35", {CL100K("[\\p{L}\\p{M}]", "\\p{N}", "\\p{L}\\p{M}\\p{N}", "[\\r\\n]*")}, 0},
    {"seed-coder", {CL100K(LETTER, "\\p{N}", "\\r\\n" OTHER, "")}, 0},
    {"smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", {"\\p{N}", GPT2}, 0},
    {"deepseek-llm",
     {"[\\r\\n]", S "?[" DEEPSEEK_LETTERS "]+", S "?[" DEEPSEEK_MARKS "]+",
      /* White space at the piece's end; only the start of a run is worth a try. */
      "(?<!" S ")" S "++\\z", DEEPSEEK_ASIAN, "\\p{N}"},
     0},
    {"deepseek-coder", {"[\\r\\n]", S "?\\p{L}+", S "?\\p{P}+", DEEPSEEK_ASIAN, "\\p{N}"}, 0},
    {"deepseek-v3 deepseek-r1 hunyuan-dense joyai-llm",
     {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{30ff}]+",
      "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
      "| ?[\\p{P}\\p{S}]+[\\r\\n]*|" S "*[\\r\\n]+|" SPACE_RUN},
     0},
    {"falcon", {"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"}, 0},
    {"tekken", {O200K("", "\\p{N}")}, PRE_IGNORE_MERGES | PRE_ADD_BOS},
    {"gpt-4o llama4 kanana2 minimax-m2", {O200K("(?:" CONTRACTION ")?", "\\p{N}{1,3}")}, 0},
};

/* Whether `name` is one of the words of `names`. */
static bool has_name(const char *names, struct str name)
{
    while (*names != '\0') {
        size_t len = strcspn(names, " ");
        if (str_eq((struct str){names, len}, name))
            return true;
        names += len;
        names += *names == ' ';
    }
    return false;
}

const struct pre_definition *pre_find(struct str name)
{
    if (name.len == 0)
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(definitions); i++)
        if (has_name(definitions[i].names, name))
            return &definitions[i];
    return NULL;
}

const struct pre_definition *pre_at(size_t i)
{
    return i < ARRAY_LEN(definitions) ? &definitions[i] : NULL;
}

enum err pre_unknown(struct str name, struct err_msg *why)
{
    /* The names in wide use; the table above has more. */
    return err_set(why, ERR_UNSUPPORTED,
                   "pre-tokenizer '%.*s' is not known; --pre-tokenizer NAME takes another one "
                   "(default, gpt-2, llama-bpe, qwen2, qwen35, smollm, starcoder, refact, "
                   "command-r, falcon, mpt, olmo, deepseek-llm, deepseek-coder, deepseek-v3, "
                   "deepseek-r1-qwen, tekken, gpt-4o)",
                   (int)min_u64(name.len, 64), name.data);
}
