/* The option parser behind options.h. It knows nothing of any program's options, prints only what
 * it is asked for, and leaves checks that span several options to its callers. */
#include "base/options.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"

enum {
    HELP_COLUMN = 30,
    HELP_WIDTH = 100,
    MAX_NAME_BYTES = 64, /* longer option names from the command line are not worth a suggestion */
};

/* The largest integers a double (option.min, .max) names exactly lie well inside int64_t; these
 * keep the comparison itself exact. */
static bool int_in_range(const struct option *o, int64_t v)
{
    return (o->min == 0 && o->max == 0) || ((double)v >= o->min && (double)v <= o->max);
}

static void format_range(const struct option *o, char *out, size_t size)
{
    if (o->min == 0 && o->max == 0)
        out[0] = '\0';
    else if (o->type == OPTION_INT)
        snprintf(out, size, " from %.0f to %.0f", o->min, o->max);
    else
        snprintf(out, size, " from %g to %g", o->min, o->max);
}

static enum err parse_int(const struct option *o, const char *text, int64_t *ret,
                          struct err_msg *why)
{
    char range[80];
    format_range(o, range, sizeof range);
    const char *digits = text[0] == '-' || text[0] == '+' ? text + 1 : text;
    char *end = NULL;
    errno = 0;
    long long v = isdigit((unsigned char)digits[0]) ? strtoll(text, &end, 10) : 0;
    bool overflow = errno == ERANGE;
    if (end != NULL && o->bytes && *end != '\0' && strchr("kMG", *end) != NULL) {
        int shift = *end == 'k' ? 10 : *end == 'M' ? 20 : 30;
        overflow = overflow || __builtin_mul_overflow(v, 1LL << shift, &v);
        end++;
    }
    if (end == NULL || *end != '\0')
        return err_set(why, ERR_USAGE, "--%s: \"%s\" is not a whole number%s; expected one%s",
                       o->name, text, o->bytes ? " (with k, M or G behind it or not)" : "", range);
    if (overflow || !int_in_range(o, v))
        return err_set(why, ERR_USAGE, "--%s: %s is out of range; expected a number%s", o->name,
                       text, range[0] != '\0' ? range : " below 2^63");
    *ret = v;
    return ERR_OK;
}

static enum err parse_time(const struct option *o, const char *text, int64_t *ret,
                           struct err_msg *why)
{
    static const char units[] = "smhd";
    static const int64_t unit_s[] = {1, 60, 3600, 86400};
    char *end = NULL;
    errno = 0;
    long long v = isdigit((unsigned char)text[0]) ? strtoll(text, &end, 10) : 0;
    const char *unit = end == NULL || *end == '\0' ? NULL : strchr(units, *end);
    bool zero = end != NULL && *end == '\0' && v == 0;
    if (!zero && (unit == NULL || end[1] != '\0'))
        return err_set(why, ERR_USAGE,
                       "--%s: \"%s\" is no time; expected a number with s, m, h or d behind it, "
                       "as 30d",
                       o->name, text);
    if (errno == ERANGE || (!zero && __builtin_mul_overflow(v, unit_s[unit - units], &v)) ||
        !int_in_range(o, v))
        return err_set(why, ERR_USAGE, "--%s: %s is out of range; expected at most %.0f days",
                       o->name, text, o->max / 86400);
    *ret = v;
    return ERR_OK;
}

static enum err parse_float(const struct option *o, const char *text, double *ret,
                            struct err_msg *why)
{
    char range[80];
    format_range(o, range, sizeof range);
    char *end = NULL;
    /* strtod also takes blanks, "inf", "nan" and hexadecimal: only plain decimals here. */
    double v = text[strspn(text, "0123456789+-.eE")] == '\0' ? strtod(text, &end) : 0;
    if (end == NULL || end == text || *end != '\0' || !isfinite(v))
        return err_set(why, ERR_USAGE, "--%s: \"%s\" is not a number; expected one%s", o->name,
                       text, range);
    if ((o->min != 0 || o->max != 0) && !(v >= o->min && v <= o->max))
        return err_set(why, ERR_USAGE, "--%s: %s is out of range; expected a number%s", o->name,
                       text, range);
    *ret = v;
    return ERR_OK;
}

static enum err store_value(const struct option *o, const char *text, void *target,
                            struct err_msg *why)
{
    char *at = (char *)target + o->offset;
    int64_t i = 0;
    double f = 0;
    enum err e = ERR_OK;
    switch (o->type) {
    case OPTION_INT:
        e = parse_int(o, text, &i, why);
        if (e == ERR_OK)
            memcpy(at, &i, sizeof i);
        return e;
    case OPTION_TIME:
        e = parse_time(o, text, &i, why);
        if (e == ERR_OK)
            memcpy(at, &i, sizeof i);
        return e;
    case OPTION_FLOAT:
        e = parse_float(o, text, &f, why);
        if (e == ERR_OK)
            memcpy(at, &f, sizeof f);
        return e;
    case OPTION_STRING:
        memcpy(at, &text, sizeof text);
        return ERR_OK;
    case OPTION_FLAG:
    case OPTION_SECTION:
        break;
    }
    return err_set(why, ERR_INTERNAL, "--%s: the option table gives it no value", o->name);
}

static void store_flag(const struct option *o, bool value, void *target)
{
    memcpy((char *)target + o->offset, &value, sizeof value);
}

/* Edits (insert, delete, replace, swap of neighbours) between a and b; both at most MAX_NAME_BYTES
 * long. */
static unsigned edit_distance(const char *a, size_t a_len, const char *b, size_t b_len)
{
    unsigned rows[3][MAX_NAME_BYTES + 1];
    unsigned *older = rows[0], *last = rows[1], *now = rows[2];
    for (size_t j = 0; j <= b_len; j++)
        last[j] = (unsigned)j;
    for (size_t i = 1; i <= a_len; i++) {
        now[0] = (unsigned)i;
        for (size_t j = 1; j <= b_len; j++) {
            unsigned best = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < best)
                best = last[j] + 1;
            if (now[j - 1] + 1 < best)
                best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                older[j - 2] + 1 < best)
                best = older[j - 2] + 1;
            now[j] = best;
        }
        unsigned *spare = older;
        older = last;
        last = now;
        now = spare;
    }
    return last[b_len];
}

/* The known name nearest to the unknown one, NULL when none is near: at most a third of its letters
 * wrong, or the beginning of one. */
static const char *nearest_name(const struct option *table, size_t count, const char *name,
                                size_t len)
{
    const char *best = NULL;
    unsigned best_distance = (unsigned)(len / 3 > 1 ? len / 3 : 1) + 1;
    if (len == 0 || len > MAX_NAME_BYTES)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        size_t known_len = strlen(table[i].name);
        if (table[i].type == OPTION_SECTION || known_len > MAX_NAME_BYTES)
            continue;
        unsigned d = edit_distance(name, len, table[i].name, known_len);
        if (d >= best_distance && best == NULL && len >= 3 &&
            strncmp(name, table[i].name, len) == 0)
            best = table[i].name; /* only until a nearer one turns up */
        if (d < best_distance) {
            best_distance = d;
            best = table[i].name;
        }
    }
    return best;
}

static const struct option *find_name(const struct option *table, size_t count, const char *name,
                                      size_t len)
{
    for (size_t i = 0; i < count; i++) {
        if (table[i].type != OPTION_SECTION && strlen(table[i].name) == len &&
            memcmp(table[i].name, name, len) == 0)
            return &table[i];
    }
    return NULL;
}

static const struct option *find_letter(const struct option *table, size_t count, char letter)
{
    for (size_t i = 0; i < count; i++) {
        if (table[i].type != OPTION_SECTION && table[i].letter != 0 && table[i].letter == letter)
            return &table[i];
    }
    return NULL;
}

static enum err missing_value(const struct option *o, struct err_msg *why)
{
    return err_set(why, ERR_USAGE, "--%s: its value is missing; expected --%s %s", o->name, o->name,
                   o->arg != NULL ? o->arg : "VALUE");
}

/* "--name", "--name=value", "--no-name". *at moves on when the value is the next argument. */
static enum err parse_long(const struct option *table, size_t count, void *target, int argc,
                           char **argv, int *at, struct err_msg *why)
{
    const char *name = argv[*at] + 2;
    size_t len = strcspn(name, "=");
    const char *value = name[len] == '=' ? name + len + 1 : NULL;
    const struct option *o = find_name(table, count, name, len);
    if (o == NULL && len > 3 && memcmp(name, "no-", 3) == 0) {
        o = find_name(table, count, name + 3, len - 3);
        if (o != NULL && o->type == OPTION_FLAG && value == NULL) {
            store_flag(o, false, target);
            return ERR_OK;
        }
        o = NULL;
    }
    if (o == NULL && len == 4 && memcmp(name, "help", 4) == 0)
        return ERR_CANCELLED;
    if (o == NULL) {
        const char *near = nearest_name(table, count, name, len);
        return err_set(why, ERR_USAGE, "unknown option --%.*s%s%s%s", (int)(len > 200 ? 200 : len),
                       name, near != NULL ? "; did you mean --" : "; see --help",
                       near != NULL ? near : "", near != NULL ? "?" : "");
    }
    if (o->type == OPTION_FLAG) {
        if (value != NULL)
            return err_set(why, ERR_USAGE, "--%s: takes no value, found \"%s\"; --%s or --no-%s",
                           o->name, value, o->name, o->name);
        store_flag(o, true, target);
        return ERR_OK;
    }
    if (value == NULL) {
        if (*at + 1 >= argc)
            return missing_value(o, why);
        value = argv[++*at];
    }
    return store_value(o, value, target, why);
}

/* "-m value", "-mvalue", "-q", "-qv" (flags, the last of which may be an option with a value). */
static enum err parse_letters(const struct option *table, size_t count, void *target, int argc,
                              char **argv, int *at, struct err_msg *why)
{
    const char *letters = argv[*at] + 1;
    for (const char *p = letters; *p != '\0'; p++) {
        const struct option *o = find_letter(table, count, *p);
        if (o == NULL && *p == 'h')
            return ERR_CANCELLED;
        if (o == NULL && p == letters)
            return err_set(why, ERR_USAGE, "unknown option -%c; see --help", *p);
        if (o == NULL)
            return err_set(why, ERR_USAGE, "unknown option -%c (in \"-%.200s\"); see --help", *p,
                           letters);
        if (o->type == OPTION_FLAG) {
            store_flag(o, true, target);
            continue;
        }
        if (p[1] != '\0')
            return store_value(o, p + 1, target, why);
        if (*at + 1 >= argc)
            return missing_value(o, why);
        return store_value(o, argv[++*at], target, why);
    }
    return ERR_OK;
}

/* Options take effect in order; argv is permuted only after every one of them was understood. */
enum err options_parse(const struct option *table, size_t count, void *target, int argc,
                       char **argv, int *ret_count, struct err_msg *why)
{
    enum err e = ERR_OK;
    int positional = 0;
    char **kept = calloc((size_t)argc + 1, sizeof *kept);
    if (kept == NULL)
        return err_set(why, ERR_NOMEM, "out of memory for %d arguments", argc);
    bool only_positional = false;
    for (int i = 0; i < argc && e == ERR_OK; i++) {
        if (only_positional || argv[i][0] != '-' || argv[i][1] == '\0')
            kept[positional++] = argv[i]; /* "-" alone is a file name: standard input */
        else if (strcmp(argv[i], "--") == 0)
            only_positional = true;
        else if (argv[i][1] == '-')
            e = parse_long(table, count, target, argc, argv, &i, why);
        else
            e = parse_letters(table, count, target, argc, argv, &i, why);
    }
    if (e == ERR_OK) {
        memcpy(argv, kept, (size_t)positional * sizeof *argv);
        *ret_count = positional;
    }
    free(kept);
    return e;
}

static void print_wrapped(const char *text, FILE *out)
{
    int column = HELP_COLUMN;
    while (*text != '\0') {
        int word = (int)strcspn(text, " ");
        if (column > HELP_COLUMN && column + 1 + word > HELP_WIDTH) {
            fprintf(out, "\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        } else if (column > HELP_COLUMN) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", word, text);
        column += word;
        text += word;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

void options_print(const struct option *table, size_t count, FILE *out)
{
    for (size_t i = 0; i < count; i++) {
        const struct option *o = &table[i];
        if (o->type == OPTION_SECTION) {
            fprintf(out, "%s%s:\n", i > 0 ? "\n" : "", o->name);
            continue;
        }
        char head[128];
        char letter[8] = "    ";
        if (o->letter != 0)
            snprintf(letter, sizeof letter, "-%c, ", o->letter);
        bool has_value = o->type != OPTION_FLAG;
        int used =
            snprintf(head, sizeof head, "  %s--%s%s%s", letter, o->name, has_value ? " " : "",
                     has_value ? (o->arg != NULL ? o->arg : "VALUE") : "");
        fputs(head, out);
        if (used + 2 > HELP_COLUMN)
            fprintf(out, "\n%*s", HELP_COLUMN, "");
        else
            fprintf(out, "%*s", HELP_COLUMN - used, "");
        print_wrapped(o->help != NULL ? o->help : "", out);
    }
}
