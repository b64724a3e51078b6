/* Who loads and fetches which model: single decisions, then days with demands that come and go at
 * random. */
#include "broker/models.h"

#include "base/clock.h"
#include "base/size.h"
#include "tests/check.h"

enum { KINDS = 4 };

static const struct models_file files[KINDS] = {{"a", "hash-a", "", 1000},
                                                {"b", "hash-b", "", 1000},
                                                {"c", "hash-c", "", 1000},
                                                {"d", "hash-d", "", 1000}};

/* A worker that has all files from `first` on. */
struct fake {
    struct models_file files[KINDS];
    struct models_worker w;
    uint64_t loaded_at_s;
};

static void load(struct fake *f, int kind, uint64_t now_s)
{
    f->loaded_at_s = now_s;
    struct models_file first = f->files[0];
    for (size_t i = 0; i < f->w.count; i++) {
        if (strcmp(f->files[i].hash, files[kind].hash) != 0)
            continue;
        f->files[0] = f->files[i];
        f->files[i] = first;
    }
    f->w.loading = "";
}

static void fake_init(struct fake *f, int loaded, size_t count)
{
    memcpy(f->files, files, sizeof f->files);
    f->w = (struct models_worker){.count = count,
                                  .ready = true,
                                  .loading = "",
                                  .fetching = "",
                                  .load_s = 10,
                                  .tokens_per_s = 1000};
    load(f, loaded, 0);
}

struct bed {
    struct models_state state;
    struct fake fakes[8];
    size_t count;
    struct models_demand demands[KINDS];
    size_t demand_count;
    uint64_t now_s;
};

static bool decide(struct bed *b, struct models_order *ret)
{
    struct models_worker workers[8];
    for (size_t i = 0; i < b->count; i++) {
        workers[i] = b->fakes[i].w;
        workers[i].files = b->fakes[i].files;
        workers[i].loaded_s = (double)(b->now_s - b->fakes[i].loaded_at_s);
    }
    return models_decide(&b->state, b->demands, b->demand_count, workers, b->count,
                         b->now_s * NS_PER_S, ret);
}

/* Seconds until something is decided; 10,000: nothing is. */
static uint64_t wait_for(struct bed *b, struct models_order *ret)
{
    uint64_t begin = b->now_s;
    while (!decide(b, ret) && b->now_s - begin < 10000)
        b->now_s++;
    return b->now_s - begin;
}

static void demand(struct bed *b, const char *model, uint64_t priority, double tokens)
{
    b->demands[b->demand_count++] = (struct models_demand){
        .model = model, .priority = priority, .tokens = tokens, .fetchable = ""};
}

static struct bed bed_of(size_t count)
{
    struct bed b = {.count = count, .now_s = 1000};
    for (size_t i = 0; i < count; i++)
        fake_init(&b.fakes[i], 0, KINDS);
    return b;
}

static void test_idle_changes_at_once(void)
{
    struct models_order o;
    struct bed b = bed_of(2);
    demand(&b, "a", 100, 1e6);
    CHECK_INT(wait_for(&b, &o), 10000); /* they have it */
    b = bed_of(2);
    demand(&b, "b", 100, 100);
    b.fakes[0].w.load_s = 20;
    CHECK_INT(wait_for(&b, &o), 0);
    CHECK_INT(o.worker, 1); /* the one that loads faster */
    CHECK(!o.fetch);
    CHECK_STR(o.hash, "hash-b");
    /* One is enough for a small batch, while it loads and after. */
    b.fakes[1].w.loading = "hash-b";
    CHECK_INT(wait_for(&b, &o), 10000);
    load(&b.fakes[1], 1, b.now_s);
    CHECK_INT(wait_for(&b, &o), 10000);
    /* With enough to do the other one helps: 1000 tokens/s, and 20 s to load. */
    b.demands[0].tokens = 50e3;
    CHECK_INT(wait_for(&b, &o), 0);
    CHECK_INT(o.worker, 0);
    /* By the broker's name for it as by its own. */
    b = bed_of(1);
    demand(&b, "z", 100, 100);
    b.fakes[0].files[2].also = "z";
    CHECK_INT(wait_for(&b, &o), 0);
    CHECK_STR(o.hash, "hash-c");
    /* By hash as by name; who drains or lacks it is left alone. */
    b = bed_of(1);
    demand(&b, "hash-c", 100, 100);
    CHECK_INT(wait_for(&b, &o), 0);
    b.fakes[0].w.cannot[3] = "hash-c"; /* it has it, and cannot load it */
    CHECK_INT(wait_for(&b, &o), 10000);
    b.fakes[0].w.cannot[3] = NULL;
    b.fakes[0].w.ready = false;
    CHECK_INT(wait_for(&b, &o), 10000);
    fake_init(&b.fakes[0], 0, 2);
    CHECK_INT(wait_for(&b, &o), 10000);
}

static void test_turns(void)
{
    struct models_order o;
    struct bed b = bed_of(1);
    demand(&b, "a", 100, 1e6);
    demand(&b, "b", 100, 1e6);
    uint64_t waited = wait_for(&b, &o);
    CHECK_INT(waited, 100); /* ten loads of 10 s */
    CHECK_STR(o.hash, "hash-b");
    b.fakes[0].w.loading = "hash-b";
    CHECK(!decide(&b, &o)); /* it is on its way */
    load(&b.fakes[0], 1, b.now_s);
    CHECK_INT(wait_for(&b, &o), 100);
    CHECK_STR(o.hash, "hash-a");
    /* A file that is twice as large loads for longer. */
    b.state.count = 0;
    b.fakes[0].files[1].bytes = 2000;
    CHECK_STR(b.fakes[0].files[1].name, "a");
    CHECK_INT(wait_for(&b, &o), 200);
    b.fakes[0].files[1].bytes = 1000;
    /* A load of minutes makes no turns of hours. */
    b.fakes[0].w.load_s = 200;
    b.state.count = 0;
    CHECK_INT(wait_for(&b, &o), 300);
    /* The other is nearly through: it is waited for, but not for ever. */
    b.fakes[0].w.load_s = 10;
    b.state.count = 0;
    b.demands[1].tokens = 5000;
    CHECK_INT(wait_for(&b, &o), 200);
}

static void test_priority(void)
{
    struct models_order o;
    struct bed b = bed_of(2);
    demand(&b, "a", 100, 1e7);
    demand(&b, "b", 101, 1e7);
    CHECK_INT(wait_for(&b, &o), 10); /* a load's time, so that nobody flutters */
    b.fakes[o.worker].w.loading = "hash-b";
    CHECK(!decide(&b, &o));
    load(&b.fakes[0], 1, b.now_s);
    CHECK_INT(wait_for(&b, &o), 100); /* then the rest, one after the other */
    CHECK_INT(o.worker, 1);
    load(&b.fakes[1], 1, b.now_s);
    CHECK_INT(wait_for(&b, &o), 10000); /* the lower one waits, as its jobs would */
    b.demands[0] = b.demands[--b.demand_count];
    b.demands[0] =
        (struct models_demand){.model = "a", .priority = 100, .tokens = 1, .fetchable = ""};
    CHECK_INT(wait_for(&b, &o), 0);
}

/* What asks for no model runs with the one that is loaded: it is not interrupted for a lower
 * priority, and shares with its own. */
static void test_any(void)
{
    struct models_order o;
    struct bed b = bed_of(2);
    demand(&b, "b", 100, 1e7);
    demand(&b, "", 101, 1e7);
    CHECK_INT(wait_for(&b, &o), 10000);
    b.demands[0].priority = 102;
    b.state.count = 0;
    CHECK_INT(wait_for(&b, &o), 10); /* a load's time */
    b.demands[0].priority = 101;
    b.state.count = 0;
    CHECK_INT(wait_for(&b, &o), 100); /* a turn */
    load(&b.fakes[o.worker], 1, b.now_s);
    CHECK_INT(wait_for(&b, &o), 10000);
    b.demand_count = 1; /* the other one helps, with nothing else to do */
    CHECK_INT(wait_for(&b, &o), 0);
    /* Who has a model by name is asked by what that is worth. */
    b = bed_of(2);
    demand(&b, "a", 100, 1e7);
    demand(&b, "b", 100, 1e7);
    demand(&b, "", 100, 1e7);
    CHECK_INT(wait_for(&b, &o), 100);
    load(&b.fakes[o.worker], 1, b.now_s);
    CHECK_INT(wait_for(&b, &o), 10000); /* one each */
}

static void test_halves(void)
{
    struct models_order o;
    struct bed b = bed_of(8);
    demand(&b, "a", 100, 1e9);
    demand(&b, "b", 100, 1e9);
    for (int i = 0; i < 4; i++) {
        CHECK_INT(wait_for(&b, &o), 100);
        CHECK_STR(o.hash, "hash-b");
        load(&b.fakes[o.worker], 1, b.now_s);
    }
    CHECK_INT(wait_for(&b, &o), 10000);
}

static void test_fetches(void)
{
    struct models_order o;
    struct bed b = bed_of(3);
    for (size_t i = 0; i < 3; i++)
        fake_init(&b.fakes[i], 0, 1);
    demand(&b, "a", 100, 1e6);
    demand(&b, "b", 100, 1e9);
    b.demands[1].fetchable = "hash-b";
    b.demands[1].bytes = 1000;
    CHECK_INT(wait_for(&b, &o), 10000); /* nobody may */
    for (size_t i = 0; i < 3; i++) {    /* they have it, of another name */
        b.fakes[i].w.fetches = true;
        b.fakes[i].files[0].hash = "hash-b";
    }
    CHECK_INT(wait_for(&b, &o), 10000);
    for (size_t i = 0; i < 3; i++)
        b.fakes[i].files[0].hash = "hash-a";
    b.state.count = 0;
    for (size_t i = 0; i < 3; i++)
        b.fakes[i].w.fetches = true;
    b.fakes[0].w.cannot[0] = "hash-b";
    CHECK_INT(wait_for(&b, &o), 0); /* beside its work */
    CHECK(o.fetch && o.worker != 0);
    CHECK_STR(o.hash, "hash-b");
    b.fakes[o.worker].w.fetching = "hash-b";
    CHECK_INT(wait_for(&b, &o), 10000); /* one at a time */
    b.fakes[o.worker].w.fetching = "";
    size_t has = o.worker;
    b.fakes[has].w.count = 2;
    b.state.count = 0;
    CHECK_INT(wait_for(&b, &o), 100); /* then it has its turn */
    CHECK(!o.fetch && o.worker == has);
    load(&b.fakes[has], 1, b.now_s);
    /* Another one that has nothing to do fetches it as well, since there is much to do. */
    b.demands[0] = b.demands[--b.demand_count];
    CHECK_INT(wait_for(&b, &o), 0);
    CHECK(o.fetch && o.worker != has && o.worker != 0);
}

/* Days of random demands: nothing that is as urgent as the rest waits for long, whatever else goes
 * on for ever, and loading takes a small part of the time. */
static void test_days(void)
{
    struct check_rng rng = check_rng_start(4711);
    for (int day = 0; day < 40; day++) {
        struct bed b = bed_of(1 + check_rng_below(&rng, 8));
        double tokens[KINDS] = {0}, busy_s[8] = {0};
        uint64_t waits_since[KINDS], longest_s = 0, ready_at[8] = {0}, loads = 0, idle_loads = 0;
        static const char *const names[KINDS] = {"a", "hash-b", "c", "d"};
        double load_s = 1 + (double)check_rng_below(&rng, 30);
        for (size_t i = 0; i < b.count; i++) {
            b.fakes[i].w.load_s = load_s;
            b.fakes[i].w.tokens_per_s = 100 + (double)check_rng_below(&rng, 900);
        }
        for (int k = 0; k < KINDS; k++)
            waits_since[k] = b.now_s;
        uint64_t end = b.now_s + 36000;
        for (; b.now_s < end; b.now_s++) {
            b.demand_count = 0;
            for (int k = 0; k < KINDS; k++) {
                /* the first two never end */
                if (check_rng_below(&rng, k < 2 ? 60 : 4000) == 0)
                    tokens[k] += (double)check_rng_below(&rng, k < 2 ? 400000 : 200000) + 1;
                if (tokens[k] > 0)
                    demand(&b, names[k], 100, tokens[k]);
                else
                    waits_since[k] = b.now_s;
            }
            for (size_t i = 0; i < b.count; i++) {
                struct fake *f = &b.fakes[i];
                if (f->w.loading[0] != '\0' && b.now_s >= ready_at[i])
                    load(f, f->w.loading[5] - 'a', b.now_s);
                int kind = f->files[0].name[0] - 'a';
                if (f->w.loading[0] != '\0' || tokens[kind] <= 0)
                    continue;
                tokens[kind] -= f->w.tokens_per_s;
                waits_since[kind] = b.now_s;
                busy_s[i]++;
            }
            for (int k = 0; k < KINDS; k++)
                longest_s = max_u64(longest_s, b.now_s - waits_since[k]);
            struct models_order o;
            for (size_t n = 0; decide(&b, &o); n++) {
                struct fake *f = &b.fakes[o.worker];
                bool was_idle = true;
                for (size_t i = 0; i < b.demand_count; i++)
                    was_idle = was_idle && !models_suits(&f->files[0], b.demands[i].model);
                if (!CHECK(f->w.loading[0] == '\0' && !o.fetch && n < b.count))
                    return;
                f->w.loading = o.hash;
                ready_at[o.worker] = b.now_s + (uint64_t)load_s;
                loads++;
                idle_loads += was_idle;
            }
        }
        /* Three others may have their turn before; each lasts as long as it was asked to wait. */
        double turn_s = load_s * 10 < 30 ? 30 : load_s * 10 > 300 ? 300 : load_s * 10;
        if (!CHECK((double)longest_s <= (KINDS + 1) * (turn_s + load_s)) ||
            !CHECK((double)(loads - idle_loads) * turn_s <= 36000.0 * (double)b.count * 1.2))
            fprintf(stderr,
                    "    day %d: %zu workers, load %.0f s, longest wait %llu s, %llu loads, %llu "
                    "of idle\n",
                    day, b.count, load_s, (unsigned long long)longest_s, (unsigned long long)loads,
                    (unsigned long long)idle_loads);
    }
}

int main(void)
{
    test_idle_changes_at_once();
    test_turns();
    test_priority();
    test_any();
    test_halves();
    test_fetches();
    test_days();
    return check_report();
}
