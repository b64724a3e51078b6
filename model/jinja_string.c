/* Strings of the template interpreter: UTF-8 bytes with marks on those that a user wrote. Strings
 * are immutable and share bytes; indexes are in characters, as Python's. */
#include <string.h>

#include "base/size.h"
#include "model/jinja_impl.h"

static bool grow(struct jvm *vm, void **items, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap)
        return true;
    size_t more = *cap == 0 ? 16 : 2 * *cap;
    if (more < need)
        more = need;
    void *p = jvm_alloc(vm, more, size);
    if (p == NULL)
        return false;
    if (*cap > 0)
        memcpy(p, *items, *cap * size);
    *items = p;
    *cap = more;
    return true;
}

static bool mark(struct jvm *vm, struct jbuild *b, size_t begin, size_t end)
{
    if (begin == end)
        return true;
    if (b->spans_count > 0 && b->spans[b->spans_count - 1].end == begin) {
        b->spans[b->spans_count - 1].end = end;
        return true;
    }
    void *spans = b->spans;
    if (!grow(vm, &spans, &b->spans_cap, b->spans_count + 1, sizeof(*b->spans)))
        return false;
    b->spans = spans;
    b->spans[b->spans_count++] = (struct jspan){begin, end};
    return true;
}

bool jbuild_add(struct jvm *vm, struct jbuild *b, struct str text, bool user)
{
    if (text.len == 0)
        return true;
    void *data = b->data;
    if (!jvm_charge(vm, text.len / 64))
        return false;
    if (!grow(vm, &data, &b->cap, b->len + text.len, 1))
        return false;
    b->data = data;
    memcpy(b->data + b->len, text.data, text.len);
    b->len += text.len;
    return !user || mark(vm, b, b->len - text.len, b->len);
}

bool jbuild_add_part(struct jvm *vm, struct jbuild *b, const struct jstr *s, size_t begin,
                     size_t end)
{
    size_t at = b->len;
    if (!jbuild_add(vm, b, (struct str){s->data + begin, end - begin}, false))
        return false;
    for (size_t i = 0; i < s->user_count; i++) {
        struct jspan u = s->user[i];
        size_t from = u.begin > begin ? u.begin : begin, to = u.end < end ? u.end : end;
        if (from < to && !mark(vm, b, at + from - begin, at + to - begin))
            return false;
    }
    return true;
}

bool jbuild_add_str(struct jvm *vm, struct jbuild *b, const struct jstr *s)
{
    return jbuild_add_part(vm, b, s, 0, s->len);
}

bool jbuild_end(struct jvm *vm, struct jbuild *b, struct jval *ret)
{
    struct jstr *s = jvm_alloc(vm, 1, sizeof(*s));
    if (s == NULL)
        return false;
    *s = (struct jstr){b->data == NULL ? "" : b->data, b->len, b->spans, b->spans_count};
    *ret = (struct jval){.kind = JV_STR, .as.str = s};
    return true;
}

bool jstr_new(struct jvm *vm, struct str text, bool user, struct jval *ret)
{
    return jinja_make_str(vm->arena, text, user, ret) == ERR_OK || jvm_nomem(vm);
}

bool jstr_part(struct jvm *vm, const struct jstr *s, size_t begin, size_t end, struct jval *ret)
{
    struct jstr *part = jvm_alloc(vm, 1, sizeof(*part));
    if (part == NULL)
        return false;
    *part = (struct jstr){s->data + begin, end - begin, NULL, 0};
    size_t first = 0, last = s->user_count;
    while (first < last && s->user[first].end <= begin)
        first++;
    while (last > first && s->user[last - 1].begin >= end)
        last--;
    if (last > first && begin < end) {
        struct jspan *u = jvm_alloc(vm, last - first, sizeof(*u));
        if (u == NULL || !jvm_charge(vm, last - first))
            return false;
        for (size_t i = first; i < last; i++) {
            u[i - first].begin = s->user[i].begin > begin ? s->user[i].begin - begin : 0;
            u[i - first].end = (s->user[i].end < end ? s->user[i].end : end) - begin;
        }
        part->user = u;
        part->user_count = last - first;
    }
    *ret = (struct jval){.kind = JV_STR, .as.str = part};
    return true;
}

size_t jstr_chars(struct str s)
{
    size_t count = 0;
    for (size_t at = 0; at < s.len; count++) {
        uint32_t c;
        at += juni_next(s.data + at, s.len - at, &c);
    }
    return count;
}

size_t jstr_offset(struct str s, size_t chars)
{
    size_t at = 0;
    while (chars-- > 0 && at < s.len) {
        uint32_t c;
        at += juni_next(s.data + at, s.len - at, &c);
    }
    return at;
}

bool jstr_find(struct jvm *vm, struct str text, struct str part, size_t from, size_t *ret)
{
    *ret = SIZE_MAX;
    if (from > text.len)
        return true;
    if (!jvm_charge(vm, (text.len - from) / 64 + 1))
        return false;
    if (part.len == 0) {
        *ret = from;
        return true;
    }
    if (from == text.len)
        return true;
    const char *hit = memmem(text.data + from, text.len - from, part.data, part.len);
    if (hit != NULL)
        *ret = (size_t)(hit - text.data);
    return true;
}

static bool strips(uint32_t c, const struct str *chars)
{
    if (chars == NULL)
        return juni_is_space(c);
    for (size_t at = 0; at < chars->len;) {
        uint32_t one;
        at += juni_next(chars->data + at, chars->len - at, &one);
        if (one == c)
            return true;
    }
    return false;
}

struct jspan jstr_strip(struct str s, const struct str *chars, int sides)
{
    struct jspan keep = {0, s.len};
    uint32_t c;
    while (sides & 1 && keep.begin < keep.end) {
        size_t n = juni_next(s.data + keep.begin, keep.end - keep.begin, &c);
        if (!strips(c, chars))
            break;
        keep.begin += n;
    }
    while (sides & 2 && keep.end > keep.begin) {
        size_t n = 1;
        while (n < 4 && n < keep.end - keep.begin &&
               ((unsigned char)s.data[keep.end - n] & 0xc0) == 0x80)
            n++;
        if (juni_next(s.data + keep.end - n, n, &c) != n) {
            n = 1;
            juni_next(s.data + keep.end - n, n, &c);
        }
        if (!strips(c, chars))
            break;
        keep.end -= n;
    }
    return keep;
}
