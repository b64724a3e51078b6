/* The loop of commands that look on; see watch.h. */
#include "client/watch.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/screen.h"
#include "client/text.h"

static const uint64_t silent_first_ns = 3 * NS_PER_S;
static const uint64_t silent_again_ns = NS_PER_S;

struct state {
    const struct watch *w;
    const struct watch_options *o;
    struct link link;
    bool screen; /* drawn in place */
    bool said_silent;
    uint64_t asked_ns;
    uint64_t silent_ns; /* when silence is shown, the next time */
    char *page; /* the last one, to be shown with a remark while there is no answer; NULL: none */
};

static void show_silence(struct state *s)
{
    uint64_t now_ns = clock_mono_ns();
    const char *reason = proto_client_no_entry(s->link.client);
    const char *behind = reason[0] != '\0' ? ": " : "";
    if (now_ns < s->silent_ns || s->page == NULL)
        return;
    s->silent_ns = now_ns + silent_again_ns;
    if (s->screen) {
        char *text = NULL, since[48];
        text_duration((double)(now_ns - s->asked_ns) / 1e9, since, sizeof since);
        if (asprintf(&text, "no answer from the broker for %s, below is what it said last%s%s\n%s",
                     since, behind, reason, s->page) > 0) {
            screen_draw(text);
            free(text);
        }
    } else if (!s->said_silent) {
        fprintf(stderr, "octoflow %s: no answer from the broker, waiting for it%s%s\n",
                s->w->command, behind, reason);
        s->said_silent = true;
    }
}

/* While a call waits. */
static enum err pump(void *user, struct err_msg *why)
{
    struct state *s = user;
    show_silence(s);
    if (s->screen && screen_wait(0))
        return err_set(why, ERR_CANCELLED, "interrupted");
    return ERR_OK;
}

static enum err ask(struct state *s, const struct msg **ret, struct err_msg *why)
{
    struct msg m = {.type = MSG_TYPE_STATUS};
    m.status.batch = str_of(s->w->batch);
    m.status.workers_only = s->w->parts == VIEW_WORKERS;
    s->asked_ns = clock_mono_ns();
    s->silent_ns = s->asked_ns + silent_first_ns;
    enum err e;
    do { /* once it has answered, a broker that is away is waited for */
        e = link_call(&s->link, &m, MSG_TYPE_STATUS_OK, ret, why);
    } while (e == ERR_AGAIN && s->page != NULL);
    s->said_silent = false;
    return e;
}

static enum err show(struct state *s, const struct msg_status_ok *m, struct err_msg *why)
{
    char *page = NULL;
    size_t size = 0;
    int columns = 0, rows = 0;
    FILE *out = open_memstream(&page, &size);
    if (out == NULL)
        return ERR_NOMEM;
    if (s->screen)
        screen_size(&columns, &rows);
    enum err e = ERR_OK;
    if (s->o->json)
        e = view_json(out, m, s->w->parts);
    else
        s->w->print(out, m, columns, rows);
    if (fclose(out) != 0 && e == ERR_OK)
        e = ERR_NOMEM;
    if (e == ERR_OK && s->screen)
        screen_draw(page);
    else if (e == ERR_OK)
        printf("%s%s", s->page != NULL && !s->o->json ? "\n" : "", page);
    free(s->page);
    s->page = page;
    return e == ERR_OK ? client_flush(why) : e;
}

/* After the first answer: from now on it is drawn in place, and a broker that goes away is waited
 * for. */
static enum err settle(struct state *s, struct err_msg *why)
{
    s->link.pump = pump;
    s->link.user = s;
    s->link.command = NULL; /* show_silence() says it */
    s->screen = !s->o->json && isatty(STDOUT_FILENO) == 1;
    if (s->screen)
        return screen_open(why);
    client_ends_by_interrupt();
    return ERR_OK;
}

static enum err look(struct state *s, struct err_msg *why)
{
    for (;;) {
        const struct msg *reply = NULL;
        enum err e = ask(s, &reply, why);
        if (e == ERR_OK && s->o->watch && s->page == NULL)
            e = settle(s, why);
        if (e == ERR_OK)
            e = show(s, &reply->status_ok, why);
        bool complete = e == ERR_OK && s->w->batch != NULL && reply->status_ok.batches.count == 1 &&
                        link_batch_complete(&reply->status_ok.batches.items[0]);
        if (e != ERR_OK || !s->o->watch || complete)
            return e;
        int ms = (int)(s->o->interval_s * 1000);
        if (s->screen && screen_wait(ms))
            return ERR_OK;
        if (!s->screen)
            clock_sleep_ns((uint64_t)ms * NS_PER_MS);
    }
}

int watch_run(const struct watch *w, const struct watch_options *o)
{
    struct state s = {.w = w, .o = o};
    struct err_msg why = {{0}};
    enum err e = remote_open(&o->remote, w->command, &s.link, &why);
    if (e == ERR_OK)
        e = look(&s, &why);
    screen_close();
    link_close(&s.link);
    if (s.screen && s.page != NULL)
        printf("%s", s.page); /* what was seen last stays */
    free(s.page);
    return e == ERR_OK || e == ERR_CANCELLED ? EXIT_ALL_DONE : client_fail(w->command, e, &why);
}
