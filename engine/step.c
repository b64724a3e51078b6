/* The step: what plan.c planned is written into the step's input, run as forward.c recorded it, and
 * read back as events. A step is planned, recorded and submitted while the one before it runs: the
 * device does not wait for the host between them. */
#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "engine/engine_impl.h"

/* A drawing row's parameters and lists. *banned_count: ids written so far. */
static void write_sample(struct engine *e, const struct sequence *s, struct sample_row *sample,
                         uint32_t *banned_count)
{
    char *host = e->step_host[e->plan.half].mapped;
    uint32_t *banned = (uint32_t *)(host + e->layout.banned) + *banned_count;
    struct logit_edit *edits = (struct logit_edit *)(host + e->layout.edits) + e->edits_count;
    uint32_t completed = s->tokens_count + s->pending - s->prompt_count, bans = 0;
    const struct logit_edit *own;
    *sample = s->sampling;
    sample->position = s->tokens_count + s->pending;
    sample->banned_begin = *banned_count;
    if (completed < s->min_tokens) {
        memcpy(banned, s->stop_tokens, s->stop_tokens_count * sizeof *banned);
        bans = s->stop_tokens_count;
    }
    bans += sampling_bans(s->more, s->tokens + s->prompt_count, completed, banned + bans);
    sample->banned_count = bans;
    *banned_count += bans;
    sample->edits_begin = e->edits_count;
    sample->edits_count = sampling_edits(s->more, &own);
    assert(e->edits_count + sample->edits_count <= e->max_edits);
    if (sample->edits_count > 0)
        memcpy(edits, own, sample->edits_count * sizeof *edits);
    e->edits_count += sample->edits_count;
    bool draws = sample->temperature > 0;
    e->draw_rows += draws;
    e->filter_rows += bans > 0 || (draws && (sample->top_k > 0 || sample->min_p > 0));
    e->logprob_rows += sample->logprobs > 0;
}

/* The page table has a row for each sequence of the step, one after the other, as long as the
 * longest. Returns how many there are. */
static uint32_t count_sequences(struct engine *e)
{
    const struct step_row *rows = e->plan.rows;
    uint32_t count = 0;
    e->step_stride = 0;
    for (uint32_t r = 0; r < e->plan.rows_count; r++) {
        e->step_stride = (uint32_t)max_u64(e->step_stride, rows[r].seq->pages_count);
        count += r == 0 || rows[r - 1].seq != rows[r].seq;
    }
    return count;
}

static void write_pages(struct engine *e, uint32_t *seq, uint32_t *table)
{
    const struct step_row *rows = e->plan.rows;
    uint32_t count = 0;
    for (uint32_t r = 0; r < e->plan.rows_count; r++) {
        const struct sequence *s = rows[r].seq;
        if (r == 0 || rows[r - 1].seq != s)
            memcpy(&table[(size_t)count++ * e->step_stride], s->pages,
                   s->pages_count * sizeof *table);
        seq[r] = count - 1;
    }
}

/* The first `bytes` of the step's input, and its edits, to where the device reads them. Written by
 * the host itself it is there when the step begins; a copy is a dispatch of its own behind a read
 * of the host's memory. */
static void send_step(struct engine *e, uint64_t bytes)
{
    const struct gpu_buffer *from = &e->step_host[e->plan.half];
    uint64_t edits = e->layout.edits, edits_bytes = e->edits_count * sizeof(struct logit_edit);
    if (e->step_direct[0].address != 0) {
        const struct gpu_buffer *to = &e->step_direct[e->plan.half];
        memcpy(to->mapped, from->mapped, bytes);
        memcpy((char *)to->mapped + edits, (const char *)from->mapped + edits, edits_bytes);
        e->step_input = to->address;
        return;
    }
    gpu_copy(e->gpu, from, 0, &e->step_device, 0, bytes);
    gpu_copy(e->gpu, from, edits, &e->step_device, edits, edits_bytes);
    gpu_barrier(e->gpu);
    e->step_input = e->step_device.address;
}

/* Writes the planned rows into the host's copy of the step input, and sends it. */
static void write_step(struct engine *e)
{
    char *host = e->step_host[e->plan.half].mapped;
    uint32_t seqs = count_sequences(e);
    memory_lay_out_step(e, e->plan.rows_count, (uint64_t)seqs * e->step_stride);
    uint32_t *ids = (uint32_t *)(host + e->layout.ids), *pos = (uint32_t *)(host + e->layout.pos);
    uint32_t *idx = (uint32_t *)(host + e->layout.logit_idx), banned_count = 0;
    struct sample_row *samples = (struct sample_row *)(host + e->layout.samples);

    e->logit_rows = e->edits_count = e->draw_rows = e->filter_rows = e->logprob_rows = 0;
    for (uint32_t r = 0; r < e->plan.rows_count; r++) {
        const struct step_row *row = &e->plan.rows[r];
        const struct sequence *s = row->seq;
        ids[r] =
            row->position < s->tokens_count ? s->tokens[row->position] : EMBED_DRAWN | s->drawn_at;
        pos[r] = row->position;
        if (!row->samples && !e->options.logits_all)
            continue;
        struct sample_row *sample = &samples[e->logit_rows];
        *sample = (struct sample_row){.temperature = 0};
        idx[e->logit_rows++] = r;
        if (row->samples)
            write_sample(e, s, sample, &banned_count);
    }
    write_pages(e, (uint32_t *)(host + e->layout.seq), (uint32_t *)(host + e->layout.pages));
    if (e->matrix != NULL)
        forward_matrix_plan(e, host);
    send_step(e, e->layout.banned + banned_count * sizeof(uint32_t));
}

static enum err submit_step(struct engine *e, struct err_msg *why)
{
    enum err r = gpu_begin(e->gpu, why);
    if (r != ERR_OK)
        return r;
    gpu_mark(e->gpu, "begin");
    write_step(e);
    if (e->options.profile)
        gpu_mark(e->gpu, "input");
    forward_record(e);
    if (e->logit_rows > 0)
        gpu_copy(e->gpu, &e->tokens_device, 0, &e->tokens_host[e->plan.half], 0,
                 e->logit_rows * sizeof(uint32_t));
    if (e->logprob_rows > 0)
        gpu_copy(e->gpu, &e->logprobs_device, 0, &e->logprobs_host[e->plan.half], 0,
                 e->logit_rows * sizeof(struct logprob_row));
    gpu_mark(e->gpu, "end");
    r = gpu_submit(e->gpu, why);
    if (r != ERR_OK)
        return r;
    plan_commit(e);
    plan_publish(e);
    return ERR_OK;
}

static enum engine_finish take_token(struct engine *e, struct sequence *s, uint32_t token)
{
    s->tokens[s->tokens_count++] = token;
    sampling_take(s->more, token);
    for (uint32_t i = 0; i < s->stop_tokens_count; i++) {
        if (s->stop_tokens[i] == token)
            return ENGINE_STOP;
    }
    return s->tokens_count >= s->tokens_limit || s->tokens_count >= e->info.max_ctx
               ? ENGINE_LENGTH
               : ENGINE_RUNNING;
}

/* Hands out logits and tokens of the step that has run; ends what is finished. */
static size_t take_results(struct engine *e, const struct plan *plan)
{
    const uint32_t *tokens = e->tokens_host[plan->half].mapped;
    const struct engine_logprobs *logprobs = e->logprobs_host[plan->half].mapped;
    static_assert(sizeof *logprobs == sizeof(struct logprob_row), "what the shader writes");
    size_t events = 0;
    uint32_t logit_row = 0;
    for (uint32_t r = 0; r < plan->rows_count; r++) {
        const struct step_row *row = &plan->rows[r];
        struct sequence *s = row->seq;
        if (!row->samples && !e->options.logits_all)
            continue;
        uint32_t at = logit_row++, token = tokens[at], wanted = s->sampling.logprobs;
        if (s->arrival != row->arrival) /* stopped by the token before, or removed */
            continue;
        if (e->options.logits_fn != NULL) {
            const float *logits = e->logits_host.mapped;
            e->options.logits_fn(e->options.logits_user, s->id, row->position,
                                 logits + (size_t)at * e->model->n_vocab);
        }
        if (!row->samples)
            continue;
        s->pending--;
        struct engine_event *ev = &e->events[events++];
        *ev = (struct engine_event){.id = s->id,
                                    .token = token,
                                    .finish = take_token(e, s, token),
                                    .prompt_count = s->prompt_count,
                                    .cached_count = s->cached_count,
                                    .logprobs = wanted > 0 ? &logprobs[at] : NULL};
        if (wanted > 0)
            ev->top_count = (uint32_t)min_u64(wanted - 1, e->model->n_vocab);
        if (ev->finish != ENGINE_RUNNING)
            sequence_end(e, s);
    }
    plan_publish(e);
    return events;
}

/* Whose rows they were. Rows of a sequence stand together, decodes first. */
static size_t take_shares(struct engine *e, const struct plan *plan)
{
    size_t count = 0;
    for (uint32_t r = 0; r < plan->rows_count; r++) {
        const struct step_row *row = &plan->rows[r];
        if (row->seq->arrival != row->arrival)
            continue;
        if (count == 0 || e->shares[count - 1].id != row->seq->id)
            e->shares[count++] = (struct engine_share){.id = row->seq->id};
        if (r < plan->decode_rows)
            e->shares[count - 1].decode_tokens++;
        else
            e->shares[count - 1].prefill_tokens++;
    }
    return count;
}

static void add_to_profile(struct engine *e, const char *name, uint64_t ns)
{
    size_t i = 0;
    while (i < e->profile_count && strcmp(e->profile[i].name, name) != 0)
        i++;
    if (i == PROFILE_ROWS)
        return;
    if (i == e->profile_count)
        e->profile[e->profile_count++] = (struct engine_profile_row){.name = name};
    e->profile[i].ns += ns;
    e->profile[i].count++;
}

/* Device time of the step that has run; a mark's name is that of the work before it. */
static uint64_t step_gpu_ns(struct engine *e)
{
    static _Thread_local const char *names[MAX_MARKS];
    static _Thread_local uint64_t ns[MAX_MARKS];
    size_t count = gpu_marks(e->gpu, names, ns, MAX_MARKS);
    for (size_t i = 1; e->options.profile && i < count; i++)
        add_to_profile(e, names[i], ns[i] - ns[i - 1]);
    return count < 2 ? 0 : ns[count - 1] - ns[0];
}

size_t engine_profile(const struct engine *e, const struct engine_profile_row **ret_rows)
{
    *ret_rows = e->profile;
    return e->profile_count;
}

static enum err collect(struct engine *e, const struct plan *plan, size_t *ret_count,
                        struct engine_step_stats *ret_stats, struct err_msg *why)
{
    enum err r = gpu_wait(e->gpu, why);
    if (r != ERR_OK)
        return r;
    size_t shares = take_shares(e, plan);
    *ret_count = take_results(e, plan);
    uint32_t running = 0;
    for (uint32_t i = 0; i < e->live; i++)
        running += e->order[i]->active;
    uint64_t gpu_ns = step_gpu_ns(e);
    if (plan->prefill_rows == 0)
        widths_learn(&e->widths, plan->decode_rows, gpu_ns);
    *ret_stats = (struct engine_step_stats){.prefill_tokens = plan->prefill_rows,
                                            .decode_tokens = plan->decode_rows,
                                            .shares = e->shares,
                                            .shares_count = shares,
                                            .running = running,
                                            .waiting = e->live - running,
                                            .gpu_ns = gpu_ns};
    return ERR_OK;
}

/* The logits on the host are one step's. Without time stamps a step's time is that of the call,
 * which nothing may overlap then. */
static bool runs_ahead(const struct engine *e)
{
    return e->options.logits_fn == NULL && gpu_timestamp_ns(e->gpu) > 0;
}

/* The next step's sizes, by the time of the one that ended. */
static void fit_next(struct engine *e, const struct engine_step_stats *s)
{
    uint64_t ns = s->gpu_ns != 0 ? s->gpu_ns : s->wall_ns;
    uint64_t target_ns = e->options.step_ms * NS_PER_MS;
    e->chunk = chunk_after(e->chunk, e->info.chunk_tokens, s->prefill_tokens, s->decode_tokens, ns,
                           target_ns);
    e->decodes = decodes_after(e->decodes, e->info.max_seqs, s->prefill_tokens, s->decode_tokens,
                               ns, target_ns);
}

enum err engine_step(struct engine *e, const struct engine_event **ret_events, size_t *ret_count,
                     struct engine_step_stats *ret_stats, struct err_msg *why)
{
    struct engine_step_stats stats = {0};
    uint64_t start_ns = clock_mono_ns();
    enum err r = ERR_OK;
    size_t count = 0;
    if (e->live == 0 && e->flight.rows_count == 0)
        return err_set(why, ERR_AGAIN, "no sequences");
    plan_step(e);
    bool flies = e->flight.rows_count > 0;
    if (e->plan.rows_count == 0 && !flies)
        return err_set(why, ERR_INTERNAL,
                       "no sequence can go on: %u live, %u of %u KV pages available", e->live,
                       kv_available(e->kv), kv_pages(e->kv));
    if (e->plan.rows_count > 0)
        r = submit_step(e, why);
    if (r == ERR_OK && flies)
        r = collect(e, &e->flight, &count, &stats, why);
    if (r == ERR_OK && !flies && !runs_ahead(e)) {
        r = collect(e, &e->plan, &count, &stats, why);
        e->plan.rows_count = 0;
    }
    if (r != ERR_OK)
        return r;
    struct plan done = e->flight;
    e->flight = e->plan;
    e->plan = done;
    stats.ahead = e->flight.rows_count > 0;
    stats.wall_ns = clock_mono_ns() - start_ns;
    if (e->options.step_ms > 0)
        fit_next(e, &stats);
    *ret_events = e->events;
    *ret_count = count;
    if (ret_stats != NULL)
        *ret_stats = stats;
    return ERR_OK;
}
