/* Time. Code that decides by time takes a now_ns argument, so that tests can inject it; only loops
 * at a program's top call these. */
#ifndef OCTO_BASE_CLOCK_H
#define OCTO_BASE_CLOCK_H

#include <stdint.h>

#define NS_PER_S  UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)

uint64_t clock_mono_ns(void);     /* monotonic, for durations */
uint64_t clock_wall_ms(void);     /* Unix time in milliseconds, for people; at least 1 */
void clock_sleep_ns(uint64_t ns); /* sleeps at least ns; not cut short by signals */

#endif
