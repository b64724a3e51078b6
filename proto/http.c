/* libmicrohttpd in a thread of its own; see http.h. */
#include "proto/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

enum { CONNECTION_MEMORY = 16384 };

struct http {
    struct MHD_Daemon *daemon;
    pthread_mutex_t mutex; /* guards what follows */
    struct MHD_Response *page;
    char not_ready[256];
    uint64_t beat_ns;
};

/* ---- the address ---- */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static bool is_loopback(const union address *a)
{
    if (a->any.sa_family == AF_INET)
        return ntohl(a->v4.sin_addr.s_addr) >> 24 == 127;
    return IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr);
}

static enum err parse(const char *text, union address *ret, struct err_msg *why)
{
    const char *colon = strrchr(text, ':');
    char host[64] = "", *end = NULL;
    unsigned long port = colon == NULL ? 0 : strtoul(colon + 1, &end, 10);
    size_t len = colon == NULL ? 0 : (size_t)(colon - text);
    if (len > 0 && len < sizeof host)
        memcpy(host, text, len);
    bool known = port > 0 && port <= 65535 && end != colon + 1 && *end == '\0';
    *ret = (union address){0};
    if (strcmp(host, "localhost") == 0)
        strcpy(host, "127.0.0.1");
    if (host[0] == '[' && host[len - 1] == ']') {
        host[len - 1] = '\0';
        ret->v6.sin6_family = AF_INET6;
        ret->v6.sin6_port = htons((uint16_t)port);
        known = known && inet_pton(AF_INET6, host + 1, &ret->v6.sin6_addr) == 1;
    } else {
        ret->v4.sin_family = AF_INET;
        ret->v4.sin_port = htons((uint16_t)port);
        known = known && inet_pton(AF_INET, host, &ret->v4.sin_addr) == 1;
    }
    return known ? ERR_OK
                 : err_set(why, ERR_USAGE,
                           "\"%s\" is no address: expected ADDRESS:PORT, as 127.0.0.1:9420 or "
                           "[::1]:9420",
                           text);
}

/* ---- serving; the server's thread ---- */

static enum MHD_Result answer(struct MHD_Connection *c, unsigned status, const char *text)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text,
                                                             MHD_RESPMEM_MUST_COPY);
    if (r == NULL)
        return MHD_NO;
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, "text/plain; charset=utf-8");
    enum MHD_Result result = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return result;
}

static enum MHD_Result answer_health(struct http *h, struct MHD_Connection *c, bool ready)
{
    char text[sizeof h->not_ready + 16] = "ok\n";
    unsigned status = MHD_HTTP_SERVICE_UNAVAILABLE;
    pthread_mutex_lock(&h->mutex);
    uint64_t silent_ms = (clock_mono_ns() - h->beat_ns) / NS_PER_MS;
    if (h->page == NULL && ready)
        snprintf(text, sizeof text, "it is starting\n");
    else if (h->page != NULL && silent_ms > HTTP_SILENT_MS)
        snprintf(text, sizeof text, "its loop has stood still for %llu s\n",
                 (unsigned long long)(silent_ms / 1000));
    else if (ready && h->not_ready[0] != '\0')
        snprintf(text, sizeof text, "%s\n", h->not_ready);
    else
        status = MHD_HTTP_OK;
    pthread_mutex_unlock(&h->mutex);
    return answer(c, status, text);
}

static enum MHD_Result answer_metrics(struct http *h, struct MHD_Connection *c)
{
    pthread_mutex_lock(&h->mutex);
    enum MHD_Result result = h->page == NULL ? MHD_NO : MHD_queue_response(c, MHD_HTTP_OK, h->page);
    pthread_mutex_unlock(&h->mutex);
    return result;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *c, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_bytes, void **state)
{
    struct http *h = user;
    (void)version;
    (void)upload;
    (void)upload_bytes;
    (void)state;
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return answer(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    if (strcmp(url, "/metrics") == 0)
        return answer_metrics(h, c);
    if (strcmp(url, "/healthz") == 0 || strcmp(url, "/readyz") == 0)
        return answer_health(h, c, url[1] == 'r');
    return answer(c, MHD_HTTP_NOT_FOUND, "here are /metrics, /healthz and /readyz\n");
}

/* ---- the program's side ---- */

enum err http_open(const char *address, bool insecure, struct http **ret, struct err_msg *why)
{
    union address at;
    enum err e = parse(address, &at, why);
    if (e != ERR_OK)
        return e;
    if (!insecure && !is_loopback(&at))
        return err_set(why, ERR_USAGE,
                       "%s: anybody who reaches this address could read it; give 127.0.0.1:PORT, "
                       "or --insecure on a network you trust",
                       address);
    struct http *h = calloc(1, sizeof *h);
    if (h == NULL)
        return err_set(why, ERR_NOMEM, "out of memory");
    pthread_mutex_init(&h->mutex, NULL);
    h->beat_ns = clock_mono_ns();
    unsigned flags = MHD_USE_POLL_INTERNAL_THREAD;
    if (at.any.sa_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    errno = 0;
    h->daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_request, h, MHD_OPTION_SOCK_ADDR, &at.any,
                                 MHD_OPTION_CONNECTION_LIMIT, (unsigned)HTTP_CONNECTIONS,
                                 MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)HTTP_IDLE_S,
                                 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
                                 MHD_OPTION_END);
    if (h->daemon == NULL) {
        int error = errno;
        http_close(&h);
        return err_set(why, ERR_IO, "cannot listen at %s: %s", address,
                       error != 0 ? strerror(error) : "no reason known");
    }
    *ret = h;
    return ERR_OK;
}

enum err http_publish(struct http *h, const struct buf *page, const char *not_ready,
                      uint64_t now_ns)
{
    struct MHD_Response *r =
        MHD_create_response_from_buffer(page->len, page->data, MHD_RESPMEM_MUST_COPY);
    if (r != NULL)
        MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE,
                                "text/plain; version=0.0.4; charset=utf-8");
    pthread_mutex_lock(&h->mutex);
    struct MHD_Response *old = r == NULL ? NULL : h->page;
    h->page = r == NULL ? h->page : r;
    snprintf(h->not_ready, sizeof h->not_ready, "%s", not_ready == NULL ? "" : not_ready);
    h->beat_ns = now_ns;
    pthread_mutex_unlock(&h->mutex);
    if (old != NULL)
        MHD_destroy_response(old); /* connections that still send it keep it */
    return r == NULL ? ERR_NOMEM : ERR_OK;
}

void http_beat(struct http *h, uint64_t now_ns)
{
    pthread_mutex_lock(&h->mutex);
    h->beat_ns = now_ns;
    pthread_mutex_unlock(&h->mutex);
}

void http_close(struct http **http)
{
    struct http *h = *http;
    if (h == NULL)
        return;
    *http = NULL;
    if (h->daemon != NULL)
        MHD_stop_daemon(h->daemon);
    if (h->page != NULL)
        MHD_destroy_response(h->page);
    pthread_mutex_destroy(&h->mutex);
    free(h);
}
