/* The decoders of messages and bodies on any bytes: they refuse or give something that encodes and
 * decodes to itself. With the option `fuzz` and clang this is a libFuzzer target (dictionary:
 * protocol_doc --dict); otherwise a test that mutates random messages, seeded. */
#include "proto/codec.h"

#include "base/file.h"
#include "tests/proto/random_msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "fuzz_message: %s\n", what);
        abort();
    }
}

static unsigned accepted;

static void check_message(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct err_msg why = {{0}};
    struct buf first = {0}, second = {0};
    struct msg m, again;
    enum err e = proto_decode(data, size, &arena, &m, &why);
    require(e == ERR_OK || e == ERR_PROTO, "decode gave another error than ERR_PROTO");
    require((e == ERR_OK) == (why.text[0] == '\0'),
            "an error without a message, or a message without one");
    if (e == ERR_OK) {
        accepted++;
        require(proto_encode(&m, &first, &why) == ERR_OK, "what decodes does not encode");
        require(proto_decode(first.data, first.len, &arena, &again, &why) == ERR_OK,
                "what encodes does not decode");
        require(m.type == again.type, "another type after a round trip");
        require(same_fields(proto_message_schema(m.type), (char *)&m.hello, (char *)&again.hello),
                "other fields after a round trip");
        require(proto_encode(&again, &second, &why) == ERR_OK && first.len == second.len &&
                    memcmp(first.data, second.data, first.len) == 0,
                "other bytes after a round trip");
    }
    buf_free(&first);
    buf_free(&second);
    arena_free(&arena);
}

static void check_bodies(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct err_msg why = {{0}};
    struct buf out = {0};
    struct rec_REQUEST request;
    struct rec_OUTPUT output;
    struct rec_CHECKPOINT checkpoint;
    if (proto_decode_request(data, size, &arena, &request, &why) == ERR_OK)
        require(proto_encode_request(&request, &out, &why) == ERR_OK,
                "a REQUEST decodes but does not encode");
    if (proto_decode_output(data, size, &arena, &output, &why) == ERR_OK)
        require(proto_encode_output(&output, &out, &why) == ERR_OK,
                "an OUTPUT decodes but does not encode");
    if (proto_decode_checkpoint(data, size, &arena, &checkpoint, &why) == ERR_OK)
        require(proto_encode_checkpoint(&checkpoint, &out, &why) == ERR_OK,
                "a CHECKPOINT decodes but does not encode");
    buf_free(&out);
    arena_free(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_message(data, size);
    check_bodies(data, size);
    return 0;
}

#ifndef OCTO_LIBFUZZER

enum { MAX_BYTES = 1 << 16, ROUNDS = 40000, SEEDS = 300 };

static size_t mutate(struct check_rng *r, uint8_t *bytes, size_t len)
{
    static const uint8_t heads[] = {0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc4,
                                    0xc6, 0xc7, 0xca, 0xcb, 0xcf, 0xd3, 0xd4, 0xd9, 0xdb,
                                    0xdc, 0xdd, 0xde, 0xdf, 0xff, 0x7f, 0x00};
    size_t at = len > 0 ? check_rng_below(r, len) : 0;
    switch (check_rng_below(r, 6)) {
    case 0:
        if (len > 0)
            bytes[at] ^= (uint8_t)(1u << check_rng_below(r, 8));
        return len;
    case 1:
        if (len > 0)
            bytes[at] = heads[check_rng_below(r, sizeof heads)];
        return len;
    case 2: /* cut */
        return at;
    case 3: /* insert */
        if (len + 1 > MAX_BYTES)
            return len;
        memmove(bytes + at + 1, bytes + at, len - at);
        bytes[at] = heads[check_rng_below(r, sizeof heads)];
        return len + 1;
    case 4: /* leave out */
        if (len == 0)
            return 0;
        memmove(bytes + at, bytes + at + 1, len - at - 1);
        return len - 1;
    default: { /* repeat a piece */
        size_t n = check_rng_below(r, 24);
        if (n > len - at)
            n = len - at;
        if (len + n > MAX_BYTES)
            return len;
        memmove(bytes + at + n, bytes + at, len - at);
        return len + n;
    }
    }
}

static void run_exactly(const uint8_t *bytes, size_t len)
{
    uint8_t *copy = malloc(len > 0 ? len : 1); /* no byte more: a read behind the end is seen */
    require(copy != NULL, "out of memory");
    memcpy(copy, bytes, len);
    LLVMFuzzerTestOneInput(copy, len);
    free(copy);
}

static enum err encode_something(struct check_rng *r, struct arena *arena, struct buf *out)
{
    struct rec_REQUEST request = {0};
    struct rec_OUTPUT output = {0};
    struct msg m;
    uint64_t pick = check_rng_below(r, proto_message_count() + 2);
    for (size_t i = 0; proto_record_schema(i) != NULL; i++) {
        const struct proto_schema *s = proto_record_schema(i);
        if (strcmp(s->name, "REQUEST") == 0)
            random_fields(r, arena, s, (char *)&request);
        if (strcmp(s->name, "OUTPUT") == 0)
            random_fields(r, arena, s, (char *)&output);
    }
    if (pick == 0)
        return proto_encode_request(&request, out, NULL);
    if (pick == 1)
        return proto_encode_output(&output, out, NULL);
    random_msg(r, arena, (enum msg_type)(pick - 1), &m);
    return proto_encode(&m, out, NULL);
}

/* A corpus for libFuzzer to start from. */
static int write_seeds(struct check_rng *rng, const char *dir)
{
    for (unsigned i = 0; i < SEEDS; i++) {
        struct arena arena = {0};
        struct buf b = {0}, path = {0};
        struct err_msg why;
        CHECK_ERR(encode_something(rng, &arena, &b), ERR_OK);
        CHECK_ERR(buf_printf(&path, "%s/seed-%u", dir, i), ERR_OK);
        CHECK_OK(file_write_atomic(buf_cstr(&path), b.data, b.len, &why), why);
        buf_free(&b);
        buf_free(&path);
        arena_free(&arena);
    }
    return check_report();
}

/* fuzz_message [DIR]: the test, or the corpus into an existing folder. */
int main(int argc, char **argv)
{
    struct check_rng rng = check_rng_start(1);
    if (argc > 1)
        return write_seeds(&rng, argv[1]);
    static uint8_t bytes[MAX_BYTES];
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct arena arena = {0};
        struct buf b = {0};
        CHECK_ERR(encode_something(&rng, &arena, &b), ERR_OK);
        size_t len = b.len < MAX_BYTES ? b.len : MAX_BYTES;
        memcpy(bytes, b.data, len);
        for (uint64_t i = check_rng_below(&rng, 5); i > 0; i--)
            len = mutate(&rng, bytes, len);
        run_exactly(bytes, len);
        buf_free(&b);
        arena_free(&arena);
    }
    printf("%u of %d accepted\n", accepted, ROUNDS);
    CHECK(accepted > ROUNDS / 10 && accepted < ROUNDS / 10 * 9); /* both paths were walked */
    return check_report();
}

#endif
