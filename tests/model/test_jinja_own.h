/* What only our interpreter has: marks on a user's text, limits, messages. For test_jinja.c. */
#ifndef OCTO_TESTS_TEST_JINJA_OWN_H
#define OCTO_TESTS_TEST_JINJA_OWN_H

#include <time.h>

#include "base/size.h"
#include "check.h"
#include "model/jinja.h"

static const struct jinja_limits usual = {10000000, 64 << 20, 1 << 20};

/* Renders with u (a user's text) and t (not). */
static enum err render(const char *source, struct jinja_limits limits, struct arena *a,
                       struct jstr *ret, struct err_msg *why)
{
    struct jinja_variable variables[2] = {{.name = "u"}, {.name = "t"}};
    struct jinja_run run = {.variables = variables, .variables_count = 2, .limits = limits};
    struct jinja *t = NULL;
    if (jinja_make_str(a, STR_LIT("user <b> text"), true, &variables[0].value) != ERR_OK ||
        jinja_make_str(a, STR_LIT("TEMPLATE"), false, &variables[1].value) != ERR_OK)
        return ERR_NOMEM;
    enum err e = jinja_compile(str_of(source), &t, why);
    if (e == ERR_OK)
        e = jinja_render(t, &run, a, ret, NULL, why);
    jinja_destroy(&t);
    return e;
}

/* The output with a user's parts in brackets. */
static void test_marks(void)
{
    static const struct {
        const char *source, *want;
    } cases[] = {
        {"a{{ u }}b", "a[user <b> text]b"},
        {"{{ 'x' + u + t }}{{ u ~ u }}", "x[user <b> text]TEMPLATE[user <b> textuser <b> text]"},
        {"{{ ('(' + u + ')')[0:5] }}", "([user]"},
        {"{{ ('(' + u + ')')[::-1] }}", ")[txet >b< resu]("},
        {"{{ (' ' + u + ' ') | trim }}", "[user <b> text]"},
        {"{{ u.split('<b>')[0] ~ '|' ~ u.split()[2] }}", "[user ]|[text]"},
        {"{{ u | replace('<b>', '<c>') }}", "[user ]<c>[ text]"},
        {"{{ 'a-b' | replace('-', u) }}", "a[user <b> text]b"},
        {"{{ [t, u] | join('+') }}", "TEMPLATE+[user <b> text]"},
        {"{{ u.join(['1', '2']) }}", "1[user <b> text]2"},
        {"{{ ('x' ~ u) | upper }}", "[XUSER <B> TEXT]"},
        {"{{ t | lower }}{{ t | tojson }}", "template\"TEMPLATE\""},
        {"{{ {'k': [u]} | tojson }}", "[{\"k\": [\"user <b> text\"]}]"},
        {"{{ [t, u] }}", "[['TEMPLATE', 'user <b> text']]"},
        {"{% set x %}<{{ u }}>{% endset %}{{ x | indent(2, true) }}", "  <[user <b> text]>"},
        {"{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(u) | trim }}", "<[user <b> text]>"},
        {"{% for c in u %}{{ c ~ '.' if loop.first }}{% endfor %}", "[u]."},
        {"{{ '%s!' % u }}{{ '{}?'.format(u) }}", "[user <b> text]![user <b> text]?"},
        {"{{ u.center(15, '*') }}{{ u.partition('<')[0] }}", "*[user <b> text]*[user ]"},
        {"{{ 'system' if 'b' in u else 'x' }}{{ u | length }}", "system13"},
        {"{{ ('<' | safe) + u }}", "<[user &lt;b&gt; text]"},
        {"{% for k, v in {u: t}.items() %}{{ k }}{{ v }}{% endfor %}", "[user <b> text]TEMPLATE"},
        {"{{ [u] | map('trim') | first }}{{ [u, u] | unique | join }}",
         "[user <b> textuser <b> text]"},
        {"{{ u * 2 }}{{ (u | list)[0] }}{{ u.splitlines()[0][-1] }}",
         "[user <b> textuser <b> textut]"},
        {"{{ strftime_now(u) }}{{ u.title() }}", "[user <b> textUser <B> Text]"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct arena a = {0};
        struct jstr out = {0};
        struct buf text = {0};
        struct err_msg why = {{0}};
        size_t at = 0;
        CHECK_OK(render(cases[i].source, usual, &a, &out, &why), why);
        for (size_t k = 0; k < out.user_count; k++) {
            struct jspan u = out.user[k];
            CHECK(u.begin >= at && u.begin < u.end && u.end <= out.len && (k == 0 || u.begin > at));
            CHECK(buf_printf(&text, "%.*s[%.*s]", (int)(u.begin - at), out.data + at,
                             (int)(u.end - u.begin), out.data + u.begin) == ERR_OK);
            at = u.end;
        }
        CHECK(buf_append(&text, out.data + at, out.len - at) == ERR_OK);
        CHECK_STR(buf_cstr(&text), cases[i].want);
        buf_free(&text);
        arena_free(&a);
    }
}

/* `times` copies of a piece between two others. */
static char *repeated(const char *before, const char *piece, size_t times, const char *after)
{
    struct buf b = {0};
    CHECK(buf_append_str(&b, before) == ERR_OK);
    for (size_t i = 0; i < times; i++)
        CHECK(buf_append_str(&b, piece) == ERR_OK);
    CHECK(buf_append_str(&b, after) == ERR_OK && buf_append_char(&b, '\0') == ERR_OK);
    return b.data;
}

static void expect_limit(const char *source, const char *message)
{
    struct arena a = {0};
    struct jstr out = {0};
    struct err_msg why = {{0}};
    enum err e = render(source, usual, &a, &out, &why);
    if (!CHECK(e == ERR_RANGE && strstr(why.text, message) != NULL))
        fprintf(stderr, "    %.60s: %s: %s\n", source, err_name(e), why.text);
    CHECK(a.total_bytes <= usual.memory_bytes);
    arena_free(&a);
}

static void test_limits(void)
{
    static const struct {
        const char *source, *message;
    } cases[] = {
        {"\n{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
         "line 2: the template "},
        {"{{ range(100001) }}", "line 1: a range is longer"},
        {"{{ 'x' * 1000000000 }}", "too much memory"},
        {"{{ 1000000000 * [1] }}", "too much memory"},
        {"{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% "
         "endfor %}",
         "too much memory"},
        {"{% set ns = namespace(s=[1]) %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% "
         "endfor %}",
         "too much memory"},
        {"{% for i in range(100000) %}{{ '0123456789012345' }}{% endfor %}", "output is too long"},
        {"{% macro m() %}{{ m() }}{% endmacro %}\n{{ m() }}", "goes too deep"},
        {"{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor "
         "%}{{ ns.l }}",
         "goes too deep"},
        {"{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor "
         "%}{{ ns.l | tojson }}",
         "goes too deep"},
        {"{% set ns = namespace(l=[], m=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% "
         "set ns.m = [ns.m] %}{% endfor %}{{ ns.l == ns.m }}",
         "goes too deep"},
        {"{{ 'a'.center(1000000000) }}", "memory"},
        {"{{ '%1000000000s' % 'a' }}", "too wide"},
        {"{{ 9223372036854775807 + 1 }}", "63 bits"},
        {"{{ 10 ** 100 }}", "63 bits"},
        {"{% for x in [[]] recursive %}{{ loop([x]) }}{% endfor %}", "goes too deep"},
        {"{% set s = 'a' * 100000 %}{% for i in range(100000) %}{% if 'b' in s %}{% endif %}{% "
         "endfor %}",
         "steps"},
        {"{% set s = 'a' * 100000 %}{% for i in range(100000) %}{% set x = s.strip('b') ~ "
         "s.count('a') %}{% endfor %}",
         ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        expect_limit(cases[i].source, cases[i].message);
    static const struct {
        const char *before, *piece, *after;
        size_t times;
    } deep[] = {{"{{ ", "(", "", 5000},         {"{{ ", "[", "", 5000},
                {"{{ ", "not ", "1 }}", 5000},  {"{{ 1", " + 1", " }}", 5000},
                {"", "{% if 1 %}", "", 5000},   {"", "{% for x in [1] %}", "", 5000},
                {"{{ x", ".a", " }}", 5000},    {"{{ ", "- ", "1 }}", 5000},
                {"{{ 1", "|abs", " }}", 5000},  {"{{ 1", " if 1", " }}", 5000},
                {"{{ ", "{1:", "", 5000},       {"{% if 1 %}", "{% elif 1 %}", "{% endif %}", 5000},
                {"{{ x", "(", "", 5000},        {"{{ x", "[1]", " }}", 5000},
                {"{{ 1", " and 1", " }}", 5000}};
    for (size_t i = 0; i < ARRAY_LEN(deep); i++) {
        char *source = repeated(deep[i].before, deep[i].piece, deep[i].times, deep[i].after);
        expect_limit(source, "");
        free(source);
    }
    char *big = repeated("", "0123456789", 60000, "");
    expect_limit(big, "600000 bytes, at most 524288");
    free(big);
    /* What is long but flat is fine. */
    const struct jinja_limits much = {10000000, 64 << 20, 1 << 20};
    char *flat = repeated("{% if 0 %}", "{% elif 0 %}", 200, "{% endif %}{{ 'a'");
    char *longer = repeated(flat, " ~ 1", 20000, " }}");
    struct arena a = {0};
    struct jstr out = {0};
    struct err_msg why = {{0}};
    CHECK_OK(render(longer, much, &a, &out, &why), why);
    CHECK_INT(out.len, 20001);
    arena_free(&a);
    free(flat);
    free(longer);
}

static void test_messages(void)
{
    static const struct {
        const char *source, *message;
        enum err e;
    } cases[] = {
        {"a\n{{ x.y }}", "chat template, line 2: 'x' is undefined", ERR_FORMAT},
        {"\n\n{{ u.nosuch() }}", "line 3: 'nosuch' is undefined", ERR_FORMAT},
        {"{{ u + 1 }}", "line 1: a string and an integer have no '+'", ERR_FORMAT},
        {"\n{% if u %}", "line 2: the template ends inside a block: endif is missing", ERR_FORMAT},
        {"{% nosuch %}", "line 1: unknown statement 'nosuch'", ERR_FORMAT},
        {"{% include 'x' %}", "line 1: include, import", ERR_UNSUPPORTED},
        {"{% import 'x' as y %}", "line 1: include, import", ERR_UNSUPPORTED},
        {"{{ u | urlize }}", "line 1: no filter is named 'urlize'", ERR_FORMAT},
        {"{{ raise_exception('Roles must alternate: ' ~ u) }}",
         "Roles must alternate: user <b> text", ERR_FORMAT},
        {"{{ u.__class__.__mro__ }}", "'__class__' is undefined", ERR_FORMAT},
        {"{{ u.format.__globals__.os }}", "'__globals__' is undefined", ERR_FORMAT},
        {"{{ '{0.__class__}'.format(u) }}", "only {}, {number} and {name}", ERR_FORMAT},
        {"{{ '%s' }", "line 1: ", ERR_FORMAT},
        {"{{ open('/etc/passwd') }}", "'open' is undefined", ERR_FORMAT},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct arena a = {0};
        struct jstr out = {0};
        struct err_msg why = {{0}};
        CHECK_ERR(render(cases[i].source, usual, &a, &out, &why), cases[i].e);
        CHECK_HAS(why.text, cases[i].message);
        arena_free(&a);
    }
}

#endif
