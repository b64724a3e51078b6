/* NVIDIA's program nvidia-smi, where its library cannot be loaded (a static build, a container with
 * the program alone): one call a reading, some tens of milliseconds. A driver that hangs hangs the
 * program with it, so it is killed after a while; one that even a kill does not end is left alone,
 * and none is started beside it.
 *
 * Drivers differ in the fields they know, and the program refuses a whole query for one that it
 * does not know, with that one's name: it is asked again with the older name, or without. */
#include "worker/sensors/nvidia_smi.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/size.h"
#include "worker/sensors/nvidia_reasons.h"

enum { TIMEOUT_MS = 4000, REAP_MS = 200, MAX_OUTPUT_BYTES = 16 << 10 };

static const struct {
    const char *name, *older;
} fields[SMI_FIELDS] = {
    [SMI_PCI] = {"pci.bus_id", NULL},
    [SMI_TEMP] = {"temperature.gpu", NULL},
    [SMI_MARGIN] = {"temperature.gpu.tlimit", NULL},
    [SMI_MEMORY_TEMP] = {"temperature.memory", NULL},
    [SMI_POWER] = {"power.draw.instant", "power.draw"},
    [SMI_LIMIT] = {"enforced.power.limit", "power.limit"},
    [SMI_CLOCK] = {"clocks.sm", NULL},
    [SMI_REASONS] = {"clocks_event_reasons.active", "clocks_throttle_reasons.active"},
};

struct sensor_smi {
    struct sensor base;
    const char *program;
    unsigned timeout_ms;
    char pci[32];
    const char *asked[SMI_FIELDS]; /* NULL: this driver does not know it */
    pid_t stuck;                   /* a call that could not be ended; 0: none */
    struct buf output;
};

/* The child with its output and errors in *ret_fd, in a process group of its own: it may be a
 * script that starts others. */
static int spawn(const char *program, char *const argv[], pid_t *ret_pid, int *ret_fd)
{
    extern char **environ;
    int fds[2];
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    if (pipe2(fds, O_CLOEXEC) != 0)
        return errno;
    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDERR_FILENO);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
    int r = posix_spawnp(ret_pid, program, &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    if (r == 0)
        *ret_fd = fds[0];
    else
        close(fds[0]);
    return r;
}

/* Reads to the end; false: not within the time, or too much. */
static bool read_all(int fd, uint64_t until_ns, struct buf *out)
{
    while (out->len <= MAX_OUTPUT_BYTES) {
        uint64_t now_ns = clock_mono_ns();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (now_ns >= until_ns || buf_reserve(out, 4096) != ERR_OK)
            return false;
        if (poll(&p, 1, (int)((until_ns - now_ns) / NS_PER_MS) + 1) <= 0)
            continue;
        ssize_t n = read(fd, out->data + out->len, out->cap - out->len);
        if (n == 0)
            return true;
        if (n > 0)
            out->len += (size_t)n;
        else if (errno != EINTR)
            return false;
    }
    return false;
}

/* False: it still runs. */
static bool reap(pid_t pid, uint64_t until_ns, int *ret_status)
{
    for (;;) {
        pid_t r = waitpid(pid, ret_status, WNOHANG);
        if (r == pid || (r < 0 && errno != EINTR))
            return true;
        if (clock_mono_ns() >= until_ns)
            return false;
        clock_sleep_ns(NS_PER_MS);
    }
}

/* Runs the program once; n->output is all it said. */
static enum err run(struct sensor_smi *n, char *const argv[], int *ret_status, struct err_msg *why)
{
    pid_t pid;
    int fd = -1, status = -1;
    if (n->stuck != 0 && !reap(n->stuck, 0, &status))
        return err_set(why, ERR_IO, "%s hangs and cannot be ended, pid %ld", n->program,
                       (long)n->stuck);
    n->stuck = 0;
    buf_clear(&n->output);
    uint64_t until_ns = clock_mono_ns() + n->timeout_ms * NS_PER_MS;
    int r = spawn(n->program, argv, &pid, &fd);
    if (r == ENOENT)
        return err_set(why, ERR_NOT_FOUND, "%s is not on PATH", n->program);
    if (r != 0)
        return err_set(why, ERR_IO, "cannot start %s: %s", n->program, strerror(r));
    bool whole = read_all(fd, until_ns, &n->output);
    close(fd);
    bool ended = whole && reap(pid, until_ns, &status);
    if (!ended) {
        kill(-pid, SIGKILL);
        if (!reap(pid, clock_mono_ns() + REAP_MS * NS_PER_MS, &status))
            n->stuck = pid;
    }
    if (n->output.len > MAX_OUTPUT_BYTES)
        return err_set(why, ERR_IO, "%s says more than %d bytes", n->program, MAX_OUTPUT_BYTES);
    if (!ended)
        return err_set(why, ERR_IO, "%s did not answer within %u ms", n->program, n->timeout_ms);
    if (buf_cstr(&n->output) == NULL)
        return err_set(why, ERR_NOMEM, "sensor: out of memory");
    *ret_status = status;
    return ERR_OK;
}

/* Follows the program's refusal of a field; false: it complains about something else. */
static bool ask_less(struct sensor_smi *n)
{
    static const char before[] = "Field \"", behind[] = "\" is not a valid field";
    const char *at = strstr(n->output.data, before);
    if (at == NULL)
        return false;
    at += sizeof before - 1;
    for (size_t i = 0; i < SMI_FIELDS; i++) {
        size_t len = n->asked[i] == NULL ? 0 : strlen(n->asked[i]);
        if (len == 0 || i == SMI_PCI || strncmp(at, n->asked[i], len) != 0 ||
            strncmp(at + len, behind, sizeof behind - 1) != 0)
            continue;
        n->asked[i] = n->asked[i] == fields[i].name ? fields[i].older : NULL;
        return true;
    }
    return false;
}

static enum err query(struct sensor_smi *n, struct sensor_reading *ret, struct err_msg *why)
{
    char names[512], id[64], program[] = "nvidia-smi", format[] = "--format=csv,noheader,nounits";
    char *argv[] = {program, names, format, id, NULL};
    int status = 0;
    snprintf(id, sizeof id, "--id=%s", n->pci);
    do {
        size_t len = (size_t)snprintf(names, sizeof names, "--query-gpu=");
        for (size_t i = 0; i < SMI_FIELDS; i++) {
            if (n->asked[i] != NULL)
                len += (size_t)snprintf(names + len, sizeof names - len, "%s%s",
                                        i == SMI_PCI ? "" : ",", n->asked[i]);
        }
        enum err e = run(n, argv, &status, why);
        if (e != ERR_OK)
            return e;
        if (status == 0)
            return smi_parse(n->output.data, n->pci, (const char *const *)n->asked, ret, why);
    } while (ask_less(n));
    return err_set(why, ERR_IO, "%s failed: \"%.*s\"", n->program,
                   (int)strcspn(n->output.data, "\n"), n->output.data);
}

static bool parse_pci(const char *text, unsigned ret[4])
{
    char end;
    return sscanf(text, "%8x:%8x:%8x.%8x%c", &ret[0], &ret[1], &ret[2], &ret[3], &end) >= 4;
}

static bool same_pci(const char *a, const char *b)
{
    unsigned x[4], y[4];
    return parse_pci(a, x) && parse_pci(b, y) && memcmp(x, y, sizeof x) == 0;
}

/* False: "N/A", "[N/A]", "[Not Supported]", "[Unknown Error]", whatever else is no number. */
static bool number(const char *text, double *ret)
{
    char *end;
    double v = strtod(text, &end);
    bool whole = end != text && end[strspn(end, " \r")] == '\0';
    *ret = whole ? v : 0;
    return whole;
}

static void take(enum smi_field field, const char *text, struct sensor_reading *in)
{
    double v;
    bool known = number(text, &v);
    switch (field) {
    case SMI_TEMP:
        in->have_temp = known;
        in->temp_c = v;
        break;
    case SMI_MARGIN:
        in->have_margin = known;
        in->margin_c = v;
        break;
    case SMI_MEMORY_TEMP:
        in->have_memory_temp = known;
        in->memory_temp_c = v;
        break;
    case SMI_POWER:
        in->have_power = known;
        in->power_w = v;
        break;
    case SMI_LIMIT:
        in->limit_w = v;
        break;
    case SMI_CLOCK:
        in->clock_mhz = v;
        break;
    case SMI_REASONS:
        in->throttle_bits =
            strncmp(text, "0x", 2) == 0 ? nvidia_throttle_bits(strtoull(text, NULL, 16)) : 0;
        break;
    case SMI_PCI:
    case SMI_FIELDS:
        break;
    }
}

/* One line's values, which are cut apart. */
static enum err parse_line(char *line, const char *const asked[SMI_FIELDS],
                           struct sensor_reading *ret, struct err_msg *why)
{
    struct sensor_reading in = {0};
    char *rest = line;
    for (size_t i = 0; i < SMI_FIELDS; i++) {
        if (asked[i] == NULL)
            continue;
        char *value = strsep(&rest, ",");
        if (value == NULL)
            return err_set(why, ERR_FORMAT, "nvidia-smi says nothing of %s", asked[i]);
        value += strspn(value, " ");
        take((enum smi_field)i, value, &in);
    }
    if (rest != NULL)
        return err_set(why, ERR_FORMAT, "nvidia-smi says more than was asked for: \"%s\"", rest);
    *ret = in;
    return ERR_OK;
}

enum err smi_parse(const char *text, const char *pci, const char *const asked[SMI_FIELDS],
                   struct sensor_reading *ret, struct err_msg *why)
{
    /* Warnings stand on lines of their own, before or behind. */
    for (const char *at = text; *at != '\0';) {
        char line[512];
        size_t len = strcspn(at, "\n");
        snprintf(line, sizeof line, "%.*s", (int)min_u64(len, sizeof line - 1), at);
        if (same_pci(line, pci))
            return parse_line(line, asked, ret, why);
        at += len + (at[len] == '\n');
    }
    return err_set(why, ERR_NOT_FOUND, "nvidia-smi tells of no GPU at PCI address %s: \"%.*s\"",
                   pci, (int)strcspn(text, "\n"), text);
}

static enum err smi_read(struct sensor *s, struct sensor_reading *ret, struct err_msg *why)
{
    return query((struct sensor_smi *)s, ret, why);
}

static void smi_close(struct sensor *s)
{
    struct sensor_smi *n = (struct sensor_smi *)s;
    buf_free(&n->output);
    free(n);
}

enum err sensor_smi_open_as(const char *program, unsigned timeout_ms,
                            const struct sensor_target *target, struct sensor **ret,
                            struct err_msg *why)
{
    struct sensor_reading first;
    if (target->pci == NULL || target->pci[0] == '\0')
        return err_set(why, ERR_NOT_FOUND,
                       "the Vulkan driver does not tell the device's PCI address");
    struct sensor_smi *n = calloc(1, sizeof *n);
    if (n == NULL)
        return err_set(why, ERR_NOMEM, "sensor: out of memory");
    n->base = (struct sensor){.name = "nvidia-smi", .read = smi_read, .close = smi_close};
    n->program = program;
    n->timeout_ms = timeout_ms;
    snprintf(n->pci, sizeof n->pci, "%s", target->pci);
    for (size_t i = 0; i < SMI_FIELDS; i++)
        n->asked[i] = fields[i].name;
    /* Which fields this driver knows is found out here, once. */
    if (query(n, &first, why) != ERR_OK) {
        smi_close(&n->base);
        return ERR_NOT_FOUND;
    }
    *ret = &n->base;
    return ERR_OK;
}

enum err sensor_smi_open(const struct sensor_target *target, struct sensor **ret,
                         struct err_msg *why)
{
    return sensor_smi_open_as("nvidia-smi", TIMEOUT_MS, target, ret, why);
}
