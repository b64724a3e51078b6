/* What worker.c (start, stop), worker_loop.c (the loop thread), worker_models.c (other models than
 * the one it has), worker_watch.c and worker_heat.c (sensor, governor, headroom) share; nobody else
 * includes this. */
#ifndef OCTO_WORKER_IMPL_H
#define OCTO_WORKER_IMPL_H

#include <uv.h>

#include "base/notify.h"
#include "model/model.h"
#include "proto/http.h"
#include "proto/reach.h"
#include "proto/socket.h"
#include "worker/engine_thread.h"
#include "worker/fetch.h"
#include "worker/governor.h"
#include "worker/sensors/sensor.h"
#include "worker/session.h"
#include "worker/worker.h"

struct heat {
    struct sensor *sensor; /* NULL: none */
    struct governor governor;
    struct sensor_reading reading;
    struct sensor_reading fresh; /* the sensor work's, while it runs */
    enum err fresh_err;
    struct err_msg fresh_why;
    struct err_msg failed_why; /* of the last reading; "": it was good, or is not back */
    uv_work_t work;
    bool reading_now;
    bool said_blind, said_unmet, said_no_watts;
    uint64_t asked_ns,
        heard_ns;    /* last read begun; last reading, until there is one the first ask */
    uint64_t gpu_ns; /* of the engine's steps, as of heard_ns */
    struct energy_meter meter;
    double shared_j; /* the core's figures at the last reading */
    uint64_t shared_tokens;
    double joules_per_token;        /* smoothed over about 10 readings; 0: none yet */
    double temp_sum_c, temp_peak_c; /* of all readings */
    uint64_t temps;
};

enum { MODELS_MAX_FAILED = 16, MODELS_RETRY_S = 300 };

struct models {
    struct catalog catalog;                  /* of --models, and --model */
    struct rec_MODEL list[PROTO_MAX_MODELS]; /* for HELLO; its texts are the worker's and the
                                                catalog's */
    char failed[MODELS_MAX_FAILED][33];      /* hashes of those that it could not load */
    size_t list_count, failed_count;
    bool scanning, load_busy, said_many,
        said_bad;     /* scanning, load_busy, fetch_busy: on another thread */
    uint64_t scan_ns; /* when next */
    atomic_bool stop; /* for work on other threads */
    int hold;         /* marks the loaded file as in use; -1: none */
    /* Changing. */
    char wanted[33]; /* what is loaded once nothing runs any more; "": no change */
    /* Fetching. */
    struct fetch fetch;
    bool fetching, fetch_busy;
    uint64_t asked_ns;    /* the last MODEL_FETCH, or sign of its answer */
    uint64_t heard_bytes; /* on the wire then */
    unsigned bad_chunks;
    char unfetchable[33]; /* not tried again before retry_ns; "": none */
    uint64_t retry_ns;
};

struct worker {
    const struct worker_options *options;
    int exit_code;

    /* What it is. */
    struct gpu_device_info gpu;
    /* These and the engine are not the loop's thread's to touch while a model is loading. */
    bool loading;
    struct model *model;
    struct tokenizer *tokenizer;
    struct chat_template *chat;
    struct err_msg chat_problem;
    uint64_t load_ms;
    unsigned validation_errors; /* of engines that are closed */
    char model_path[PATH_MAX], model_name[PROTO_MAX_ID_BYTES + 1], model_hash[33];
    char quantization[16], numeric_class[65];
    uint64_t model_bytes;
    struct models models;
    struct job_context context;
    struct session_config session_config;
    int claim; /* socket that holds the default name; -1: none */
    char name[PROTO_MAX_ID_BYTES + 1], host[PROTO_MAX_ID_BYTES + 1];
    char device[PROTO_MAX_ID_BYTES + 1], driver[PROTO_MAX_ID_BYTES + 1];
    char build[PROTO_MAX_ID_BYTES + 1];

    /* What runs. */
    uv_loop_t loop;
    bool loop_open, stopping;
    uv_timer_t timer;
    uv_prepare_t prepare;
    uv_async_t wake;
    uv_signal_t term, interrupt, hangup;
    struct proto_curve curve; /* until the socket is open */
    struct proto_socket *socket;
    bool joined; /* at least once */
    struct session *session;
    struct engine_thread *engine;
    struct heat heat;
    uint64_t moved_bytes; /* on the wire when that was last a sign of life */

    struct headroom room; /* as the session was last told */

    /* Those who look after it. */
    struct notify notify; /* the service manager */
    struct http *http;    /* metrics; NULL: none */
    uint64_t told_ns;     /* when they were last told how it is */

    /* Leaving. */
    bool draining, handed_back;
    uint64_t hand_back_ns; /* when what still runs is handed back */
    int parent;            /* process id at start */
    char last_error[256];  /* the broker's last complaint: said once */
    const char *no_entry;  /* why nobody lets us in, as it was said; NULL: not said */
    bool said_garbage, said_full;
    uint64_t say_alone_ns; /* when it is said next that there is no broker; 0: there is one */
    struct reach *reach;   /* finds out why; NULL: nobody does */
};

/* worker.c */
/* Opens the file, and an engine for it. Blocks for long. On failure nothing is open. */
enum err worker_open_model(struct worker *w, const char *path, struct err_msg *why) MUST_CHECK;
void worker_close_model(struct worker *w);
/* What messages and results say of the model that was opened. hash: the file's if it is known, else
 * NULL. */
void worker_describe_model(struct worker *w, const char *hash);
int worker_exit_code(enum err e);

/* worker_models.c */
/* Before the model is opened: path of the one to begin with. */
enum err models_first(struct worker *w, struct err_msg *why) MUST_CHECK;
void models_open(struct worker *w); /* after it is described */
void models_orders(struct worker *w, const struct msg_beat_ok *orders);
void models_tick(struct worker *w, uint64_t now_ns);
void models_reload(struct worker *w); /* looks again, also for what it could not load */
/* Stops what other threads do, and waits for it. */
void models_close(struct worker *w);
/* Its list, or what it has loaded, is another one. */
void models_say_hello(struct worker *w);
/* Whether it could run a file; user: the worker. */
enum err models_check_file(void *user, const char *path, struct err_msg *why) MUST_CHECK;
/* It could not load the file of that hash, in this run. */
bool models_has_failed(const struct models *m, const char *hash);
/* The broker is not to ask for it again for a while. */
void models_cannot_have(struct worker *w, const char *hash);

/* worker_fetch.c */
void fetch_order(struct worker *w, const struct msg_beat_ok *orders);
void fetch_take_chunk(struct worker *w, const struct msg_model_chunk *chunk);
void fetch_tick(struct worker *w, uint64_t now_ns);

/* worker_loop.c: joins the broker and runs the loop until it is time to leave. */
enum err worker_loop_open(struct worker *w, struct err_msg *why) MUST_CHECK;
/* Lets a model's engine take jobs. */
enum err worker_loop_begin(struct worker *w) MUST_CHECK;
void worker_loop_run(struct worker *w);
void worker_loop_close(struct worker *w);
/* Drains; what is not done in `seconds` is handed back. Again: at once. */
void worker_drain(struct worker *w, double seconds, const char *reason);

/* worker_watch.c */
enum err watch_open(struct worker *w, struct err_msg *why) MUST_CHECK; /* before the engine */
void watch_tick(struct worker *w, uint64_t now_ns);
void watch_close(struct worker *w);

/* worker_heat.c */
/* Missing sensors are said and lived without; only a sensor asked for by name is an error. */
enum err heat_open(struct worker *w, struct err_msg *why) MUST_CHECK;
void heat_close(struct worker *w);
void heat_new_engine(struct worker *w); /* its figures begin at 0 */
/* Once a tick: begins readings, paces the engine, tells the session. */
void heat_tick(struct worker *w, uint64_t now_ns);

#endif
