/* The last lines of a run: energy known of all answers, of some, of none; devices with and without
 * sensors. */
#include "client/report.h"

#include "check.h"

static char page[2048];

static FILE *begin(void)
{
    memset(page, 0, sizeof page);
    return fmemopen(page, sizeof page, "w");
}

static const char *energy(struct results_counts c)
{
    FILE *f = begin();
    report_energy(f, &c);
    fclose(f);
    return page;
}

int main(void)
{
    CHECK_STR(energy((struct results_counts){.answered = 48}), "energy: unknown\n");
    CHECK_STR(energy((struct results_counts){
                  .answered = 48, .energy_j = 7200, .energy_answers = 48, .energy_tokens = 2400}),
              "energy: 0.00200 kWh, 3 J for each token of the answers\n");
    CHECK_STR(
        energy((struct results_counts){
            .answered = 48, .energy_j = 36e6, .energy_answers = 45, .energy_tokens = 1000000}),
        "energy: 10.00 kWh, 36 J for each token of the answers; unknown for 3 of 48 answers\n");
    struct results_counts c = {.failed = 3, .reasons = {"line 2: n is 0", "line 5: cancelled"}};
    FILE *r = begin();
    c.reasons_count = 2;
    c.cancelled = 4;
    report_reasons(r, &c);
    fclose(r);
    CHECK_STR(page, "  line 2: n is 0\n  line 5: cancelled\n  ... and 5 more without an answer\n");
    struct rec_WORKER workers[] = {
        {.device = STR_LIT("card"), .temp_mean_c = 61.4, .temp_peak_c = 70, .energy_j = 3.6e6},
        {.device = STR_LIT("li\033[2Jar")},
    };
    struct msg_status_ok m = {.workers = {workers, 2}};
    FILE *f = begin();
    report_devices(f, &m);
    fclose(f);
    CHECK_STR(page, "device: card: 61 C on average, 70 C at most, energy with idle time 1.00 kWh\n"
                    "device: li?[2Jar: temperature unknown, energy with idle time unknown\n");
    return check_report();
}
