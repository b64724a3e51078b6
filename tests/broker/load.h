/* A seeded load for a ledger, and what must be in it afterwards: every operation is noted when it
 * is asked for and when it is acknowledged, as a position on the disk (its count of events), so
 * that load_check() knows for any cut what has to be there, and what may. Bodies are made from
 * (batch, line), so that a wrong byte shows. */
#ifndef OCTO_TESTS_BROKER_LOAD_H
#define OCTO_TESTS_BROKER_LOAD_H

#include "broker/ledger.h"
#include "tests/broker/disk.h"

enum { LOAD_BATCHES = 3, LOAD_LINES = 400, LOAD_GROUP = 4, LOAD_MAX_BODY = 9000 };

#define LOAD_NEVER SIZE_MAX

struct load_span {
    size_t ask, ack; /* never: not yet */
};

struct load_line {
    struct load_span submit, end;
    uint64_t job, epoch;
    enum ledger_state state; /* at its end */
    bool busy;               /* in an operation that is on its way */
};

struct load_batch {
    struct load_span born, sealed;
    size_t count; /* lines asked for */
    struct load_line lines[LOAD_LINES];
};

struct load {
    struct disk *disk; /* NULL: positions are just a count */
    struct ledger *ledger;
    struct check_rng rng;
    uint64_t epoch;
    size_t clock, failed_ops;
    struct err_msg last_why;
    struct load_batch batches[LOAD_BATCHES];
};

extern const char *const load_names[LOAD_BATCHES];

/* disk NULL: positions are just a count. */
void load_init(struct load *x, struct disk *disk, uint64_t seed);
/* Opens with load_wake() set; the rest of `o` is the caller's. */
enum err load_open(struct load *x, struct ledger_options o, struct err_msg *why) MUST_CHECK;
/* Runs operations together and waits for them; their arenas stay the caller's. */
void load_run(struct ledger *l, struct ledger_op **ops, size_t count);
/* One to LOAD_GROUP operations at once. False: none was possible, or one failed. */
bool load_round(struct load *x);
/* Leases some jobs of some batch: what is noted without a sync. False: there was none. */
bool load_lease(struct load *x);
/* Asks again for everything that was not acknowledged, as clients and workers do. False: it failed
 * again. */
bool load_settle(struct load *x);
/* Checks that failed within the load. */
unsigned load_failures(void);
/* Request ('q') or result ('r') of a line, in the arena. */
struct str load_body(struct arena *a, int batch, uint64_t line, char what);

/* What a ledger has. */
/* Of each result that load.c stores. */
enum { LOAD_ENERGY_UJ = 1500 };

struct load_found {
    struct load_found_batch {
        uint64_t id; /* 0: not there */
        bool sealed;
        struct load_found_line {
            enum ledger_state state;
            bool there;
            uint64_t job; /* of an unfinished one */
        } lines[LOAD_LINES];
    } batches[LOAD_BATCHES];
    unsigned wrong;                  /* rows that nobody asked for, twice, or with other bytes */
    char text[256];                  /* the first of them */
    unsigned no_id;                  /* results without their custom_id */
    uint64_t energy_uj, energy_jobs; /* of all batches */
};

/* Reads all of a ledger that was just opened: load, results by line and by completion, requests. */
void load_find(struct ledger *l, struct load_found *ret);
/* What is wrong for a disk that was cut before event `at` (LOAD_NEVER: not cut); 0: nothing. */
unsigned load_check(const struct load *x, struct load_found *found, size_t at);
/* What was found counts as acknowledged, the rest as never asked for. */
void load_adopt(struct load *x, const struct load_found *found);

#endif
