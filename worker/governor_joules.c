/* Fewer joules a token by less duty, where that is possible: a card that is hot leaks, and one that
 * its firmware clocks down and up wastes. Where it is not, less duty only spreads what the card
 * takes when idle over fewer tokens, so each step is tried for two minutes, and kept if it lowered
 * the joules a token by 2 %. If not, the one before it is best, for half an hour; then it begins
 * anew from full duty, as what was best in the heat or the quiet hours may be best no more. */
#include "base/clock.h"
#include "worker/governor_impl.h"

static const double step = 0.9;   /* of the duty */
static const double worth = 0.98; /* of the joules a token before */
static const double spare = 0.9;  /* of the target: below it duty comes back */
static const uint64_t try_ns = 120 * NS_PER_S;
static const uint64_t again_ns = 1800 * NS_PER_S;

static void set_duty(struct governor_joules *j, double duty_max, double before, uint64_t now_ns)
{
    *j = (struct governor_joules){.duty_max = duty_max < 1 ? duty_max : 1,
                                  .was = j->duty_max,
                                  .before = before,
                                  .unmet = j->unmet,
                                  .rests = j->rests,
                                  .since_ns = now_ns};
}

/* Back to what it was, whatever the duty of a moment is. */
static void give_up(struct governor_joules *j, double duty_max, uint64_t now_ns)
{
    j->unmet = j->rests = true;
    set_duty(j, duty_max, 0, now_ns);
}

/* From the duty that is: heat or the hour may hold it below what is allowed, and a step above that
 * would be none. */
static void step_down(struct governor *g, double mean, uint64_t now_ns)
{
    struct governor_joules *j = &g->joules;
    double duty = governor_duty(g->delay_ms);
    duty = (duty < j->duty_max ? duty : j->duty_max) * step;
    if (duty < g->config.duty_min)
        give_up(j, j->duty_max, now_ns);
    else
        set_duty(j, duty, mean, now_ns);
}

void governor_tell_joules(struct governor *g, double joules_per_token, uint64_t now_ns)
{
    struct governor_joules *j = &g->joules;
    double most = g->config.joules_per_token;
    if (most <= 0 || g->config.law == GOVERNOR_OFF || !(joules_per_token > 0))
        return;
    if (j->since_ns == 0)
        j->since_ns = now_ns;
    j->sum += joules_per_token;
    j->told++;
    uint64_t passed_ns = now_ns - j->since_ns;
    if (passed_ns < try_ns)
        return;
    double mean = j->sum / j->told;
    if (j->before > 0 && mean > j->before * worth) {
        give_up(j, j->was, now_ns);
    } else if (mean <= most) {
        j->unmet = j->rests = false;
        bool back = mean < most * spare && j->duty_max < 1;
        set_duty(j, back ? j->duty_max / step : j->duty_max, 0, now_ns);
    } else if (!j->rests || (passed_ns >= again_ns && j->duty_max >= 1)) {
        step_down(g, mean, now_ns);
    } else if (passed_ns >= again_ns) {
        j->rests = false;
        set_duty(j, 1, 0, now_ns);
    }
}
