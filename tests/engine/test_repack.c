/* Pieces on threads put together are what repacking a tensor at once gives, in order, with any
 * number of threads; the first tensor that is broken is the one named, with its row; ending in the
 * middle leaves nothing behind. */
#include "engine/repack.h"

#include "base/size.h"
#include "base/str.h"
#include "engine/kernels.h"
#include "tests/check.h"

enum { TENSORS = 9 };

static uint8_t *bytes_of[TENSORS];
static struct gguf_tensor tensors[TENSORS];
static const struct gguf_tensor *list[TENSORS];

static void make(size_t i, const char *name, enum tensor_type type, uint64_t cols, uint64_t rows,
                 uint64_t matrices, uint64_t row_bytes)
{
    uint64_t bytes = row_bytes * rows * matrices;
    uint8_t *data = bytes_of[i] = malloc(bytes);
    if (data == NULL)
        exit(1);
    for (uint64_t k = 0; k < bytes; k++)
        data[k] = (uint8_t)((k + i) * 2654435761u >> 24) & 0x3b; /* no half is infinite */
    tensors[i] = (struct gguf_tensor){.name = str_of(name),
                                      .type = type,
                                      .dims_count = 3,
                                      .dims = {cols, rows, matrices, 1},
                                      .bytes = bytes,
                                      .data = data};
    list[i] = &tensors[i];
}

/* One larger than a piece, experts, odd numbers of rows, a row larger than a piece. */
static void make_all(void)
{
    make(0, "large", TENSOR_Q8_0, 1024, 20011, 1, 34 * 32);
    make(1, "tiny", TENSOR_F32, 5, 1, 1, 20);
    make(2, "odd", TENSOR_Q4_K, 512, 77, 1, 144 * 2);
    make(3, "experts", TENSOR_Q6_K, 256, 700, 3, 210);
    make(4, "wide", TENSOR_F16, 400000, 70, 1, 800000);
    for (size_t i = 5; i < TENSORS; i++)
        make(i, "more", TENSOR_Q4_0, 320, 3000 + i, 1, 180);
}

static void compare(unsigned threads)
{
    struct repack *r = NULL;
    struct err_msg why = {""};
    struct repack_piece p;
    unsigned pieces = 0;
    CHECK_OK(repack_create(list, TENSORS, threads, &r, &why), why);
    for (size_t i = 0; i < TENSORS; i++) {
        const struct gguf_tensor *t = list[i];
        uint64_t rows = t->dims[1] * t->dims[2], at = 0;
        uint64_t bytes = kernel_weight_bytes(t->type, rows, t->dims[0]);
        uint8_t *want = malloc(bytes), *got = calloc(1, bytes);
        if (want == NULL || got == NULL)
            exit(1);
        CHECK_OK(kernel_weight_repack(t->type, rows, t->dims[0], t->data, want, &why), why);
        p.last = false;
        while (!p.last) {
            CHECK_OK(repack_next(r, &p, &why), why);
            if (!CHECK(p.tensor == t && p.offset == at && p.bytes <= bytes - at))
                exit(1);
            memcpy(got + at, p.data, p.bytes);
            at += p.bytes;
            pieces++;
        }
        CHECK_INT(at, bytes);
        CHECK(memcmp(want, got, bytes) == 0);
        free(want);
        free(got);
    }
    CHECK(pieces >= TENSORS + 4);
    CHECK_ERR(repack_next(r, &p, &why), ERR_AGAIN);
    CHECK_ERR(repack_next(r, &p, &why), ERR_AGAIN);
    repack_destroy(&r);
    repack_destroy(&r); /* NULL */
}

/* A scale that is not a number in one row each of a large tensor's second piece and a later one. */
static void broken(unsigned threads)
{
    struct repack *r = NULL;
    struct err_msg why = {""};
    struct repack_piece p;
    enum err e = ERR_OK;
    uint8_t *one = bytes_of[0] + 15000 * (34 * 32) + 1;
    uint8_t *two = bytes_of[2] + 1;
    uint8_t saved = *one, saved_two = *two;
    *one = *two = 0x7c;
    CHECK_OK(repack_create(list, TENSORS, threads, &r, &why), why);
    for (unsigned i = 0; e == ERR_OK && i < 100; i++)
        e = repack_next(r, &p, &why);
    CHECK_INT(e, ERR_FORMAT);
    CHECK_STR(why.text, "tensor large: row 15000: a block's scale is not a finite number");
    repack_destroy(&r);
    *one = saved;
    CHECK_OK(repack_create(list, TENSORS, threads, &r, &why), why);
    for (e = ERR_OK; e == ERR_OK;)
        e = repack_next(r, &p, &why);
    CHECK_STR(why.text, "tensor odd: row 0: a block's scale is not a finite number");
    repack_destroy(&r);
    *two = saved_two;
    /* Ended with pieces under way. */
    CHECK_OK(repack_create(list, TENSORS, threads, &r, &why), why);
    CHECK_OK(repack_next(r, &p, &why), why);
    repack_destroy(&r);
    CHECK_OK(repack_create(list, 0, threads, &r, &why), why);
    CHECK_ERR(repack_next(r, &p, &why), ERR_AGAIN);
    repack_destroy(&r);
}

int main(void)
{
    make_all();
    CHECK(repack_threads() <= 8);
    for (unsigned threads = 0; threads <= 3; threads++) {
        compare(threads);
        broken(threads);
    }
    compare(100);
    for (size_t i = 0; i < TENSORS; i++)
        free(bytes_of[i]);
    return check_report();
}
