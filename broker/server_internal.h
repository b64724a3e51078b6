/* Private to server*.c: the server's state and what its files call of each other. server.c opens,
 * closes, ticks and dispatches; server_worker.c speaks with workers, server_client.c with clients.
 */
#ifndef OCTO_BROKER_SERVER_INTERNAL_H
#define OCTO_BROKER_SERVER_INTERNAL_H

#include "base/arena.h"
#include "broker/jobs.h"
#include "broker/ledger.h"
#include "broker/server.h"
#include "proto/codec.h"
#include "proto/socket.h"

enum {
    MAX_SESSIONS = 4096,
    MAX_GRANT_JOBS = 64,
    MAX_REPLY_BYTES = 8 << 20,
    MAX_PENDING_BYTES = 256 << 20,     /* of all operations on their way to the ledger */
    MAX_PEER_PENDING_BYTES = 64 << 20, /* of one client */
    MAX_PEER_PENDING = 256,
    MAX_MESSAGE_JOBS = 1024,
    MISSED_BEATS = 3,
    SHOW_LOST_MS = 600000, /* how long STATUS shows a lost worker */
};

enum session_state { SESSION_READY, SESSION_DRAINING, SESSION_LOST };

struct headroom {
#define HEADROOM_FIELD(kind, name, limit, need, doc) PROTO_C_##kind name;
    HEADROOM_FIELDS(HEADROOM_FIELD)
#undef HEADROOM_FIELD
};

/* One HELLO of a worker, until it says BYE, is silent for three beats or says HELLO again. */
struct session {
    uint64_t number; /* broker generation in the high 32 bits */
    struct session *next;
    struct proto_peer peer;
    struct proto_peer replaced; /* connection of the same name's session before; len 0: none */
    enum session_state state;
    struct arena arena; /* of the texts */
    char *worker, *host, *device, *numeric_class;
    char **models; /* name and hash of each, one after the other */
    size_t model_count;
    uint64_t credit_total, granted, done;
    uint64_t seen_ns;
    bool stalled;            /* a GRANT could not be sent: it has to say HELLO */
    bool loading;            /* a GRANT waits for its bodies */
    uint64_t lost_result_ns; /* when a result could not be stored; 0: never */
    struct headroom headroom;
};

struct server {
    uv_loop_t *loop;
    struct server_options o;
    struct ledger *ledger;
    struct jobs *jobs;
    struct proto_socket *socket;
    uv_timer_t timer;
    uv_async_t wake;
    int open_handles;
    bool closing;
    uint64_t started_ns, last_tick_ns, now_ns; /* now_ns: of the current callback */
    struct session *sessions;
    uint32_t last_session;
    struct pending *pendings; /* clients with operations on the way */
    size_t pending_bytes;
    uint64_t storage_bad_ns; /* when the store last failed; 0: it works */
    struct err_msg storage_why;
    uint64_t garbage_count, garbage_logged_ns;
};

/* A client with operations on the way. */
struct pending {
    struct pending *next;
    struct proto_peer peer;
    size_t count, bytes;
};

/* An operation and whom to answer. */
struct server_op {
    struct ledger_op op; /* first: the ledger hands this back */
    struct server *s;
    struct proto_peer peer;
    uint64_t seq;     /* of the client's request */
    uint64_t session; /* of the worker */
    size_t bytes;
    bool client; /* counts for the peer's limit */
};

/* server.c */
struct server_op *server_op_new(struct server *s, const struct proto_peer *peer,
                                enum ledger_kind kind, void (*done)(struct ledger_op *op));
void server_op_submit(struct server_op *op, size_t bytes);
/* Takes the operation off the accounts and frees it; keeps watch over the store's health. */
void server_op_free(struct server_op *op);
bool server_copy(struct arena *arena, struct str *text); /* into the arena; false: out of memory */
void server_send(struct server *s, const struct proto_peer *to, const struct msg *m);
void server_error(struct server *s, const struct proto_peer *to, uint64_t seq, const char *code,
                  const char *text, uint64_t line);
bool server_storage_works(const struct server *s);
uint64_t server_lease_end_ns(const struct server *s);
void server_batch_changed(struct server *s, struct batch *b); /* says so when it is complete */
void server_store_poisoned(struct server *s); /* fails jobs whose attempts are used up */
void server_write_returned(void *user, const struct job *job, bool counted, const char *reason);

/* server_worker.c */
void worker_message(struct server *s, const struct proto_peer *from, const struct msg *m);
void worker_tick(struct server *s);
/* Adds a time in which the broker could not listen to all deadlines. */
void worker_stood_still(struct server *s, uint64_t gap_ns);
/* Grants to whoever has credit. Call after anything that brings work or credit. */
void worker_feed(struct server *s);
/* Why nothing of the batch moves; "" when there is no reason that we know. */
void worker_problem(const struct server *s, const struct batch *b, struct err_msg *ret);
void worker_free_sessions(struct server *s);

/* server_client.c */
void client_message(struct server *s, const struct proto_peer *from, const struct msg *m);

#endif
