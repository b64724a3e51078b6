/* The events that are kept: order, cursor, and that many of one kind push out none of another. */
#include "broker/events.h"

#include "tests/check.h"

static struct rec_EVENT got[EVENTS_KEPT * 4];

PRINTF_LIKE(4, 5)
static void add(struct events *e, enum event_kind kind, const char *subject, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    events_add(e, kind, 1000, subject, fmt, args);
    va_end(args);
}

static void test_order(void)
{
    struct events *e = NULL;
    CHECK_ERR(events_create(3, &e), ERR_OK);
    CHECK_INT(events_read(e, 0, got, 10), 0);
    add(e, EVENT_BROKER_STARTED, "", "at %s", "ipc://x");
    add(e, EVENT_WORKER_LOST, "w1", "silent");
    add(e, EVENT_WORKER_JOINED, "w2", "here");
    add(e, EVENT_WORKER_LOST, "w3", "silent");
    uint64_t first = UINT64_C(3) << 32;
    CHECK_INT(events_read(e, 0, got, 10), 4);
    for (int i = 0; i < 4; i++)
        CHECK_INT(got[i].seq, first + 1 + (uint64_t)i);
    CHECK(str_eq(got[0].kind, STR_LIT("broker_started")));
    CHECK(str_eq(got[0].text, STR_LIT("at ipc://x")));
    CHECK(str_eq(got[1].subject, STR_LIT("w1")));
    CHECK(str_eq(got[2].kind, STR_LIT("worker_joined")));
    CHECK_INT(got[3].at_ms, 1000);
    CHECK_INT(events_read(e, first + 2, got, 10), 2);
    CHECK(str_eq(got[0].subject, STR_LIT("w2")));
    CHECK_INT(events_read(e, 0, got, 3), 3);
    CHECK_INT(events_read(e, first + 4, got, 10), 0);
    CHECK_INT(events_read(e, UINT64_MAX, got, 10), 0);
    CHECK_INT(events_read(e, UINT64_C(2) << 32 | 99, got, 10), 4); /* of the broker's run before */
    events_destroy(&e);
    CHECK(e == NULL);
    events_destroy(&e);
}

static void test_floods(void)
{
    struct events *e = NULL;
    CHECK_ERR(events_create(1, &e), ERR_OK);
    add(e, EVENT_WORKER_LOST, "the one", "silent");
    for (int i = 0; i < 100000; i++)
        add(e, EVENT_PEER_CUT_OFF, "", "flood %d", i);
    size_t count = events_read(e, 0, got, 4 * EVENTS_KEPT);
    CHECK_INT(count, 1 + EVENTS_KEPT);
    CHECK(str_eq(got[0].subject, STR_LIT("the one")));
    for (size_t i = 2; i < count; i++)
        CHECK_INT(got[i].seq, got[i - 1].seq + 1);
    CHECK(str_eq(got[count - 1].text, STR_LIT("flood 99999")));
    events_destroy(&e);
}

/* A text that is cut stays valid UTF-8: it goes into a message. */
static void test_long_texts(void)
{
    struct events *e = NULL;
    char text[4096];
    CHECK_ERR(events_create(1, &e), ERR_OK);
    for (size_t shift = 0; shift < 3; shift++) {
        memset(text, 'x', sizeof text);
        for (size_t i = shift; i + 3 < sizeof text; i += 3)
            memcpy(text + i, "\xe2\x82\xac", 3);
        text[sizeof text - 1] = '\0';
        add(e, EVENT_STORAGE_FAILED, text, "%s", text);
    }
    CHECK_INT(events_read(e, 0, got, 10), 3);
    for (size_t i = 0; i < 3; i++) {
        CHECK(got[i].text.len <= EVENTS_TEXT_BYTES && got[i].text.len > EVENTS_TEXT_BYTES - 3);
        CHECK(got[i].subject.len <= PROTO_MAX_ID_BYTES);
        CHECK_INT((got[i].text.len - i) % 3, 0);
    }
    events_destroy(&e);
}

int main(void)
{
    test_order();
    test_floods();
    test_long_texts();
    return check_report();
}
