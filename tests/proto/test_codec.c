/* The codec: what encodes decodes to the same, and everything malformed is refused with a line that
 * names it. */
#include "proto/codec.h"

#include <math.h>
#include <stdarg.h>

#include "base/size.h"
#include "base/utf8.h"
#include "tests/check.h"
#include "tests/proto/random_msg.h"

/* A tiny writer of msgpack that shares nothing with the codec: fix-sized heads where they fit. */
static void put(struct buf *b, const char *bytes, size_t len)
{
    if (buf_append(b, bytes, len) != ERR_OK)
        abort();
}

static void put_byte(struct buf *b, unsigned byte)
{
    char c = (char)byte;
    put(b, &c, 1);
}

static void put_text(struct buf *b, const char *text)
{
    put_byte(b, 0xa0 | (unsigned)strlen(text)); /* shorter than 32 */
    put(b, text, strlen(text));
}

static void put_envelope(struct buf *b, unsigned fields, const char *type)
{
    put_byte(b, 0x80 | (fields + 2));
    put_text(b, "v");
    put_byte(b, PROTO_VERSION);
    put_text(b, "t");
    put_text(b, type);
}

static void expect_bad(const char *bytes, size_t len, const char *part)
{
    struct arena arena = {0};
    struct err_msg why = {{0}};
    struct msg m = {.type = MSG_NONE};
    /* At the end of its own allocation, so that the address sanitizer sees a read behind it. */
    char *copy = malloc(len > 0 ? len : 1);
    if (copy == NULL)
        abort();
    if (len > 0)
        memcpy(copy, bytes, len);
    CHECK_ERR(proto_decode(copy, len, &arena, &m, &why), ERR_PROTO);
    CHECK_HAS(why.text, part);
    CHECK(m.type == MSG_NONE);
    free(copy);
    arena_free(&arena);
}

static void expect_bad_buf(struct buf *b, const char *part)
{
    expect_bad(b->data, b->len, part);
    buf_free(b);
}

static void test_roundtrip(struct check_rng *rng)
{
    for (unsigned round = 0; round < 60; round++) {
        for (size_t t = 1; t <= proto_message_count(); t++) {
            struct arena arena = {0}, decoded = {0};
            struct err_msg why = {{0}};
            struct buf b = {0};
            struct msg m, back;
            memset(&back, 0, sizeof back);
            random_msg(rng, &arena, (enum msg_type)t, &m);
            put(&b, "front", 5); /* encode appends */
            CHECK_OK(proto_encode(&m, &b, &why), why);
            CHECK(memcmp(b.data, "front", 5) == 0);
            CHECK_OK(proto_decode(b.data + 5, b.len - 5, &decoded, &back, &why), why);
            CHECK_INT(back.type, m.type);
            CHECK(same_fields(proto_message_schema(m.type), (const char *)&m.hello,
                              (const char *)&back.hello));
            buf_free(&b);
            arena_free(&arena);
            arena_free(&decoded);
        }
    }
}

static const struct proto_schema *record_named(const char *name)
{
    for (size_t i = 0; proto_record_schema(i) != NULL; i++) {
        if (strcmp(proto_record_schema(i)->name, name) == 0)
            return proto_record_schema(i);
    }
    abort();
}

static void test_bodies(struct check_rng *rng)
{
    for (unsigned round = 0; round < 100; round++) {
        struct arena arena = {0};
        struct err_msg why = {{0}};
        struct buf b = {0};
        struct rec_REQUEST request = {0}, request_back;
        struct rec_OUTPUT output = {0}, output_back;
        struct rec_CHECKPOINT checkpoint = {0}, checkpoint_back;
        random_fields(rng, &arena, record_named("REQUEST"), (char *)&request);
        random_fields(rng, &arena, record_named("OUTPUT"), (char *)&output);
        random_fields(rng, &arena, record_named("CHECKPOINT"), (char *)&checkpoint);
        CHECK_OK(proto_encode_request(&request, &b, &why), why);
        CHECK_OK(proto_decode_request(b.data, b.len, &arena, &request_back, &why), why);
        CHECK(same_fields(record_named("REQUEST"), (char *)&request, (char *)&request_back));
        CHECK_ERR(proto_decode_request(b.data, b.len - 1, &arena, &request_back, &why), ERR_PROTO);
        CHECK_HAS(why.text, "REQUEST");
        buf_clear(&b);
        CHECK_OK(proto_encode_output(&output, &b, &why), why);
        CHECK_OK(proto_decode_output(b.data, b.len, &arena, &output_back, &why), why);
        CHECK(same_fields(record_named("OUTPUT"), (char *)&output, (char *)&output_back));
        buf_clear(&b);
        CHECK_OK(proto_encode_checkpoint(&checkpoint, &b, &why), why);
        CHECK_OK(proto_decode_checkpoint(b.data, b.len, &arena, &checkpoint_back, &why), why);
        CHECK(
            same_fields(record_named("CHECKPOINT"), (char *)&checkpoint, (char *)&checkpoint_back));
        buf_free(&b);
        arena_free(&arena);
    }
}

/* Cut at every byte: always refused, never read beyond. */
static void test_truncated(struct check_rng *rng)
{
    for (size_t t = 1; t <= proto_message_count(); t++) {
        struct arena arena = {0};
        struct err_msg why = {{0}};
        struct buf b = {0};
        struct msg m;
        random_msg(rng, &arena, (enum msg_type)t, &m);
        CHECK_OK(proto_encode(&m, &b, &why), why);
        for (size_t cut = 0; cut < b.len; cut++)
            expect_bad(b.data, cut, "message: ");
        put_byte(&b, 0xc0);
        expect_bad(b.data, b.len, "1 bytes follow its end");
        buf_free(&b);
        arena_free(&arena);
    }
}

static void test_hostile_counts(void)
{
    expect_bad("", 0, "empty");
    expect_bad("\xdd\xff\x00\x00\x00", 5,
               "announces 4278190080 list elements, but only 0 bytes follow");
    expect_bad("\xdf\xff\xff\xff\xff", 5, "announces 4294967295 map entries");
    expect_bad("\xde\xff\xff", 3, "announces 65535 map entries");
    expect_bad("\x81\xa1v\xdb\xff\xff\xff\xff", 8, "(key \"v\"): announces 4294967295 bytes");
    expect_bad("\x81\xa1v\xc6\x00\x01", 6, "cut off inside a length");
    expect_bad("\x93\x01\x02\x03", 4, "a list; expected a msgpack map");
    expect_bad("hello", 5, "starts with byte 0x68");
    expect_bad("\x81\xa1v\xc1", 4, "0xc1 is no msgpack value");
    expect_bad("\x81\xa1x\x91\x91\x91\x91\x91\x91\x01", 10, "byte 7 (key \"x\"): nested too deep");
    expect_bad("\x81\xa1x\xd4\x01\x02", 6, "extension type");
    expect_bad("\x81\xa1x\xc7\x01\x02\x00", 7, "extension type");
    expect_bad("\x81\x01\x02", 3, "byte 1: a map key that is no text");
    struct buf b = {0};
    put_byte(&b, 0xde);
    put_byte(&b, 0);
    put_byte(&b, PROTO_MAX_FIELDS + 1);
    for (int i = 0; i <= PROTO_MAX_FIELDS; i++) {
        put_byte(&b, 0xa1);
        put_byte(&b, (unsigned)(' ' + i));
        put_byte(&b, 0xc0);
    }
    expect_bad_buf(&b, "a map with too many entries");
}

/* A list of nothings that is long enough to cost msgpack-c many megabytes. */
static void test_too_many_values(void)
{
    struct buf b = {0};
    size_t count = PROTO_MAX_MESSAGE_OBJECTS + 10;
    put(&b, "\x81\xa1x\xdd", 4);
    for (int shift = 24; shift >= 0; shift -= 8)
        put_byte(&b, (unsigned)(count >> shift & 0xff));
    CHECK(buf_reserve(&b, count) == ERR_OK);
    memset(b.data + b.len, 0xc0, count);
    b.len += count;
    expect_bad_buf(&b, "too many values");
}

static void test_envelope(void)
{
    struct buf b = {0};
    put(&b, "\x81\xa1t\xa2OK", 6);
    expect_bad_buf(&b, "\"v\" (protocol version) is missing");
    put(&b, "\x82\xa1v\x02\xa1t\xa3NEW", 10);
    expect_bad_buf(&b, "protocol version 2; expected 1: upgrade the older program");
    put(&b, "\x82\xa1v\xff\xa1t\xa2OK", 9);
    expect_bad_buf(&b, "\"v\" is a negative integer");
    put(&b, "\x81\xa1v\x01", 4);
    expect_bad_buf(&b, "\"t\" (its type) is missing");
    put(&b, "\x82\xa1v\x01\xa1t\x07", 7);
    expect_bad_buf(&b, "\"t\" is an integer");
    put_envelope(&b, 0, "TELEPORT");
    expect_bad_buf(&b, "unknown type \"TELEPORT\"");
    put_envelope(&b, 0, "OK\x1b[2J"); /* must not reach a terminal */
    expect_bad_buf(&b, "unknown type \"OK?[2J\"");
    put_envelope(&b, 0, "");
    expect_bad_buf(&b, "unknown type \"\"");
}

/* How a program hears that its broker speaks another version, whatever that is. */
static void test_error_of_any_version(void)
{
    static const char bytes[] = "\x85\xa1v\x02\xa1t\xa5"
                                "ERROR\xa3seq\x00\xa4"
                                "code\xa7version\xa4text\xa5other";
    struct arena arena = {0};
    struct err_msg why = {{0}};
    struct msg m = {.type = MSG_NONE};
    CHECK_OK(proto_decode(bytes, sizeof bytes - 1, &arena, &m, &why), why);
    CHECK(m.type == MSG_TYPE_ERROR && str_eq(m.error.code, STR_LIT("version")));
    arena_free(&arena);
}

static void test_fields(void)
{
    struct buf b = {0};
    put_envelope(&b, 0, "OK");
    expect_bad_buf(&b, "OK: \"seq\": missing; it is required");
    put_envelope(&b, 1, "OK");
    put(&b, "\xa3seq\xa1x", 6);
    expect_bad_buf(&b, "OK: \"seq\": text; expected an unsigned integer");
    put_envelope(&b, 1, "OK");
    put(&b, "\xa3seq\xff", 5);
    expect_bad_buf(&b, "a negative integer; expected an unsigned integer");
    put_envelope(&b, 2, "OK");
    put(&b, "\xa3seq\x01\xa3seq\x01", 10);
    expect_bad_buf(&b, "(key \"seq\"): the same key a second time");
    put_envelope(&b, 2, "SEAL");
    put(&b,
        "\xa3seq\x01\xa5"
        "batch\xc4\x01x",
        14);
    expect_bad_buf(&b, "SEAL: \"batch\": bytes; expected text");
    put_envelope(&b, 2, "SEAL");
    put(&b,
        "\xa3seq\x01\xa5"
        "batch\xa2\xc0\x80",
        14);
    expect_bad_buf(&b, "SEAL: \"batch\": not valid UTF-8 (from byte 0)");
    put_envelope(&b, 2, "SEAL");
    put(&b,
        "\xa3seq\x01\xa5"
        "batch\xd9\x81",
        13);
    for (int i = 0; i < 129; i++)
        put_byte(&b, 'x');
    expect_bad_buf(&b, "SEAL: \"batch\": 129 bytes; expected at most 128");
    put_envelope(&b, 2, "BATCH_NEW");
    put(&b, "\xa8priority\xcd\x01\x00\xa3seq\x01", 17);
    expect_bad_buf(&b, "BATCH_NEW: \"priority\": 256; expected at most 255");
    put_envelope(&b, 1, "ACKS");
    put(&b,
        "\xa4"
        "acks\x01",
        6);
    expect_bad_buf(&b, "ACKS: \"acks\": an integer; expected a list of records");
    put_envelope(&b, 1, "ACKS");
    put(&b,
        "\xa4"
        "acks\x91\x01",
        7);
    expect_bad_buf(&b, "ACKS: \"acks\"[0]: an integer; expected a map");
    put_envelope(&b, 1, "ACKS");
    put(&b,
        "\xa4"
        "acks\x91\x82\xa3job\x01\xa5"
        "epoch\x01",
        19);
    expect_bad_buf(&b, "ACKS: \"acks\"[0] \"outcome\": missing");
    put_envelope(&b, 1, "CANCEL");
    put(&b, "\xa5lines\x92\x01\xc3", 9);
    expect_bad_buf(&b, "CANCEL: \"lines\"[1]: a boolean; expected an unsigned integer");
    put_envelope(&b, 1, "PULL");
    put(&b,
        "\xa4"
        "duty\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
        14);
    expect_bad_buf(&b, "PULL: \"duty\": nan; expected a finite number");
    put_envelope(&b, 1, "PULL");
    put(&b,
        "\xa4"
        "duty\xca\x7f\x80\x00\x00",
        10);
    expect_bad_buf(&b, "PULL: \"duty\": inf; expected a finite number");
    put_envelope(&b, 1, "BEAT");
    put(&b,
        "\xa8"
        "draining\x01",
        10);
    expect_bad_buf(&b, "BEAT: \"draining\": an integer; expected a boolean");
    put_envelope(&b, 1, "GRANT");
    put(&b, "\xa4jobs\xdc\x04\x01", 8);
    for (int i = 0; i < 1025; i++)
        put_byte(&b, 0x80);
    expect_bad_buf(&b, "GRANT: \"jobs\": 1025 elements; expected at most 1024");
}

/* What other encoders and newer peers may send. */
static void test_lenient(void)
{
    struct arena arena = {0};
    struct err_msg why = {{0}};
    struct buf b = {0};
    struct msg m;
    put_envelope(&b, 6, "PULL");
    put(&b, "\xa3new\x82\xa1z\x91\x01\xa1y\xc4\x01x", 14); /* an unknown field is skipped */
    put(&b, "\xa7session\xcf\x00\x00\x00\x00\x00\x00\x00\x05", 17); /* longer than need be */
    put(&b, "\xa6temp_c\xd0\xf6", 9);                               /* an integer as a float: -10 */
    put(&b,
        "\xa4"
        "duty\xca\x3f\x00\x00\x00",
        10); /* float32: 0.5 */
    put(&b, "\xa8margin_c\x07", 10);
    put(&b,
        "\xac"
        "credit_total\xd3\x00\x00\x00\x00\x00\x00\x00\x09",
        22); /* a signed one, not negative */
    CHECK_OK(proto_decode(b.data, b.len, &arena, &m, &why), why);
    CHECK_INT(m.pull.session, 5);
    CHECK_INT(m.pull.credit_total, 9);
    CHECK(m.pull.temp_c == -10.0 && m.pull.duty == 0.5 && m.pull.margin_c == 7.0);
    CHECK(m.pull.power_w == 0);
    buf_free(&b);
    arena_free(&arena);
}

static void test_encode_limits(void)
{
    struct err_msg why = {{0}};
    struct buf b = {0};
    struct msg m = {.type = MSG_TYPE_BATCH_NEW,
                    .batch_new = {.seq = 1, .batch = STR_LIT("b"), .priority = 256}};
    put(&b, "keep", 4);
    CHECK_ERR(proto_encode(&m, &b, &why), ERR_RANGE);
    CHECK_STR(why.text, "BATCH_NEW: \"priority\": 256; at most 255 is allowed");
    m.batch_new.priority = 1;
    m.batch_new.batch = STR_LIT("\xff");
    CHECK_ERR(proto_encode(&m, &b, &why), ERR_RANGE);
    CHECK_STR(why.text, "BATCH_NEW: \"batch\": text that is no valid UTF-8");
    static const char longer[PROTO_MAX_ID_BYTES + 1];
    m.batch_new.batch = (struct str){longer, sizeof longer};
    CHECK_ERR(proto_encode(&m, &b, &why), ERR_RANGE);
    CHECK_HAS(why.text, "129 bytes; at most 128 are allowed");
    m = (struct msg){.type = MSG_TYPE_PULL, .pull = {.duty = (double)NAN}};
    CHECK_ERR(proto_encode(&m, &b, &why), ERR_RANGE);
    CHECK_HAS(why.text, "PULL: \"duty\": nan");
    m = (struct msg){.type = MSG_NONE};
    CHECK_ERR(proto_encode(&m, &b, &why), ERR_RANGE);
    m = (struct msg){.type = (enum msg_type)1000};
    CHECK_ERR(proto_encode(&m, &b, NULL), ERR_RANGE);
    /* Each field within its limit, the whole over it. */
    struct rec_RESULT results[5] = {0};
    char *body = calloc(1, PROTO_MAX_BODY_BYTES);
    if (body == NULL)
        abort();
    for (size_t i = 0; i < ARRAY_LEN(results); i++)
        results[i].body = (struct str){body, PROTO_MAX_BODY_BYTES};
    m = (struct msg){.type = MSG_TYPE_RESULTS,
                     .results = {.results = {results, ARRAY_LEN(results)}}};
    CHECK_ERR(proto_encode(&m, &b, &why), ERR_RANGE);
    CHECK_HAS(why.text, "at most 33554432 are allowed");
    free(body);
    CHECK(b.len == 4 && memcmp(b.data, "keep", 4) == 0);
    buf_free(&b);
}

/* Optional fields that say nothing are not sent; the bytes of a message are part of the contract.
 */
static void test_bytes(void)
{
    struct err_msg why = {{0}};
    struct buf b = {0};
    struct msg m = {.type = MSG_TYPE_OK, .ok = {.seq = 7}};
    CHECK_OK(proto_encode(&m, &b, &why), why);
    static const char expected[] = "\x83\xa1v\x01\xa1t\xa2OK\xa3seq\x07";
    CHECK(b.len == sizeof expected - 1 && memcmp(b.data, expected, b.len) == 0);
    buf_free(&b);
    CHECK_STR(proto_type_name(MSG_TYPE_BEAT_OK), "BEAT_OK");
    CHECK_STR(proto_type_name(MSG_NONE), "?");
}

static void test_arena_limit(void)
{
    struct arena arena = {.limit_bytes = 100};
    struct err_msg why = {{0}};
    struct buf b = {0};
    uint64_t lines[20] = {1};
    struct msg back,
        m = {.type = MSG_TYPE_CANCEL,
             .cancel = {.seq = 1, .batch = STR_LIT("b"), .lines = {lines, ARRAY_LEN(lines)}}};
    CHECK_OK(proto_encode(&m, &b, &why), why);
    CHECK_ERR(proto_decode(b.data, b.len, &arena, &back, &why), ERR_NOMEM);
    CHECK_HAS(why.text, "CANCEL: \"lines\": out of memory for 20 elements");
    buf_free(&b);
    arena_free(&arena);
}

int main(void)
{
    struct check_rng rng = check_rng_start(1);
    test_roundtrip(&rng);
    test_bodies(&rng);
    test_truncated(&rng);
    test_hostile_counts();
    test_too_many_values();
    test_envelope();
    test_error_of_any_version();
    test_fields();
    test_lenient();
    test_encode_limits();
    test_bytes();
    test_arena_limit();
    return check_report();
}
