/* kv.c against a shadow: random takes, holds, releases, publications and searches; a page is never
 * given out while somebody holds it, a found page holds exactly the tokens asked for, and nothing
 * leaks. */
#include "engine/kv.h"
#include "tests/check.h"

enum { PAGES = 23, STEPS = 200000, KINDS = 40 };

struct shadow {
    uint32_t refs[PAGES];
    int content[PAGES]; /* kind + 1 once published, by what we know; 0 unknown */
};

static void fill(uint32_t tokens[PAGE_TOKENS], uint32_t kind)
{
    for (uint32_t i = 0; i < PAGE_TOKENS; i++)
        tokens[i] = kind * 7 + i;
}

static uint32_t held(const struct shadow *s)
{
    uint32_t n = 0;
    for (int i = 0; i < PAGES; i++)
        n += s->refs[i] > 0;
    return n;
}

static void random_run(struct check_rng *rng)
{
    struct kv *kv = NULL;
    struct shadow s = {0};
    uint32_t tokens[PAGE_TOKENS], page = 0;
    CHECK(kv_create(PAGES, &kv) == ERR_OK);
    for (int step = 0; step < STEPS; step++) {
        uint32_t kind = (uint32_t)check_rng_below(rng, KINDS),
                 p = (uint32_t)check_rng_below(rng, PAGES);
        fill(tokens, kind);
        switch (check_rng_below(rng, 5)) {
        case 0:
            if (kv_take(kv, &page)) {
                if (s.refs[page] != 0)
                    CHECK(!"a held page was given out");
                s.refs[page] = 1;
                s.content[page] = 0;
            } else if (held(&s) != PAGES) {
                CHECK(!"a page was free, none was given");
            }
            break;
        case 1:
            if (s.refs[p] > 0) {
                kv_hold(kv, p);
                s.refs[p]++;
            }
            break;
        case 2:
        case 3:
            if (s.refs[p] > 0) {
                kv_release(kv, p);
                s.refs[p]--;
            }
            break;
        default:
            if (kv_find(kv, kv_chain(5, tokens), tokens, &page)) {
                if (s.content[page] != (int)kind + 1)
                    CHECK(!"the page found holds something else");
                s.refs[page]++;
            } else if (s.refs[p] > 0 && s.content[p] == 0) {
                kv_publish(kv, p, kv_chain(5, tokens), tokens);
                s.content[p] = (int)kind + 1;
            }
        }
        if (kv_available(kv) != PAGES - held(&s))
            CHECK(!"available pages and held pages do not add up");
    }
    CHECK(check_failures == 0);
    kv_destroy(&kv);
    CHECK(kv == NULL);
}

static void eviction_order(void)
{
    struct kv *kv = NULL;
    uint32_t tokens[3][PAGE_TOKENS], page[3], got;
    CHECK(kv_create(3, &kv) == ERR_OK);
    for (uint32_t i = 0; i < 3; i++) {
        fill(tokens[i], i);
        CHECK(kv_take(kv, &page[i]));
        kv_publish(kv, page[i], kv_chain(0, tokens[i]), tokens[i]);
    }
    CHECK(!kv_take(kv, &got));
    for (uint32_t i = 3; i-- > 0;)
        kv_release(kv, page[i]); /* last first: page 2 is the oldest now */
    CHECK_INT(kv_available(kv), 3);
    CHECK(kv_take(kv, &got) && got == page[2]);
    CHECK(!kv_find(kv, kv_chain(0, tokens[2]), tokens[2], &got));
    CHECK(kv_find(kv, kv_chain(0, tokens[0]), tokens[0], &got) && got == page[0]);
    /* Same tokens behind another prefix are another page. */
    CHECK(!kv_find(kv, kv_chain(1, tokens[0]), tokens[0], &got));
    CHECK(kv_take(kv, &got) && got == page[1]);
    CHECK(!kv_take(kv, &got));
    kv_destroy(&kv);
}

int main(void)
{
    struct check_rng rng = check_rng_start(11);
    random_run(&rng);
    eviction_order();
    return check_report();
}
