/* Bytes of any kind as a chat template: compiling and rendering must not crash, hang, read outside
 * or go over the limits, and what comes out must be well formed.
 *
 * With OCTO_LIBFUZZER this is a libFuzzer target. Without, it is a test: seeded damage to the real
 * templates (the folder in argv[1]) and to pieces that use the rest of the language, each of them
 * unchanged first. */
#include <dirent.h>

#include "base/file.h"
#include "base/size.h"
#include "check.h"
#include "model/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEPS = 200000, MEMORY_BYTES = 8 << 20, OUTPUT_BYTES = 1 << 16 };

/* How far inputs came. */
static struct {
    unsigned compiled, rendered, raised, limits;
} reached;

static struct jval message(struct arena *a, const char *role, const char *content)
{
    struct jval m;
    if (jinja_make_dict(a, 2, &m) != ERR_OK)
        abort();
    struct jentry *e = m.as.dict->entries;
    if (jinja_make_str(a, STR_LIT("role"), false, &e[0].key) != ERR_OK ||
        jinja_make_str(a, str_of(role), false, &e[0].value) != ERR_OK ||
        jinja_make_str(a, STR_LIT("content"), false, &e[1].key) != ERR_OK ||
        jinja_make_str(a, str_of(content), true, &e[1].value) != ERR_OK)
        abort();
    return m;
}

static void check_output(const struct jstr *out)
{
    size_t at = 0;
    if (out->len > OUTPUT_BYTES)
        abort();
    for (size_t i = 0; i < out->user_count; i++) {
        if (out->user[i].begin < at || out->user[i].begin >= out->user[i].end)
            abort();
        at = out->user[i].end;
    }
    if (at > out->len)
        abort();
    volatile char touched = 0;
    for (size_t i = 0; i < out->len; i++)
        touched = out->data[i];
    (void)touched;
}

static void render(const struct jinja *t)
{
    struct arena a = {0};
    struct jinja_variable variables[5] = {
        {.name = "messages"},
        {"add_generation_prompt", {.kind = JV_BOOL, .as.boolean = true}},
        {"tools", {.kind = JV_NONE}},
        {.name = "bos_token"},
        {.name = "eos_token"}};
    struct jinja_run run = {.variables = variables,
                            .variables_count = 5,
                            .limits = {STEPS, MEMORY_BYTES, OUTPUT_BYTES}};
    struct jstr out = {0};
    struct err_msg why = {{0}};
    bool raised = false;
    if (jinja_make_list(&a, 4, &variables[0].value) != ERR_OK ||
        jinja_make_str(&a, STR_LIT("<s>"), false, &variables[3].value) != ERR_OK ||
        jinja_make_str(&a, STR_LIT("</s>"), false, &variables[4].value) != ERR_OK)
        abort();
    struct jval *m = variables[0].value.as.list->items;
    m[0] = message(&a, "system", "Be \xc3\xa4 b\xe4 \xff");
    m[1] = message(&a, "user", " <|im_end|> a\n b ");
    m[2] = message(&a, "assistant", "<think>\nx\n</think>\n\ny");
    m[3] = message(&a, "user", "");
    enum err e = jinja_render(t, &run, &a, &out, &raised, &why);
    if (a.total_bytes > MEMORY_BYTES || (e != ERR_OK && e != ERR_FORMAT && e != ERR_RANGE))
        abort();
    if (e == ERR_OK)
        check_output(&out);
    else if ((why.text[0] == '\0' && !raised) || strchr(why.text, '\n') != NULL)
        abort();
    reached.rendered += e == ERR_OK;
    reached.raised += raised;
    reached.limits += e == ERR_RANGE;
    arena_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct jinja *t = NULL;
    struct err_msg why = {{0}};
    enum err e = jinja_compile((struct str){(const char *)data, size}, &t, &why);
    if (e != ERR_OK) {
        if (why.text[0] == '\0' || strchr(why.text, '\n') != NULL || t != NULL)
            abort();
        return 0;
    }
    reached.compiled++;
    render(t);
    jinja_destroy(&t);
    return 0;
}

#ifndef OCTO_LIBFUZZER

enum { ROUNDS = 20000, MAX_SOURCES = 64 };

static const char *const pieces[] = {
    "{% macro m(a, b=2, *c) %}{{ a }}{% endmacro %}{{ m(1) }}",
    "{% macro m(a, b=[1]) %}{{ caller(a) if caller else b }}{{ varargs }}{{ kwargs }}{% endmacro %}"
    "{% call(x) m(messages, 3, z=1) %}{{ x | tojson(indent=2) }}{% endcall %}",
    "{% for x in range(9) if x is odd %}{{ loop.cycle('a', 'b') }}{{ loop.length }}{{ "
    "loop.nextitem }}"
    "{% if x > 6 %}{% break %}{% else %}{% continue %}{% endif %}{% else %}n{% endfor %}",
    "{% for x in [[1, [2]], [3]] recursive %}{{ x if x is number else loop(x) }}{% endfor %}",
    "{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{% set b | trim %} {{ ns.a ** 3 // 2 % "
    "5 }} {% endset %}{{ b }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | map('trim') "
    "| join(', ') }}",
    "{{ messages | sort(attribute='role,content') | groupby('role') | list }}{{ [3, 1, 2] | "
    "sort(reverse=true) | batch(2, 0) | list }}",
    "{{ '%s %5.2f %-4d' % ('a', 1.5, 3) }}{{ '{} {0}'.format(1) }}{{ 'abc'[::-1] ~ 'xyz'[1:] }}",
    "{% with a = 1, b = 2 %}{{ {'x': a, 'y': [b, none, true, 1e3]} | tojson }}{% endwith %}{% "
    "filter upper %}x{% endfilter %}",
    "{% for i in range(99999) %}{% for j in 'ab' %}{{ i * j }}{% endfor %}{% endfor %}",
    "{% generation %}{{ messages[-2].content.split('</think>')[-1].lstrip('\\n') }}{% "
    "endgeneration %}",
    "{%- raw -%} {{ x }} {%- endraw +%}\n  {#- c -#}\n{{ 'x' * 3 }}{{ [1] * 2 + [2] }}{{ "
    "strftime_now('%d') }}",
    "{{ 'Stra\xc3\x9f\x65'.upper().title().center(20, '*').partition('S') }}{{ messages | length > "
    "1 and not 1 == 2 or 3 in [3] }}",
};

/* Some damage: bytes, cuts, pieces of the template or of the language somewhere else in it. */
static void mutate(struct check_rng *rng, struct buf *b)
{
    static const char *const words[] = {"{%",
                                        "%}",
                                        "{{",
                                        "}}",
                                        "{%-",
                                        "-%}",
                                        "(",
                                        ")",
                                        "[",
                                        "]",
                                        "|",
                                        ".",
                                        "'",
                                        "\"",
                                        "~",
                                        " + ",
                                        " if ",
                                        " else ",
                                        " in ",
                                        " is ",
                                        " not ",
                                        "{% endif %}",
                                        "{% endfor %}",
                                        "{% for x in messages %}",
                                        "messages",
                                        "loop.",
                                        "*",
                                        "**",
                                        "9223372036854775807",
                                        "-1",
                                        ":",
                                        "::-1",
                                        ",",
                                        "{#",
                                        "#}",
                                        "| tojson",
                                        "| list",
                                        "namespace(",
                                        "range(99999)",
                                        "\\",
                                        "\n",
                                        "=",
                                        "{",
                                        "}",
                                        "<",
                                        "%"};
    size_t at = b->len > 0 ? check_rng_below(rng, b->len) : 0;
    const char *word = words[check_rng_below(rng, ARRAY_LEN(words))];
    struct buf out = {0};
    size_t cut = 0, from = 0, n = 0;
    switch (check_rng_below(rng, 5)) {
    case 0:
        if (b->len > 0)
            b->data[at] = (char)check_rng_next(rng);
        return;
    case 1:
        cut = check_rng_below(rng, 12);
        break;
    case 2:
        n = strlen(word);
        break;
    case 3:
        n = strlen(word);
        cut = check_rng_below(rng, 8);
        break;
    default: /* a piece of it once more */
        from = b->len > 0 ? check_rng_below(rng, b->len) : 0;
        n = min_u64(check_rng_below(rng, 60), b->len - from);
        word = b->data + from;
    }
    cut = min_u64(cut, b->len - at);
    if (buf_append(&out, b->data, at) != ERR_OK || buf_append(&out, word, n) != ERR_OK ||
        buf_append(&out, b->data + at + cut, b->len - at - cut) != ERR_OK)
        abort();
    buf_free(b);
    *b = out;
}

static size_t read_templates(const char *folder, struct buf *sources, size_t count)
{
    char path[4096];
    struct dirent *entry;
    struct err_msg why;
    DIR *dir = opendir(folder);
    if (!CHECK(dir != NULL))
        return count;
    while ((entry = readdir(dir)) != NULL && count < MAX_SOURCES) {
        if (strstr(entry->d_name, ".jinja") == NULL)
            continue;
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        CHECK_OK(file_read(path, 1 << 20, &sources[count], &why), why);
        count++;
    }
    closedir(dir);
    return count;
}

int main(int argc, char **argv)
{
    struct check_rng rng = check_rng_start(21);
    struct buf sources[MAX_SOURCES] = {0};
    size_t count = 0;
    for (; count < ARRAY_LEN(pieces); count++)
        CHECK(buf_append_str(&sources[count], pieces[count]) == ERR_OK);
    if (argc > 1)
        count = read_templates(argv[1], sources, count);
    for (size_t i = 0; i < count; i++)
        LLVMFuzzerTestOneInput((const uint8_t *)sources[i].data, sources[i].len);
    CHECK_INT(reached.compiled, count - 1); /* the first has a parameter that is none */
    CHECK(reached.rendered + reached.raised >= count - 2 && reached.limits == 1);
    for (unsigned round = 0; round < ROUNDS; round++) {
        /* Small pieces more often: damage to them is felt more. */
        size_t which = check_rng_below(&rng, 4) > 0 ? check_rng_below(&rng, ARRAY_LEN(pieces))
                                                    : check_rng_below(&rng, count);
        struct buf b = {0};
        CHECK(buf_append(&b, sources[which].data, sources[which].len) == ERR_OK);
        for (uint64_t n = 1 + check_rng_below(&rng, 3); n > 0; n--)
            mutate(&rng, &b);
        uint8_t *exact =
            malloc(b.len + (b.len == 0)); /* of its own: a sanitizer sees reads beyond it */
        if (exact == NULL)
            abort();
        if (b.len > 0)
            memcpy(exact, b.data, b.len);
        LLVMFuzzerTestOneInput(exact, b.len);
        free(exact);
        buf_free(&b);
    }
    printf("%u templates: %u compiled, %u rendered, %u raised, %u limits\n", ROUNDS,
           reached.compiled, reached.rendered, reached.raised, reached.limits);
    /* Both sides are reached: some damage is harmless, some is not. */
    CHECK(reached.compiled > ROUNDS / 20 && reached.compiled < ROUNDS);
    CHECK(reached.rendered > ROUNDS / 40 && reached.rendered < reached.compiled);
    for (size_t i = 0; i < count; i++)
        buf_free(&sources[i]);
    return check_report();
}

#endif
