/* Jobs in the engine; see core.h. */
#include "worker/core.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"

static const uint64_t checkpoint_every_ns = 10 * NS_PER_S;
enum {
    CHECKPOINT_TOKENS = 128,
    CHECKPOINT_SHARE = 8,
    CHECKPOINT_BYTES = 4 << 20,
    ADMIT_AHEAD_TOKENS = 64
};

/* A choice in the engine. */
struct slot {
    struct job *job; /* NULL: free */
    uint32_t choice;
    bool begun; /* its first event came */
};

struct core {
    const struct engine_port *port;
    const struct job_context *context;
    struct core_events events;
    struct slot *slots;    /* [max_seqs] */
    uint32_t *generations; /* [max_seqs], so that an id is not used twice in a row */
    uint32_t max_seqs, running, waiting;
    uint32_t checkpoint_slot; /* whose turn it is */
    struct job *first, *last; /* with choices to start */
    double prefill_tokens_per_s, decode_tokens_per_s;
    uint64_t tokens, prefill_tokens, cached_tokens;
    bool energy_known; /* energy_j is */
    double energy_j;   /* at the end of the last step */
    double shared_j;
    uint64_t shared_tokens;
};

/* The engine's id of what runs in a slot. */
static uint64_t slot_id(const struct core *c, uint32_t slot)
{
    return (uint64_t)c->generations[slot] << 32 | slot;
}

enum err core_create(const struct engine_port *port, const struct job_context *context,
                     const struct core_events *events, struct core **ret)
{
    uint32_t max_seqs = port->info(port->impl)->max_seqs;
    struct core *c = calloc(1, sizeof *c);
    if (c == NULL)
        return ERR_NOMEM;
    c->slots = calloc(max_seqs, sizeof *c->slots);
    c->generations = calloc(max_seqs, sizeof *c->generations);
    c->port = port;
    c->context = context;
    c->events = *events;
    c->max_seqs = max_seqs;
    if (c->slots == NULL || c->generations == NULL) {
        core_destroy(&c);
        return ERR_NOMEM;
    }
    *ret = c;
    return ERR_OK;
}

static struct job *pop_waiting(struct core *c)
{
    struct job *j = c->first;
    c->first = j->next;
    if (c->first == NULL)
        c->last = NULL;
    j->next = NULL;
    c->waiting--;
    return j;
}

/* Takes the job out of line, if it is there. */
static void leave_line(struct core *c, struct job *j)
{
    struct job *before = NULL;
    for (struct job *at = c->first; at != NULL; before = at, at = at->next) {
        if (at != j)
            continue;
        if (before == NULL)
            c->first = j->next;
        else
            before->next = j->next;
        if (c->last == j)
            c->last = before;
        j->next = NULL;
        c->waiting--;
        return;
    }
}

static void free_slot(struct core *c, uint32_t slot)
{
    c->slots[slot].job = NULL;
    c->generations[slot]++;
    c->running--;
}

/* Takes the job out of its slots, out of the engine and out of line. */
static void take_out(struct core *c, struct job *j)
{
    for (uint32_t i = 0; i < c->max_seqs; i++) {
        if (c->slots[i].job != j)
            continue;
        c->port->remove(c->port->impl, slot_id(c, i));
        free_slot(c, i);
    }
    leave_line(c, j);
}

void core_destroy(struct core **c)
{
    if (c == NULL || *c == NULL)
        return;
    for (uint32_t i = 0; (*c)->slots != NULL && i < (*c)->max_seqs; i++) {
        struct job *j = (*c)->slots[i].job;
        for (uint32_t k = i; j != NULL && k < (*c)->max_seqs; k++) {
            if ((*c)->slots[k].job == j)
                (*c)->slots[k].job = NULL;
        }
        if (j != NULL)
            leave_line(*c, j);
        job_destroy(&j);
    }
    while ((*c)->first != NULL) {
        struct job *j = pop_waiting(*c);
        job_destroy(&j);
    }
    free((*c)->slots);
    free((*c)->generations);
    free(*c);
    *c = NULL;
}

void core_add(struct core *c, struct job **job)
{
    struct job *j = *job;
    *job = NULL;
    j->next = NULL;
    if (c->last != NULL)
        c->last->next = j;
    else
        c->first = j;
    c->last = j;
    c->waiting++;
}

bool core_idle(const struct core *c)
{
    return c->running == 0 && c->waiting == 0;
}

static void nack(struct core *c, struct job *j, bool counts, const char *reason)
{
    struct buf checkpoint = {0};
    if (job_has_checkpoints(j) && j->choices[0].completion.count > 0 &&
        job_encode_checkpoint(c->context, j, &checkpoint, NULL) != ERR_OK)
        buf_clear(&checkpoint);
    c->events.on_nack(c->events.user, j->serial, counts, reason, &checkpoint);
    buf_free(&checkpoint);
    job_destroy(&j);
}

/* All its choices are finished. */
static void finish(struct core *c, struct job *j)
{
    struct buf body = {0};
    struct err_msg why = {{0}};
    enum err e = ERR_OK;
    for (uint32_t i = 0; i < j->n && e == ERR_OK; i++)
        e = text_stream_finish(j->choices[i].text);
    if (e == ERR_OK)
        e = job_encode_output(c->context, j, c->events.wall_ms(c->events.user), &body, &why);
    if (e != ERR_OK) {
        buf_free(&body);
        nack(c, j, true, why.text[0] != '\0' ? why.text : "the result does not fit in memory");
        return;
    }
    c->events.on_result(c->events.user, j->serial, &body, j->prompt.count, job_completion_tokens(j),
                        job_energy_j(j));
    buf_free(&body);
    job_destroy(&j);
}

static struct job *find(const struct core *c, uint64_t serial)
{
    for (uint32_t i = 0; i < c->max_seqs; i++) {
        if (c->slots[i].job != NULL && c->slots[i].job->serial == serial)
            return c->slots[i].job;
    }
    struct job *j = c->first;
    while (j != NULL && j->serial != serial)
        j = j->next;
    return j;
}

void core_cancel(struct core *c, uint64_t serial)
{
    struct job *j = find(c, serial);
    if (j != NULL)
        take_out(c, j);
    job_destroy(&j);
}

/* Pages for the prompt and a little more: what is admitted without them only pushes another one
 * out. */
static bool pages_for(const struct core *c, const struct job *j)
{
    uint64_t ahead = min_u64(j->max_tokens, ADMIT_AHEAD_TOKENS);
    return c->running == 0 || c->port->kv_tokens_free(c->port->impl) >=
                                  j->prompt.count + j->choices[j->started].completion.count + ahead;
}

/* The job's next choice. */
static enum err add_to_engine(struct core *c, const struct job *j, uint32_t slot,
                              struct err_msg *why)
{
    const struct job_choice *choice = &j->choices[j->started];
    struct engine_request r = {
        .id = slot_id(c, slot),
        .prompt = j->prompt.ids,
        .prompt_count = j->prompt.count,
        .completion = choice->completion.ids,
        .completion_count = choice->completion.count,
        .max_tokens = j->max_tokens,
        .min_tokens = j->min_tokens,
        .stop_tokens = j->stop_tokens,
        .stop_tokens_count = j->stop_tokens_count,
        .temperature = j->temperature,
        .top_p = j->top_p,
        .min_p = j->min_p,
        .top_k = j->top_k,
        .seed = j->seed,
        .choice = j->started,
        .repetition_penalty = j->repetition_penalty,
        .frequency_penalty = j->frequency_penalty,
        .presence_penalty = j->presence_penalty,
        .bias = j->bias,
        .bias_count = j->bias_count,
        .bad_ids = j->bad_ids.ids,
        .bad_lengths = j->bad_lengths,
        .bad_count = j->bad_count,
        .logprobs = j->logprobs,
        .top_logprobs = j->top_logprobs,
    };
    return c->port->add(c->port->impl, &r, why);
}

static void admit(struct core *c, uint64_t now_ns)
{
    uint32_t slot = 0;
    while (c->first != NULL && c->running < c->max_seqs && pages_for(c, c->first)) {
        while (c->slots[slot].job != NULL)
            slot++;
        struct job *j = c->first;
        if (j->started_ms == 0)
            j->started_ms = c->events.wall_ms(c->events.user);
        j->checkpoint_ns = now_ns;
        if (j->stopped) {
            j->choices[0].finish_reason = "stop";
            finish(c, pop_waiting(c));
            continue;
        }
        struct err_msg why = {{0}};
        enum err e = add_to_engine(c, j, slot, &why);
        if (e == ERR_FULL)
            return;
        if (e != ERR_OK) {
            log_debug("engine refuses a job serial=%llu error=\"%s\"",
                      (unsigned long long)j->serial, why.text);
            take_out(c, j);
            nack(c, j, true, why.text);
            slot = 0; /* its other choices' are free again */
            continue;
        }
        c->slots[slot] = (struct slot){.job = j, .choice = j->started++};
        c->running++;
        if (j->started == j->n)
            pop_waiting(c);
    }
}

static enum err keep_logprobs(const struct job *j, struct job_choice *choice,
                              const struct engine_event *ev)
{
    if (!j->logprobs || ev->logprobs == NULL)
        return ERR_OK;
    struct job_logprob all[1 + ENGINE_MAX_TOP_LOGPROBS] = {{ev->token, ev->logprobs->token}};
    for (uint32_t i = 0; i < j->top_logprobs;
         i++) /* a vocabulary smaller than that: itself again */
        all[1 + i] = i < ev->top_count
                         ? (struct job_logprob){ev->logprobs->top_ids[i], ev->logprobs->top[i]}
                         : all[0];
    return buf_append(&choice->logprobs, all, (1 + j->top_logprobs) * sizeof *all);
}

static void take_token(struct core *c, const struct engine_event *ev)
{
    uint32_t slot = (uint32_t)ev->id;
    if (slot >= c->max_seqs || c->slots[slot].job == NULL || slot_id(c, slot) != ev->id)
        return;
    struct job *j = c->slots[slot].job;
    struct job_choice *choice = &j->choices[c->slots[slot].choice];
    bool stopped = false;
    enum err e = tokens_append(&choice->completion, &ev->token, 1);
    if (e == ERR_OK)
        e = keep_logprobs(j, choice, ev);
    /* A stop token is counted but is not text. */
    if (e == ERR_OK && ev->finish != ENGINE_STOP)
        e = text_stream_push(choice->text, ev->token, choice->completion.count >= j->min_tokens,
                             &stopped);
    if (c->slots[slot].choice == 0)
        j->cached_tokens = ev->cached_count;
    if (!c->slots[slot].begun) {
        c->slots[slot].begun = true;
        c->cached_tokens += ev->cached_count;
    }
    if (e == ERR_OK && !stopped && ev->finish == ENGINE_RUNNING)
        return;
    if (e != ERR_OK) {
        take_out(c, j);
        nack(c, j, true, "out of memory for the text");
        return;
    }
    if (ev->finish == ENGINE_RUNNING)
        c->port->remove(c->port->impl, ev->id);
    free_slot(c, slot);
    choice->finish_reason = stopped || ev->finish == ENGINE_STOP ? "stop" : "length";
    if (++j->finished == j->n)
        finish(c, j);
}

/* ---- energy: core.h ---- */

static double share_weight(const struct core *c, const struct engine_share *s)
{
    double prompt_token = 1;
    if (c->decode_tokens_per_s > 0 && c->decode_tokens_per_s < c->prefill_tokens_per_s)
        prompt_token = c->decode_tokens_per_s / c->prefill_tokens_per_s;
    return s->decode_tokens + prompt_token * s->prefill_tokens;
}

static struct job *share_job(const struct core *c, const struct engine_share *s)
{
    uint32_t slot = (uint32_t)s->id;
    return slot < c->max_seqs && slot_id(c, slot) == s->id ? c->slots[slot].job : NULL;
}

/* A step has ended. */
static void share_energy(struct core *c, const struct engine_step_stats *s)
{
    double before = c->energy_j, weights = 0;
    bool known = c->energy_known;
    c->energy_known = c->events.energy(c->events.user, &c->energy_j);
    known = known && c->energy_known;
    for (size_t i = 0; i < s->shares_count; i++) {
        if (share_job(c, &s->shares[i]) != NULL)
            weights += share_weight(c, &s->shares[i]);
    }
    for (size_t i = 0; i < s->shares_count; i++) {
        struct job *j = share_job(c, &s->shares[i]);
        if (j == NULL)
            continue;
        j->energy_unknown = j->energy_unknown || !known;
        if (known)
            j->energy_j += (c->energy_j - before) * share_weight(c, &s->shares[i]) / weights;
    }
    if (known && weights > 0) {
        c->shared_j += c->energy_j - before;
        c->shared_tokens += (uint64_t)s->prefill_tokens + s->decode_tokens;
    }
}

/* Smoothed over about 20 steps. A mixed step counts for whichever there is more of. */
static void count_step(struct core *c, const struct engine_step_stats *s, uint64_t gpu_ns)
{
    c->tokens += (uint64_t)s->prefill_tokens + s->decode_tokens;
    c->prefill_tokens += s->prefill_tokens;
    bool prefill = s->prefill_tokens > s->decode_tokens;
    double tokens = prefill ? s->prefill_tokens : s->decode_tokens;
    if (gpu_ns == 0 || tokens == 0)
        return;
    double rate = tokens * (double)NS_PER_S / (double)gpu_ns;
    double *smooth = prefill ? &c->prefill_tokens_per_s : &c->decode_tokens_per_s;
    *smooth = *smooth == 0 ? rate : *smooth + (rate - *smooth) / 20;
}

enum err core_step(struct core *c, uint64_t now_ns, uint64_t *ret_gpu_ns, struct err_msg *why)
{
    bool idle = c->running == 0;
    admit(c, now_ns);
    if (c->running == 0)
        return ERR_AGAIN;
    const struct engine_event *events = NULL;
    size_t count = 0;
    struct engine_step_stats stats = {0};
    if (idle)
        c->energy_known = c->events.energy(c->events.user, &c->energy_j);
    enum err e = c->port->step(c->port->impl, &events, &count, &stats, why);
    if (e != ERR_OK)
        return e;
    /* A call in which no step ended took no device time. */
    bool ended = stats.prefill_tokens + stats.decode_tokens > 0;
    if (ended)
        share_energy(c, &stats);
    for (size_t i = 0; i < count; i++)
        take_token(c, &events[i]);
    uint64_t gpu_ns = stats.gpu_ns != 0 || !ended ? stats.gpu_ns : stats.wall_ns;
    count_step(c, &stats, gpu_ns);
    *ret_gpu_ns = gpu_ns;
    return ERR_OK;
}

void core_hand_back(struct core *c, bool running_too, bool counts, const char *reason)
{
    /* Only the first in line can have started. */
    struct job *begun = c->first != NULL && c->first->started > 0 ? pop_waiting(c) : NULL;
    while (c->first != NULL)
        nack(c, pop_waiting(c), false, reason);
    if (begun != NULL) {
        c->first = c->last = begun;
        c->waiting = 1;
    }
    for (uint32_t i = 0; running_too && i < c->max_seqs; i++) {
        struct job *j = c->slots[i].job;
        if (j == NULL)
            continue;
        if (j == begun)
            begun = NULL;
        take_out(c, j);
        nack(c, j, counts, reason);
    }
    if (running_too && begun != NULL) { /* between two of its choices */
        take_out(c, begun);
        nack(c, begun, counts, reason);
    }
}

size_t core_progress(struct core *c, uint64_t now_ns, struct core_progress *entries, size_t max)
{
    size_t count = 0, bytes = 0;
    uint32_t first = c->checkpoint_slot;
    bool full = false;
    for (uint32_t n = 0; n < c->max_seqs && count < max; n++) {
        uint32_t i = (first + n) % c->max_seqs;
        struct job *j = c->slots[i].job;
        bool told = j == NULL;
        for (uint32_t k = 0; k < n && !told; k++)
            told = c->slots[(first + k) % c->max_seqs].job == j;
        if (told)
            continue;
        struct core_progress *p = &entries[count++];
        uint64_t tokens = job_completion_tokens(j);
        *p = (struct core_progress){.serial = j->serial, .completion_tokens = tokens};
        /* A share more than the last time: all of a long job's checkpoints take but a few times
         * what the last one does. */
        uint64_t more = max_u64(CHECKPOINT_TOKENS, j->checkpoint_tokens / CHECKPOINT_SHARE);
        if (!job_has_checkpoints(j) || now_ns - j->checkpoint_ns < checkpoint_every_ns ||
            tokens < j->checkpoint_tokens + more)
            continue;
        if (bytes >= CHECKPOINT_BYTES) { /* the next time begins with this one */
            if (!full)
                c->checkpoint_slot = i;
            full = true;
            continue;
        }
        if (job_encode_checkpoint(c->context, j, &p->checkpoint, NULL) != ERR_OK) {
            buf_free(&p->checkpoint);
            continue;
        }
        bytes += p->checkpoint.len;
        j->checkpoint_ns = now_ns;
        j->checkpoint_tokens = tokens;
    }
    return count;
}

struct core_stats core_stats(const struct core *c)
{
    return (struct core_stats){
        .prefill_tokens_per_s = c->prefill_tokens_per_s,
        .decode_tokens_per_s = c->decode_tokens_per_s,
        .tokens = c->tokens,
        .prefill_tokens = c->prefill_tokens,
        .cached_tokens = c->cached_tokens,
        .shared_j = c->shared_j,
        .shared_tokens = c->shared_tokens,
        .running = c->running,
        .waiting = c->waiting,
    };
}
