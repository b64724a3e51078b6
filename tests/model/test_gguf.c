/* GGUF files: what a good one gives, and a clear line for every kind of bad one. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/size.h"
#include "check.h"
#include "model/gguf_build.h"

static void make_sample(struct gguf_build *g)
{
    static const int32_t numbers[] = {-1, 2, -3};
    build_kv_u32(g, "a.u32", 7);
    build_kv_f32(g, "a.f32", 0.5f);
    build_kv_bool(g, "a.bool", 1);
    build_kv_str(g, "a.str", "text \xc3\xa4\n");
    build_kv_array(g, "a.strs", GGUF_STR, 3);
    build_text(&g->kvs, "one");
    build_text(&g->kvs, "");
    build_text(&g->kvs, "three");
    build_kv_array(g, "a.i32s", GGUF_I32, 3);
    build_bytes(&g->kvs, numbers, sizeof(numbers));
    build_key(g, "a.i64", GGUF_I64);
    build_u64(&g->kvs, (uint64_t)-5);
    build_key(g, "a.u64", GGUF_U64);
    build_u64(&g->kvs, UINT64_C(1) << 40);
    build_tensor(g, "w", TENSOR_Q8_0, 64, 3);
    build_tensor(g, "b", TENSOR_F32, 5, 0);
}

static void test_getters(const struct gguf *g)
{
    struct err_msg why;
    uint32_t u = 99;
    float f = 0;
    bool b = false;
    struct str s = {0};
    const struct str *strs = NULL;
    const void *data = NULL;
    size_t count = 0;
    CHECK_OK(gguf_get_u32(g, "a.u32", &u, &why), why);
    CHECK_INT(u, 7);
    CHECK_OK(gguf_get_f32(g, "a.f32", &f, &why), why);
    CHECK(f == 0.5f);
    CHECK_OK(gguf_get_bool(g, "a.bool", &b, &why), why);
    CHECK(b);
    CHECK_OK(gguf_get_str(g, "a.str", &s, &why), why);
    CHECK(str_eq(s, STR_LIT("text \xc3\xa4\n")));
    CHECK_OK(gguf_get_strs(g, "a.strs", &strs, &count, &why), why);
    CHECK(count == 3 && str_eq(strs[0], STR_LIT("one")) && strs[1].len == 0 &&
          str_eq(strs[2], STR_LIT("three")));
    CHECK_OK(gguf_get_array(g, "a.i32s", GGUF_I32, &data, &count, &why), why);
    int32_t third = 0;
    if (CHECK(count == 3))
        memcpy(&third, (const char *)data + 8, sizeof(third));
    CHECK_INT(third, -3);

    u = 99;
    CHECK_ERR(gguf_get_u32(g, "nothing", &u, &why), ERR_NOT_FOUND);
    CHECK_HAS(why.text, "'nothing'");
    CHECK_ERR(gguf_get_u32(g, "a.str", &u, &why), ERR_FORMAT);
    CHECK_HAS(why.text, "key 'a.str' is str, expected an integer");
    CHECK_ERR(gguf_get_u32(g, "a.i64", &u, &why), ERR_FORMAT);
    CHECK_HAS(why.text, "-5");
    CHECK_ERR(gguf_get_u32(g, "a.u64", &u, &why), ERR_FORMAT);
    CHECK_HAS(why.text, "1099511627776");
    CHECK_ERR(gguf_get_u32(g, "a.i32s", &u, &why), ERR_FORMAT);
    CHECK_HAS(why.text, "array of i32");
    CHECK_INT(u, 99);
    CHECK_ERR(gguf_get_f32(g, "a.u32", &f, &why), ERR_FORMAT);
    CHECK_ERR(gguf_get_bool(g, "a.u32", &b, &why), ERR_FORMAT);
    CHECK_ERR(gguf_get_str(g, "a.u32", &s, &why), ERR_FORMAT);
    CHECK_ERR(gguf_get_strs(g, "a.i32s", &strs, &count, &why), ERR_FORMAT);
    CHECK_ERR(gguf_get_array(g, "a.i32s", GGUF_U32, &data, &count, &why), ERR_FORMAT);
    CHECK_ERR(gguf_get_array(g, "a.strs", GGUF_STR, &data, &count, &why), ERR_FORMAT);
}

static void check_print(const struct gguf *g, size_t i, size_t max, const char *want)
{
    struct buf out = {0};
    struct err_msg why;
    CHECK_OK(gguf_kv_print(g, i, max, &out), why);
    CHECK_STR(buf_cstr(&out), want);
    buf_free(&out);
}

static void test_good(uint32_t version)
{
    struct gguf_build build = {.version = version};
    struct gguf *g = NULL;
    struct err_msg why;
    make_sample(&build);
    struct buf file = build_finish(&build);
    CHECK_OK(gguf_open_memory(file.data, file.len, "sample", &g, &why), why);
    if (g == NULL)
        return;
    CHECK_INT(gguf_version(g), version);
    CHECK_INT(gguf_file_bytes(g), file.len);
    CHECK_INT(strlen(gguf_hash(g)), 32);
    CHECK_INT(gguf_kv_count(g), 8);
    CHECK(str_eq(gguf_kv_key(g, 1), STR_LIT("a.f32")));
    CHECK_INT(gguf_kv_kind(g, 4), GGUF_ARRAY);
    test_getters(g);
    check_print(g, 0, 10, "7");
    check_print(g, 1, 10, "0.5");
    check_print(g, 2, 10, "true");
    check_print(g, 3, 100, "text \xc3\xa4\\n");
    check_print(g, 3, 6, "text ..."); /* never half a character */
    check_print(g, 4, 100, "[3 items: one, , three]");
    check_print(g, 5, 13, "[3 items: -1,...");
    check_print(g, 6, 10, "-5");
    const struct gguf_tensor *w = gguf_tensor_find(g, "w"), *b = gguf_tensor_find(g, "b");
    CHECK(gguf_tensor_find(g, "x") == NULL);
    CHECK_INT(gguf_tensor_count(g), 2);
    if (CHECK(w != NULL && b != NULL)) {
        CHECK(w == gguf_tensor_at(g, 0));
        CHECK_INT(w->type, TENSOR_Q8_0);
        CHECK_INT(w->dims_count, 2);
        CHECK(w->dims[0] == 64 && w->dims[1] == 3 && w->dims[2] == 1 && w->dims[3] == 1);
        CHECK_INT(w->bytes, 2 * 34 * 3);
        CHECK_INT(b->bytes, 20);
        CHECK_INT(b->data - w->data, 224);
        CHECK_INT(b->data + b->bytes - (const uint8_t *)file.data, file.len);
    }
    gguf_close(&g);
    CHECK(g == NULL);
    gguf_close(&g);
    buf_free(&file);
}

/* ---- bad files ---- */

static void bad_magic(struct gguf_build *g, struct buf *f)
{
    *f = build_finish(g);
    f->data[0] = 'g';
}
static void bad_version(struct gguf_build *g, struct buf *f)
{
    g->version = 4;
    *f = build_finish(g);
}
static void old_version(struct gguf_build *g, struct buf *f)
{
    g->version = 1;
    *f = build_finish(g);
}
static void big_endian(struct gguf_build *g, struct buf *f)
{
    g->version = 0x03000000;
    *f = build_finish(g);
}
static void too_short(struct gguf_build *g, struct buf *f)
{
    *f = build_finish(g);
    f->len = 23;
}
static void many_keys(struct gguf_build *g, struct buf *f)
{
    g->kv_count = UINT64_MAX / 2;
    *f = build_finish(g);
}
static void many_tensors(struct gguf_build *g, struct buf *f)
{
    g->tensor_count = 1000;
    *f = build_finish(g);
}
static void one_key_more(struct gguf_build *g, struct buf *f)
{
    build_tensor(g, "w", TENSOR_F32, 1, 1);
    g->kv_count++;
    *f = build_finish(g);
}
static void long_string(struct gguf_build *g, struct buf *f)
{
    build_key(g, "k", GGUF_STR);
    build_u64(&g->kvs, UINT64_MAX);
    *f = build_finish(g);
}
static void long_key(struct gguf_build *g, struct buf *f)
{
    g->kv_count++;
    build_u64(&g->kvs, 70000);
    for (size_t i = 0; i < 70000; i++)
        build_bytes(&g->kvs, "k", 1);
    build_u32(&g->kvs, GGUF_U32);
    build_u32(&g->kvs, 1);
    *f = build_finish(g);
}
static void empty_key(struct gguf_build *g, struct buf *f)
{
    build_kv_u32(g, "", 1);
    *f = build_finish(g);
}
static void key_no_utf8(struct gguf_build *g, struct buf *f)
{
    build_kv_u32(g, "k\xff", 1);
    *f = build_finish(g);
}
static void key_control(struct gguf_build *g, struct buf *f)
{
    build_kv_u32(g, "k\x1b[2J", 1);
    *f = build_finish(g);
}
static void twice_key(struct gguf_build *g, struct buf *f)
{
    build_kv_u32(g, "same", 1);
    build_kv_u32(g, "other", 1);
    build_kv_u32(g, "same", 2);
    *f = build_finish(g);
}
static void bad_kind(struct gguf_build *g, struct buf *f)
{
    build_key(g, "k", 13);
    build_u64(&g->kvs, 0);
    *f = build_finish(g);
}
static void bad_bool(struct gguf_build *g, struct buf *f)
{
    build_kv_bool(g, "k", 2);
    *f = build_finish(g);
}
static void bad_bool_array(struct gguf_build *g, struct buf *f)
{
    build_kv_array(g, "k", GGUF_BOOL, 2);
    build_bytes(&g->kvs, "\x01\x07", 2);
    *f = build_finish(g);
}
static void nested_array(struct gguf_build *g, struct buf *f)
{
    build_kv_array(g, "k", GGUF_ARRAY, 1);
    build_u32(&g->kvs, GGUF_U8);
    build_u64(&g->kvs, 0);
    *f = build_finish(g);
}
static void bad_element_kind(struct gguf_build *g, struct buf *f)
{
    build_kv_array(g, "k", 77, 1);
    *f = build_finish(g);
}
static void long_array(struct gguf_build *g, struct buf *f)
{
    build_kv_array(g, "k", GGUF_U64, UINT64_C(0x2000000000000001)); /* times 8 wraps to 8 */
    build_u64(&g->kvs, 0);
    *f = build_finish(g);
}
static void long_string_array(struct gguf_build *g, struct buf *f)
{
    build_kv_array(g, "k", GGUF_STR, UINT64_C(1) << 60);
    build_u64(&g->kvs, 0);
    *f = build_finish(g);
}
static void cut_element(struct gguf_build *g, struct buf *f)
{
    build_kv_array(g, "k", GGUF_STR, 2);
    build_text(&g->kvs, "good");
    build_u64(&g->kvs, 5);
    *f = build_finish(g);
}
static void set_alignment(struct gguf_build *g, struct buf *f, uint32_t a)
{
    build_kv_u32(g, "general.alignment", a);
    build_tensor(g, "w", TENSOR_F32, 1, 1);
    *f = build_finish(g);
}
static void alignment_zero(struct gguf_build *g, struct buf *f)
{
    set_alignment(g, f, 0);
}
static void alignment_24(struct gguf_build *g, struct buf *f)
{
    set_alignment(g, f, 24);
}
static void alignment_4(struct gguf_build *g, struct buf *f)
{
    set_alignment(g, f, 4);
}
static void alignment_huge(struct gguf_build *g, struct buf *f)
{
    set_alignment(g, f, 1u << 31);
}
static void alignment_kind(struct gguf_build *g, struct buf *f)
{
    build_kv_str(g, "general.alignment", "32");
    *f = build_finish(g);
}
static void with_dims(struct gguf_build *g, struct buf *f, uint32_t type, uint32_t count,
                      uint64_t a, uint64_t b)
{
    uint64_t dims[5] = {a, b, 1, 1, 1};
    build_tensor_at(g, "w", type, count, dims, 0);
    build_bytes(&g->data, "0123456789abcdef", 16);
    *f = build_finish(g);
}
static void no_dims(struct gguf_build *g, struct buf *f)
{
    with_dims(g, f, TENSOR_F32, 0, 0, 0);
}
static void five_dims(struct gguf_build *g, struct buf *f)
{
    with_dims(g, f, TENSOR_F32, 5, 1, 1);
}
static void dim_zero(struct gguf_build *g, struct buf *f)
{
    with_dims(g, f, TENSOR_F32, 2, 4, 0);
}
static void dims_overflow(struct gguf_build *g, struct buf *f)
{
    with_dims(g, f, TENSOR_F32, 2, UINT64_C(1) << 32, UINT64_C(1) << 32);
}
static void dims_over_signed(struct gguf_build *g, struct buf *f)
{
    with_dims(g, f, TENSOR_F32, 2, UINT64_C(1) << 32, UINT64_C(1) << 31);
}
static void bytes_overflow(struct gguf_build *g, struct buf *f)
{
    with_dims(g, f, TENSOR_F32, 2, UINT64_C(1) << 32, UINT64_C(1) << 30);
}
static void part_of_block(struct gguf_build *g, struct buf *f)
{
    with_dims(g, f, TENSOR_Q4_K, 2, 128, 2);
}
static void unknown_type(struct gguf_build *g, struct buf *f)
{
    with_dims(g, f, 4, 2, 4, 1);
}
static void ternary_type(struct gguf_build *g, struct buf *f)
{
    with_dims(g, f, 34, 2, 256, 1);
}
static void data_outside(struct gguf_build *g, struct buf *f)
{
    with_dims(g, f, TENSOR_F32, 2, 5, 1); /* 20 bytes, 16 are there */
}
static void offset_odd(struct gguf_build *g, struct buf *f)
{
    uint64_t dims[1] = {1};
    build_tensor_at(g, "w", TENSOR_F32, 1, dims, 4);
    build_bytes(&g->data, "0123456789abcdef", 16);
    *f = build_finish(g);
}
static void offset_overflow(struct gguf_build *g, struct buf *f)
{
    uint64_t dims[1] = {16};
    build_tensor_at(g, "w", TENSOR_F32, 1, dims, UINT64_MAX - 31);
    build_bytes(&g->data, "0123456789abcdef", 16);
    *f = build_finish(g);
}
static void no_data(struct gguf_build *g, struct buf *f)
{
    build_tensor(g, "w", TENSOR_F32, 1, 1);
    *f = build_finish(g);
    f->len = f->len / 32 * 32 - 1;
}
static void twice_tensor(struct gguf_build *g, struct buf *f)
{
    build_tensor(g, "same", TENSOR_F32, 1, 1);
    build_tensor(g, "same", TENSOR_F32, 1, 1);
    *f = build_finish(g);
}
static void long_name(struct gguf_build *g, struct buf *f)
{
    build_tensor(g, "0123456789012345678901234567890123456789012345678901234567890123x", TENSOR_F32,
                 1, 1);
    *f = build_finish(g);
}

static const struct {
    const char *name;
    void (*make)(struct gguf_build *g, struct buf *f);
    enum err e;
    const char *words;
} bad_files[] = {
    {"bad magic", bad_magic, ERR_FORMAT, "not a GGUF file: begins with 67 47 55 46"},
    {"version 4", bad_version, ERR_UNSUPPORTED, "GGUF version 4, expected 2 or 3"},
    {"version 1", old_version, ERR_UNSUPPORTED, "GGUF version 1, expected 2 or 3"},
    {"big-endian", big_endian, ERR_UNSUPPORTED, "big-endian"},
    {"too short", too_short, ERR_FORMAT, "too short: 23 bytes"},
    {"impossible key count", many_keys, ERR_FORMAT, "keys are impossible in a file of"},
    {"impossible tensor count", many_tensors, ERR_FORMAT,
     "1000 tensors are impossible in a file of"},
    {"one key more than there is", one_key_more, ERR_FORMAT, "truncated: "},
    {"string longer than the file", long_string, ERR_FORMAT, "truncated: key 'k' at byte"},
    {"key of 70000 bytes", long_key, ERR_FORMAT, "key 0 is 70000 bytes long"},
    {"empty key", empty_key, ERR_FORMAT, "key 0 is 0 bytes long"},
    {"key that is no UTF-8", key_no_utf8, ERR_FORMAT, "key 0 is no printable UTF-8"},
    {"key with a control character", key_control, ERR_FORMAT, "key 0 is no printable UTF-8"},
    {"key twice", twice_key, ERR_FORMAT, "key 'same' is there twice"},
    {"unknown kind", bad_kind, ERR_FORMAT, "key 'k' has type number 13, expected 0 to 12"},
    {"bool of 2", bad_bool, ERR_FORMAT, "key 'k': a bool is 2"},
    {"bool of 7 in an array", bad_bool_array, ERR_FORMAT, "key 'k': a bool is 7"},
    {"array of arrays", nested_array, ERR_UNSUPPORTED, "key 'k' is an array of arrays"},
    {"array of an unknown kind", bad_element_kind, ERR_FORMAT, "key 'k' has type number 77"},
    {"array whose size wraps", long_array, ERR_FORMAT,
     "2305843009213693953 elements of u64, impossible"},
    {"array of 2^60 strings", long_string_array, ERR_FORMAT,
     "1152921504606846976 elements of str, impossible"},
    {"array with a cut string", cut_element, ERR_FORMAT, "element 1: truncated: key 'k'"},
    {"alignment 0", alignment_zero, ERR_FORMAT,
     "'general.alignment' is 0, expected a power of two"},
    {"alignment 24", alignment_24, ERR_FORMAT,
     "'general.alignment' is 24, expected a power of two"},
    {"alignment 4", alignment_4, ERR_FORMAT, "'general.alignment' is 4, expected a power of two"},
    {"alignment 2^31", alignment_huge, ERR_FORMAT, "'general.alignment' is 2147483648"},
    {"alignment as text", alignment_kind, ERR_FORMAT, "'general.alignment' is str, expected u32"},
    {"no dimensions", no_dims, ERR_FORMAT, "tensor 'w' has 0 dimensions"},
    {"five dimensions", five_dims, ERR_FORMAT, "tensor 'w' has 5 dimensions"},
    {"dimension 0", dim_zero, ERR_FORMAT, "tensor 'w': dimension 1 is 0"},
    {"dimensions overflow", dims_overflow, ERR_FORMAT,
     "tensor 'w': the product of its dimensions overflows"},
    {"dimensions over 2^63", dims_over_signed, ERR_FORMAT,
     "tensor 'w': the product of its dimensions overflows"},
    {"bytes overflow", bytes_overflow, ERR_FORMAT, "tensor 'w': its size in bytes overflows"},
    {"rows of half a block", part_of_block, ERR_FORMAT,
     "rows of 128 values are no multiple of Q4_K's blocks of 256"},
    {"unknown tensor type", unknown_type, ERR_UNSUPPORTED,
     "tensor 'w' has type number 4, which is not supported"},
    {"unsupported tensor type", ternary_type, ERR_UNSUPPORTED,
     "tensor 'w' has type TQ1_0 (number 34), which is not supported (supported: F32, F16, Q4_0, "},
    {"data outside", data_outside, ERR_FORMAT,
     "tensor 'w': 20 bytes at offset 0 lie outside the file's 16 bytes"},
    {"offset not aligned", offset_odd, ERR_FORMAT, "offset 4 is no multiple of the alignment 32"},
    {"offset overflows", offset_overflow, ERR_FORMAT,
     "tensor 'w': 64 bytes at offset 18446744073709551584"},
    {"no data", no_data, ERR_FORMAT, "truncated: the file ends before the tensors' data"},
    {"tensor twice", twice_tensor, ERR_FORMAT, "tensor 'same' is there twice"},
    {"tensor name of 65 bytes", long_name, ERR_FORMAT, "the name of tensor 0 is 65 bytes long"},
};

/* Bytes in memory of their own, so that a sanitizer sees a read beyond them. */
static enum err open_copy(const struct buf *file, size_t len, struct gguf **ret,
                          struct err_msg *why)
{
    char *copy = malloc(len == 0 ? 1 : len);
    if (copy == NULL)
        abort();
    memcpy(copy, file->data, len);
    enum err e = gguf_open_memory(copy, len, "FILE", ret, why);
    if (e == ERR_OK)
        gguf_close(ret);
    free(copy);
    return e;
}

static void test_bad_files(void)
{
    for (size_t i = 0; i < ARRAY_LEN(bad_files); i++) {
        struct gguf_build build = {0};
        struct buf file = {0};
        struct gguf *g = NULL;
        struct err_msg why = {{0}};
        bad_files[i].make(&build, &file);
        enum err e = open_copy(&file, file.len, &g, &why);
        if (e != bad_files[i].e)
            fprintf(stderr, "%s: %s: \"%s\"\n", bad_files[i].name, err_name(e), why.text);
        CHECK_INT(e, bad_files[i].e);
        CHECK(g == NULL);
        CHECK_HAS(why.text, bad_files[i].words);
        CHECK(strncmp(why.text, "FILE: ", 6) == 0);
        CHECK(strchr(why.text, '\n') == NULL);
        buf_free(&file);
    }
}

/* Cut anywhere, a file fails cleanly and says so. */
static void test_truncations(void)
{
    struct gguf_build build = {0};
    make_sample(&build);
    struct buf file = build_finish(&build);
    for (size_t len = 0; len < file.len; len++) {
        struct gguf *g = NULL;
        struct err_msg why = {{0}};
        CHECK_ERR(open_copy(&file, len, &g, &why), ERR_FORMAT);
        bool said = strstr(why.text, "truncated") || strstr(why.text, "too short") ||
                    strstr(why.text, "impossible in") || strstr(why.text, "lie outside");
        if (!CHECK(said))
            fprintf(stderr, "    %zu bytes: %s\n", len, why.text);
    }
    struct gguf *g = NULL;
    struct err_msg why;
    CHECK_OK(open_copy(&file, file.len, &g, &why), why);
    buf_free(&file);
}

static void check_open(const char *path, enum err want, const char *words)
{
    struct gguf *g = NULL;
    struct err_msg why = {{0}};
    CHECK_ERR(gguf_open(path, &g, &why), want);
    CHECK_HAS(why.text, words);
    CHECK_HAS(why.text, path);
    gguf_close(&g);
}

static void test_paths(const char *model)
{
    char dir[] = "/tmp/octo-gguf-XXXXXX", path[64];
    struct gguf *g = NULL;
    struct err_msg why;
    if (!CHECK(mkdtemp(dir) != NULL))
        return;
    check_open(dir, ERR_IO, "is a directory");
    snprintf(path, sizeof(path), "%s/missing.gguf", dir);
    check_open(path, ERR_IO, "cannot open: No such file");
    snprintf(path, sizeof(path), "%s/fifo", dir);
    CHECK_INT(mkfifo(path, 0600), 0);
    check_open(path, ERR_IO, "not a regular file");
    unlink(path);
    snprintf(path, sizeof(path), "%s/empty.gguf", dir);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    close(fd);
    check_open(path, ERR_FORMAT, "the file is empty");
    unlink(path);
    rmdir(dir);

    CHECK_OK(gguf_open(model, &g, &why), why);
    if (g != NULL) {
        CHECK_STR(gguf_path(g), model);
        CHECK_INT(gguf_tensor_count(g), 98);
    }
    gguf_close(&g);
}

int main(int argc, char **argv)
{
    (void)argc;
    test_good(2);
    test_good(3);
    test_bad_files();
    test_truncations();
    test_paths(argv[1]);
    CHECK(tensor_type_find(14) != NULL && strcmp(tensor_type_find(14)->name, "Q6_K") == 0);
    CHECK(tensor_type_find(5) == NULL && tensor_type_find(UINT32_MAX) == NULL);
    return check_report();
}
