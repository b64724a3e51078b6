/* What worker.c (start, stop), worker_loop.c (the loop thread) and worker_heat.c (sensor, governor,
 * headroom) share; nobody else includes this. */
#ifndef OCTO_WORKER_IMPL_H
#define OCTO_WORKER_IMPL_H

#include <uv.h>

#include "model/model.h"
#include "proto/socket.h"
#include "worker/engine_thread.h"
#include "worker/governor.h"
#include "worker/sensor.h"
#include "worker/session.h"
#include "worker/worker.h"

struct heat {
    struct sensor *sensor; /* NULL: none */
    struct governor governor;
    struct governor_input reading;
    struct governor_input fresh; /* the sensor work's, while it runs */
    enum err fresh_err;
    struct err_msg fresh_why;
    uv_work_t work;
    bool reading_now;
    bool said_blind, said_failed;
    uint64_t asked_ns, power_ns; /* last read begun; last reading with power */
    uint64_t power_tokens;       /* computed by then */
    double joules_per_token;
};

struct worker {
    const struct worker_options *options;
    int exit_code;

    /* What it is. */
    struct model *model;
    struct tokenizer *tokenizer;
    struct chat_template *chat;
    struct err_msg chat_problem;
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
    uv_signal_t term, interrupt;
    struct proto_socket *socket;
    struct session *session;
    struct engine_thread *engine;
    struct heat heat;

    /* Leaving. */
    bool draining, handed_back;
    uint64_t hand_back_ns; /* when what still runs is handed back */
    int parent;            /* process id at start */
    char last_error[256];  /* the broker's last complaint: said once */
    bool said_garbage, said_full;
};

/* worker_loop.c: joins the broker and runs the loop until it is time to leave. */
enum err worker_loop_open(struct worker *w, struct err_msg *why) MUST_CHECK;
void worker_loop_run(struct worker *w);
void worker_loop_close(struct worker *w);
/* Drains; what is not done in `seconds` is handed back. Again: at once. */
void worker_drain(struct worker *w, double seconds, const char *reason);

/* worker_heat.c */
/* Missing sensors are said and lived without; only a sensor asked for by name is an error. */
enum err heat_open(struct worker *w, struct err_msg *why) MUST_CHECK;
void heat_close(struct worker *w);
/* Once a tick: begins readings, paces the engine, tells the session. */
void heat_tick(struct worker *w, uint64_t now_ns);

#endif
