/* Pieces of text for people: times, how long something takes, names that others chose. */
#ifndef OCTO_CLIENT_TEXT_H
#define OCTO_CLIENT_TEXT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/str.h"

enum { TEXT_TIME_BYTES = 64, TEXT_ENERGY_BYTES = 32 };

/* "2026-11-26T09:12:01.250Z"; false: ms is 0 or no time. */
bool text_time(uint64_t ms, char out[TEXT_TIME_BYTES]);
/* "0:40", "1:05:00", "2 d 3 h". */
void text_duration(double seconds, char *out, size_t size);
/* "0.0123 kWh", "unknown" for 0: three digits that count. */
void text_energy(double joules, char out[TEXT_ENERGY_BYTES]);
/* Characters, for columns: every character counts as one. */
int text_width(struct str s);
/* The text with its control characters as '?' (a name must not move somebody's cursor), filled up
 * with blanks to `width` characters. */
void text_put(FILE *out, struct str s, int width);

#endif
