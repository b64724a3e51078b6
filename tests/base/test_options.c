/* The option parser: every way to write one, every way to get it wrong. */
#include "base/options.h"

#include "base/size.h"
#include "tests/check.h"

struct opts {
    const char *model;
    int64_t max_tokens, cache_bytes, any, keep_s;
    double top_p, factor;
    bool quiet, verbose;
};

static const struct option table[] = {
    {"Input", 0, OPTION_SECTION},
    {"model", 'm', OPTION_STRING, offsetof(struct opts, model), .arg = "FILE",
     .help = "the model's file"},
    {"max-tokens", 'n', OPTION_INT, offsetof(struct opts, max_tokens), .min = 1, .max = 1e6,
     .arg = "N",
     .help = "most tokens of an answer, counted without the prompt, however long the context is "
             "and whatever the "
             "request says about it (default 2048)"},
    {"cache-bytes", 0, OPTION_INT, offsetof(struct opts, cache_bytes), .min = 0, .max = 1e12,
     .bytes = true, .arg = "BYTES", .help = "size"},
    {"keep", 0, OPTION_TIME, offsetof(struct opts, keep_s), .min = 0, .max = 100.0 * 86400,
     .arg = "TIME", .help = "how long"},
    {"any", 0, OPTION_INT, offsetof(struct opts, any), .help = "any number"},
    {"Sampling", 0, OPTION_SECTION},
    {"top-p", 0, OPTION_FLOAT, offsetof(struct opts, top_p), .min = 0, .max = 1, .arg = "P",
     .help = "share"},
    {"factor", 0, OPTION_FLOAT, offsetof(struct opts, factor), .help = "any"},
    {"quiet", 'q', OPTION_FLAG, offsetof(struct opts, quiet), .help = "less"},
    {"verbose", 'v', OPTION_FLAG, offsetof(struct opts, verbose), .help = "more"},
};

enum { MAX_ARGS = 12 };

/* `line` is split at blanks; "_" stands for an empty argument. */
struct parsed {
    struct opts o;
    char text[256];
    char *argv[MAX_ARGS];
    int argc, count;
    struct err_msg why;
};

static enum err parse(struct parsed *p, const char *line)
{
    *p = (struct parsed){.o = {.model = "default", .max_tokens = 2048, .quiet = false, .top_p = 1},
                         .count = -1};
    snprintf(p->text, sizeof p->text, "%s", line);
    for (char *word = strtok(p->text, " "); word != NULL && p->argc < MAX_ARGS;
         word = strtok(NULL, " "))
        p->argv[p->argc++] = strcmp(word, "_") == 0 ? word + 1 : word;
    return options_parse(table, ARRAY_LEN(table), &p->o, p->argc, p->argv, &p->count, &p->why);
}

static void test_forms(void)
{
    struct parsed p;
    CHECK_OK(parse(&p, ""), p.why);
    CHECK_INT(p.count, 0);
    CHECK_INT(p.o.max_tokens, 2048);
    CHECK_OK(parse(&p, "a --model x.gguf b --max-tokens=7 -q c"), p.why);
    CHECK_STR(p.o.model, "x.gguf");
    CHECK_INT(p.o.max_tokens, 7);
    CHECK(p.o.quiet && !p.o.verbose);
    CHECK_INT(p.count, 3);
    CHECK(strcmp(p.argv[0], "a") == 0 && strcmp(p.argv[1], "b") == 0 &&
          strcmp(p.argv[2], "c") == 0);
    CHECK_OK(parse(&p, "-m x -n9 -qv"), p.why);
    CHECK_STR(p.o.model, "x");
    CHECK_INT(p.o.max_tokens, 9);
    CHECK(p.o.quiet && p.o.verbose);
    CHECK_OK(parse(&p, "-qmfile"), p.why);
    CHECK(p.o.quiet);
    CHECK_STR(p.o.model, "file");
    CHECK_OK(parse(&p, "--quiet --no-quiet"), p.why);
    CHECK(!p.o.quiet);
    CHECK_OK(parse(&p, "--model= --any -5 - -- --model -q"), p.why);
    CHECK_STR(p.o.model, "");
    CHECK_INT(p.o.any, -5);
    CHECK_INT(p.count, 3);
    CHECK_STR(p.argv[0], "-");
    CHECK_STR(p.argv[1], "--model");
    CHECK_STR(p.argv[2], "-q");
    CHECK_OK(parse(&p, "--model --max-tokens"),
             p.why); /* what follows is the value, whatever it looks like */
    CHECK_STR(p.o.model, "--max-tokens");
    CHECK_ERR(parse(&p, "--help"), ERR_CANCELLED);
    CHECK_ERR(parse(&p, "-qh"), ERR_CANCELLED);
    CHECK_OK(parse(&p, "_"), p.why);
    CHECK_INT(p.count, 1);
}

static void test_numbers(void)
{
    struct parsed p;
    CHECK_OK(parse(&p, "--cache-bytes 3k"), p.why);
    CHECK_INT(p.o.cache_bytes, 3072);
    CHECK_OK(parse(&p, "--cache-bytes 2G"), p.why);
    CHECK_INT(p.o.cache_bytes, 2147483648);
    CHECK_OK(parse(&p, "--any=-9223372036854775808"), p.why);
    CHECK(p.o.any == INT64_MIN);
    CHECK_OK(parse(&p, "--top-p 1e-1 --factor -2.5"), p.why);
    CHECK(p.o.top_p == 0.1 && p.o.factor == -2.5);
    static const char *const bad[][2] = {
        {"--max-tokens 0", "--max-tokens: 0 is out of range; expected a number from 1 to 1000000"},
        {"--max-tokens 1000001", "out of range"},
        {"--max-tokens 99999999999999999999", "--max-tokens: 99999999999999999999 is out of range"},
        {"--any 9223372036854775808", "out of range; expected a number below 2^63"},
        {"--max-tokens ten",
         "--max-tokens: \"ten\" is not a whole number; expected one from 1 to 1000000"},
        {"--max-tokens 5k", "\"5k\" is not a whole number"},
        {"--max-tokens 1.5", "\"1.5\" is not a whole number"},
        {"--max-tokens _", "\"\" is not a whole number"},
        {"--max-tokens --5", "\"--5\" is not a whole number"},
        {"--cache-bytes 5T", "\"5T\" is not a whole number (with k, M or G behind it or not)"},
        {"--cache-bytes 9223372036854775807k", "out of range"},
        {"--cache-bytes 5kk", "\"5kk\" is not a whole number"},
        {"--top-p 1.01", "--top-p: 1.01 is out of range; expected a number from 0 to 1"},
        {"--top-p nan", "\"nan\" is not a number"},
        {"--factor inf", "\"inf\" is not a number"},
        {"--factor 1e999", "\"1e999\" is not a number"},
        {"--factor 0x10", "\"0x10\" is not a number"},
        {"--factor _", "\"\" is not a number"},
        {"--factor 1,5", "\"1,5\" is not a number"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        CHECK_ERR(parse(&p, bad[i][0]), ERR_USAGE);
        CHECK_HAS(p.why.text, bad[i][1]);
        CHECK_INT(p.count, -1); /* untouched */
    }
}

static void test_unknown(void)
{
    struct parsed p;
    static const char *const bad[][2] = {
        {"--modle x", "unknown option --modle; did you mean --model?"},
        {"--max_tokens 5", "unknown option --max_tokens; did you mean --max-tokens?"},
        {"--maxtoken=5", "unknown option --maxtoken; did you mean --max-tokens?"},
        {"--cache 5", "unknown option --cache; did you mean --cache-bytes?"},
        {"--frobnicate", "unknown option --frobnicate; see --help"},
        {"--Input", "unknown option --Input; see --help"}, /* a section is no option */
        {"--=5", "unknown option --; see --help"},
        {"-x", "unknown option -x; see --help"},
        {"-qx", "unknown option -x (in \"-qx\"); see --help"},
        {"--model", "--model: its value is missing; expected --model FILE"},
        {"-m", "--model: its value is missing"},
        {"--quiet=yes", "--quiet: takes no value, found \"yes\"; --quiet or --no-quiet"},
        {"--no-model", "unknown option --no-model"},
        {"--no-quiet=1", "unknown option --no-quiet"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        CHECK_ERR(parse(&p, bad[i][0]), ERR_USAGE);
        CHECK_HAS(p.why.text, bad[i][1]);
    }
    char longer[4000] = "--";
    memset(longer + 2, 'a', sizeof longer - 3);
    char *argv[] = {longer};
    int count = 0;
    CHECK_ERR(options_parse(table, ARRAY_LEN(table), &p.o, 1, argv, &count, &p.why), ERR_USAGE);
    CHECK_HAS(p.why.text, "unknown option --aaa");
    CHECK_HAS(p.why.text, "see --help");
}

static void test_help(void)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        abort();
    options_print(table, ARRAY_LEN(table), out);
    fclose(out);
    CHECK_HAS(text, "Input:\n  -m, --model FILE");
    CHECK_HAS(text, "\n\nSampling:\n");
    CHECK_HAS(text, "  -q, --quiet                 less\n");
    CHECK_HAS(text, "(default 2048)\n");
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        CHECK(strlen(line) <= 100);
        CHECK(line[strlen(line) - 1] != ' ');
    }
    free(text);
}

static void test_times(void)
{
    static const struct {
        const char *line;
        int64_t s;
    } good[] = {{"--keep 0", 0},       {"--keep 90s", 90},      {"--keep=15m", 900},
                {"--keep 12h", 43200}, {"--keep 30d", 2592000}, {"--keep 0d", 0}};
    static const char *const bad[] = {"--keep 30",  "--keep d",    "--keep 1w",
                                      "--keep -1d", "--keep +1d",  "--keep _",
                                      "--keep 1dd", "--keep 1.5d", "--keep 0x1d"};
    static const char *const large[] = {"--keep 101d", "--keep 99999999999999999999d",
                                        "--keep 9223372036854775807d"};
    struct parsed p;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        CHECK_OK(parse(&p, good[i].line), p.why);
        CHECK_INT(p.o.keep_s, good[i].s);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        CHECK_ERR(parse(&p, bad[i]), ERR_USAGE);
        CHECK_HAS(p.why.text, "is no time; expected a number with s, m, h or d behind it");
    }
    for (size_t i = 0; i < ARRAY_LEN(large); i++) {
        CHECK_ERR(parse(&p, large[i]), ERR_USAGE);
        CHECK_HAS(p.why.text, "is out of range; expected at most 100 days");
    }
}

int main(void)
{
    test_times();
    test_forms();
    test_numbers();
    test_unknown();
    test_help();
    return check_report();
}
