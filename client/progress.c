/* Progress lines; see progress.h. */
#include "client/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "client/link.h"
#include "client/text.h"

static const uint64_t log_every_ns = 10 * NS_PER_S;
static const uint64_t step_ns = 2 * NS_PER_S;

void progress_start(struct progress *p, bool terminal)
{
    *p = (struct progress){.terminal = terminal};
}

static void remember(struct progress *p, uint64_t now_ns, uint64_t finished, uint64_t tokens)
{
    unsigned n = p->past_count;
    if (n > 0 && now_ns - p->past[n - 1].ns < step_ns)
        return;
    if (n == ARRAY_LEN(p->past)) {
        memmove(p->past, p->past + 1, (n - 1) * sizeof p->past[0]);
        n--;
    }
    p->past[n].ns = now_ns;
    p->past[n].finished = finished;
    p->past[n].tokens = tokens;
    p->past_count = n + 1;
}

int progress_text(struct progress *p, const struct rec_BATCH *b, uint64_t now_ns, char *out,
                  size_t size)
{
    uint64_t finished = link_batch_finished(b);
    uint64_t tokens = b->completion_tokens + b->running_tokens;
    remember(p, now_ns, finished, tokens);
    double seconds = (double)(now_ns - p->past[0].ns) / 1e9;
    char speed[48] = "", left[48] = "", failed[64] = "", cancelled[64] = "", problem[200] = "";
    if (seconds > 0.4 && tokens > p->past[0].tokens)
        snprintf(speed, sizeof speed, ", %.0f tokens/s",
                 (double)(tokens - p->past[0].tokens) / seconds);
    if (seconds > 0.4 && finished > p->past[0].finished && finished < b->total) {
        double a_second = (double)(finished - p->past[0].finished) / seconds;
        char text[32];
        text_duration((double)(b->total - finished) / a_second, text, sizeof text);
        snprintf(left, sizeof left, ", about %s left", text);
    }
    if (b->failed > 0)
        snprintf(failed, sizeof failed, ", %" PRIu64 " failed", b->failed);
    if (b->cancelled > 0)
        snprintf(cancelled, sizeof cancelled, ", %" PRIu64 " cancelled", b->cancelled);
    if (b->problem.len > 0)
        snprintf(problem, sizeof problem, " (%.*s)",
                 (int)(b->problem.len < 190 ? b->problem.len : 190), b->problem.data);
    return snprintf(out, size, "%" PRIu64 " done%s%s of %" PRIu64 "%s%s%s", b->done, failed,
                    cancelled, b->total, speed, left, problem);
}

void progress_show(struct progress *p, const struct rec_BATCH *b, uint64_t now_ns)
{
    char text[512];
    progress_text(p, b, now_ns, text, sizeof text);
    if (p->terminal) {
        /* without wrapping: a line that is too long for the terminal is cut, not scrolled */
        fprintf(stderr, "\r\033[K\033[?7l%s\033[?7h", text);
        fflush(stderr);
        p->shown = true;
        return;
    }
    if (!p->begun) {
        p->begun = true;
        p->last_ns = now_ns;
    } else if (now_ns - p->last_ns >= log_every_ns) {
        p->last_ns = now_ns;
        log_info("%s", text);
    }
}

void progress_clear(struct progress *p)
{
    if (p->shown)
        fprintf(stderr, "\r\033[K");
    p->shown = false;
}
