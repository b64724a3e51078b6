/* The worker's options: defaults, what is refused, and that the last value of an option counts (the
 * supervisor relies on it). */
#include "check.h"
#include "worker/options.h"

static struct err_msg why;

static enum err parse(struct worker_options *ret, const char *const *words)
{
    static char copies[16][64];
    char *argv[17] = {NULL};
    int argc = 0;
    for (; words[argc] != NULL; argc++) {
        snprintf(copies[argc], sizeof copies[argc], "%s", words[argc]);
        argv[argc] = copies[argc];
    }
    return worker_options_parse(argc, argv, ret, &why);
}

#define PARSE(ret, ...) parse(ret, (const char *const[]){"octoflow-worker", __VA_ARGS__, NULL})
#define NEEDED          "--broker", "ipc:///tmp/b", "-m", "model.gguf"

int main(void)
{
    struct worker_options o;
    CHECK_OK(PARSE(&o, NEEDED), why);
    CHECK(o.heat.limits.target_c == 75 && o.heat.blind_ms == 5 && o.heat.law == GOVERNOR_PI &&
          o.drain_s == 30 && o.max_jobs == 0);
    CHECK(!o.validate && !o.die_with_parent && o.name == NULL && o.log_level == LOG_LEVEL_INFO);
    CHECK_STR(o.device, "auto");
    CHECK_STR(o.sensor, "auto");
    CHECK_OK(PARSE(&o, NEEDED, "--device", "all", "--name=n", "--target-c", "60.5", "--device", "3",
                   "--die-with-parent"),
             why);
    CHECK_STR(o.device, "3");
    CHECK_STR(o.name, "n");
    CHECK(o.heat.limits.target_c == 60.5 && o.die_with_parent);
    CHECK_ERR(PARSE(&o, "-m", "model.gguf"), ERR_USAGE);
    CHECK_HAS(why.text, "--broker");
    CHECK_ERR(PARSE(&o, "--broker", "ipc:///tmp/b"), ERR_USAGE);
    CHECK_HAS(why.text, "--model");
    CHECK_ERR(PARSE(&o, NEEDED, "--governor", "fast"), ERR_USAGE);
    CHECK_HAS(why.text, "fast");
    CHECK_ERR(PARSE(&o, NEEDED, "--target-c", "400"), ERR_USAGE);
    CHECK_HAS(why.text, "target-c");
    CHECK_OK(PARSE(&o, NEEDED, "--governor", "ramp", "--max-watts", "200", "--quiet-hours",
                   "22:00-07:00=70C/150W", "--duty-max", "0.8"),
             why);
    CHECK(o.heat.law == GOVERNOR_RAMP && o.heat.limits.max_watts == 200 && o.heat.hours.count == 1);
    CHECK_ERR(PARSE(&o, NEEDED, "--quiet-hours", "22:00-07:00"), ERR_USAGE);
    CHECK_HAS(why.text, "--quiet-hours: \"22:00-07:00\": expected");
    CHECK_ERR(PARSE(&o, NEEDED, "--quiet-hours", "22:00-07:00=5%"), ERR_USAGE);
    CHECK_HAS(why.text, "--duty-min 0.1");
    CHECK_ERR(PARSE(&o, NEEDED, "--duty-min", "0.9", "--duty-max", "0.8"), ERR_USAGE);
    CHECK_HAS(why.text, "--duty-max 0.8");
    CHECK_ERR(PARSE(&o, NEEDED, "--log-level", "loud"), ERR_USAGE);
    CHECK_ERR(PARSE(&o, NEEDED, "extra"), ERR_USAGE);
    CHECK_HAS(why.text, "extra");
    CHECK_ERR(PARSE(&o, "--help"), ERR_CANCELLED);
    CHECK_OK(PARSE(&o, "--list-devices"), why); /* needs neither broker nor model */
    CHECK(o.list_devices);
    CHECK_OK(PARSE(&o, "--version"), why);
    return check_report();
}
