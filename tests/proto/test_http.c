/* The HTTP server over real sockets: what it answers, to whom it listens, a program that stands
 * still, and pages that change while somebody reads slowly. */
#include "proto/http.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/check.h"

static struct http *server;
static uint16_t port;
static char address[32];

/* A port nobody has; somebody may take it meanwhile: then the next one. */
static void start(void)
{
    struct err_msg why = {{0}};
    for (int i = 0; i < 20 && server == NULL; i++) {
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof at;
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(bind(fd, (struct sockaddr *)&at, sizeof at) == 0 &&
              getsockname(fd, (struct sockaddr *)&at, &len) == 0);
        close(fd);
        port = ntohs(at.sin_port);
        snprintf(address, sizeof address, "127.0.0.1:%u", port);
        (void)!http_open(address, false, &server, &why);
    }
    if (!CHECK(server != NULL)) {
        fprintf(stderr, "    %s\n", why.text);
        exit(check_report());
    }
}

static int dial(void)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {.tv_sec = 10};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    CHECK(connect(fd, (struct sockaddr *)&at, sizeof at) == 0);
    return fd;
}

static char reply[1 << 16];

static size_t receive(int fd)
{
    size_t len = 0;
    for (ssize_t n;
         len + 1 < sizeof reply && (n = recv(fd, reply + len, sizeof reply - 1 - len, 0)) > 0;)
        len += (size_t)n;
    reply[len] = '\0';
    close(fd);
    return len;
}

/* The status; the body stands behind `reply`'s empty line. */
static int ask(const char *method, const char *path)
{
    char request[200];
    int fd = dial(), status = 0;
    int len = snprintf(request, sizeof request,
                       "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", method, path);
    CHECK(send(fd, request, (size_t)len, MSG_NOSIGNAL) == len);
    receive(fd);
    return sscanf(reply, "HTTP/1.1 %d", &status) == 1 ? status : 0;
}

static bool body_is(const char *want)
{
    const char *body = strstr(reply, "\r\n\r\n");
    return body != NULL && strcmp(body + 4, want) == 0;
}

static void publish(const char *text, const char *not_ready, uint64_t now_ns)
{
    struct buf page = {0};
    CHECK_ERR(buf_append_str(&page, text), ERR_OK);
    CHECK_ERR(http_publish(server, &page, not_ready, now_ns), ERR_OK);
    buf_free(&page);
}

static void test_answers(void)
{
    CHECK_INT(ask("GET", "/healthz"), 200); /* it is starting, which may take long */
    CHECK_INT(ask("GET", "/readyz"), 503);
    CHECK_INT(ask("GET", "/metrics"), 0);
    publish("a 1\n", NULL, clock_mono_ns());
    CHECK_INT(ask("GET", "/metrics"), 200);
    CHECK(body_is("a 1\n"));
    CHECK(strstr(reply, "text/plain; version=0.0.4") != NULL);
    CHECK_INT(ask("HEAD", "/metrics"), 200);
    CHECK(body_is(""));
    CHECK_INT(ask("GET", "/readyz"), 200);
    publish("a 2\n", "the disk is full", clock_mono_ns());
    CHECK_INT(ask("GET", "/metrics"), 200);
    CHECK(body_is("a 2\n"));
    CHECK_INT(ask("GET", "/readyz"), 503);
    CHECK(body_is("the disk is full\n"));
    CHECK_INT(ask("GET", "/healthz"), 200);
    CHECK(body_is("ok\n"));
    CHECK_INT(ask("GET", "/"), 404);
    CHECK_INT(ask("POST", "/metrics"), 405);
    CHECK_INT(ask("NONSENSE", "/metrics"), 405);
}

static void test_standstill(void)
{
    publish("a 3\n", NULL, clock_mono_ns() - (HTTP_SILENT_MS + 2000) * NS_PER_MS);
    CHECK_INT(ask("GET", "/healthz"), 503);
    CHECK(body_is("its loop has stood still for 12 s\n"));
    CHECK_INT(ask("GET", "/readyz"), 503);
    http_beat(server, clock_mono_ns()); /* the page is old, and the loop turns */
    CHECK_INT(ask("GET", "/healthz"), 200);
    http_beat(server, clock_mono_ns() - (HTTP_SILENT_MS + 3000) * NS_PER_MS);
    CHECK_INT(ask("GET", "/healthz"), 503);
    CHECK(body_is("its loop has stood still for 13 s\n"));
    publish("a 4\n", NULL, clock_mono_ns());
    CHECK_INT(ask("GET", "/healthz"), 200);
}

/* A page of 16 MiB that nobody reads while a thousand others are published. */
static void test_slow_reader(void)
{
    struct buf large = {0};
    CHECK_ERR(buf_reserve(&large, 16 << 20), ERR_OK);
    memset(large.data, 'x', 16 << 20);
    large.len = 16 << 20;
    CHECK_ERR(http_publish(server, &large, NULL, clock_mono_ns()), ERR_OK);
    static const char request[] = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    int fd = dial();
    CHECK(send(fd, request, sizeof request - 1, MSG_NOSIGNAL) == (ssize_t)sizeof request - 1);
    CHECK(recv(fd, reply, 1, 0) == 1); /* it has that page */
    for (int i = 0; i < 1000; i++)
        publish("small 1\n", NULL, clock_mono_ns());
    size_t got = 1, others = 0;
    for (ssize_t n; (n = recv(fd, reply, sizeof reply, 0)) > 0; got += (size_t)n) {
        for (ssize_t i = 0; got > 4096 && i < n; i++)
            others += reply[i] != 'x';
    }
    close(fd);
    CHECK(got > large.len);
    CHECK_INT(others, 0);
    buf_free(&large);
    CHECK_INT(ask("GET", "/metrics"), 200);
    CHECK(body_is("small 1\n"));
}

static void test_addresses(void)
{
    static const char *const bad[] = {"",
                                      "9420",
                                      ":9420",
                                      "127.0.0.1",
                                      "127.0.0.1:",
                                      "127.0.0.1:0",
                                      "127.0.0.1:x9",
                                      "127.0.0.1:65536",
                                      "[::1]9420",
                                      "[nonsense]:9420",
                                      "[:9420",
                                      "]:9420",
                                      "somewhere:9420"};
    struct http *h = NULL;
    struct err_msg why;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_ERR(http_open(bad[i], true, &h, &why), ERR_USAGE);
        CHECK(h == NULL && strstr(why.text, "expected ADDRESS:PORT") != NULL);
    }
    CHECK_ERR(http_open("0.0.0.0:9420", false, &h, &why), ERR_USAGE);
    CHECK(strstr(why.text, "--insecure") != NULL);
    CHECK_ERR(http_open("[::]:9420", false, &h, &why), ERR_USAGE);
    CHECK_ERR(http_open("10.0.0.1:9420", false, &h, &why), ERR_USAGE);
    CHECK_ERR(http_open(address, false, &h, &why), ERR_IO); /* taken */
    CHECK(strstr(why.text, "Address already in use") != NULL);
}

int main(void)
{
    start();
    test_answers();
    test_standstill();
    test_slow_reader();
    test_addresses();
    http_close(&server);
    http_close(&server);
    return check_report();
}
