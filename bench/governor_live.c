/* octoflow-bench governor-live: the real engine on the real card, first free, then under each law
 * of the governor, with what the sensor says each second, as CSV. The card's settings stay as they
 * are. governor_live.py beside it runs this, compares with nvidia-smi and sums up. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "bench/bench.h"
#include "bench/work.h"
#include "worker/governor.h"
#include "worker/pacer.h"
#include "worker/sensors/sensor.h"

enum {
    WORK_ROUNDS = 16, /* sequences prepared for each that runs at a time */
    MAX_LAWS = 8,
};

struct laws {
    struct {
        const char *name;
        enum governor_law law;
    } list[MAX_LAWS];
    size_t count;
};

struct live_options {
    struct bench_common common;
    int64_t batch, prompt, gen;
    double target_c, above_idle_c, seconds, idle_s, cool_s;
    const char *laws, *sensor;
};

#define AT(field) offsetof(struct live_options, field)

static const struct option table[] = {
    BENCH_COMMON_OPTIONS(live_options),
    {"batch", 'b', OPTION_INT, AT(batch), .min = 1, .max = 65535, .arg = "N",
     .help = "sequences at a time (default 64)"},
    {"prompt", 0, OPTION_INT, AT(prompt), .min = 1, .max = 1e6, .arg = "N",
     .help = "tokens of a prompt (default 128)"},
    {"gen", 'n', OPTION_INT, AT(gen), .min = 1, .max = 1e6, .arg = "N",
     .help = "tokens generated from each (default 256)"},
    {"governor", 0, OPTION_STRING, AT(laws), .arg = "LAWS",
     .help = "one run each, after a run without (default ramp,pi)"},
    {"target-c", 0, OPTION_FLOAT, AT(target_c), .min = 20, .max = 110, .arg = "CELSIUS",
     .help = "their target (default: by --above-idle)"},
    {"above-idle", 0, OPTION_FLOAT, AT(above_idle_c), .min = 1, .max = 80, .arg = "CELSIUS",
     .help = "their target, so many degrees above the idle card (default: two thirds of what the "
             "free one was, at least 10)"},
    {"seconds", 0, OPTION_FLOAT, AT(seconds), .min = 1, .max = 1e5, .arg = "SECONDS",
     .help = "of each run (default 120)"},
    {"idle", 0, OPTION_FLOAT, AT(idle_s), .min = 1, .max = 1000, .arg = "SECONDS",
     .help = "to see what the idle card's temperature is (default 10)"},
    {"cool", 0, OPTION_FLOAT, AT(cool_s), .min = 0, .max = 10000, .arg = "SECONDS",
     .help = "rest between the runs at most, until 2 degrees above idle (default 60)"},
    {"sensor", 0, OPTION_STRING, AT(sensor), .arg = "WHICH",
     .help = "as octoflow-worker has it (default auto)"},
};

struct live {
    const struct live_options *o;
    struct engine *engine;
    struct sensor *sensor;
    struct work work;
    double idle_c, target_c;
    uint64_t start_ns;
    /* Between the sensor's thread and the engine's: */
    atomic_uint delay_us;
    atomic_ullong tokens, busy_ns; /* busy: the card, with steps */
    atomic_bool stop;
};

struct phase {
    struct live *live;
    const char *name;
    struct governor governor;
    double until_c; /* ends when the card is as cool; -1000: by time only */
    uint64_t end_ns;
    struct pacer pacer;
    /* Of the sensor's thread: */
    struct sensor_reading last;
    uint64_t last_tokens, last_busy_ns, last_ns;
    double sum_c;
    unsigned temps;
};

static void cell(bool known, double value)
{
    if (known)
        printf(",%.7g", value);
    else
        putchar(',');
}

/* in: this second's, empty when nothing could be read; tokens and busy_ns: since the row before. */
static void write_row(const struct phase *p, const struct sensor_reading *in, uint64_t tokens,
                      uint64_t busy_ns, uint64_t now_ns)
{
    const struct governor *g = &p->governor;
    double headroom_c = 0, seconds = (double)(now_ns - p->last_ns) / (double)NS_PER_S;
    bool known = governor_headroom_c(g, in, &headroom_c), first = p->last_ns == 0;
    bool counted = !first && in->have_energy && p->last.have_energy;
    printf("%s,%.2f", p->name, (double)(now_ns - p->live->start_ns) / (double)NS_PER_S);
    cell(in->have_temp, in->temp_c);
    cell(in->have_margin, in->margin_c);
    cell(in->have_memory_temp, in->memory_temp_c);
    cell(g->config.law != GOVERNOR_OFF && known, headroom_c);
    cell(in->have_power, in->power_w);
    cell(counted, (in->energy_j - p->last.energy_j) * (double)NS_PER_S /
                      (double)(in->read_ns - p->last.read_ns));
    cell(in->limit_w > 0, in->limit_w);
    cell(in->clock_mhz > 0, in->clock_mhz);
    cell(in->read_ns != 0, in->throttle_bits);
    cell(true, governor_duty(g->delay_ms));
    cell(true, g->delay_ms);
    cell(!first, (double)tokens / seconds);
    cell(!first, (double)busy_ns / (double)NS_PER_S / seconds);
    putchar('\n');
    fflush(stdout);
}

static void sense(struct phase *p)
{
    struct live *l = p->live;
    struct sensor_reading in = {0};
    uint64_t now_ns = clock_mono_ns();
    struct err_msg why;
    bool answered = sensor_read(l->sensor, now_ns, &in, &why) == ERR_OK;
    double delay_ms = governor_update(&p->governor, answered ? &in : &p->last, now_ns);
    atomic_store(&l->delay_us, (unsigned)(delay_ms * 1000));
    uint64_t tokens = atomic_load(&l->tokens), busy_ns = atomic_load(&l->busy_ns);
    write_row(p, &in, tokens - p->last_tokens, busy_ns - p->last_busy_ns, now_ns);
    p->last_tokens = tokens;
    p->last_busy_ns = busy_ns;
    p->last_ns = now_ns;
    if (answered)
        p->last = in;
    if (!in.have_temp)
        return;
    p->sum_c += in.temp_c;
    p->temps++;
    if (in.temp_c <= p->until_c)
        atomic_store(&l->stop, true);
}

/* A reading a second, as the worker's. */
static void *sense_all(void *user)
{
    struct phase *p = user;
    uint64_t next_ns = clock_mono_ns();
    while (!atomic_load(&p->live->stop)) {
        uint64_t now_ns = clock_mono_ns();
        if (now_ns >= next_ns) {
            sense(p);
            next_ns = max_u64(next_ns + NS_PER_S, now_ns);
        }
        clock_sleep_ns(10 * NS_PER_MS);
    }
    return NULL;
}

static bool on_step(void *user, const struct engine_step_stats *s, uint64_t now_ns)
{
    struct phase *p = user;
    struct live *l = p->live;
    atomic_fetch_add(&l->tokens, s->prefill_tokens + s->decode_tokens);
    uint64_t gpu_ns = s->gpu_ns > 0 ? s->gpu_ns : s->wall_ns;
    atomic_fetch_add(&l->busy_ns, gpu_ns);
    uint64_t rest_ns = pacer_rest_ns(&p->pacer, gpu_ns, now_ns, atomic_load(&l->delay_us) / 1000.0);
    if (rest_ns > 0)
        clock_sleep_ns(rest_ns);
    return now_ns < p->end_ns;
}

/* Runs for so many seconds, with the engine at work or idle. */
static enum err run_phase(struct phase *p, double seconds, bool idle, struct err_msg *why)
{
    struct live *l = p->live;
    pthread_t thread;
    enum err e = ERR_OK;
    p->end_ns = clock_mono_ns() + (uint64_t)(seconds * 1e9);
    p->last_tokens = atomic_load(&l->tokens);
    p->last_busy_ns = atomic_load(&l->busy_ns);
    atomic_store(&l->stop, false);
    atomic_store(&l->delay_us, 0);
    if (pthread_create(&thread, NULL, sense_all, p) != 0)
        return err_set(why, ERR_NOMEM, "the sensor's thread cannot start");
    while (e == ERR_OK && clock_mono_ns() < p->end_ns && !atomic_load(&l->stop)) {
        if (idle)
            clock_sleep_ns(50 * NS_PER_MS);
        else
            e = work_run(l->engine, &l->work, on_step, p, why);
    }
    atomic_store(&l->stop, true);
    pthread_join(thread, NULL);
    return e;
}

static struct phase phase(struct live *l, const char *name, enum governor_law law)
{
    struct governor_config c = governor_defaults();
    c.law = law;
    c.limits.target_c = l->target_c;
    struct phase p = {.live = l, .name = name, .until_c = -1000};
    governor_init(&p.governor, c);
    return p;
}

/* A large chip is hotter by more than 10 degrees a second after work begins: a target so near the
 * idle card would be all leaps. */
static void choose_target(struct live *l, double free_c)
{
    double above_c =
        l->o->above_idle_c > 0 ? l->o->above_idle_c : fmax(10, (free_c - l->idle_c) * 2 / 3);
    l->target_c = l->o->target_c > 0 ? l->o->target_c : l->idle_c + above_c;
}

static enum err measure(struct live *l, const struct laws *laws, struct err_msg *why)
{
    struct phase idle = phase(l, "idle", GOVERNOR_OFF);
    l->start_ns = clock_mono_ns();
    enum err e = run_phase(&idle, l->o->idle_s, true, why);
    if (e != ERR_OK)
        return e;
    if (idle.temps == 0)
        return err_set(why, ERR_IO, "the sensor %s tells no temperature", sensor_name(l->sensor));
    l->idle_c = idle.sum_c / idle.temps;
    struct phase none = phase(l, "none", GOVERNOR_OFF);
    e = run_phase(&none, l->o->seconds, false, why);
    choose_target(l, none.temps > 0 ? none.sum_c / none.temps : l->idle_c);
    for (size_t i = 0; e == ERR_OK && i < laws->count; i++) {
        struct phase cool = phase(l, "cool", GOVERNOR_OFF);
        struct phase governed = phase(l, laws->list[i].name, laws->list[i].law);
        cool.until_c = l->idle_c + 2;
        if (l->o->cool_s > 0)
            e = run_phase(&cool, l->o->cool_s, true, why);
        if (e == ERR_OK)
            e = run_phase(&governed, l->o->seconds, false, why);
    }
    return e;
}

/* Cuts text apart; *ret points into it. */
static enum err parse_laws(char *text, struct laws *ret, struct err_msg *why)
{
    char *rest = NULL;
    for (char *name = strtok_r(text, ",", &rest); name != NULL; name = strtok_r(NULL, ",", &rest)) {
        enum governor_law law;
        enum err e = governor_law_parse(name, &law, why);
        if (e == ERR_OK && law == GOVERNOR_OFF)
            e = err_set(why, ERR_USAGE, "the run without comes first anyway: expected pi or ramp");
        if (e == ERR_OK && ret->count == MAX_LAWS)
            e = err_set(why, ERR_USAGE, "expected at most %d laws", MAX_LAWS);
        if (e != ERR_OK)
            return err_prefix(why, e, "--governor");
        ret->list[ret->count].name = name;
        ret->list[ret->count++].law = law;
    }
    return ERR_OK;
}

static enum err open_all(struct live *l, const struct model *m, struct err_msg *why)
{
    const struct live_options *o = l->o;
    uint64_t ctx = (uint64_t)(o->prompt + o->gen) + 1;
    struct engine_options eo = {.max_seqs = (uint32_t)o->batch,
                                .max_ctx = (uint32_t)min_u64(ctx, m->n_ctx_train),
                                .no_prefix_cache = true};
    if (ctx > m->n_ctx_train)
        return err_set(why, ERR_USAGE, "--prompt and --gen make %llu tokens, but the model sees %u",
                       (unsigned long long)ctx, m->n_ctx_train);
    enum err e = bench_open_engine(&o->common, m, eo, &l->engine, why);
    if (e == ERR_OK)
        e = work_create((size_t)o->batch * WORK_ROUNDS, 0, (uint32_t)o->prompt, (uint32_t)o->gen,
                        m->n_vocab, &l->work, why);
    if (e != ERR_OK)
        return e;
    const struct gpu_device_info *device = &engine_info(l->engine)->device;
    struct sensor_target target = {.pci = device->pci, .software = device->software};
    e = sensor_open(o->sensor, &target, &l->sensor, why);
    if (e != ERR_OK)
        return err_prefix(why, e, "--sensor %s", o->sensor);
    printf("# %s on %s, PCI %s, sensor %s, %lld at a time\n", m->name, device->name,
           device->pci[0] == '\0' ? "unknown" : device->pci, sensor_name(l->sensor),
           (long long)o->batch);
    printf("phase,time_s,temp_c,margin_c,memory_temp_c,headroom_c,power_w,mean_power_w,limit_w,"
           "clock_mhz,throttle_bits,duty,delay_ms,tokens_per_s,busy\n");
    return ERR_OK;
}

static enum err run(const struct live_options *o, struct err_msg *why)
{
    struct live l = {.o = o};
    struct model *m = NULL;
    struct laws laws = {.count = 0};
    char names[64];
    snprintf(names, sizeof names, "%s", o->laws);
    enum err e = parse_laws(names, &laws, why);
    if (e == ERR_OK)
        e = bench_open_model(&o->common, &m, why);
    if (e == ERR_OK)
        e = open_all(&l, m, why);
    if (e == ERR_OK)
        e = measure(&l, &laws, why);
    if (fflush(stdout) != 0 && e == ERR_OK)
        e = err_set(why, ERR_IO, "the rows cannot be written");
    sensor_close(&l.sensor);
    work_free(&l.work);
    engine_destroy(&l.engine);
    model_close(&m);
    return e;
}

int cmd_governor_live(int argc, char **argv)
{
    struct live_options o = {.batch = 64,
                             .prompt = 128,
                             .gen = 256,
                             .laws = "ramp,pi",
                             .seconds = 120,
                             .idle_s = 10,
                             .cool_s = 60,
                             .sensor = "auto"};
    struct err_msg why = {0};
    int code;
    if (!bench_parse(table, ARRAY_LEN(table), &o, "Usage: octoflow-bench governor-live -m FILE",
                     argc, argv, &code))
        return code;
    enum err e = run(&o, &why);
    return e == ERR_OK ? BENCH_OK : bench_fail(e, &why);
}
