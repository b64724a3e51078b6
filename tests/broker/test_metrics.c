/* The page of metrics: values, labels that hold anything, a worker of which nothing is known, and a
 * table whose rows stand together. tests/e2e/e2e_metrics.py reads a real one as Prometheus does. */
#include "broker/metrics.h"

#include "tests/check.h"

static struct buf page;

static bool has(const char *part)
{
    if (strstr(buf_cstr(&page), part) != NULL)
        return true;
    fprintf(stderr, "\"%s\" is not in:\n%s\n", part, page.data);
    return false;
}

static void test_values(void)
{
    struct metrics m = {0};
    m.values[METRIC_JOBS_QUEUED] = 3;
    m.values[METRIC_GENERATION_TOKENS] = 9007199254740991.0;
    m.values[METRIC_CPU] = 0.25;
    histogram_add(&m.commits, 900000);
    histogram_add(&m.commits, 30 * 1000000);
    histogram_add(&m.commits, UINT64_C(60000000000));
    CHECK_ERR(metrics_render(&m, &page), ERR_OK);
    CHECK(has("\noctoflow_jobs{state=\"queued\"} 3\noctoflow_jobs{state=\"running\"} 0\n"));
    CHECK(has("\noctoflow_generation_tokens_total 9.00719925474099e+15\n"));
    CHECK(has("\nprocess_cpu_seconds_total 0.25\n"));
    CHECK(has("_bucket{le=\"0.001\"} 1\n"));
    CHECK(has("_bucket{le=\"0.025\"} 1\n"));
    CHECK(has("_bucket{le=\"0.05\"} 2\n"));
    CHECK(has("_bucket{le=\"5\"} 2\n"));
    CHECK(has("_bucket{le=\"+Inf\"} 3\n"));
    CHECK(has("_sum 60.0309\n"));
    CHECK(has("# TYPE octoflow_worker_power_watts gauge\n"));
    CHECK(strstr(page.data, "worker=") == NULL);
}

static void test_workers(void)
{
    static const struct rec_WORKER workers[] = {
        {.worker = {"a\"\\\n\xc3\xa9", 6},
         .state = {"ready", 5},
         .host = {"h", 1},
         .model = {"m", 1},
         .leased = 4,
         .temp_known = true,
         .temp_c = 61.5,
         .throttle_bits = 5,
         .kv_tokens_total = 100,
         .kv_tokens_free = 75,
         .pace_ms = 30},
        {.worker = {"blind", 5}, .state = {"draining", 8}},
        {.worker = {"gone", 4}, .state = {"lost", 4}, .temp_known = true, .temp_c = 99},
    };
    struct metrics m = {.workers = workers, .worker_count = 3};
    buf_clear(&page);
    CHECK_ERR(metrics_render(&m, &page), ERR_OK);
    CHECK(has("octoflow_worker_up{worker=\"a\\\"\\\\\\n\xc3\xa9\",host=\"h\",device=\"\",model="
              "\"m\"} 1\n"));
    CHECK(has("octoflow_worker_up{worker=\"blind\",host=\"\",device=\"\",model=\"\"} 0\n"));
    CHECK(has("octoflow_worker_temperature_celsius{worker=\"a\\\"\\\\\\n\xc3\xa9\"} 61.5\n"));
    CHECK(has("\xc3\xa9\",reason=\"thermal\"} 1\n"));
    CHECK(has("\xc3\xa9\",reason=\"power\"} 0\n"));
    CHECK(has("\xc3\xa9\",reason=\"hardware\"} 1\n"));
    CHECK(has("kv_cache_usage_ratio{worker=\"a\\\"\\\\\\n\xc3\xa9\"} 0.25\n"));
    CHECK(has("octoflow_worker_pace_seconds{worker=\"blind\"} 0\n"));
    CHECK(strstr(page.data, "temperature_celsius{worker=\"blind\"}") == NULL); /* unknown is no 0 */
    CHECK(strstr(page.data, "worker_throttled{worker=\"blind\"") == NULL);
    CHECK(strstr(page.data, "temperature_celsius{worker=\"gone\"}") == NULL);
    CHECK(has("octoflow_worker_up{worker=\"gone\","));
}

/* However many workers there are, the page has a bound. */
static void test_many(void)
{
    static struct rec_WORKER workers[METRICS_WORKERS + 10];
    for (size_t i = 0; i < METRICS_WORKERS + 10; i++)
        workers[i] = (struct rec_WORKER){.worker = {"w", 1}, .state = {"ready", 5}};
    struct metrics m = {.workers = workers, .worker_count = METRICS_WORKERS + 10};
    size_t count = 0;
    buf_clear(&page);
    CHECK_ERR(metrics_render(&m, &page), ERR_OK);
    for (const char *at = buf_cstr(&page); (at = strstr(at, "\nocto")) != NULL; at++)
        count += strncmp(at + 1, "octoflow_worker_up{", 19) == 0;
    CHECK_INT(count, METRICS_WORKERS);
}

static void test_document(void)
{
    buf_clear(&page);
    CHECK_ERR(metrics_document(&page), ERR_OK);
    CHECK(has(
        "| `octoflow_jobs` | gauge | `state=\"queued\"`, `state=\"running\"` | unfinished lines;"));
    CHECK(has("| `octoflow_worker_power_watts` | gauge | `worker` | of the GPU |"));
    CHECK(has("| `octoflow_worker_throttled` | gauge | `worker`, `reason=\"thermal\"`, "));
    CHECK(has("| `octoflow_ledger_commit_duration_seconds` | histogram |"));
}

int main(void)
{
    test_values();
    test_workers();
    test_many();
    test_document();
    buf_free(&page);
    return check_report();
}
