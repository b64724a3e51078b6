/* The template interpreter against Jinja2 itself: jinja_reference.py renders real templates over
 * generated conversations and many snippets, and every output must be ours to the byte, every error
 * an error. Then what only ours has: the marks on a user's text, and the limits. Arguments: a
 * Python with jinja2, jinja_reference.py, the folder of templates. */
#include <jansson.h>

#include "base/size.h"
#include "check.h"
#include "model/jinja.h"
#include "model/test_jinja_own.h"

enum { MAX_LINE = 1 << 20 };

static const struct tm now = {.tm_year = 125,
                              .tm_mon = 2,
                              .tm_mday = 9,
                              .tm_hour = 14,
                              .tm_min = 5,
                              .tm_sec = 7,
                              .tm_yday = 67};

static struct jval from_json(struct arena *a, json_t *j)
{
    struct jval v = {.kind = JV_NONE};
    enum err e = ERR_OK;
    switch (json_typeof(j)) {
    case JSON_STRING:
        e = jinja_make_str(a, (struct str){json_string_value(j), json_string_length(j)}, true, &v);
        break;
    case JSON_INTEGER:
        v = (struct jval){.kind = JV_INT, .as.integer = json_integer_value(j)};
        break;
    case JSON_REAL:
        v = (struct jval){.kind = JV_FLOAT, .as.real = json_real_value(j)};
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        v = (struct jval){.kind = JV_BOOL, .as.boolean = json_is_true(j)};
        break;
    case JSON_ARRAY:
        e = jinja_make_list(a, json_array_size(j), &v);
        for (size_t i = 0; e == ERR_OK && i < json_array_size(j); i++)
            v.as.list->items[i] = from_json(a, json_array_get(j, i));
        break;
    case JSON_OBJECT: {
        size_t i = 0;
        const char *key;
        json_t *item;
        e = jinja_make_dict(a, json_object_size(j), &v);
        json_object_foreach(j, key, item)
        {
            if (e == ERR_OK)
                e = jinja_make_str(a, str_of(key), false, &v.as.dict->entries[i].key);
            v.as.dict->entries[i++].value = from_json(a, item);
        }
        break;
    }
    default:
        break;
    }
    CHECK(e == ERR_OK);
    return v;
}

static void test_case(const json_t *c, unsigned *errors)
{
    struct jinja_variable variables[40];
    struct jinja_run run = {.variables = variables, .now = now, .limits = usual};
    struct arena a = {0};
    struct err_msg why = {{0}};
    struct jinja *t = NULL;
    struct jstr out = {0};
    const char *key;
    json_t *item, *want = json_object_get(c, "out");
    bool raised = false;
    json_object_foreach(json_object_get(c, "variables"), key, item)
        variables[run.variables_count++] = (struct jinja_variable){key, from_json(&a, item)};
    const json_t *source = json_object_get(c, "template");
    enum err e = jinja_compile((struct str){json_string_value(source), json_string_length(source)},
                               &t, &why);
    if (e == ERR_OK)
        e = jinja_render(t, &run, &a, &out, &raised, &why);
    if (want != NULL) {
        struct str got = {out.data, out.len},
                   text = {json_string_value(want), json_string_length(want)};
        if (!CHECK(e == ERR_OK && str_eq(got, text)))
            fprintf(stderr, "    %s\n    got  %.*s%s\n    want %.*s\n",
                    json_string_value(json_object_get(c, "name")), STR_ARG(got),
                    e == ERR_OK ? "" : why.text, STR_ARG(text));
    } else {
        const char *text = json_string_value(json_object_get(c, "error"));
        ++*errors;
        if (!CHECK(e != ERR_OK && raised == json_is_true(json_object_get(c, "raised"))))
            fprintf(stderr, "    %s\n    got  %.*s (%s)\n    want error %s\n",
                    json_string_value(json_object_get(c, "name")), e == ERR_OK ? (int)out.len : 0,
                    out.data, why.text, text);
        if (raised)
            CHECK_STR(why.text, text);
    }
    jinja_destroy(&t);
    arena_free(&a);
}

static void test_reference(char **argv, unsigned seed)
{
    char command[4096];
    static char line[MAX_LINE];
    unsigned cases = 0, errors = 0;
    snprintf(command, sizeof(command), "'%s' '%s' '%s' %u", argv[1], argv[2], argv[3], seed);
    FILE *f = popen(command, "r");
    if (!CHECK(f != NULL))
        return;
    while (fgets(line, sizeof(line), f) != NULL) {
        json_error_t error;
        json_t *c = json_loads(line, JSON_ALLOW_NUL, &error);
        if (CHECK(c != NULL))
            test_case(c, &errors);
        json_decref(c);
        cases++;
    }
    CHECK_INT(pclose(f), 0);
    printf("%u cases, %u of them errors\n", cases, errors);
    CHECK(cases > 2000 && errors > 500 && errors < cases / 2);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    struct check_rng rng = check_rng_start(7);
    test_reference(argv, (unsigned)check_rng_below(&rng, 1000000));
    test_marks();
    test_limits();
    test_messages();
    return check_report();
}
