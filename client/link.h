/* A connection to a broker for commands: calls that wait long, while the caller may look after
 * other things (child processes, Ctrl-C). Not thread-safe. */
#ifndef OCTO_CLIENT_LINK_H
#define OCTO_CLIENT_LINK_H

#include <stdint.h>

#include "proto/messages.h"
#include "proto/socket.h"

struct progress;

struct link {
    struct proto_client *client;
    int timeout_ms;
    /* Begins the lines on standard error that say what a call waits for; NULL: it says nothing. */
    const char *command;
    int slow_ms;               /* after so long it says it; 0: 1 s */
    struct progress *progress; /* taken off the terminal before such a line; may be NULL */
    uint64_t said_full_ns;     /* when it last said that the broker has no room; 0: never */
    /* The timeout is for the first answer; later the broker is waited for however long it is away,
     * and two lines say that it is and that it is back. Needs a command. */
    bool patient;
    bool answered, said_away;
    /* Called each 100 ms or so while a call waits; may be NULL. Its error ends the call. */
    enum err (*pump)(void *user, struct err_msg *why);
    void *user;
};

/* Opens `client`; the other members are the caller's. curve: keys; NULL, or none: plain. */
enum err link_open(struct link *l, const char *endpoint, const struct proto_curve *curve,
                   struct err_msg *why) MUST_CHECK;
void link_close(struct link *l); /* may not have been opened */
/* As proto_client_call(). A broker that has no room ("full", "quota") is asked again: within the
 * timeout, or, when there is a command to say so, for as long as it answers. */
enum err link_call(struct link *l, struct msg *m, enum msg_type want, const struct msg **ret,
                   struct err_msg *why) MUST_CHECK;
/* STATUS of one batch: the reply's only one. Valid until the next call. */
enum err link_status(struct link *l, const char *batch, const struct rec_BATCH **ret,
                     struct err_msg *why) MUST_CHECK;

/* Sealed, and every line done, failed or cancelled. */
bool link_batch_complete(const struct rec_BATCH *b);
uint64_t link_batch_finished(const struct rec_BATCH *b);

#endif
