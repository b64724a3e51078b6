/* Tables, bars and JSON from records that were made up, names that move cursors included. */
#include "check.h"

#include <jansson.h>

#include "base/size.h"
#include "client/text.h"
#include "client/view.h"

static struct rec_BATCH batches[] = {
    {.batch = {"done", 4},
     .state = {"completed", 9},
     .total = 10,
     .done = 6,
     .failed = 1,
     .cancelled = 3,
     .completion_tokens = 70,
     .energy_j = 5400,
     .energy_jobs = 8,
     .sealed = true},
    {.batch = {"na\033[2Jc\xc3\xa9", 9},
     .state = {"in_progress", 11},
     .total = 200,
     .queued = 90,
     .leased = 10,
     .done = 100,
     .sealed = true,
     .jobs_per_s = 2.5,
     .eta_ms = 40000},
    {.batch = {"stuck", 5},
     .state = {"in_progress", 11},
     .total = 4,
     .queued = 4,
     .sealed = true,
     .problem = {"no worker is connected", 22}},
};

static struct rec_WORKER workers[] = {
    {.worker = {"h1:0", 4},
     .state = {"ready", 5},
     .model = {"m", 1},
     .device = {"card", 4},
     .leased = 8,
     .done = 92,
     .temp_known = true,
     .temp_c = 63.4,
     .target_c = 75,
     .power_w = 310,
     .power_limit_w = 700,
     .duty = 0.5,
     .kv_tokens_total = 1000,
     .kv_tokens_free = 250,
     .prefill_tokens = 300,
     .cached_tokens = 100,
     .decode_tokens_per_s = 412.25,
     .joules_per_token = 0.75,
     .energy_j = 1.8e6,
     .temp_mean_c = 60,
     .temp_peak_c = 66},
    {.worker = {"h2:0", 4}, .state = {"lost", 4}, .duty = 1, .decode_tokens_per_s = 99},
    {.worker = {"h3:0", 4}, .state = {"ready", 5}}, /* has said no more than HELLO */
    {.worker = {"h4:0", 4},
     .state = {"ready", 5},
     .temp_known = true,
     .margin_c = 33,
     .target_c = 75}, /* tells no degrees, but how far its limit is */
};

static const struct msg_status_ok all = {
    .uptime_ms = 5000, .batches = {batches, 3}, .left_out = 2, .workers = {workers, 4}};
static const struct msg_status_ok none;

static char page[8192];

static FILE *begin(void)
{
    memset(page, 0, sizeof page);
    return fmemopen(page, sizeof page, "w");
}

static bool has(const char *part)
{
    if (strstr(page, part) != NULL)
        return true;
    fprintf(stderr, "\"%s\" is not in:\n%s\n", part, page);
    return false;
}

static void test_tables(void)
{
    FILE *f = begin();
    view_batches(f, &all);
    fclose(f);
    CHECK(has("completed          10"));
    CHECK(has("na?[2Jc\xc3\xa9  in_progress"));
    CHECK(has(" 0:40        unknown\n"));
    CHECK(has(" unknown        unknown\n    no worker is connected\n"));
    CHECK(has(" -    0.00150 kWh\nna?"));
    CHECK(has("and 2 batches more"));
    CHECK(strchr(page, '\033') == NULL);
    f = begin();
    view_workers(f, &all);
    fclose(f);
    CHECK(
        has("h1:0    ready     m            8        92     412.2  63/75 C   66 C  310/700 W   50%"
            "   75%    25%     0.75      0.500 kWh    0.0 s  card\n"));
    CHECK(
        has("h2:0    lost                   0         0         -        -      -          -     -"
            "     -      -        -        unknown "));
    CHECK(
        has("h3:0    ready                  0         0       0.0        -      -          -     -"
            "     -      -        -        unknown "));
    CHECK(
        has("h4:0    ready                  0         0       0.0  33 left      -          -     -"
            "     -      -        -        unknown "));
    f = begin();
    view_batches(f, &none);
    view_workers(f, &none);
    fclose(f);
    CHECK(has("no batches\n") && has("no workers\n"));
}

/* What goes on comes first; what does not fit is counted. */
static void test_bars(void)
{
    FILE *f = begin();
    view_bars(f, &all, 100, 10);
    fclose(f);
    char *going = strstr(page, "na?"), *done = strstr(page, "done");
    CHECK(going != NULL && done != NULL && going < done);
    CHECK(has("]  50%  100/200  2.5/s  ETA 0:40\n"));
    CHECK(has("100%  10/10  1 failed  3 cancelled"));
    size_t full = 0, empty = 0;
    for (const char *c = strchr(going, '[') + 5; *c != ']'; c++) { /* behind the name's own */
        full += *c == '#';
        empty += *c == '.';
    }
    CHECK(full > 0 && full <= empty && empty - full <= 1);
    f = begin();
    view_bars(f, &all, 20, 1);
    fclose(f);
    CHECK(has("and 4 batches more"));
}

static void test_json(void)
{
    FILE *f = begin();
    CHECK_ERR(view_json(f, &all, VIEW_BATCHES | VIEW_WORKERS), ERR_OK);
    fclose(f);
    json_t *root = json_loads(page, JSON_REJECT_DUPLICATES, NULL);
    if (!CHECK(root != NULL))
        return;
    CHECK_INT(json_integer_value(json_object_get(root, "uptime_ms")), 5000);
    json_t *b = json_array_get(json_object_get(root, "batches"), 1);
    CHECK_INT(json_integer_value(json_object_get(b, "eta_ms")), 40000);
    CHECK_STR(json_string_value(json_object_get(b, "batch")), "na\033[2Jc\xc3\xa9");
    json_t *w = json_array_get(json_object_get(root, "workers"), 0);
    CHECK(json_real_value(json_object_get(w, "temp_c")) > 63);
    CHECK(json_is_true(json_object_get(w, "temp_known")));
    CHECK(json_real_value(json_object_get(w, "energy_j")) == 1.8e6);
    CHECK(json_is_real(json_object_get(w, "margin_c")));
    static const char *const unknown[] = {"temp_c",        "margin_c",         "power_w",
                                          "power_limit_w", "joules_per_token", "energy_j",
                                          "temp_mean_c",   "temp_peak_c"};
    w = json_array_get(json_object_get(root, "workers"), 1);
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++)
        CHECK(json_is_null(json_object_get(w, unknown[i])));
    w = json_array_get(json_object_get(root, "workers"), 2);
    CHECK(json_is_null(json_object_get(w, "duty")));
    CHECK(json_is_null(json_object_get(b, "energy_j")));
    b = json_array_get(json_object_get(root, "batches"), 0);
    CHECK(json_real_value(json_object_get(b, "energy_j")) == 5400);
    json_decref(root);
    f = begin();
    CHECK_ERR(view_json(f, &all, VIEW_WORKERS), ERR_OK);
    fclose(f);
    CHECK(strstr(page, "batches") == NULL && strchr(page, '\n') == page + strlen(page) - 1);
}

static void test_texts(void)
{
    char out[TEXT_TIME_BYTES], left[48];
    CHECK(text_time(1700000000123, out));
    CHECK_STR(out, "2023-11-14T22:13:20.123Z");
    CHECK(!text_time(0, out));
    text_duration(3725, left, sizeof left);
    CHECK_STR(left, "1:02:05");
    text_energy(0, left);
    CHECK_STR(left, "unknown");
    text_energy(54, left);
    CHECK_STR(left, "0.0000150 kWh");
    text_energy(4.5e8, left);
    CHECK_STR(left, "125.00 kWh");
    text_duration(200000, left, sizeof left);
    CHECK_STR(left, "2 d 7 h");
    FILE *f = begin();
    text_put(f,
             (struct str){"a\x7f\xc2\x9b"
                          "1\r\n\xe2\x82\xac",
                          10},
             12);
    fputc('|', f);
    fclose(f);
    CHECK_STR(page, "a??1??\xe2\x82\xac     |");
}

int main(void)
{
    test_tables();
    test_bars();
    test_json();
    test_texts();
    return check_report();
}
