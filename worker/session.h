/* The worker's side of the protocol as a state machine: messages and events in, messages out
 * through a callback. No socket, no clock of its own (now_ns is passed in, monotonic), no engine:
 * tests drive it with a scripted broker and virtual time.
 *
 *     start
 *       |
 *       v                 WELCOME: a new session, credits from 0
 *     CONNECTING ---------------------------------------------------> READY
 *       |    ^                                                          |
 *       +----+ HELLO after 0, 1, 3, 7, 12, 17 .. s                      | draining, nothing held
 *            +----- RECONNECT, or no message for three heartbeats ------+ v
 *                                                                    LEAVING: BYE each second
 *     GONE <------------ BYE_OK, RECONNECT, or 5 s ---------------------+
 *
 * A lease:  GRANT --> RUNNING --result--> DONE --ACK--> forgotten
 *                        |  \--hand back--> NACK, kept until a later BEAT is answered
 *                        \--BEAT_OK.cancel, WELCOME.lost--> on_cancel, forgotten
 *
 * Invariants: every lease in the table is named by each BEAT and each HELLO, a NACK that may have
 * been lost by each HELLO; a DONE lease keeps its result until it is acknowledged and sends it
 * again after a WELCOME, and after 5 s without one when it is known to have arrived; a job is in
 * the table once, under its newest epoch (granted again while it runs here, it goes on under the
 * new epoch: its bytes are the same). Credit: what was granted in this session plus what there is
 * room for, so that a PULL may be repeated.
 *
 * A wire may be slow, and whatever is sent waits behind what was sent before. So a BEAT goes first,
 * and of results, of checkpoints and of NACKs only half a MiB each is on its way at a time (or one
 * that is larger): what ZeroMQ, the kernel and the network hold is little, and known. One thread.
 */
#ifndef OCTO_WORKER_SESSION_H
#define OCTO_WORKER_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "proto/messages.h"

/* The fields of PULL and BEAT that tell how the GPU is. */
struct headroom {
#define SESSION_FIELD(kind, name, limit, need, doc) PROTO_C_##kind name;
    HEADROOM_FIELDS(SESSION_FIELD)
#undef SESSION_FIELD
};

/* Strings and models outlive the session, or the next session_change(). */
struct session_config {
    const char *worker, *host, *build, *device, *driver, *numeric_class;
    const struct rec_MODEL *models; /* the first is loaded */
    size_t models_count;            /* >= 1 */
    uint64_t load_ms;               /* how long its loading took */
    bool fetches;                   /* it fetches models when it is told to */
    uint32_t max_jobs;              /* sequences at a time, >= 1 */
    uint64_t kv_tokens;             /* size of the KV cache */
    uint64_t process;               /* of this run of the program: as HELLO's */
};

struct session_events {
    void *user;
    /* False: it could not be queued; results and NACKs are then tried again later. */
    bool (*send)(void *user, const struct msg *m);
    /* A new lease; the grant is valid until the function returns. It may report the job's end at
     * once. */
    void (*on_job)(void *user, uint64_t serial, const struct rec_GRANT_JOB *grant);
    /* The lease is gone: stop working on it. */
    void (*on_cancel)(void *user, uint64_t serial);
    /* The broker asks for a drain (once). */
    void (*on_drain)(void *user);
    /* With each BEAT_OK: hashes of models to load and to fetch; empty: none. NULL: it has one model
     * for good. */
    void (*on_models)(void *user, const struct msg_beat_ok *orders);
    /* The broker sent ERROR. */
    void (*on_error)(void *user, struct str code, struct str text);
};

enum session_state { SESSION_CONNECTING, SESSION_READY, SESSION_LEAVING, SESSION_GONE };

struct session;

enum err session_create(const struct session_config *c, const struct session_events *events,
                        struct session **ret) MUST_CHECK;
void session_destroy(struct session **s);

void session_receive(struct session *s, const struct msg *m, uint64_t now_ns);
/* A message is under way, in whichever direction: the broker is not silent. */
void session_wire_moves(struct session *s, uint64_t now_ns);
/* Whatever time asks for, then whatever is to be sent. Call it after anything else and every 50 ms
 * or so. */
void session_tick(struct session *s, uint64_t now_ns);

/* The job's end; energy_j 0: unknown. Takes the content of body. A lease that is gone is ignored.
 */
void session_result(struct session *s, uint64_t serial, bool failed, struct buf *body,
                    uint64_t prompt_tokens, uint64_t completion_tokens, double energy_j);
/* Takes the content of checkpoint (NULL: none). */
void session_nack(struct session *s, uint64_t serial, bool counts, const char *reason,
                  struct buf *checkpoint);
/* NACKs every lease that still runs; on_cancel is not called. */
void session_nack_all(struct session *s, bool counts, const char *reason);
/* For the next BEAT. Takes the content of checkpoint if there is any. */
void session_progress(struct session *s, uint64_t serial, uint64_t completion_tokens,
                      struct buf *checkpoint);
void session_headroom(struct session *s, const struct headroom *h);
/* Takes no more jobs; leaves once nothing is held. */
void session_drain(struct session *s);
/* Whether it takes no more jobs, for the model is to be changed. */
void session_pause(struct session *s, bool on);
/* Nothing is held, and every hand-back has arrived. */
bool session_is_idle(const struct session *s);
/* It is another worker now, as to its model and what follows from that: says HELLO anew. Only when
 * it is idle, if max_jobs is another. On failure it is what it was. */
enum err session_change(struct session *s, const struct session_config *c,
                        uint64_t now_ns) MUST_CHECK;
/* For BEATs from now on: the hash of a model that it cannot have; "": none. */
void session_unfetchable(struct session *s, const char *hash);
/* Asks for a chunk of a model. False: not now. */
bool session_fetch(struct session *s, const char *hash, uint64_t offset);

enum session_state session_state(const struct session *s);
/* True once a BEAT went out since the last call: time to collect progress for the next one. */
bool session_beat_sent(struct session *s);
/* HELLOs since it last heard from the broker. */
uint32_t session_unanswered(const struct session *s);
uint32_t session_running(const struct session *s);  /* leases without a result */
uint32_t session_held(const struct session *s);     /* and with one that is not acknowledged */
uint64_t session_finished(const struct session *s); /* results acknowledged */

#endif
