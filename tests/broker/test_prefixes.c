/* Prompts that begin alike go to the worker that has that beginning (prefixes.h, jobs_lease()). */
#include <stdlib.h>

#include "broker/prefixes.h"
#include "tests/broker/jobs_kit.h"

enum { DOCUMENTS = 40, QUESTIONS = 50, LINES = DOCUMENTS * QUESTIONS, WORKERS = 4 };

/* Hashes of a prompt's first 256, 512, ... bytes: `shared` of them are the system prompt's, `own`
 * the document's, then the question's. */
static size_t hashes_of(uint64_t document, uint64_t question, size_t shared, size_t own,
                        uint64_t ret[64])
{
    size_t count = 0;
    for (; count < shared; count++)
        ret[count] = 1000003 * (count + 1);
    for (; count < shared + own; count++)
        ret[count] = 7919 * (document + 1) * (count + 1) + 13;
    ret[count++] = 104729 * (document * QUESTIONS + question + 1) * 3 + 5;
    return count;
}

static void test_names(void)
{
    static struct prefixes p;
    uint64_t h[64] = {0};
    CHECK_INT(prefix_of(&p, h, 0), 0);
    uint32_t first = prefix_of(&p, h, hashes_of(0, 0, 2, 2, h));
    uint32_t second = prefix_of(&p, h, hashes_of(0, 1, 2, 2, h));
    uint32_t other = prefix_of(&p, h, hashes_of(1, 0, 2, 2, h));
    uint32_t third = prefix_of(&p, h, hashes_of(0, 2, 2, 2, h));
    CHECK(first != 0 && second != first && second == third && other != second);
    CHECK_INT(prefix_fits(&p, second, 7), PREFIX_NEW);
    prefix_given(&p, second, 7);
    CHECK_INT(prefix_fits(&p, second, 7), PREFIX_HERE);
    CHECK_INT(prefix_fits(&p, second, 8), PREFIX_ELSEWHERE);
    CHECK_INT(prefix_fits(&p, 0, 8), PREFIX_NEW);
    prefix_forget(&p, 7);
    CHECK_INT(prefix_fits(&p, second, 8), PREFIX_NEW);
}

/* Runs LINES lines in the order given over some workers that ask in turns for eight at a time.
 * Returns how often a worker had to compute a document that it did not have among its last few. */
static size_t computed(const uint32_t *order, bool with_hashes, uint64_t *ret_latest)
{
    enum { CACHED = 12 };
    struct jobs *j = kit_jobs(1);
    struct batch *b = kit_batch(j, (struct batch){.id = 1});
    uint32_t cached[WORKERS][CACHED] = {{0}};
    size_t misses = 0, next[WORKERS] = {0};
    for (uint64_t i = 0; i < LINES; i++) {
        uint64_t h[64] = {0};
        size_t count = hashes_of(order[i] / QUESTIONS, order[i] % QUESTIONS, 2, 3, h);
        struct job job = {.id = i + 1,
                          .line = i + 1,
                          .body_bytes = 100,
                          .prefix = with_hashes ? jobs_prefix(j, h, count) : 0};
        CHECK_ERR(jobs_add(j, b, &job), ERR_OK);
    }
    *ret_latest = 0;
    for (size_t turn = 0, done = 0; done < LINES; turn++) {
        struct job *got[8];
        uint64_t w = turn % WORKERS;
        struct jobs_want want = {
            .owner = w + 1, .max_jobs = 8, .max_bytes = 1 << 20, .expires_ns = 1};
        size_t n = jobs_lease(j, &want, got);
        CHECK(n > 0);
        for (size_t i = 0; i < n; i++, done++) {
            uint32_t document = order[got[i]->line - 1] / QUESTIONS + 1;
            bool there = false;
            for (size_t k = 0; k < CACHED; k++)
                there = there || cached[w][k] == document;
            if (!there) {
                cached[w][next[w]++ % CACHED] = document;
                misses++;
            }
            /* how long a line waited for others behind it */
            uint64_t late = done > got[i]->line ? done - got[i]->line : 0;
            *ret_latest = late > *ret_latest ? late : *ret_latest;
            CHECK_INT(jobs_result(j, got[i]->id, got[i]->epoch), JOBS_ACCEPT);
            jobs_finished(j, got[i]->id);
        }
    }
    CHECK_INT(jobs_count(j), 0);
    jobs_destroy(&j);
    return misses;
}

static void test_affinity(void)
{
    static uint32_t order[LINES];
    struct check_rng rng = check_rng_start(3);
    uint64_t late = 0, late_blind = 0;
    for (uint32_t i = 0; i < LINES; i++)
        order[i] = i;
    size_t sorted = computed(order, true, &late),
           sorted_blind = computed(order, false, &late_blind);
    printf("one document after the other: %zu computed, %zu without regard to prefixes\n", sorted,
           sorted_blind);
    CHECK(sorted <= sorted_blind && sorted < DOCUMENTS * 2);
    for (uint32_t i = LINES - 1; i > 0; i--) { /* the documents' questions mixed */
        uint32_t k = (uint32_t)check_rng_below(&rng, i + 1), at = order[i];
        order[i] = order[k];
        order[k] = at;
    }
    size_t mixed = computed(order, true, &late), mixed_blind = computed(order, false, &late_blind);
    printf("mixed: %zu computed, %zu without; a line waits for at most %llu later ones\n", mixed,
           mixed_blind, (unsigned long long)late);
    CHECK(mixed * 3 < mixed_blind);
    CHECK(late <= 512);
}

int main(void)
{
    test_names();
    test_affinity();
    return check_report();
}
