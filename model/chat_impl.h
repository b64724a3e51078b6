/* What only tests of chat.c need. */
#ifndef OCTO_MODEL_CHAT_IMPL_H
#define OCTO_MODEL_CHAT_IMPL_H

#include <time.h>

#include "model/chat.h"

/* The time that strftime_now() answers, instead of the clock's local time. */
void chat_template_set_time(struct chat_template *t, const struct tm *now);

#endif
