/* A broker's batches and workers, as tables for people and as JSON: what status, workers and top
 * print. */
#ifndef OCTO_CLIENT_VIEW_H
#define OCTO_CLIENT_VIEW_H

#include <stdio.h>

#include "base/err.h"
#include "proto/messages.h"

enum view_parts { VIEW_BATCHES = 1, VIEW_WORKERS = 2 };

void view_batches(FILE *out, const struct msg_status_ok *m);
void view_workers(FILE *out, const struct msg_status_ok *m);
/* A line for each batch with a bar, unfinished ones first; at most `rows` lines of `columns`
 * characters. */
void view_bars(FILE *out, const struct msg_status_ok *m, int columns, int rows);
/* One object on one line: every field of the protocol's records under its name; null for heat,
 * power and energy that are not known. */
enum err view_json(FILE *out, const struct msg_status_ok *m, enum view_parts parts) MUST_CHECK;

#endif
