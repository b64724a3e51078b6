/* ANSI sequences, terminal modes and signals; see screen.h. */
#include "client/screen.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/size.h"

#define ENTER "\033[?1049h\033[?25l"
#define LEAVE "\033[?25h\033[?1049l"

static struct {
    bool open, keys; /* keys: standard input is a terminal */
    struct termios before;
    volatile sig_atomic_t end, stop;
} screen;

static const int end_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
static const int fatal_signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};

/* Only calls that signal handlers may make. */
static void give_back(void)
{
    ssize_t n = write(STDOUT_FILENO, LEAVE, sizeof LEAVE - 1);
    (void)n;
    if (screen.keys)
        tcsetattr(STDIN_FILENO, TCSANOW, &screen.before);
}

static void take(void)
{
    struct termios raw = screen.before;
    ssize_t n = write(STDOUT_FILENO, ENTER, sizeof ENTER - 1);
    (void)n;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    if (screen.keys)
        tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

/* Asked a second time, while a call waits for the broker, it ends at once. */
static void on_end(int number)
{
    if (screen.end) {
        give_back();
        _exit(128 + number);
    }
    screen.end = 1;
}

static void on_stop(int number)
{
    (void)number;
    screen.stop = 1;
}

static void on_size(int number)
{
    (void)number; /* it interrupts the wait */
}

static void on_fatal(int number)
{
    give_back();
    signal(number, SIG_DFL);
    raise(number);
}

static void handle(int number, void (*handler)(int))
{
    struct sigaction act = {.sa_handler = handler};
    sigemptyset(&act.sa_mask);
    sigaction(number, &act, NULL);
}

enum err screen_open(struct err_msg *why)
{
    if (isatty(STDOUT_FILENO) != 1)
        return err_set(why, ERR_UNSUPPORTED, "standard output is no terminal");
    screen.keys = isatty(STDIN_FILENO) == 1 && tcgetattr(STDIN_FILENO, &screen.before) == 0;
    screen.end = screen.stop = 0;
    screen.open = true;
    for (size_t i = 0; i < ARRAY_LEN(end_signals); i++)
        handle(end_signals[i], on_end);
    for (size_t i = 0; i < ARRAY_LEN(fatal_signals); i++)
        handle(fatal_signals[i], on_fatal);
    handle(SIGTSTP, on_stop);
    handle(SIGWINCH, on_size);
    take();
    return ERR_OK;
}

void screen_close(void)
{
    if (!screen.open)
        return;
    give_back();
    screen.open = false;
    for (size_t i = 0; i < ARRAY_LEN(end_signals); i++)
        handle(end_signals[i], SIG_DFL);
    for (size_t i = 0; i < ARRAY_LEN(fatal_signals); i++)
        handle(fatal_signals[i], SIG_DFL);
    handle(SIGTSTP, SIG_DFL);
    handle(SIGWINCH, SIG_DFL);
}

void screen_size(int *ret_columns, int *ret_rows)
{
    struct winsize size = {0};
    bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0;
    *ret_columns = known && size.ws_col > 0 ? size.ws_col : 80;
    *ret_rows = known && size.ws_row > 0 ? size.ws_row : 24;
}

/* Bytes of the line's first `columns` characters. */
static size_t clip(const char *line, size_t len, int columns)
{
    size_t i = 0;
    for (int at = 0; i < len; i++) {
        if (((unsigned char)line[i] & 0xc0) != 0x80 && at++ == columns)
            break;
    }
    return i;
}

static enum err compose(const char *text, int columns, int rows, struct buf *out)
{
    enum err e = buf_append_str(out, "\033[H\033[7m");
    for (int row = 0; row < rows && *text != '\0' && e == ERR_OK; row++) {
        size_t len = strcspn(text, "\n");
        if (row > 0)
            e = buf_append_str(out, "\r\n");
        if (e == ERR_OK)
            e = buf_append(out, text, clip(text, len, columns));
        if (e == ERR_OK)
            e = buf_append_str(out, row == 0 ? "\033[K\033[0m" : "\033[K");
        text += len + (text[len] == '\n');
    }
    return e == ERR_OK ? buf_append_str(out, "\033[0m\033[J") : e;
}

void screen_draw(const char *text)
{
    struct buf out = {0};
    int columns, rows;
    screen_size(&columns, &rows);
    if (compose(text, columns, rows, &out) == ERR_OK) {
        for (size_t at = 0; at < out.len;) {
            ssize_t n = write(STDOUT_FILENO, out.data + at, out.len - at);
            if (n < 0 && errno != EINTR) {
                screen.end = 1; /* the terminal is gone */
                break;
            }
            at += n > 0 ? (size_t)n : 0;
        }
    }
    buf_free(&out);
}

/* True: "q", or standard input is gone. */
static bool read_keys(void)
{
    char keys[64];
    ssize_t n = read(STDIN_FILENO, keys, sizeof keys);
    if (n < 0)
        return errno != EINTR && errno != EAGAIN;
    return memchr(keys, 'q', (size_t)n) != NULL || memchr(keys, 'Q', (size_t)n) != NULL;
}

bool screen_wait(int ms)
{
    struct pollfd in = {.fd = screen.keys ? STDIN_FILENO : -1, .events = POLLIN};
    int n = screen.end ? 0 : poll(&in, 1, ms);
    if (n > 0 && ((in.revents & POLLIN) == 0 || read_keys()))
        screen.end = 1;
    if (screen.stop) { /* Ctrl-Z: the shell gets its terminal as it was */
        screen.stop = 0;
        give_back();
        raise(SIGSTOP);
        take();
    }
    return screen.end != 0;
}
