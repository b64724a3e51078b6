/* See report.h. */
#include "client/report.h"

#include <inttypes.h>

#include "client/text.h"

void report_energy(FILE *out, const struct results_counts *c)
{
    char text[TEXT_ENERGY_BYTES];
    text_energy(c->energy_j, text);
    fprintf(out, "energy: %s", text);
    if (c->energy_tokens > 0)
        fprintf(out, ", %.3g J for each token of the answers",
                c->energy_j / (double)c->energy_tokens);
    if (c->energy_answers > 0 && c->energy_answers < c->answered)
        fprintf(out, "; unknown for %" PRIu64 " of %" PRIu64 " answers",
                c->answered - c->energy_answers, c->answered);
    fputc('\n', out);
}

void report_reasons(FILE *out, const struct results_counts *c)
{
    for (size_t i = 0; i < c->reasons_count; i++)
        fprintf(out, "  %s\n", c->reasons[i]);
    if (c->failed + c->cancelled > c->reasons_count)
        fprintf(out, "  ... and %" PRIu64 " more without an answer\n",
                c->failed + c->cancelled - c->reasons_count);
}

void report_devices(FILE *out, const struct msg_status_ok *m)
{
    for (size_t i = 0; i < m->workers.count; i++) {
        const struct rec_WORKER *w = &m->workers.items[i];
        char energy[TEXT_ENERGY_BYTES], heat[64] = "temperature unknown";
        text_energy(w->energy_j, energy);
        if (w->temp_peak_c > 0)
            snprintf(heat, sizeof heat, "%.0f C on average, %.0f C at most", w->temp_mean_c,
                     w->temp_peak_c);
        fputs("device: ", out);
        text_put(out, w->device, 0);
        fprintf(out, ": %s, energy with idle time %s\n", heat, energy);
    }
}
