/* Questions to octoflow-worker about this machine; see devices.h. */
#include "client/devices.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_LIST_BYTES = 1 << 16 };

extern char **environ;

void devices_parse(const char *text, struct devices *ret)
{
    struct devices d = {0};
    while (*text != '\0') {
        size_t len = strcspn(text, "\n");
        char line[512];
        snprintf(line, sizeof line, "%.*s", (int)(len < 511 ? len : 511), text);
        text += len + (text[len] == '\n');
        char *name = strstr(line, "  "), *end = strstr(line, "  (");
        if (line[0] < '0' || line[0] > '9' || name == NULL || end == NULL || end < name + 2 ||
            strstr(end, "  unusable: ") != NULL)
            continue;
        *end = '\0';
        if (strstr(end + 1, "  software") != NULL) {
            if (d.software++ == 0)
                snprintf(d.first_software, sizeof d.first_software, "%.120s", name + 2);
        } else if (d.hardware++ == 0) {
            snprintf(d.first_hardware, sizeof d.first_hardware, "%.120s", name + 2);
        }
    }
    *ret = d;
}

static void read_all(int fd, struct buf *out)
{
    while (out->len < MAX_LIST_BYTES && buf_reserve(out, 4096) == ERR_OK) {
        ssize_t n = read(fd, out->data + out->len, out->cap - out->len - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        out->len += (size_t)n;
    }
}

enum err devices_ask(const char *worker_path, const char *const *args, struct buf *out,
                     struct err_msg *why)
{
    posix_spawn_file_actions_t actions;
    int fds[2];
    pid_t pid = 0;
    if (pipe2(fds, O_CLOEXEC) != 0)
        return err_set(why, ERR_IO, "cannot ask %s: %s", worker_path, strerror(errno));
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    int e = posix_spawn(&pid, worker_path, &actions, NULL, (char *const *)(uintptr_t)args, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    if (e == 0) {
        read_all(fds[0], out);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            continue;
    }
    close(fds[0]);
    return e == 0 ? ERR_OK : err_set(why, ERR_IO, "cannot ask %s: %s", worker_path, strerror(e));
}

void devices_list(const char *worker_path, struct devices *ret)
{
    static const char *const args[] = {"octoflow-worker", "--list-devices", NULL};
    struct buf text = {0};
    *ret = (struct devices){0};
    if (devices_ask(worker_path, args, &text, NULL) != ERR_OK)
        return;
    const char *list = buf_cstr(&text);
    if (list != NULL)
        devices_parse(list, ret);
    buf_free(&text);
}
