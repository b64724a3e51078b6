/* What a service tells the service manager that started it: systemd's notifications (sd_notify(3)),
 * a datagram each to the socket that NOTIFY_SOCKET names. Without a service manager all calls do
 * nothing. */
#ifndef OCTO_BASE_NOTIFY_H
#define OCTO_BASE_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

struct notify {
    int fd;               /* connected; -1: nobody wants to know */
    uint64_t watchdog_ns; /* it must be fed this often; 0: there is none */
    uint64_t fed_ns;
    uint64_t moved_ns, done; /* of notify_feed_work() */
};

/* Takes NOTIFY_SOCKET and WATCHDOG_* out of the environment: child processes have nothing to tell.
 */
void notify_open(struct notify *n);
void notify_close(struct notify *n);
/* "READY=1", "STATUS=text", "STOPPING=1", several with line ends between them. */
void notify_send(const struct notify *n, const char *state);
/* How often to call notify_feed(): once a second, or as often as the watchdog needs. */
uint64_t notify_interval_ms(const struct notify *n);
/* The program is well: tells the watchdog when it is time to. now_ns: monotonic. */
void notify_feed(struct notify *n, uint64_t now_ns);
/* The same for a program whose work another thread does: not when that has stood still for half of
 * the watchdog's time. idle: there is no work; done: rises with each bit of it. */
void notify_feed_work(struct notify *n, bool idle, uint64_t done, uint64_t now_ns);

#endif
