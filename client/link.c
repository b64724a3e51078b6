/* Calls in slices; see link.h. */
#include "client/link.h"

#include "base/clock.h"
#include "base/size.h"

enum { FULL_PAUSE_MS = 200 };

enum err link_open(struct link *l, const char *endpoint, struct err_msg *why)
{
    enum err e = proto_endpoint_check(endpoint, why);
    if (e != ERR_OK)
        return e;
    struct proto_socket_options o = {.endpoint = endpoint};
    return proto_client_open(&o, &l->client, why);
}

void link_close(struct link *l)
{
    if (l->client != NULL)
        proto_client_close(&l->client);
}

enum err link_call(struct link *l, struct msg *m, enum msg_type want, const struct msg **ret,
                   struct err_msg *why)
{
    uint64_t now_ns = clock_mono_ns();
    uint64_t deadline_ns = now_ns + (uint64_t)l->timeout_ms * NS_PER_MS;
    uint64_t slice_ms = l->first_slice_ms > 0 ? (uint64_t)l->first_slice_ms : UINT32_MAX;
    for (;;) {
        uint64_t left_ms = div_up(deadline_ns - now_ns, NS_PER_MS);
        enum err e =
            proto_client_call(l->client, m, (int)min_u64(slice_ms, left_ms), want, ret, why);
        if (e != ERR_AGAIN && e != ERR_FULL)
            return e;
        if (l->pump != NULL) {
            struct err_msg pump_why = {{0}};
            enum err pumped = l->pump(l->user, &pump_why);
            if (pumped != ERR_OK)
                return err_set(why, pumped, "%s", pump_why.text);
        }
        if (e == ERR_FULL)
            clock_sleep_ns(FULL_PAUSE_MS * NS_PER_MS);
        now_ns = clock_mono_ns();
        if (now_ns >= deadline_ns)
            return e;
        slice_ms *= 2;
    }
}

enum err link_status(struct link *l, const char *batch, const struct rec_BATCH **ret,
                     struct err_msg *why)
{
    struct msg m = {.type = MSG_TYPE_STATUS};
    const struct msg *reply = NULL;
    m.status.batch = str_of(batch);
    enum err e = link_call(l, &m, MSG_TYPE_STATUS_OK, &reply, why);
    if (e != ERR_OK)
        return e;
    if (reply->status_ok.batches.count != 1)
        return err_set(why, ERR_NOT_FOUND, "no batch \"%s\" here", batch);
    *ret = &reply->status_ok.batches.items[0];
    return ERR_OK;
}

uint64_t link_batch_finished(const struct rec_BATCH *b)
{
    return b->done + b->failed + b->cancelled;
}

bool link_batch_complete(const struct rec_BATCH *b)
{
    return (b->sealed || str_eq(b->state, STR_LIT("cancelled"))) &&
           link_batch_finished(b) == b->total;
}
