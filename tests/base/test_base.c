/* The small helpers: errors, buffers, arenas, checked sizes, UTF-8, hashes, clocks. */
#include <errno.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/size.h"
#include "base/str.h"
#include "base/utf8.h"
#include "tests/check.h"

static void test_err(void)
{
    struct err_msg why = {{0}};
    CHECK_ERR(err_set(&why, ERR_RANGE, "a %d\n\x1b[0m\x7f", 5), ERR_RANGE);
    CHECK_STR(why.text, "a 5??[0m?");
    CHECK_ERR(err_set(NULL, ERR_IO, "x"), ERR_IO);
    CHECK_ERR(err_prefix(NULL, ERR_IO, "x"), ERR_IO);
    CHECK_ERR(err_prefix(&why, ERR_FULL, "file %s", "f"), ERR_FULL);
    CHECK_STR(why.text, "file f: a 5??[0m?");
    err_set(&why, ERR_IO, "bytes \xff\xc3+\xe2\x82 \xc3\xa9 end");
    CHECK_STR(why.text, "bytes ??+?? \xc3\xa9 end");
    char longer[1001];
    for (size_t i = 0; i < 1000; i += 2)
        memcpy(longer + i, "\xc3\xa9", 2);
    longer[1000] = '\0';
    err_set(&why, ERR_IO, "%s", longer); /* 511 bytes fit: the last character is cut */
    CHECK_INT(strlen(why.text), 511);
    CHECK(utf8_is_valid(why.text, strlen(why.text)));
    err_prefix(&why, ERR_IO, "abc");
    CHECK_INT(strlen(why.text), 511);
    CHECK(utf8_is_valid(why.text, strlen(why.text)));
    err_prefix(&why, ERR_IO, "%s", longer); /* no room left for the old text */
    CHECK_INT(strlen(why.text), 511);
    CHECK_STR(err_name(ERR_OK), "ok");
    CHECK_STR(err_name((enum err)999), "unknown error");
    CHECK_STR(err_name((enum err) - 1), "unknown error");
}

static void test_buf(void)
{
    struct buf b = {0};
    CHECK_ERR(buf_append(&b, NULL, 0), ERR_OK);
    CHECK(b.data == NULL && b.cap == 0);
    CHECK_STR(buf_cstr(&b), "");
    for (int i = 0; i < 1000; i++)
        CHECK_ERR(buf_append_char(&b, (char)('a' + i % 26)), ERR_OK);
    CHECK_INT(b.len, 1000);
    CHECK(b.data[999] == 'a' + 999 % 26);
    CHECK_ERR(buf_reserve(&b, SIZE_MAX - 10), ERR_NOMEM);
    CHECK_ERR(buf_reserve(&b, SIZE_MAX / 2), ERR_NOMEM);
    CHECK_INT(b.len, 1000);
    buf_clear(&b);
    CHECK_ERR(buf_printf(&b, "%05d", 42), ERR_OK);
    CHECK_ERR(buf_append_str(&b, "!"), ERR_OK);
    CHECK_STR(buf_cstr(&b), "00042!");
    CHECK_INT(b.len, 6);
    buf_free(&b);
    CHECK(b.data == NULL && b.len == 0 && b.cap == 0);
    buf_free(&b);
}

static void test_arena(struct check_rng *rng)
{
    struct arena a = {0};
    unsigned char *kept[200];
    size_t sizes[200];
    for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
        sizes[i] =
            check_rng_below(rng, 10) == 0 ? check_rng_below(rng, 20000) : check_rng_below(rng, 100);
        kept[i] = arena_alloc(&a, sizes[i], 1);
        CHECK(kept[i] != NULL && (uintptr_t)kept[i] % _Alignof(max_align_t) == 0);
        for (size_t j = 0; j < sizes[i]; j++) {
            if (kept[i][j] != 0) {
                CHECK(!"zeroed");
                break;
            }
        }
        memset(kept[i], (int)i | 1, sizes[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
        bool same = true;
        for (size_t j = 0; j < sizes[i]; j++)
            same = same && kept[i][j] == (unsigned char)((int)i | 1);
        CHECK(same); /* nobody wrote over it */
    }
    CHECK(arena_alloc(&a, SIZE_MAX, 2) == NULL);
    CHECK(arena_alloc(&a, SIZE_MAX, 1) == NULL);
    CHECK(arena_copy(&a, "x", SIZE_MAX) == NULL);
    CHECK_STR(arena_copy(&a, "hello!", 5), "hello");
    CHECK_STR(arena_copy(&a, NULL, 0), "");
    arena_free(&a);
    CHECK(a.blocks == NULL && a.total_bytes == 0);
    arena_free(&a);
    a.limit_bytes = 1000;
    CHECK(arena_alloc(&a, 1001, 1) == NULL);
    CHECK(arena_alloc(&a, 900, 1) != NULL);
    CHECK(arena_alloc(&a, 200, 1) == NULL);
    CHECK(arena_alloc(&a, 50, 1) != NULL);
    a.limit_bytes = 100; /* lowered below what is used: nothing more, no wrap-around */
    CHECK(arena_alloc(&a, 1, 1) == NULL);
    arena_free(&a);
    CHECK_INT(a.limit_bytes, 100);
    CHECK(arena_alloc(&a, 1, 90) != NULL);
    arena_free(&a);
}

static void test_size(void)
{
    uint64_t r = 77;
    CHECK(!size_mul(UINT64_C(1) << 32, UINT64_C(1) << 32, &r) && r == 77);
    CHECK(!size_add(UINT64_MAX, 1, &r) && r == 77);
    CHECK(!size_align(UINT64_MAX - 2, 32, &r) && r == 77);
    CHECK(size_mul(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1, &r) && r == 0xffffffff00000000);
    CHECK(size_add(UINT64_MAX, 0, &r) && r == UINT64_MAX);
    CHECK(size_align(33, 32, &r) && r == 64);
    CHECK(size_align(0, 32, &r) && r == 0);
    CHECK(size_align(64, 32, &r) && r == 64);
    CHECK_INT(div_up(0, 5), 0);
    CHECK_INT(div_up(11, 5), 3);
    CHECK(div_up(UINT64_MAX, 1) == UINT64_MAX);
    CHECK(min_u64(1, 2) == 1 && max_u64(1, 2) == 2);
}

/* The definition, straight from the table of the Unicode standard (3.9, D92), without the code's
 * tricks. */
static bool naive_char(uint32_t code, char out[4], size_t *ret_len)
{
    if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
        return false;
    size_t n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code & 0x3f));
        code >>= 6;
    }
    static const unsigned char heads[] = {0, 0x00, 0xc0, 0xe0, 0xf0};
    out[0] = (char)(heads[n] | code);
    *ret_len = n;
    return true;
}

static void test_utf8_all_characters(void)
{
    unsigned wrong = 0;
    for (uint32_t code = 0; code <= 0x10ffff; code++) {
        char c[4];
        size_t n;
        if (!naive_char(code, c, &n))
            continue;
        wrong += !utf8_is_valid(c, n);
        for (size_t cut = 1; cut < n; cut++)
            wrong +=
                utf8_is_valid(c, cut) || !utf8_is_partial(c, cut) || utf8_valid_prefix(c, cut) != 0;
        wrong += utf8_is_partial(c, n);
    }
    CHECK_INT(wrong, 0);
}

/* Of all sequences of two and three bytes exactly those are valid that encode something. */
static void test_utf8_all_short(void)
{
    unsigned valid2 = 0, valid3 = 0;
    for (unsigned a = 0x80; a < 0x100; a++) {
        for (unsigned b = 0; b < 0x100; b++) {
            char c[3] = {(char)a, (char)b, 0};
            valid2 += utf8_is_valid(c, 2);
            for (unsigned d = 0x80; d < 0xc0; d++) {
                c[2] = (char)d;
                valid3 += b >= 0x80 && utf8_valid_prefix(c, 3) == 3 && !utf8_is_valid(c, 2);
            }
        }
    }
    CHECK_INT(valid2, 0x800 - 0x80);
    CHECK_INT(valid3, 0x10000 - 0x800 - 0x800);
}

static void test_utf8_bad(void)
{
    static const char *const bad[] = {"\x80",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xff",
                                      "\xc3(",
                                      "\xe2\x82(",
                                      "\xf0\x9f\x90("};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        CHECK(!utf8_is_valid(bad[i], strlen(bad[i])));
        CHECK_INT(utf8_valid_prefix(bad[i], strlen(bad[i])), 0);
        CHECK(!utf8_is_partial(bad[i], strlen(bad[i])));
    }
    CHECK(utf8_is_valid(NULL, 0) && !utf8_is_partial(NULL, 0));
    CHECK(utf8_is_valid("a\0b", 3));
    CHECK_INT(utf8_valid_prefix("ab\xe2\x82", 4), 2);
}

static void test_hash(void)
{
    /* XXH3-64 and XXH3-128 of nothing, from xxHash's own specification. */
    CHECK(hash64("", 0, 0) == UINT64_C(0x2d06800538d394c2));
    CHECK(hash64("a", 1, 0) != hash64("b", 1, 0) && hash64("a", 1, 0) != hash64("a", 1, 1));
    /* the authors' test vectors: key 00 01 .. 0f, message 00 01 .. */
    static const uint64_t key[2] = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)};
    unsigned char text[15];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (unsigned char)i;
    CHECK(hash64_keyed(text, 0, key) == UINT64_C(0x726fdb47dd0e0e31));
    CHECK(hash64_keyed(text, 8, key) == UINT64_C(0x93f5f5799a932462));
    CHECK(hash64_keyed(text, sizeof text, key) == UINT64_C(0xa129ca6149be45e5));
    char hex[33];
    hash128_hex("", 0, hex);
    CHECK_STR(hex, "99aa06d3014798d86001c324468d497f");
}

static void test_str_and_clock(void)
{
    CHECK(str_eq(str_of("ab"), STR_LIT("ab")) && !str_eq(str_of("ab"), STR_LIT("abc")));
    CHECK(str_eq(str_of(NULL), (struct str){0}) && str_eq(STR_LIT(""), (struct str){0}));
    uint64_t before = clock_mono_ns();
    clock_sleep_ns(1000);
    CHECK(clock_mono_ns() - before >= 1000);
    CHECK(clock_wall_ms() > UINT64_C(1600000000000)); /* after 2020: milliseconds, not seconds */
}

int main(void)
{
    struct check_rng rng = check_rng_start(1);
    test_err();
    test_buf();
    test_arena(&rng);
    test_size();
    test_utf8_all_characters();
    test_utf8_all_short();
    test_utf8_bad();
    test_hash();
    test_str_and_clock();
    return check_report();
}
