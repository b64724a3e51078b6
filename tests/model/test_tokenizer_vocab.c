/* Whole vocabularies of known models against the ids that other programs computed, and their speed.
 * Argument: the folder of the vocabularies. */
#include <time.h>

#include "base/file.h"
#include "base/size.h"
#include "model/tokenizer_kit.h"

static const struct {
    const char *name;
    uint32_t vocab;
    unsigned cases;
    int64_t bos, eos;
    bool adds_bos, adds_eos;
    uint32_t ends; /* tokens that end a generation */
} vocabs[] = {
    {"deepseek-coder", 32256, 46, 32013, 32014, true, false, 1},
    {"falcon", 65024, 46, 11, 11, false, false, 1},
    {"gpt-2", 50257, 46, 50256, 50256, false, false, 1},
    {"llama-spm", 32000, 46, 1, 2, true, false, 1},
    {"qwen2", 151936, 46, 151643, 151643, false, false, 2},
    {"qwen35", 151936, 50, 151643, 151643, false, false, 2},
    {"refact", 49216, 46, 0, 0, false, false, 3}, /* also <fim_pad> and <reponame> */
};

static void check_case(const struct tokenizer *t, const char *name, struct str text,
                       const uint32_t *want, size_t want_count)
{
    struct tokens got = {0};
    struct buf back = {0};
    struct err_msg why;
    CHECK_OK(tokenizer_encode(t, text, plain, &got, &why), why);
    bool equal = got.count == want_count &&
                 (got.count == 0 || memcmp(got.ids, want, got.count * sizeof(*want)) == 0);
    if (!CHECK(equal)) {
        fprintf(stderr, "    %s: text \"%.*s\"\n    got ", name, STR_ARG(text));
        for (size_t i = 0; i < got.count; i++)
            fprintf(stderr, " %u", got.ids[i]);
        fprintf(stderr, "\n    want");
        for (size_t i = 0; i < want_count; i++)
            fprintf(stderr, " %u", want[i]);
        fprintf(stderr, "\n");
    }
    CHECK_OK(tokenizer_decode(t, got.ids, got.count, true, &back), why);
    CHECK(str_eq((struct str){back.data, back.len}, text));
    buf_free(&back);
    tokens_free(&got);
}

/* Texts with a separator line between them, and a line of ids for each. */
static unsigned check_pairs(const struct tokenizer *t, const char *name, const char *text,
                            const char *ids)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    unsigned cases = 0;
    while (text != NULL && ids != NULL && *ids != '\0') {
        const char *end = strstr(text, separator);
        size_t len = end == NULL ? strlen(text) : (size_t)(end - text);
        uint32_t want[4096];
        size_t count = 0;
        while (*ids != '\n' && *ids != '\0' && count < ARRAY_LEN(want)) {
            char *next;
            want[count++] = (uint32_t)strtoul(ids, &next, 10);
            ids = next + strspn(next, " ");
        }
        ids += *ids == '\n';
        check_case(t, name, (struct str){text, len}, want, count);
        cases++;
        text = end == NULL ? NULL : end + strlen(separator);
    }
    return cases;
}

/* A MiB of anything takes under two seconds. */
static void check_speed(const struct tokenizer *t, const char *name, const char *unit)
{
    struct buf text = {0}, back = {0};
    struct tokens ids = {0};
    struct err_msg why;
    struct timespec a, b;
    while (text.len < 1 << 20)
        build_bytes(&text, unit, strlen(unit));
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    CHECK_OK(tokenizer_encode(t, (struct str){text.data, text.len}, plain, &ids, &why), why);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    double seconds = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9;
    printf("%-16s %-8.8s %zu ids, %.3f s\n", name, unit[0] <= ' ' ? "spaces" : unit, ids.count,
           seconds);
    CHECK(seconds < (SANITIZED ? 30 : 2));
    CHECK_OK(tokenizer_decode(t, ids.ids, ids.count, true, &back), why);
    CHECK(str_eq((struct str){back.data, back.len}, (struct str){text.data, text.len}));
    buf_free(&text);
    buf_free(&back);
    tokens_free(&ids);
}

static void test_vocab(const char *folder, size_t i)
{
    char path[4096];
    struct buf in = {0}, out = {0};
    struct err_msg why;
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    size_t ends = 0;
    snprintf(path, sizeof(path), "%s/ggml-vocab-%s.gguf", folder, vocabs[i].name);
    CHECK_OK(gguf_open(path, &g, &why), why);
    if (g != NULL)
        CHECK_OK(tokenizer_create(g, NULL, &t, &why), why);
    gguf_close(&g);
    if (t == NULL)
        return;
    CHECK_INT(tokenizer_vocab_size(t), vocabs[i].vocab);
    CHECK_INT(tokenizer_bos(t), vocabs[i].bos);
    CHECK_INT(tokenizer_eos(t), vocabs[i].eos);
    CHECK(tokenizer_adds_bos(t) == vocabs[i].adds_bos);
    CHECK(tokenizer_adds_eos(t) == vocabs[i].adds_eos);
    tokenizer_end_tokens(t, &ends);
    CHECK_INT(ends, vocabs[i].ends);
    snprintf(path, sizeof(path), "%s/ggml-vocab-%s.gguf.inp", folder, vocabs[i].name);
    CHECK_OK(file_read(path, 1 << 20, &in, &why), why);
    snprintf(path, sizeof(path), "%s/ggml-vocab-%s.gguf.out", folder, vocabs[i].name);
    CHECK_OK(file_read(path, 1 << 20, &out, &why), why);
    CHECK_INT(check_pairs(t, vocabs[i].name, buf_cstr(&in), buf_cstr(&out)), vocabs[i].cases);
    check_speed(t, vocabs[i].name,
                "The hero's 12345 walks, \xc3\xa4gain \xe4\xb8\xad\xe6\x96\x87.\n");
    check_speed(t, vocabs[i].name, "z");
    check_speed(t, vocabs[i].name, "                               \n");
    buf_free(&in);
    buf_free(&out);
    tokenizer_destroy(&t);
}

int main(int argc, char **argv)
{
    (void)argc;
    for (size_t i = 0; i < ARRAY_LEN(vocabs); i++)
        test_vocab(argv[1], i);
    return check_report();
}
