/* What session.c (states, receiving) and session_send.c (sending) share; nobody else includes this.
 */
#ifndef OCTO_WORKER_SESSION_IMPL_H
#define OCTO_WORKER_SESSION_IMPL_H

#include "worker/session.h"

enum lease_state { LEASE_RUNNING, LEASE_DONE };

struct lease {
    uint64_t serial, job, epoch;
    enum lease_state state;
    uint64_t completion_tokens;
    struct buf checkpoint; /* RUNNING: for the next BEAT */
    /* DONE. */
    struct buf body;
    bool failed;
    bool sent;
    uint64_t sent_ns;
    uint64_t prompt_tokens;
};

struct pending_nack {
    uint64_t job, epoch;
    bool counts;
    char reason[160];
    struct buf checkpoint;
};

struct session {
    struct session_config config;
    struct session_events events;
    struct headroom headroom;
    enum session_state state;
    uint64_t session; /* the broker's number */
    uint64_t heartbeat_ns;
    uint64_t heard_ns; /* last message */
    uint64_t welcome_ns;
    uint64_t hello_ns; /* when the next HELLO is due */
    uint64_t hello_wait_ns;
    uint64_t beat_ns;     /* when the next BEAT is due */
    uint64_t bye_ns;      /* when the next BYE is due */
    uint64_t left_ns;     /* when LEAVING began */
    uint64_t granted;     /* in this session */
    uint64_t credit_sent; /* last credit_total */
    double job_tokens;    /* smoothed length of a job, prompt and completion */
    uint64_t serials, finished;
    uint32_t target, limit; /* leases it wants to run, leases it can hold */
    uint32_t running;
    bool draining, beat_sent, pull_due;

    struct lease *leases; /* [limit] */
    uint32_t leases_count;
    struct pending_nack *nacks; /* [limit] */
    uint32_t nacks_count;

    /* Lists of one message. */
    struct rec_JOB_REF *refs;       /* [limit] */
    struct rec_RUNNING *beats;      /* [limit] */
    struct rec_RESULT *results;     /* [limit] */
    struct rec_NACK_JOB *nack_jobs; /* [limit] */
};

/* session_send.c */
void send_hello(struct session *s, uint64_t now_ns);
void send_nacks(struct session *s);
void send_results(struct session *s, uint64_t now_ns);
void send_pull(struct session *s);
void send_beat(struct session *s, uint64_t now_ns);
void send_bye(struct session *s);

#endif
