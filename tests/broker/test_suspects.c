/* Nights in a second: workers that killers bring down (with everything beside them), in virtual
 * time, with the real queue and the real choice of workers. Exactly the killers fail, everything
 * else is done once. Each night is drawn from a seed. */
#include <stdlib.h>

#include "broker/suspects.h"
#include "tests/check.h"

enum { MAX_JOBS = 4000, MAX_WORKERS = 16, ROOM = 40, SILENT_TICKS = 3, MAX_TICKS = 100000 };

/* What a job does to its worker, and what became of it. */
struct fate {
    unsigned ticks;     /* how long it takes */
    bool kills;         /* its worker dies when it has run half of them */
    bool loses_the_gpu; /* so that the worker hands back what it holds instead */
    unsigned unlucky;   /* deaths of its worker for another reason, while it was alone there */
    unsigned finished, failed;
};

struct running {
    uint64_t job, epoch;
    unsigned ticks; /* run so far */
};

struct worker {
    uint64_t owner;
    bool isolated;
    struct running running[ROOM];
    size_t count;
    unsigned dead_ticks;  /* > 0: how long the broker hears nothing yet */
    unsigned start_ticks; /* > 0: how long until it is back */
};

struct night {
    struct jobs *j;
    struct batch *batches[2];
    struct fate fates[MAX_JOBS + 1];
    struct worker workers[MAX_WORKERS];
    size_t job_count, worker_count;
    unsigned deaths_in_1000; /* of a worker in a tick, for reasons of its own */
    uint64_t next_owner, ticks, deaths, alone_leases, busy_ticks;
    struct check_rng rng;
};

static bool is_up(const struct worker *w)
{
    return w->dead_ticks == 0 && w->start_ticks == 0;
}

static size_t lease(struct jobs *j, const struct seat *s, const struct jobs_want *want,
                    struct job **ret_jobs)
{
    struct headroom_table any = {0};
    bool none;
    return suspects_lease(j, s, &any, 0, want, ret_jobs, &none);
}

static void feed(struct night *n)
{
    struct seat seats[MAX_WORKERS];
    struct worker *by_owner[MAX_WORKERS];
    size_t count = 0;
    for (uint64_t owner = 1; owner <= n->next_owner; owner++) { /* sorted */
        for (size_t i = 0; i < n->worker_count; i++) {
            struct worker *w = &n->workers[i];
            if (w->owner != owner || w->start_ticks > 0)
                continue;
            by_owner[count] = w;
            seats[count++] =
                (struct seat){.held.owner = owner, .ready = true, .isolated = w->isolated};
        }
    }
    suspects_seat(n->j, seats, count);
    for (size_t i = 0; i < count; i++) {
        struct worker *w = by_owner[i];
        struct job *got[ROOM];
        struct jobs_want want = {.owner = w->owner,
                                 .max_jobs = is_up(w) ? ROOM - w->count : 0,
                                 .max_bytes = UINT64_MAX,
                                 .expires_ns = UINT64_MAX};
        size_t granted = lease(n->j, &seats[i], &want, got);
        w->isolated = seats[i].isolated;
        for (size_t k = 0; k < granted; k++)
            w->running[w->count++] = (struct running){got[k]->id, got[k]->epoch, 0};
        size_t suspects = 0;
        for (size_t k = 0; k < w->count; k++) {
            const struct job *job = jobs_find(n->j, w->running[k].job);
            suspects += job != NULL && job->attempts > 0;
            n->alone_leases += k >= w->count - granted && job->alone;
            CHECK(job == NULL || !job->alone || w->count == 1);
        }
        CHECK(suspects == 0 || suspects == w->count);
        CHECK(suspects <= JOBS_TOGETHER);
        n->busy_ticks += is_up(w) && w->count > 0;
    }
}

static void die(struct night *n, struct worker *w, bool hands_back)
{
    n->deaths++;
    w->start_ticks = 5;
    if (!hands_back) {
        w->dead_ticks = SILENT_TICKS;
        return;
    }
    for (size_t k = 0; k < w->count; k++)
        CHECK(jobs_release(n->j, w->running[k].job, w->running[k].epoch, w->owner, k < 32,
                           "handed back: device lost"));
    w->count = 0;
}

static void run_worker(struct night *n, struct worker *w)
{
    for (size_t k = 0; k < w->count; k++) {
        struct running *r = &w->running[k];
        struct fate *f = &n->fates[r->job];
        r->ticks++;
        if (f->kills && r->ticks * 2 > f->ticks) {
            die(n, w, f->loses_the_gpu);
            return;
        }
        if (r->ticks < f->ticks)
            continue;
        CHECK_INT(jobs_result(n->j, r->job, r->epoch), JOBS_ACCEPT);
        jobs_finished(n->j, r->job);
        f->finished++;
        *r = w->running[--w->count];
        k--;
    }
    if (check_rng_below(&n->rng, 1000) >= n->deaths_in_1000)
        return;
    const struct job *job = w->count == 1 ? jobs_find(n->j, w->running[0].job) : NULL;
    if (job != NULL && job->alone)
        n->fates[job->id].unlucky++;
    die(n, w, false);
}

static void tick(struct night *n)
{
    feed(n);
    for (size_t i = 0; i < n->worker_count; i++) {
        struct worker *w = &n->workers[i];
        if (w->dead_ticks > 0) {
            if (--w->dead_ticks == 0) {
                jobs_release_owner(n->j, w->owner, true, "worker silent");
                w->count = 0;
            }
        } else if (w->start_ticks > 0) {
            if (--w->start_ticks == 0) {
                w->owner = ++n->next_owner;
                w->isolated = false;
            }
        } else {
            run_worker(n, w);
        }
    }
    for (struct job *job; (job = jobs_doomed(n->j)) != NULL;) {
        CHECK_HAS(jobs_history(job), JOBS_ALONE);
        CHECK_INT(job->strikes, job->batch->max_attempts);
        n->fates[job->id].failed++;
        CHECK_INT(jobs_result(n->j, job->id, job->epoch), JOBS_ACCEPT);
        jobs_finished(n->j, job->id);
    }
    n->ticks++;
    if (n->ticks % 64 == 0)
        jobs_check(n->j);
}

static struct night *new_night(uint64_t seed, size_t jobs, size_t workers)
{
    struct night *n = calloc(1, sizeof *n);
    if (n == NULL || jobs_create(1, NULL, NULL, &n->j) != ERR_OK)
        abort();
    n->rng = check_rng_start(seed);
    n->job_count = jobs;
    n->worker_count = workers;
    for (unsigned b = 0; b < 2; b++) {
        char name[2] = {(char)('a' + b)}, any[1] = "";
        struct batch like = {.id = b + 1, .name = name, .model = any, .max_attempts = 3};
        if (jobs_add_batch(n->j, &like, &n->batches[b]) != ERR_OK)
            abort();
    }
    for (uint64_t id = 1; id <= jobs; id++) {
        struct job like = {.id = id, .line = id, .body_bytes = 100};
        n->fates[id].ticks = 1 + (unsigned)check_rng_below(&n->rng, 12);
        CHECK_ERR(jobs_add(n->j, n->batches[id > jobs / 2], &like), ERR_OK);
    }
    for (size_t i = 0; i < workers; i++)
        n->workers[i].owner = ++n->next_owner;
    return n;
}

static void run_night(struct night *n)
{
    while (jobs_count(n->j) > 0 && n->ticks < MAX_TICKS)
        tick(n);
    CHECK_INT(jobs_count(n->j), 0);
    CHECK_INT(jobs_suspects(n->j), 0);
    for (size_t id = 1; id <= n->job_count; id++) {
        bool fails = n->fates[id].kills || n->fates[id].unlucky >= n->batches[0]->max_attempts;
        CHECK_INT(n->fates[id].failed, fails);
        CHECK_INT(n->fates[id].finished, !fails);
    }
}

static void end_night(struct night *n)
{
    jobs_destroy(&n->j);
    free(n);
}

/* One killer first, one in the middle, one last of 1,000; with one worker, and with several. */
static void first_middle_last(void)
{
    static const size_t workers[] = {1, 2, 4, 8};
    for (size_t i = 0; i < 4; i++) {
        struct night *n = new_night(77, 1000, workers[i]);
        run_night(n);
        uint64_t plain_ticks = n->ticks;
        end_night(n);
        n = new_night(77, 1000, workers[i]);
        n->fates[1].kills = n->fates[500].kills = n->fates[1000].kills = true;
        n->fates[500].loses_the_gpu = true;
        run_night(n);
        printf("%zu workers: %llu ticks, %llu without killers; %llu deaths\n", workers[i],
               (unsigned long long)n->ticks, (unsigned long long)plain_ticks,
               (unsigned long long)n->deaths);
        /* each: with the others, as a suspect, three times alone */
        CHECK(n->deaths >= 11 && n->deaths <= 15);
        end_night(n);
    }
}

/* While suspects are looked into, the others go on: a long queue is not held up. */
static void others_go_on(void)
{
    struct night *n = new_night(5, 4000, 8);
    for (uint64_t id = 1; id <= 16; id++)
        n->fates[id].kills = true;
    run_night(n);
    uint64_t all = n->ticks * n->worker_count;
    printf("busy %llu of %llu worker ticks, %llu deaths\n", (unsigned long long)n->busy_ticks,
           (unsigned long long)all, (unsigned long long)n->deaths);
    CHECK(n->busy_ticks * 10 > all * 6);
    end_night(n);
}

/* Workers that die for reasons of their own: nobody fails but who is alone there max_attempts
 * times. */
static void chance(void)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct night *n = new_night(seed, 1500, 1 + seed % 9);
        n->deaths_in_1000 = (unsigned)check_rng_below(&n->rng, 12);
        for (uint64_t k = check_rng_below(&n->rng, 12); k > 0; k--) {
            struct fate *f = &n->fates[1 + check_rng_below(&n->rng, n->job_count)];
            f->kills = true;
            f->loses_the_gpu = check_rng_below(&n->rng, 2) == 0;
        }
        run_night(n);
        end_night(n);
    }
}

/* ---- who looks after suspects ---- */

/* Suspects of a first loss, others that wait, and workers 1, 2, ... that hold 10, 20, ... others.
 */
static struct jobs *new_office(size_t suspects, size_t others, size_t workers, struct seat *seats)
{
    struct jobs *j = NULL;
    struct batch *b = NULL;
    struct job *got[10 * MAX_WORKERS];
    char name[] = "b";
    struct batch like_batch = {.id = 1, .name = name, .max_attempts = 3};
    if (jobs_create(1, NULL, NULL, &j) != ERR_OK || jobs_add_batch(j, &like_batch, &b) != ERR_OK)
        abort();
    size_t held = 10 * workers * (workers + 1) / 2;
    for (uint64_t id = 1; id <= suspects + others + held; id++) {
        struct job like = {.id = id, .line = id, .attempts = id <= suspects};
        CHECK_ERR(jobs_add(j, b, &like), ERR_OK);
    }
    for (size_t i = 0; i < workers; i++) {
        struct jobs_want want = {.owner = i + 1, .max_jobs = 10 * (i + 1), .max_bytes = UINT64_MAX};
        CHECK_INT(jobs_lease(j, &want, got), 10 * (i + 1));
        seats[i] = (struct seat){.held.owner = i + 1, .ready = true};
    }
    return j;
}

/* The workers that are isolated, as bits. */
static unsigned isolated(struct jobs *j, struct seat *seats, size_t count)
{
    unsigned bits = 0;
    suspects_seat(j, seats, count);
    for (size_t i = 0; i < count; i++)
        bits |= (unsigned)seats[i].isolated << i;
    return bits;
}

/* While there is other work: half of those that take jobs, those with the fewest, and no more than
 * there are suspects for. */
static void who_is_isolated(void)
{
    struct seat seats[8];
    struct jobs *j = new_office(1000, 100, 8, seats);
    CHECK_INT(isolated(j, seats, 8), 0x0f);
    CHECK_INT(isolated(j, seats, 8), 0x0f); /* and stays so */
    jobs_destroy(&j);
    j = new_office(2 * JOBS_TOGETHER + 1, 100, 8, seats);
    CHECK_INT(isolated(j, seats, 8), 0x07);
    jobs_destroy(&j);
    j = new_office(1, 100, 8, seats);
    CHECK_INT(isolated(j, seats, 8), 0x01);
    jobs_destroy(&j);
    j = new_office(1000, 100, 1, seats);
    CHECK_INT(isolated(j, seats, 1), 0x01); /* one at least */
    jobs_destroy(&j);
    j = new_office(0, 100, 8, seats);
    CHECK_INT(isolated(j, seats, 8), 0);
    jobs_destroy(&j);
}

/* Workers that take no more jobs look after nobody: they are not among those of which half are
 * isolated, nor are they that half. */
static void who_can_not(void)
{
    struct seat seats[8];
    struct job *got[10 * MAX_WORKERS];
    struct jobs *j = new_office(1000, 100, 4, seats);
    /* worker 1 has suspects, then 1, 2 and 3 drain */
    CHECK_INT(jobs_release_owner(j, 1, false, "test"), 10);
    seats[0].isolated = true;
    suspects_seat(j, seats, 4);
    struct jobs_want want = {.owner = 1, .max_jobs = 40, .max_bytes = UINT64_MAX};
    CHECK_INT(lease(j, &seats[0], &want, got), JOBS_TOGETHER);
    seats[0].ready = seats[1].ready = seats[2].ready = false;
    CHECK_INT(isolated(j, seats, 4), 0x09); /* the only one that is left goes on with the others */
    jobs_destroy(&j);
    j = new_office(1000, 100, 6, seats);
    seats[0].ready = seats[1].ready = false;
    CHECK_INT(isolated(j, seats, 6), 0x0c);
    jobs_destroy(&j);
}

/* A twin is a job like any other: beside it no suspect is alone, and its worker is not empty. */
static void beside_a_twin(void)
{
    struct seat seats[2];
    struct job *got[1];
    struct jobs *j = new_office(0, 0, 1, seats);
    uint64_t epoch;
    seats[1] = (struct seat){.held.owner = 2, .ready = true};
    struct job *slow = jobs_find(j, 1);
    CHECK(jobs_lease_twin(j, slow, 2, 100, &epoch));
    struct job like = {.id = 1000, .line = 1000, .attempts = 2}; /* is to be alone */
    CHECK_ERR(jobs_add(j, slow->batch, &like), ERR_OK);
    suspects_seat(j, seats, 2);
    CHECK_INT(seats[1].held.jobs, 1);
    struct jobs_want want = {.owner = 2, .max_jobs = 1, .max_bytes = UINT64_MAX};
    CHECK_INT(lease(j, &seats[1], &want, got), 0);
    CHECK_INT(jobs_release_owner(j, 2, true, "died"), 0);
    suspects_seat(j, seats, 2);
    CHECK_INT(lease(j, &seats[1], &want, got), 1);
    jobs_destroy(&j);
}

/* Others that never end: the killer is found out all the same, and the others go on meanwhile. */
static void nobody_waits_for_good(void)
{
    enum { TICKS = 1000 };
    static const size_t workers[] = {1, 2, 5};
    for (size_t i = 0; i < 3; i++) {
        struct night *n = new_night(9, 100, workers[i]);
        n->fates[7].kills = true;
        size_t done = 0;
        while (n->ticks < TICKS && n->job_count < MAX_JOBS) {
            tick(n);
            for (; jobs_count(n->j) < 100 && n->job_count < MAX_JOBS; done++) {
                struct job like = {.id = ++n->job_count, .line = n->job_count};
                n->fates[like.id].ticks = 8;
                CHECK_ERR(jobs_add(n->j, n->batches[0], &like), ERR_OK);
            }
        }
        printf("%zu workers: %zu others done in %llu ticks\n", workers[i], done,
               (unsigned long long)n->ticks);
        CHECK_INT(n->fates[7].failed, 1);
        CHECK(done > 500);
        end_night(n);
    }
}

int main(void)
{
    who_is_isolated();
    who_can_not();
    beside_a_twin();
    nobody_waits_for_good();
    first_middle_last();
    others_go_on();
    chance();
    return check_report();
}
