/* A card's energy counter, read through its vendor's library (NVML) if there is one. */
#ifndef OCTO_BENCH_ENERGY_H
#define OCTO_BENCH_ENERGY_H

#include <stdbool.h>

struct energy;
/* pci: "0000:01:00.0". NULL: no counter here; energy_joules() and energy_close() take that. */
struct energy *energy_open(const char *pci);
/* Since the driver was loaded. The card moves it on some ten times a second: measure for a second
 * and more. false: unknown. */
bool energy_joules(struct energy *s, double *ret);
void energy_close(struct energy **s);

#endif
