/* A connection to a broker for commands: calls that wait long, in slices between which the caller
 * may look after other things (child processes, Ctrl-C). Every request is idempotent, so a slice
 * without an answer is asked again. Not thread-safe. */
#ifndef OCTO_CLIENT_LINK_H
#define OCTO_CLIENT_LINK_H

#include <stdint.h>

#include "proto/messages.h"
#include "proto/socket.h"

struct link {
    struct proto_client *client;
    int first_slice_ms; /* doubles with every try; 0: one slice of the whole timeout */
    int timeout_ms;
    /* Called between slices; may be NULL. Its error ends the call. */
    enum err (*pump)(void *user, struct err_msg *why);
    void *user;
};

/* Opens `client`; the other members are the caller's. */
enum err link_open(struct link *l, const char *endpoint, struct err_msg *why) MUST_CHECK;
void link_close(struct link *l); /* may not have been opened */
/* As proto_client_call(); a broker that says "full" is asked again within the timeout. */
enum err link_call(struct link *l, struct msg *m, enum msg_type want, const struct msg **ret,
                   struct err_msg *why) MUST_CHECK;
/* STATUS of one batch: the reply's only one. Valid until the next call. */
enum err link_status(struct link *l, const char *batch, const struct rec_BATCH **ret,
                     struct err_msg *why) MUST_CHECK;

/* Sealed, and every line done, failed or cancelled. */
bool link_batch_complete(const struct rec_BATCH *b);
uint64_t link_batch_finished(const struct rec_BATCH *b);

#endif
