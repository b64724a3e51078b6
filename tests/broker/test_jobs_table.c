/* The index of jobs by id against a plain array: ids close together and far apart, added and
 * removed in any order, also down to nothing. */
#include <stdlib.h>

#include "broker/jobs_table.h"
#include "tests/check.h"

enum { JOBS = 4000, STEPS = 40000 };

static struct job all[JOBS];
static bool there[JOBS];

static void compare(const struct jobs_table *t, size_t count)
{
    size_t at = 0, seen = 0;
    for (struct job *job; (job = table_next(t, &at)) != NULL; seen++)
        CHECK(there[job - all]);
    CHECK_INT(seen, count);
    for (size_t i = 0; i < JOBS; i++)
        CHECK(table_find(t, all[i].id) == (there[i] ? &all[i] : NULL));
}

int main(void)
{
    struct check_rng rng = check_rng_start(1);
    struct jobs_table t = {0};
    size_t count = 0;
    uint64_t id = 1;
    for (size_t i = 0; i < JOBS; i++) {
        all[i].id = id;
        id += check_rng_below(&rng, 10) > 0 ? 1 : 1 + check_rng_below(&rng, 1 << 20);
    }
    CHECK(table_find(&t, 1) == NULL);
    table_remove(&t, 1);
    for (size_t step = 0; step < STEPS; step++) {
        /* by turns more is added and more is removed; a fifth of the steps on neighbours */
        bool add = check_rng_below(&rng, 10) < (step / (STEPS / 8) % 2 == 0 ? 9u : 1u);
        size_t i = check_rng_below(&rng, check_rng_below(&rng, 5) == 0 ? 100 : JOBS);
        if (add && !there[i]) {
            CHECK_INT(table_add(&t, &all[i]), ERR_OK);
            there[i] = true;
            count++;
        } else if (!add) {
            table_remove(&t, all[i].id);
            count -= there[i];
            there[i] = false;
        }
        if (step % 2000 == 0)
            compare(&t, count);
    }
    compare(&t, count);
    for (size_t i = 0; i < JOBS; i++)
        table_remove(&t, all[i].id);
    CHECK(t.slots == NULL && t.slot_count == 0 && t.group_count == 0);
    for (size_t i = 0; i < JOBS; i++)
        CHECK_INT(table_add(&t, &all[i]), ERR_OK);
    table_free(&t);
    CHECK(table_find(&t, 1) == NULL);
    return check_report();
}
