/* What the worker tells those who look after it: the service manager, and the page of metrics. */
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "proto/worker_metrics.h"
#include "worker/worker_impl.h"

static void tell_service_manager(struct worker *w)
{
    char text[400];
    snprintf(text, sizeof text, "STATUS=%s on %s: %s, %u running, %llu finished", w->model_name,
             w->device,
             w->draining                                  ? "draining"
             : w->loading                                 ? "loading another model"
             : session_state(w->session) == SESSION_READY ? "at work for the broker"
                                                          : "looking for the broker",
             session_running(w->session), (unsigned long long)session_finished(w->session));
    notify_send(&w->notify, text);
}

/* As the broker has it of us. */
static struct rec_WORKER picture(const struct worker *w)
{
    struct rec_WORKER r = {.worker = str_of(w->name),
                           .host = str_of(w->host),
                           .device = str_of(w->device),
                           .model = str_of(w->model_name),
                           .state = w->draining  ? STR_LIT("draining")
                                    : w->loading ? STR_LIT("loading")
                                                 : STR_LIT("ready"),
                           .leased = session_running(w->session),
                           .done = session_finished(w->session)};
    PROTO_COPY(HEADROOM_FIELDS, &r, &w->room);
    return r;
}

static enum err make_page(const struct worker *w, bool connected, struct buf *out)
{
    static const struct metric_row rows[] = {
        {"octoflow_worker_connected", "gauge", "", "1: it has joined the broker"},
        {"process_resident_memory_bytes", "gauge", "", "the worker's memory, without the GPU's"},
        {"process_cpu_seconds_total", "counter", "", "the worker's processor time"},
    };
    const double values[] = {connected, prometheus_memory_bytes(), prometheus_cpu_s()};
    struct rec_WORKER r = picture(w);
    enum err e = prometheus_rows(out, rows, values, sizeof values / sizeof values[0]);
    return e == ERR_OK ? worker_metrics_render(&r, 1, out) : e;
}

static void publish(struct worker *w, uint64_t now_ns)
{
    struct buf page = {0};
    bool connected = session_state(w->session) == SESSION_READY;
    const char *not_ready = w->draining  ? "it drains, and takes no more jobs"
                            : w->loading ? "it loads another model"
                            : !connected ? "it has not joined the broker"
                                         : NULL;
    enum err e = make_page(w, connected, &page);
    if (e == ERR_OK)
        e = http_publish(w->http, &page, not_ready, now_ns);
    if (e != ERR_OK)
        log_debug("page of metrics not made error=\"%s\"", err_name(e));
    buf_free(&page);
}

void watch_tick(struct worker *w, uint64_t now_ns)
{
    /* the watchdog is fed while the engine moves, or has nothing to do */
    if (w->notify.fd >= 0)
        notify_feed_work(&w->notify, session_running(w->session) == 0,
                         w->loading ? 0 : engine_thread_stats(w->engine).core.tokens, now_ns);
    if (w->told_ns != 0 && now_ns - w->told_ns < NS_PER_S)
        return;
    w->told_ns = now_ns;
    if (w->notify.fd >= 0)
        tell_service_manager(w);
    if (w->http != NULL)
        publish(w, now_ns);
}

enum err watch_open(struct worker *w, struct err_msg *why)
{
    struct err_msg http_why;
    if (w->options->metrics == NULL)
        return ERR_OK;
    enum err e = http_open(w->options->metrics, w->options->curve.insecure, &w->http, &http_why);
    return e == ERR_OK ? ERR_OK : err_set(why, e, "--metrics %s", http_why.text);
}

void watch_close(struct worker *w)
{
    http_close(&w->http);
}
