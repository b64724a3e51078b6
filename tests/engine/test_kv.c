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
    struct err_msg why;
    CHECK_OK(kv_create(PAGES, &kv, &why), why);
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
            if (kv_find(kv, kv_chain(kv, 5, tokens), tokens, &page)) {
                if (s.content[page] != (int)kind + 1)
                    CHECK(!"the page found holds something else");
                s.refs[page]++;
            } else if (s.refs[p] > 0 && s.content[p] == 0) {
                kv_publish(kv, p, kv_chain(kv, 5, tokens), tokens);
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
    struct err_msg why;
    CHECK_OK(kv_create(3, &kv, &why), why);
    for (uint32_t i = 0; i < 3; i++) {
        fill(tokens[i], i);
        CHECK(kv_take(kv, &page[i]));
        kv_publish(kv, page[i], kv_chain(kv, 0, tokens[i]), tokens[i]);
    }
    CHECK(!kv_take(kv, &got));
    for (uint32_t i = 3; i-- > 0;)
        kv_release(kv, page[i]); /* last first: page 2 is the oldest now */
    CHECK_INT(kv_available(kv), 3);
    CHECK(kv_take(kv, &got) && got == page[2]);
    CHECK(!kv_find(kv, kv_chain(kv, 0, tokens[2]), tokens[2], &got));
    CHECK(kv_find(kv, kv_chain(kv, 0, tokens[0]), tokens[0], &got) && got == page[0]);
    /* Same tokens behind another prefix are another page. */
    CHECK(!kv_find(kv, kv_chain(kv, 1, tokens[0]), tokens[0], &got));
    CHECK(kv_take(kv, &got) && got == page[1]);
    CHECK(!kv_take(kv, &got));
    kv_destroy(&kv);
}

/* Two pages that XXH3 with the seed 0 takes for one: made by adding up what its eight parts give,
 * in a tenth of a second. */
static void test_no_twins(void)
{
    static const uint32_t twin[PAGE_TOKENS] = {2357, 3803, 2794, 2828, 1635, 2610, 1535, 2366,
                                               605,  1247, 3280, 3298, 2635, 53,   3116, 1883,
                                               576,  1389, 3013, 3361, 75,   3727, 832,  2714,
                                               2849, 3843, 2586, 2247, 3976, 379,  3861, 3198};
    uint32_t first[PAGE_TOKENS], second[PAGE_TOKENS], page[2], got;
    struct kv *kv = NULL, *other = NULL;
    struct err_msg why;
    for (uint32_t i = 0; i < PAGE_TOKENS; i++)
        first[i] = 100 + 37 * i;
    fill(second, 1);
    CHECK_OK(kv_create(4, &kv, &why), why);
    CHECK_OK(kv_create(4, &other, &why), why);
    uint64_t chain = kv_chain(kv, 0, twin);
    CHECK(kv_take(kv, &page[0]) && kv_take(kv, &page[1]));
    kv_publish(kv, page[0], chain, twin);
    kv_publish(kv, page[1], kv_chain(kv, chain, second), second);
    CHECK(kv_find(kv, kv_chain(kv, chain, second), second, &got) && got == page[1]);
    CHECK(!kv_find(kv, kv_chain(kv, kv_chain(kv, 0, first), second), second, &got));
    /* Every token and the parent count, and nobody else's cache has the same chains. */
    for (uint32_t i = 0; i < PAGE_TOKENS; i++) {
        first[i] ^= 1;
        CHECK(kv_chain(kv, 0, first) != chain);
        chain = kv_chain(kv, 0, first);
    }
    CHECK(kv_chain(kv, 0, first) == chain && kv_chain(kv, 1, first) != chain);
    CHECK(kv_chain(other, 0, first) != chain);
    kv_destroy(&kv);
    kv_destroy(&other);
}

int main(void)
{
    struct check_rng rng = check_rng_start(11);
    random_run(&rng);
    eviction_order();
    test_no_twins();
    return check_report();
}
