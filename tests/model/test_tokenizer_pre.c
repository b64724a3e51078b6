/* Pre-tokenizers: words worked out by hand from the definitions, for texts where they differ; that
 * the words make up the text, whatever it is; time linear in its length. */
#include <time.h>

#include "base/size.h"
#include "model/tokenizer_kit.h"
#include "model/tokenizer_pre.h"

/* Words, with a bar between them; without the bars they are the text. */
static const struct {
    const char *name, *words;
} cases[] = {
    /* Contractions, spaces, digits, blank lines. */
    {"gpt-2", "Hello| world|'s| | 12345| tests|!|\n\n | x"},
    {"mpt", "Hello| world|'s| | 12345| tests|!|\n\n | x"},
    {"olmo", "Hello| world|'s| | 12345| tests|!|\n\n | x"},
    {"llama-bpe", "Hello| world|'s| | |123|45| tests|!\n\n| | x"},
    {"llama3", "Hello| world|'s| | |123|45| tests|!\n\n| | x"},
    {"llama-v3", "Hello| world|'s| | |123|45| tests|!\n\n| | x"},
    {"qwen2", "Hello| world|'s| | |1|2|3|4|5| tests|!\n\n| | x"},
    {"deepseek-r1-qwen", "Hello| world|'s| | |1|2|3|4|5| tests|!\n\n| | x"},
    {"qwen35", "Hello| world|'s| | |1|2|3|4|5| tests|!\n\n| | x"},
    {"smollm", "Hello| world|'s|  |1|2|3|4|5| tests|!|\n\n | x"},
    {"starcoder", "Hello| world|'s|  |1|2|3|4|5| tests|!|\n\n | x"},
    {"refact", "Hello| world|'s|  |1|2|3|4|5| tests|!|\n\n | x"},
    {"command-r", "Hello| world|'s|  |1|2|3|4|5| tests|!|\n\n | x"},
    {"deepseek-llm", "Hello| world|'|s|  |1|2|3|4|5| tests|!|\n|\n| | x"},
    {"deepseek-coder", "Hello| world|'|s|  |1|2|3|4|5| tests|!|\n|\n| | x"},
    {"deepseek-v3", "Hello| world|'s|  |123|45| tests|!\n\n| | x"},
    {"falcon", "Hello| world|'|s| | |123|45| tests|!|\n\n | x"},
    {"default", "Hello| world|'|s| | |123|45| tests|!|\n\n | x"},
    {"tekken", "Hello| world|'s| | |1|2|3|4|5| tests|!\n\n| | x"},
    {"gpt-4o", "Hello| world's| | |123|45| tests|!\n\n| | x"},
    /* Capitals inside words; U+01C5 is a titlecase letter. */
    {"gpt-4o", "Hello|World| i|Phone| XMLHttp| don't| WE'RE| \xc7\x85ungla"},
    {"tekken", "Hello|World| i|Phone| XMLHttp| don|'t| WE|'RE| \xc7\x85ungla"},
    {"qwen2", "HelloWorld| iPhone| XMLHttp| don|'t| WE|'RE| \xc7\x85ungla"},
    {"llama-bpe", "HelloWorld| iPhone| XMLHttp| don|'t| WE|'RE| \xc7\x85ungla"},
    {"gpt-2", "HelloWorld| iPhone| XMLHttp| don|'t| WE|'|RE| \xc7\x85ungla"},
    {"deepseek-v3", "HelloWorld| iPhone| XMLHttp| don|'t| WE|'RE| \xc7\x85ungla"},
    /* Superscripts, fractions, Arabic-Indic digits are digits, but not ASCII ones. */
    {"gpt-2", "x|²½| 1234567| ٣٤٥٦"},
    {"llama-bpe", "x|²½| |123|456|7| |٣٤٥|٦"},
    {"gpt-4o", "x|²½| |123|456|7| |٣٤٥|٦"},
    {"deepseek-v3", "x|²½| |123|456|7| |٣٤٥|٦"},
    {"qwen2", "x|²|½| |1|2|3|4|5|6|7| |٣|٤|٥|٦"},
    {"tekken", "x|²|½| |1|2|3|4|5|6|7| |٣|٤|٥|٦"},
    {"smollm", "x|²|½| |1|2|3|4|5|6|7| |٣|٤|٥|٦"},
    {"deepseek-llm", "x|²|½| |1|2|3|4|5|6|7| |٣|٤|٥|٦"},
    {"deepseek-coder", "x|²|½| |1|2|3|4|5|6|7| |٣|٤|٥|٦"},
    {"falcon", "x|²½| |123|456|7| ٣٤٥٦"},
    {"default", "x|²½| |123|456|7| |٣٤٥٦"},
    {"falcon", "in| 12"},
    {"default", "in| |12"},
    /* Ideographs, kana, hangul, full-width marks. */
    {"gpt-2", "你好|，|世界|！| これはテスト|。|안녕"},
    {"falcon", "你好|，|世界|！| これはテスト|。|안녕"},
    {"qwen2", "你好|，世界|！| これはテスト|。안녕"},
    {"llama-bpe", "你好|，世界|！| これはテスト|。안녕"},
    {"tekken", "你好|，世界|！| これはテスト|。안녕"},
    {"gpt-4o", "你好|，世界|！| これはテスト|。안녕"},
    {"deepseek-llm", "你好|，|世界|！| |これはテスト|。|안녕"},
    {"deepseek-coder", "你好|，|世界|！| |これはテスト|。|안녕"},
    {"deepseek-v3", "你好|，|世界|！| |これはテスト|。|안녕"},
    /* Carriage returns, tabs, slashes at line ends. */
    {"gpt-2", "a|\r\n\r|\n|b| \n| c|\t|\t|d|//|\n|/"},
    {"smollm", "a|\r\n\r|\n|b| \n| c|\t|\t|d|//|\n|/"},
    {"qwen2", "a|\r\n\r\n|b| \n| c|\t|\td|//\n|/"},
    {"llama-bpe", "a|\r\n\r\n|b| \n| c|\t|\td|//\n|/"},
    {"deepseek-v3", "a|\r\n\r\n|b| \n| c|\t|\td|//\n|/"},
    {"gpt-4o", "a|\r\n\r\n|b| \n| c|\t|\td|//\n/"},
    {"tekken", "a|\r\n\r\n|b| \n| c|\t|\td|//\n/"},
    {"deepseek-coder", "a|\r|\n|\r|\n|b| |\n| c|\t|\td|//|\n|/"},
    /* Marks that belong to the letter before them: U+0301, and Devanagari's. */
    {"qwen2", "e|\xcc\x81"
              "a| नमस|्त|े"},
    {"qwen35", "e\xcc\x81"
               "a| नमस्ते"},
    {"tekken", "e\xcc\x81"
               "a| नमस्ते"},
    {"gpt-4o", "e\xcc\x81"
               "a| नमस्ते"},
    {"deepseek-v3", "e\xcc\x81"
                    "a| नमस्ते"},
    {"gpt-2", "e|\xcc\x81|a| नमस|्|त|े"},
    {"deepseek-coder", "e|\xcc\x81|a| |नमस|्|त|े"},
    /* Marks and symbols. */
    {"gpt-2", "if| (|x|==\"|y|\")| {};| $|5| `|z|`| —|ok"},
    {"falcon", "if| |(|x|==\"|y|\")| |{};| |$|5| |`|z|`| |—|ok"},
    {"default", "if| |(|x|==\"|y|\")| |{};| |$|5| `|z|`| |—|ok"},
    {"deepseek-coder", "if| (|x|==|\"|y|\")| {};| $|5| `|z|`| |—|ok"},
    {"deepseek-v3", "if| (|x|==\"|y|\")| {};| $|5| `|z|`| —|ok"},
    {"qwen2", "if| (|x|==\"|y|\")| {};| $|5| `|z|`| —|ok"},
    /* White space at the end. */
    {"gpt-2", "☃|  "},
    {"deepseek-llm", "☃|  "},
    {"deepseek-llm", "¬  ¬|  |\n| | a| "},
    {"deepseek-coder", "¬  ¬  |\n| | a| "},
    {"deepseek-v3", "¬|  "},
    {"qwen2", "☃|  "},
    {"qwen2", "\xc2\xa0|\xe3\x80\x80x|\xe1\xa0\x8e"},
    {"gpt-2", "\xc2\xa0|\xe3\x80\x80|x|\xe1\xa0\x8e"},
};

static struct pre_scan *scan_of(const char *name, struct pretokenizer **ret)
{
    struct err_msg why;
    struct pre_scan *s = NULL;
    CHECK_OK(pretokenizer_create(str_of(name), ret, &why), why);
    if (*ret == NULL || pre_scan_create(*ret, &s) != ERR_OK)
        exit(1);
    return s;
}

/* The words of text, with bars. */
static void cut(struct pre_scan *s, struct str text, struct buf *ret)
{
    struct str word = {0};
    buf_clear(ret);
    pre_scan_begin(s, text);
    for (bool first = true;; first = false) {
        if (!CHECK(pre_scan_next(s, &word) == ERR_OK) || word.len == 0)
            break;
        if (!first)
            build_bytes(ret, "|", 1);
        build_bytes(ret, word.data, word.len);
    }
    CHECK(pre_scan_next(s, &word) == ERR_OK && word.len == 0); /* and stays at the end */
}

static void test_cases(void)
{
    struct buf text = {0}, got = {0};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct pretokenizer *p = NULL;
        struct pre_scan *s = scan_of(cases[i].name, &p);
        buf_clear(&text);
        for (const char *c = cases[i].words; *c != '\0'; c++)
            if (*c != '|')
                build_bytes(&text, c, 1);
        cut(s, (struct str){text.data, text.len}, &got);
        if (!CHECK(str_eq((struct str){got.data, got.len}, str_of(cases[i].words))))
            fprintf(stderr, "    %s: got  %.*s\n    want %s\n", cases[i].name, (int)got.len,
                    got.data, cases[i].words);
        pre_scan_destroy(&s);
        pretokenizer_destroy(&p);
    }
    buf_free(&text);
    buf_free(&got);
}

/* The first of a definition's names. */
static const char *name_of(const struct pre_definition *d, char out[64])
{
    snprintf(out, 64, "%.*s", (int)strcspn(d->names, " "), d->names);
    return out;
}

static void test_random(void)
{
    static const char *const parts[] = {
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "a",
        "Zz",
        "'s",
        "'",
        "77",
        "1",
        "\xc2\xb2",
        "\xc3\xa4",
        ".",
        "$",
        "\xef\xbc\x8c",
        "/",
        "`",
        "!?",
        "\xe4\xb8\xad",
        "\xe3\x81\x82",
        "\xcc\x88",
        "\x01",
        "\xf0\x9f\x98\x80",
        "\xc2\x85",
    };
    struct check_rng rng = check_rng_start(21);
    struct buf text = {0};
    char name[64];
    const struct pre_definition *d;
    for (size_t k = 0; (d = pre_at(k)) != NULL; k++) {
        struct pretokenizer *p = NULL;
        struct pre_scan *s = scan_of(name_of(d, name), &p);
        for (int round = 0; round < 300; round++) {
            struct str word = {0};
            size_t at = 0;
            buf_clear(&text);
            for (uint64_t n = check_rng_below(&rng, 40); n > 0; n--) {
                const char *part = parts[check_rng_below(&rng, ARRAY_LEN(parts))];
                build_bytes(&text, part, strlen(part));
            }
            if (round % 10 == 0)
                build_bytes(&text, "", 1);
            pre_scan_begin(s, (struct str){text.data, text.len});
            do {
                if (!CHECK(pre_scan_next(s, &word) == ERR_OK))
                    break;
                CHECK(word.data == text.data + at || word.len == 0);
                at += word.len;
            } while (word.len > 0);
            CHECK(at == text.len);
        }
        pre_scan_destroy(&s);
        pretokenizer_destroy(&p);
    }
    CHECK(pre_find(STR_LIT("gpt-9")) == NULL && pre_find(STR_LIT("")) == NULL &&
          pre_find(STR_LIT("gpt-2 phi-2")) == NULL && pre_find(STR_LIT("gpt")) == NULL);
    CHECK(pre_find(STR_LIT("phi-2")) == pre_find(STR_LIT("gpt-2")));
    buf_free(&text);
}

/* 256 KiB take a fraction of a second; quadratic time would take minutes. */
static void test_linear(void)
{
    static const char *const units[] = {
        " ",
        "\n",
        " \n",
        "a",
        "A",
        "7",
        "!",
        "/\n",
        "aA",
        "\xcc\x81",
        "\xe4\xb8\xad",
        "\x01",
        "'",
        "\xc2\xa0",
        "A\xcc\x81",
        "                                               x",
    };
    struct buf text = {0};
    char name[64];
    const struct pre_definition *d;
    for (size_t k = 0; (d = pre_at(k)) != NULL; k++) {
        struct pretokenizer *p = NULL;
        struct pre_scan *s = scan_of(name_of(d, name), &p);
        double worst = 0;
        for (size_t i = 0; i < ARRAY_LEN(units); i++) {
            struct timespec a, b;
            struct str word = {0};
            size_t all = 0;
            buf_clear(&text);
            while (text.len < 256 << 10)
                build_bytes(&text, units[i], strlen(units[i]));
            build_bytes(&text, "x", i % 2);
            clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
            pre_scan_begin(s, (struct str){text.data, text.len});
            while (pre_scan_next(s, &word) == ERR_OK && word.len > 0)
                all += word.len;
            clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
            double seconds = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9;
            CHECK(all == text.len);
            CHECK(seconds < (SANITIZED ? 10 : 1));
            worst = seconds > worst ? seconds : worst;
        }
        printf("%-16s %.3f s\n", name, worst);
        pre_scan_destroy(&s);
        pretokenizer_destroy(&p);
    }
    buf_free(&text);
}

int main(void)
{
    test_cases();
    test_random();
    test_linear();
    return check_report();
}
