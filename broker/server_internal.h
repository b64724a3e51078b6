/* Private to server*.c: the server's state and what its files call of each other. server.c opens,
 * closes, ticks and dispatches; server_session.c and server_worker.c speak with workers,
 * server_client.c with clients, server_watch.c with those who only look on. */
#ifndef OCTO_BROKER_SERVER_INTERNAL_H
#define OCTO_BROKER_SERVER_INTERNAL_H

#include "base/arena.h"
#include "base/catalog.h"
#include "broker/events.h"
#include "broker/jobs.h"
#include "broker/ledger.h"
#include "broker/models.h"
#include "broker/server.h"
#include "proto/codec.h"
#include "proto/http.h"
#include "proto/socket.h"

enum {
    MAX_SESSIONS = 4096,
    MAX_GRANT_JOBS = 64,
    MAX_CANCEL_JOBS = 8192,      /* of one transaction: the others wait for it */
    MAX_FETCH_LOOKS = 8192,      /* lines that one look for finished ones goes over */
    MAX_GRANT_BYTES = 256 << 10, /* ZeroMQ holds a few of them, and heartbeats wait behind */
    MAX_REPLY_BYTES = 512 << 10, /* of a FETCH_OK */
    MAX_STATUS_BYTES = 8 << 20,
    MAX_PENDING_BYTES = 64 << 20,      /* on their way to the ledger: all clients', all workers' */
    MAX_PEER_PENDING_BYTES = 32 << 20, /* of one client or worker */
    MAX_PEER_PENDING = 256,
    MAX_PEER_ROWS = 4096,            /* of a client, before the ledger at a time, or one request */
    MAX_PEER_QUEUE_BYTES = 32 << 20, /* answers a peer has not read: more, and it is cut off */
    MAX_QUEUES_BYTES = 128 << 20,    /* of all peers: the one with the most is cut off */
    MAX_MUTE_BYTES = 128 << 20,      /* from all who have said no message: likewise */
    MAX_FAULTS = 100,                /* of a peer, one a second is forgiven */
    MAX_PER_S = 50000,               /* messages of a peer */
    GREET_MS = 60000,                /* for a peer's first message */
    MAX_BATCHES = 65536,             /* as many as STATUS can list; a finished one stays */
    MAX_MESSAGE_JOBS = 1024,
    MAX_REPLY_EVENTS = 512,
    MAX_LEASE_NOTES = 1024,     /* grants, until the ledger is told what of them is left */
    MAX_RETURNED = 64,          /* leases that ended, of one note */
    MAX_DAMAGED_REQUESTS = 256, /* jobs that fail for that: more are a ledger to be salvaged */
    MAX_FETCHING = 32,          /* workers that fetch a model, with a chunk on its way each */
    MAX_MODELS_LISTED = 16384,  /* of a MODELS_OK */
    MISSED_BEATS = 3,
    WEIGH_A_LEASE_NS = 1000,
    TWIN_A_LEASE_NS =
        200, /* of all sessions' looking for twins: that is a tenth of the time or so */
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
    uint64_t number; /* begins with the broker's generation in the high 32 bits */
    struct session *next;
    struct proto_peer peer;
    struct proto_peer replaced; /* connection of the same name's session before; len 0: none */
    enum session_state state;
    struct arena arena; /* of the texts */
    char *worker, *host, *device, *numeric_class;
    char *owner, *key;          /* the name of its key, and that; "" without keys */
    struct models_file *models; /* the first is loaded */
    size_t model_count;
    uint64_t load_ms; /* HELLO's */
    bool fetches;
    char load[65], fetch[65]; /* hashes that it was told; "": nothing */
    struct {
        char hash[65];
        uint64_t until_ns;
        bool deadly;
    } cannot[MODELS_MAX_CANNOT]; /* models that it is not told to have for a while */
    bool chunk_busy;             /* one is being read for it */
    uint64_t credit_total, granted, done;
    uint64_t leased; /* when last counted */
    uint64_t hello_ns, seen_ns;
    uint64_t moved_bytes;    /* its wire brought, when last looked at in its silence; 0: not yet */
    uint64_t process;        /* HELLO's */
    bool leave;              /* somebody asked for it: BEAT_OK says so */
    bool leaving;            /* its BYE waits for what it sent before to be stored */
    bool stalled;            /* a GRANT could not be sent: it has to say HELLO */
    bool isolated;           /* only suspects go there (suspects.h) */
    bool silent;             /* its three heartbeats are over: worker_tick() loses it */
    double job_tokens_per_s; /* of each job, of late, from its lease to its result; 0: none yet */
    uint64_t twin_ns;        /* not before then it is looked whether something is slow elsewhere */
    uint64_t lost_result_ns; /* when a result could not be stored; 0: never */
    struct server_op *grant; /* its GRANT that waits for its bodies; NULL: none */
    struct headroom headroom;
    double best_tokens_per_s; /* of late, at full duty (headroom.h); 0: unknown */
    uint64_t told_ns;         /* when that was last told */
    double held_tokens;       /* what its jobs needed when they were last weighed */
};

/* For those who look on: events, and the page of metrics. */
struct watch {
    struct events *events;
    struct http *http; /* NULL: none */
    uint64_t next_ns;  /* when the page is made anew */
    uint64_t leases_lost, poisoned;
};

/* Batches that leave the ledger. */
struct keep {
    struct keep_clock clock;
    uint64_t newest_ms; /* of all times in the ledger at the start */
    uint64_t next_scan_ns, next_note_ns;
    uint64_t retry_ns;        /* it failed: not before */
    unsigned failures;        /* in a row */
    bool busy;                /* a piece of it is on its way */
    bool more;                /* rows of batches that are gone already are left */
    struct batch_counts gone; /* of batches that left since the start */
};

/* The backup that is being made, or the last one. */
struct backup {
    enum { BACKUP_NONE, BACKUP_RUNNING, BACKUP_DONE, BACKUP_FAILED } state;
    uint64_t token, bytes;
    char name[PROTO_MAX_ID_BYTES + 1], path[4000];
    enum err err;
    struct err_msg why;
};

/* server_models.c */
struct models {
    struct catalog catalog; /* of the broker's folder */
    struct models_state state;
    uint64_t scan_ns, decide_ns; /* when next */
    bool scanning, said_bad;
    atomic_bool stop;
};

struct server {
    uv_loop_t *loop;
    struct server_options o;
    struct ledger *ledger;
    struct jobs *jobs;
    struct watch watch;
    struct keep keep;
    struct backup backup;
    struct models models;
    struct proto_socket *socket;
    struct allow *allow;           /* NULL: no keys */
    const struct allow_entry *who; /* the sender of the message at hand; NULL: no keys */
    uv_timer_t timer;
    uv_async_t wake;
    uv_prepare_t prepare;
    int open_handles;
    bool closing;
    bool apart_due; /* worker_feed() left something to worker_feed_apart() */
    uint64_t started_ns, last_tick_ns, now_ns; /* now_ns: of the current callback */
    struct session *sessions;
    uint64_t last_session;
    struct pending *pendings;           /* peers with operations on the way */
    size_t pending_bytes[2];            /* by enum side */
    uint64_t coming_jobs, coming_bytes; /* submits on the way: they count for quotas */
    uint64_t wall_ms;                   /* of the last server_set_time() */
    uint64_t storage_bad_ns;            /* when the store last failed; 0: it works */
    struct err_msg storage_why;
    size_t damaged_requests; /* jobs that failed since the start because theirs could not be read */
    size_t lease_notes;      /* grants noted since the ledger was told all that is leased */
    struct server_op *returned; /* a note that is being filled; NULL: none */
    uint64_t garbage_count, garbage_logged_ns;
    uint64_t trimmed_ns; /* when freed memory was last looked at */
    uint64_t weigh_ns;   /* leases are not weighed again before */
};

/* A client or worker with operations on the way. */
struct pending {
    struct pending *next;
    struct proto_peer peer;
    size_t count, bytes;
    size_t rows;                              /* of a client's that the ledger has */
    struct ledger_op *waiting, **waiting_end; /* a client's others, until it has fewer */
};

/* Whose operation it is: neither takes room away from the other. */
enum side { SIDE_WORKERS, SIDE_CLIENTS };

/* An operation and whom to answer. */
struct server_op {
    struct ledger_op op; /* first: the ledger hands this back */
    struct server *s;
    struct proto_peer peer;
    uint64_t seq;     /* of the client's request */
    uint64_t session; /* of the worker */
    size_t bytes;
    enum side side;            /* grants and notes of our own: the workers' */
    bool counted;              /* for the peer's limit */
    struct batch *quota_batch; /* reserved there; NULL: nothing */
    uint64_t quota_jobs, quota_bytes;
    uint64_t cancelled; /* by the operations before this one, of the same CANCEL */
    struct u64s lines;  /* of the same CANCEL, for those behind it; in the arena */
    size_t rows;        /* that count for the peer's turn */
    const char *owner;  /* of BATCH_NEW, in the arena: the key's name; NULL: it may be anybody's */
};

/* server.c */
/* A handle, or work on another thread, has ended: the last one frees the server. */
void server_handle_closed(struct server *s);

/* server_op.c */
struct server_op *server_op_new(struct server *s, const struct proto_peer *peer,
                                enum ledger_kind kind, void (*done)(struct ledger_op *op));
void server_op_submit(struct server_op *op, size_t bytes);
/* jobs_events' on_returned. Such notes go to the ledger many at a time: with the next operation,
 * before it, or with server_submit_returned() at the end of the turn. */
void server_note_returned(void *user, const struct job *job, bool counted, const char *reason);
void server_submit_returned(struct server *s);
/* Takes the operation off the accounts and frees it; keeps watch over the store's health. */
void server_op_free(struct server_op *op);
/* False: the peer, or all on its side, have as much on its way to the ledger as they may. */
bool server_has_room(const struct server *s, const struct proto_peer *from, enum side side);
bool server_copy(struct arena *arena, struct str *text); /* into the arena; false: out of memory */
bool server_storage_works(const struct server *s);
void server_storage_failed(struct server *s, const char *why);

/* server.c */
void server_send(struct server *s, const struct proto_peer *to, const struct msg *m);
void server_error(struct server *s, const struct proto_peer *to, uint64_t seq, const char *code,
                  const char *text, uint64_t line);
void server_set_time(struct server *s); /* the jobs' time on the wall, for schedules */
/* The message at hand makes no sense: an ERROR "bad_message", and the sender is blamed for it. */
void server_refuse(struct server *s, const struct proto_peer *from, uint64_t seq, const char *text,
                   uint64_t line);
uint64_t server_lease_end_ns(const struct server *s);
void server_batch_changed(struct server *s, struct batch *b); /* says so when it is complete */

/* server_fail.c */
/* A result that says what failed, in the arena. False: out of memory. */
bool server_failure(struct arena *arena, const char *code, const char *text, struct str *ret);
/* Fails jobs whose attempts are used up, or whose batch has expired. */
void server_store_doomed(struct server *s);
/* A job granted to `owner` whose request the ledger could not read (g->ret_err): it waits when that
 * may pass, else it fails, up to MAX_DAMAGED_REQUESTS of them. */
void server_unreadable(struct server *s, const struct ledger_grant *g, uint64_t owner);

/* server_session.c; number: a session's */
struct session *worker_find_session(struct server *s, uint64_t number); /* NULL: lost or unknown */
struct session *worker_find_any(struct server *s, uint64_t number);     /* also a lost one */
bool worker_same_peer(const struct proto_peer *a, const struct proto_peer *b);
void worker_hello(struct server *s, const struct proto_peer *from, const struct msg_hello *h);
void worker_tick(struct server *s);
/* Adds a time in which the broker could not listen to all deadlines. */
void worker_stood_still(struct server *s, uint64_t gap_ns);
/* Sets the leases of all sessions and the running tokens of all batches, as of now; without memory
 * they stay as they were counted last. */
void worker_count_leases(struct server *s);
void worker_end_session(struct server *s,
                        struct session *w); /* frees it; its leases were ended before */
void worker_free_sessions(struct server *s);

/* server_worker.c */
void worker_message(struct server *s, const struct proto_peer *from, const struct msg *m);
void worker_drain(struct server *s, const struct proto_peer *from, const struct msg_drain *m);
/* Why nothing of the batch moves; "" when there is no reason that we know. */
void worker_problem(const struct server *s, const struct batch *b, struct err_msg *ret);

/* server_grant.c */
/* Grants to whoever has credit. Call after anything that brings work or credit. */
void worker_feed(struct server *s);
/* While there are suspects: what worker_feed() has asked for since. It looks at all leases: once a
 * turn of the loop, not with every message. */
void worker_feed_apart(struct server *s);
bool worker_has_model(void *user, const char *model); /* user: a session */
/* The worker is gone, and its GRANT that waits for its bodies will not be sent: the jobs were never
 * there, so they lose no attempt. */
void worker_withdraw_grant(struct server *s, struct session *w, const char *reason);

/* server_quota.c */
/* Holds room for a submit's lines, whose batch is b, and limits what the ledger may store of them
 * to what the quotas have left. server_op_free() gives it back. */
void quota_reserve(struct server_op *op, struct batch *b);
void quota_release(struct server_op *op);
void quota_refuse(struct server_op *op); /* answers with what is over; op->quota_batch is set */

/* server_watch.c */
enum err watch_open(struct server *s, struct err_msg *why) MUST_CHECK; /* after the ledger */
void watch_beat(struct server *s); /* the loop turns: at the beginning of each tick */
void watch_tick(struct server *s);
void watch_close(struct server *s);
/* Notes it for `octoflow events`; subject: the worker or batch, "" for none. */
void server_event(struct server *s, enum event_kind kind, const char *subject, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
void watch_events(struct server *s, const struct proto_peer *from, const struct msg_events *m);

/* server_access.c */
/* Reads key and list, if there are to be any: else *ret is left alone. */
enum err access_open(struct server *s, struct proto_curve *ret, struct err_msg *why) MUST_CHECK;
void access_close(struct server *s);
bool access_may_connect(void *user, const char *key);
/* Notes who sends the message, until the next one. False: it is refused, and the sender was told.
 */
bool access_allows(struct server *s, const struct proto_peer *from, const struct msg *m);
/* Whether the sender may see the batch. */
bool access_sees(const struct server *s, const struct batch *b);
const char *access_name(const struct server *s); /* of the sender's key; "" without keys */
/* Whose a batch has to be for the sender, when that is not known yet; NULL: anybody's. */
const char *access_owner(const struct server *s);
/* Answers that the batch is not `name`'s. */
void access_refuse_batch(struct server *s, const struct proto_peer *to, uint64_t seq,
                         struct str batch, const char *name);
/* False: another key's worker is connected under that name, and the sender was told. */
bool access_may_be_worker(struct server *s, const struct proto_peer *from,
                          const struct msg_hello *h);

/* server_keep.c */
void keep_open(struct server *s); /* with all batches there */
void keep_tick(struct server *s);
void keep_backup(struct server *s, const struct proto_peer *from, const struct msg_backup *m);

/* server_chunks.c */
void chunks_send(struct server *s, struct session *w, const struct msg_model_fetch *m);

/* server_models.c */
void models_tick(struct server *s);
/* What the broker's folder calls the session's files. */
void models_know(const struct server *s, struct session *w);
void models_reload(struct server *s); /* looks at the folder with the next tick */
void models_close(struct server *s);
/* What a BEAT says of models, and what its answer does. */
void models_beat(struct server *s, struct session *w, struct str unfetchable,
                 struct msg_beat_ok *ret);
/* A worker's new session takes over from its old one. same_process: it has not died meanwhile. */
void models_take_over(struct server *s, struct session *w, const struct session *old,
                      bool same_process);
size_t models_fetching(const struct server *s); /* workers that are told to fetch one */
/* Why nobody runs what waits for the model now; untouched when somebody has it loaded, or nobody
 * takes jobs. */
void models_problem(const struct server *s, const char *model, struct err_msg *ret);
/* What who submits for the model is to know; "": nothing. */
void models_warning(const struct server *s, const char *model, struct err_msg *ret);
void models_list(struct server *s, const struct proto_peer *from, const struct msg_models *m);

/* server_status.c */
/* *problem has the text of the picture's. */
struct rec_BATCH status_batch(const struct server *s, const struct batch *b,
                              struct err_msg *problem);
/* After worker_count_leases(). */
struct rec_WORKER status_worker(const struct server *s, const struct session *w);
void status_reply(struct server *s, const struct proto_peer *from, const struct msg_status *m);

/* server_client.c */
void client_message(struct server *s, const struct proto_peer *from, const struct msg *m);

#endif
