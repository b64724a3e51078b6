/* The end of a run for people: what it took, and how hot the devices became. */
#ifndef OCTO_CLIENT_REPORT_H
#define OCTO_CLIENT_REPORT_H

#include <stdio.h>

#include "client/results.h"

/* A line on the energy of the answers; "unknown" where no worker could tell. */
void report_energy(FILE *out, const struct results_counts *c);
/* Why the first lines have no answer, and how many more have none. */
void report_reasons(FILE *out, const struct results_counts *c);
/* A line for each worker: heat and energy of its device since its start. */
void report_devices(FILE *out, const struct msg_status_ok *m);

#endif
