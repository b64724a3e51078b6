/* GGUF bytes of any kind through everything that reads them: the container, the model, the
 * tokenizer, the chat template. Nothing may crash, hang or read outside; what opens must also work.
 *
 * With OCTO_LIBFUZZER this is a libFuzzer target. Without, it is a test: it runs a few thousand
 * seeded mutations of small good files (and each of them unchanged, so that the good paths are
 * known to be reached). */
#include "base/size.h"
#include "check.h"
#include "model/chat.h"
#include "model/gguf_build.h"
#include "model/model.h"
#include "model/text_stream.h"
#include "model/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* How far inputs came. */
static struct {
    unsigned opened, models, tokenizers, chats;
} reached;

static void use_container(struct gguf *g)
{
    struct buf text = {0};
    for (size_t i = 0; i < gguf_kv_count(g); i++) {
        buf_clear(&text);
        if (gguf_kv_print(g, i, 60, &text) != ERR_OK || text.len > 63)
            abort();
    }
    buf_free(&text);
    for (size_t i = 0; i < gguf_tensor_count(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        volatile uint8_t touched = t->data[0];
        touched = t->data[t->bytes - 1];
        (void)touched;
    }
    if (strlen(gguf_hash(g)) != 32)
        abort();
}

/* Whether every text comes back from its ids: byte-level, a token for each byte, none that takes
 * the white space beside it (a model's name says so: any name will do here). */
static bool is_lossless(const struct gguf *g, const struct tokenizer *t)
{
    bool seen[256] = {false};
    struct str text;
    size_t count = 0;
    if (gguf_get_str(g, "tokenizer.ggml.model", &text, NULL) != ERR_OK ||
        !str_eq(text, STR_LIT("gpt2")) || gguf_get_str(g, "general.name", &text, NULL) == ERR_OK)
        return false;
    for (uint32_t id = 0; id < tokenizer_vocab_size(t); id++) {
        struct str piece = tokenizer_piece(t, id);
        if (piece.len != 1 || tokenizer_is_control(t, id) || seen[(unsigned char)piece.data[0]])
            continue;
        seen[(unsigned char)piece.data[0]] = true;
        count++;
    }
    return count == 256;
}

/* Encodes, decodes: the bytes come back, where they can. */
static void use_tokenizer(const struct gguf *g, const struct tokenizer *t)
{
    static const char text[] = "abc aab<|im_start|>it's 42\n\n \t\xf0\x9f\x98\x80 <tool>\xc2\x85";
    struct tokenizer_encode_options o = {.add_bos = false, .parse_special = true};
    struct tokens ids = {0};
    struct buf back = {0};
    struct text_stream *s = NULL;
    struct str stop = STR_LIT("\n\n\n");
    bool stopped = false;
    size_t ends = 0;
    if (tokenizer_encode(t, (struct str){text, sizeof(text) - 1}, o, &ids, NULL) != ERR_OK ||
        tokenizer_decode(t, ids.ids, ids.count, true, &back) != ERR_OK ||
        (is_lossless(g, t) && !str_eq((struct str){back.data, back.len}, STR_LIT(text))) ||
        text_stream_create(t, &stop, 1, &s) != ERR_OK)
        abort();
    for (size_t i = 0; i < ids.count; i++)
        if (ids.ids[i] >= tokenizer_vocab_size(t) ||
            text_stream_push(s, ids.ids[i], true, &stopped) != ERR_OK)
            abort();
    for (uint32_t id = 0; id < tokenizer_vocab_size(t) && id < 1000; id++)
        if (text_stream_push(s, id, true, &stopped) != ERR_OK)
            abort();
    const uint32_t *end = tokenizer_end_tokens(t, &ends);
    for (size_t i = 0; i < ends; i++)
        if (end[i] >= tokenizer_vocab_size(t))
            abort();
    if (text_stream_finish(s) != ERR_OK)
        abort();
    text_stream_destroy(&s);
    buf_free(&back);
    tokens_free(&ids);
}

static void check_message(enum err e, const struct err_msg *why)
{
    if (e != ERR_OK && (why->text[0] == '\0' || strchr(why->text, '\n') != NULL))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *g = NULL;
    struct model *m = NULL;
    struct tokenizer *t = NULL;
    struct chat_template *c = NULL;
    struct err_msg why = {{0}};
    enum err e = gguf_open_memory(data, size, "fuzz", &g, &why);
    check_message(e, &why);
    if (e != ERR_OK)
        return 0;
    reached.opened++;
    use_container(g);
    e = tokenizer_create(g, NULL, &t, &why);
    check_message(e, &why);
    if (e == ERR_OK) {
        use_tokenizer(g, t);
        reached.tokenizers++;
    }
    e = chat_template_create(g, NULL, &c, &why);
    check_message(e, &why);
    reached.chats += e == ERR_OK;
    e = model_from_gguf(&g, &m, &why);
    check_message(e, &why);
    reached.models += e == ERR_OK;
    model_close(&m);
    chat_template_destroy(&c);
    tokenizer_destroy(&t);
    gguf_close(&g);
    return 0;
}

#ifndef OCTO_LIBFUZZER

enum { ROUNDS = 20000 };

/* One of a few kinds of damage at a random place. */
static void mutate(struct check_rng *rng, uint8_t *bytes, size_t *len)
{
    static const uint64_t edges[] = {0,
                                     1,
                                     2,
                                     0x7f,
                                     0x80,
                                     0xff,
                                     0xffff,
                                     0x7fffffff,
                                     0x80000000,
                                     0xffffffff,
                                     UINT64_C(0x7fffffffffffffff),
                                     UINT64_C(0x8000000000000000),
                                     UINT64_MAX};
    uint64_t edge = edges[check_rng_below(rng, ARRAY_LEN(edges))];
    /* Half of the damage near the beginning, where the counts are. */
    size_t at = check_rng_below(rng, check_rng_below(rng, 2) == 0 ? min_u64(*len, 600) : *len);
    size_t width = (size_t)1 << check_rng_below(rng, 4);
    switch (check_rng_below(rng, 9) / 2) {
    case 0:
        bytes[at] = (uint8_t)check_rng_next(rng);
        break;
    case 1:
        bytes[at] ^= (uint8_t)(1u << check_rng_below(rng, 8));
        break;
    case 2:
        memcpy(bytes + at, &edge, min_u64(width, *len - at));
        break;
    case 3: /* a piece of the file somewhere else in it */
        memmove(bytes + at, bytes + check_rng_below(rng, at + 1),
                min_u64(check_rng_below(rng, 64), *len - at));
        break;
    default:
        *len = max_u64(at, 1);
    }
}

int main(void)
{
    struct check_rng rng = check_rng_start(20);
    struct buf files[3];
    struct gguf_build build = {0};
    build_tiny_model(&build);
    files[0] = build_finish(&build);
    build_tiny_vocab(&build);
    files[1] = build_finish(&build);
    build.version = 2;
    build_kv_u32(&build, "general.alignment", 64);
    build_kv_array(&build, "flags", GGUF_BOOL, 2);
    build_bytes(&build.kvs, "\0\1", 2);
    build.alignment = 64;
    build_tensor(&build, "w", TENSOR_Q6_K, 256, 2);
    build_tensor(&build, "v", TENSOR_F32, 3, 0);
    files[2] = build_finish(&build);
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        LLVMFuzzerTestOneInput((const uint8_t *)files[i].data, files[i].len);
    CHECK_INT(reached.opened, 3);
    CHECK_INT(reached.tokenizers, 2);
    CHECK_INT(reached.chats, 2);
    CHECK_INT(reached.models, 1);
    for (unsigned round = 0; round < ROUNDS; round++) {
        const struct buf *file = &files[round % ARRAY_LEN(files)];
        size_t len = file->len;
        uint8_t *bytes = malloc(len); /* of its own: a sanitizer sees reads beyond it */
        if (bytes == NULL)
            abort();
        memcpy(bytes, file->data, len);
        for (uint64_t n = 1 + check_rng_below(&rng, 3) / 2 * check_rng_below(&rng, 4); n > 0; n--)
            mutate(&rng, bytes, &len);
        uint8_t *exact = malloc(len);
        if (exact == NULL)
            abort();
        memcpy(exact, bytes, len);
        free(bytes);
        LLVMFuzzerTestOneInput(exact, len);
        free(exact);
    }
    printf("%u files: %u opened, %u tokenizers, %u chat templates, %u models\n", ROUNDS,
           reached.opened, reached.tokenizers, reached.chats, reached.models);
    /* Both sides of every check are reached: some damage is harmless, some is not. */
    CHECK(reached.opened > ROUNDS / 10 && reached.opened < ROUNDS);
    CHECK(reached.models > ROUNDS / 50 && reached.models < reached.opened);
    CHECK(reached.tokenizers > ROUNDS / 20 && reached.tokenizers < reached.opened);
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        buf_free(&files[i]);
    return check_report();
}

#endif
