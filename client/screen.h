/* A terminal's alternate screen, drawn again and again. It is given back as it was however the
 * program ends, short of kill -9. One at a time; not thread-safe. */
#ifndef OCTO_CLIENT_SCREEN_H
#define OCTO_CLIENT_SCREEN_H

#include <stdbool.h>

#include "base/err.h"

/* Takes over standard output, and standard input when that is a terminal, too. ERR_UNSUPPORTED:
 * standard output is none. */
enum err screen_open(struct err_msg *why) MUST_CHECK;
void screen_close(void);
/* Of the window as it is now. */
void screen_size(int *ret_columns, int *ret_rows);
/* Lines of text; what does not fit is cut. The first line is the heading. */
void screen_draw(const char *text);
/* Waits, or until a key is pressed or the window changes its size. True: to end (q, Ctrl-C, a
 * terminal that is gone). */
bool screen_wait(int ms);

#endif
