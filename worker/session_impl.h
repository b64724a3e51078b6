/* What session.c (states, receiving) and session_send.c (sending) share; nobody else includes this.
 */
#ifndef OCTO_WORKER_SESSION_IMPL_H
#define OCTO_WORKER_SESSION_IMPL_H

#include "worker/session.h"

enum { MAX_KEPT_BYTES = 64 << 20 /* of results not acknowledged: above, no more jobs are taken */ };

enum lease_state { LEASE_RUNNING, LEASE_DONE };

struct lease {
    uint64_t serial, job, epoch;
    enum lease_state state;
    uint64_t completion_tokens;
    struct buf checkpoint; /* RUNNING: for the next BEAT */
    /* DONE. */
    uint64_t done; /* as how many-th of this program's */
    struct buf body;
    bool failed;
    bool sent;
    uint64_t sent_ns, sent_beats; /* when; BEATs of this session before */
    uint64_t prompt_tokens;
    double energy_j;
};

/* Kept until a BEAT that was said after it is answered. */
struct pending_nack {
    uint64_t job, epoch;
    bool counts;
    uint64_t sent_beats; /* BEATs of this session before it */
    char reason[160];
    struct buf checkpoint;
};

struct session {
    struct session_config config;
    struct session_events events;
    struct headroom headroom;
    enum session_state state;
    uint64_t session;                    /* the broker's number */
    char ledger[PROTO_MAX_ID_BYTES + 1]; /* whose leases these are; "": none yet */
    uint64_t heartbeat_ns;
    uint64_t heard_ns; /* last message */
    uint64_t welcome_ns;
    uint64_t hello_ns; /* when the next HELLO is due */
    uint64_t hello_wait_ns;
    uint32_t hellos;      /* since anything was heard */
    uint64_t beat_ns;     /* when the next BEAT is due */
    uint64_t bye_ns;      /* when the next BYE is due */
    uint64_t left_ns;     /* when LEAVING began */
    uint64_t granted;     /* in this session */
    uint64_t credit_sent; /* last credit_total */
    double job_tokens;    /* smoothed length of a job, prompt and completion */
    uint64_t serials, dones, finished;
    uint32_t target, limit; /* leases it wants to run, leases it can hold */
    uint32_t running;
    uint64_t kept_bytes; /* of DONE leases' bodies */
    bool hello_is_old;   /* the last one told another list of models */
    bool draining, paused, beat_sent, pull_due;
    char unfetchable[65];
    /* Of this session. An answered BEAT shows that all that was said before it has arrived. */
    uint64_t beats_sent, beats_answered;
    uint64_t checkpoint_beat; /* number of the last BEAT with checkpoints; 0: none */
    uint32_t checkpoint_next; /* lease whose checkpoint is first the next time */
    bool checkpoints_wait;    /* the last BEAT had no room for all */

    struct lease *leases; /* [limit] */
    uint32_t leases_count;
    struct pending_nack *nacks;       /* [limit] */
    uint32_t nacks_count, nacks_sent; /* the first ones, in this session */

    /* Lists of one message. */
    struct rec_JOB_REF *refs;       /* [2 * limit]: leases and NACKs */
    struct rec_RUNNING *beats;      /* [limit] */
    struct rec_RESULT *results;     /* [limit] */
    struct rec_NACK_JOB *nack_jobs; /* [limit] */
};

/* session_send.c */
void send_hello(struct session *s, uint64_t now_ns);
void send_nacks(struct session *s);
void send_results(struct session *s, uint64_t now_ns);
void send_pull(struct session *s);
void send_beat(struct session *s);
void send_bye(struct session *s);

#endif
