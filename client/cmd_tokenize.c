/* `octoflow tokenize` and `octoflow detokenize`: text to token ids and back, over standard input
 * and output. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/options.h"
#include "base/size.h"
#include "client/commands.h"
#include "model/tokenizer.h"

enum { MAX_IDS_BYTES = 1 << 30 };

struct tokenize_options {
    const char *model;
    const char *pre;
    bool no_bos;
};

static const struct option tokenize_table[] = {
    {"model", 'm', OPTION_STRING, offsetof(struct tokenize_options, model), .arg = "FILE",
     .help = "The GGUF file whose vocabulary is used; one without weights will do."},
    {"no-bos", 0, OPTION_FLAG, offsetof(struct tokenize_options, no_bos),
     .help = "No beginning-of-text and no end-of-text token, even if the file wants them."},
    {"pre-tokenizer", 0, OPTION_STRING, offsetof(struct tokenize_options, pre), .arg = "NAME",
     .help =
         "How to cut text into words, instead of what the file says: default, gpt-2, llama-bpe, "
         "qwen2, qwen35, smollm, starcoder, refact, command-r, falcon, mpt, olmo, deepseek-llm, "
         "deepseek-coder, deepseek-v3, deepseek-r1-qwen, tekken, gpt-4o."},
};
/* The same without what says nothing about the way back. */
static const struct option detokenize_table[] = {
    {"model", 'm', OPTION_STRING, offsetof(struct tokenize_options, model), .arg = "FILE",
     .help = "The GGUF file whose vocabulary is used; one without weights will do."},
};

struct command {
    const char *name;
    const char *intro;
    const struct option *table;
    size_t table_count;
    enum err (*work)(const struct tokenizer *t, const struct tokenize_options *o, struct str input,
                     struct buf *output, struct err_msg *why);
    size_t max_input_bytes;
};

static enum err tokenize(const struct tokenizer *t, const struct tokenize_options *o,
                         struct str input, struct buf *output, struct err_msg *why)
{
    struct tokens ids = {0};
    struct tokenizer_encode_options how = {
        .add_bos = !o->no_bos, .add_eos = !o->no_bos, .parse_special = true};
    enum err e = tokenizer_encode(t, input, how, &ids, why);
    if (e != ERR_OK)
        return err_prefix(why, e, "standard input");
    for (size_t i = 0; e == ERR_OK && i < ids.count; i++)
        e = buf_printf(output, "%s%" PRIu32, i == 0 ? "" : " ", ids.ids[i]);
    if (e == ERR_OK)
        e = buf_append_char(output, '\n');
    if (e != ERR_OK)
        e = err_set(why, e, "out of memory for %zu ids", ids.count);
    tokens_free(&ids);
    return e;
}

/* Digits to a number below `limit`; *at moves behind them. */
static bool take_id(struct str input, size_t *at, uint32_t limit, uint32_t *ret)
{
    uint64_t value = 0;
    size_t begin = *at;
    while (*at < input.len && input.data[*at] >= '0' && input.data[*at] <= '9' &&
           value <= UINT32_MAX)
        value = value * 10 + (uint64_t)(input.data[(*at)++] - '0');
    if (*at == begin || value >= limit)
        return false;
    *ret = (uint32_t)value;
    return true;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The input's numbers. */
static enum err read_ids(const struct tokenizer *t, struct str input, struct tokens *ret,
                         struct err_msg *why)
{
    for (size_t at = 0;;) {
        uint32_t id;
        while (at < input.len && is_space(input.data[at]))
            at++;
        if (at == input.len)
            return ERR_OK;
        size_t begin = at;
        if (!take_id(input, &at, tokenizer_vocab_size(t), &id) ||
            (at < input.len && !is_space(input.data[at]))) {
            while (at < input.len && at - begin < 32 && !is_space(input.data[at]))
                at++;
            return err_set(
                why, ERR_FORMAT, "standard input: id %zu is '%.*s', expected 0 to %" PRIu32,
                ret->count + 1, (int)(at - begin), input.data + begin, tokenizer_vocab_size(t) - 1);
        }
        enum err e = tokens_append(ret, &id, 1);
        if (e != ERR_OK)
            return err_set(why, e, "out of memory after %zu ids", ret->count);
    }
}

static enum err detokenize(const struct tokenizer *t, const struct tokenize_options *o,
                           struct str input, struct buf *output, struct err_msg *why)
{
    struct tokens ids = {0};
    (void)o;
    enum err e = read_ids(t, input, &ids, why);
    if (e == ERR_OK) {
        e = tokenizer_decode(t, ids.ids, ids.count, true, output);
        if (e != ERR_OK)
            e = err_set(why, e, "out of memory for the text of %zu ids", ids.count);
    }
    tokens_free(&ids);
    return e;
}

/* Standard input through c->work to standard output. */
static enum err convert(const struct command *c, const struct tokenize_options *o,
                        struct err_msg *why)
{
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    struct buf input = {0}, output = {0};
    enum err e = gguf_open(o->model, &g, why);
    if (e == ERR_OK)
        e = tokenizer_create(g, o->pre, &t, why);
    if (e == ERR_OK)
        e = file_read("-", c->max_input_bytes, &input, why);
    if (e == ERR_OK)
        e = c->work(t, o, (struct str){input.len == 0 ? "" : input.data, input.len}, &output, why);
    if (e == ERR_OK &&
        ((output.len > 0 && fwrite(output.data, 1, output.len, stdout) != output.len) ||
         fflush(stdout) != 0))
        e = err_set(why, ERR_IO, "cannot write to standard output");
    buf_free(&input);
    buf_free(&output);
    tokenizer_destroy(&t);
    gguf_close(&g);
    return e;
}

static int run(const struct command *c, int argc, char **argv)
{
    struct tokenize_options o = {0};
    struct err_msg why;
    int positional = 0;
    enum err e = options_parse(c->table, c->table_count, &o, argc, argv, &positional, &why);
    if (e == ERR_CANCELLED) {
        fputs(c->intro, stdout);
        options_print(c->table, c->table_count, stdout);
        return 0;
    }
    if (e == ERR_OK && positional > 0)
        e = err_set(&why, ERR_USAGE,
                    "unexpected argument '%.100s': the input comes from standard input", argv[0]);
    if (e == ERR_OK && o.model == NULL)
        e = err_set(&why, ERR_USAGE, "no model: give -m FILE");
    if (e != ERR_OK) {
        fprintf(stderr, "octoflow %s: %s\n", c->name, why.text);
        return 2;
    }
    e = convert(c, &o, &why);
    if (e != ERR_OK) {
        fprintf(stderr, "octoflow %s: %s\n", c->name, why.text);
        return 3;
    }
    return 0;
}

int cmd_tokenize(int argc, char **argv)
{
    static const struct command command = {
        "tokenize",
        "Usage: octoflow tokenize -m FILE < TEXT\n\n"
        "Prints the token ids of standard input on one line. Special tokens written in the text "
        "become their ids.\n\n",
        tokenize_table,
        ARRAY_LEN(tokenize_table),
        tokenize,
        TOKENIZER_MAX_TEXT_BYTES};
    return run(&command, argc, argv);
}

int cmd_detokenize(int argc, char **argv)
{
    static const struct command command = {
        "detokenize",
        "Usage: octoflow detokenize -m FILE < IDS\n\n"
        "Writes the text of token ids, separated by white space, from standard input. Special "
        "tokens become their "
        "names.\n\n",
        detokenize_table,
        ARRAY_LEN(detokenize_table),
        detokenize,
        MAX_IDS_BYTES};
    return run(&command, argc, argv);
}
