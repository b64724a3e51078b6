/* Key files, roles and names, and which connections may go without keys. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/curve.h"
#include "proto/roles.h"
#include "proto/schema.h"
#include "proto/socket.h"
#include "tests/check.h"

static char dir[] = "/tmp/octo-keys-XXXXXX";

static const char *path(const char *name)
{
    return check_path(dir, name);
}

static const char *write_file(const char *name, const char *text, mode_t mode)
{
    const char *at = path(name);
    FILE *f = fopen(at, "w");
    if (f == NULL || fputs(text, f) < 0 || fclose(f) != 0 || chmod(at, mode) != 0)
        abort();
    return at;
}

static mode_t mode_of(const char *at)
{
    struct stat st;
    return stat(at, &st) == 0 ? st.st_mode & 07777 : 0;
}

static void test_pair(void)
{
    struct proto_curve a = {0}, b = {0};
    struct err_msg why;
    char public_key[PROTO_KEY_CHARS + 1] = "";
    umask(0);
    for (int i = 0; i < 20; i++) {
        CHECK_OK(proto_curve_make(&a, &why), why);
        CHECK(strchr("#-", a.public_key[0]) == NULL && strchr("#-", a.secret_key[0]) == NULL);
        CHECK(proto_curve_is_key(str_of(a.public_key)) && proto_curve_is_key(str_of(a.secret_key)));
    }
    CHECK_OK(proto_curve_write(path("alice.key"), "alice", &a, &why), why);
    CHECK_INT(mode_of(path("alice.key")), 0600);
    CHECK_OK(proto_curve_read(path("alice.key"), &b, &why), why);
    CHECK_STR(b.public_key, a.public_key);
    CHECK_STR(b.secret_key, a.secret_key);
    CHECK_OK(proto_curve_read_public(path("alice.key.pub"), public_key, &why), why);
    CHECK_STR(public_key, a.public_key);
    public_key[0] = '\0';
    CHECK_OK(proto_curve_read_public(a.public_key, public_key, &why), why);
    CHECK_STR(public_key, a.public_key);
    proto_curve_wipe(&b);
    CHECK_STR(b.secret_key, "");

    /* Never overwritten, neither of the two; and no half of a pair is left. */
    CHECK_OK(proto_curve_make(&b, &why), why);
    CHECK_ERR(proto_curve_write(path("alice.key"), "alice", &b, &why), ERR_CONFLICT);
    CHECK_HAS(why.text, "alice.key: is there already");
    write_file("bob.key.pub", "mine", 0644);
    CHECK_ERR(proto_curve_write(path("bob.key"), "bob", &b, &why), ERR_CONFLICT);
    CHECK_HAS(why.text, "bob.key.pub: is there already");
    CHECK(access(path("bob.key"), F_OK) != 0);
    CHECK_OK(proto_curve_read(path("alice.key"), &b, &why), why);
    CHECK_STR(b.secret_key, a.secret_key);
    CHECK_ERR(proto_curve_write(path("no/such/x.key"), "x", &a, &why), ERR_IO);
}

static void test_bad_files(void)
{
    struct proto_curve keys = {0}, c = {0};
    struct err_msg why;
    char text[256], public_key[PROTO_KEY_CHARS + 1] = "";
    CHECK_OK(proto_curve_make(&keys, &why), why);
    static const mode_t open_modes[] = {0640, 0604, 0660, 0601, 0620};
    snprintf(text, sizeof text, "# mine\n\nsecret %s\r\n# end", keys.secret_key);
    for (size_t i = 0; i < sizeof open_modes / sizeof open_modes[0]; i++) {
        CHECK_ERR(proto_curve_read(write_file("x.key", text, open_modes[i]), &c, &why), ERR_USAGE);
        CHECK_HAS(why.text, "x.key: others than its owner may use it (mode 06");
        CHECK_HAS(why.text, "chmod 600");
    }
    CHECK_OK(proto_curve_read(write_file("x.key", text, 0400), &c, &why), why);
    CHECK_STR(c.public_key, keys.public_key);

    static const struct {
        const char *before, *after, *what;
    } cases[] = {
        {"public ", "\n", "x.key:1: expected one line \"secret KEY\""},
        {"", "\n", "x.key:1: expected"},
        {"secret", "\n", "x.key:1: expected"},
        {"# a\nsecret ", "9\n", "x.key:2: expected"},
        {"secret x", "\n", "x.key:1: expected"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(text, sizeof text, "%s%s%s", cases[i].before, keys.secret_key, cases[i].after);
        CHECK_ERR(proto_curve_read(write_file("x.key", text, 0600), &c, &why), ERR_USAGE);
        CHECK_HAS(why.text, cases[i].what);
        CHECK(strstr(why.text, keys.secret_key) == NULL);
    }
    snprintf(text, sizeof text, "secret %s\nsecret %s\n", keys.secret_key, keys.secret_key);
    CHECK_ERR(proto_curve_read(write_file("x.key", text, 0600), &c, &why), ERR_USAGE);
    CHECK_HAS(why.text, "x.key:2: expected one line");
    CHECK_ERR(proto_curve_read(write_file("x.key", "", 0600), &c, &why), ERR_USAGE);
    CHECK_HAS(why.text, "x.key: expected a line \"secret KEY\"");
    CHECK_ERR(proto_curve_read(path("nowhere"), &c, &why), ERR_USAGE);
    CHECK_HAS(why.text, "nowhere: cannot open: No such file");
    CHECK_ERR(proto_curve_read(dir, &c, &why), ERR_USAGE);
    CHECK_HAS(why.text, "is no file");

    snprintf(text, sizeof text, "secret %s\n", keys.secret_key); /* the wrong one of the two */
    CHECK_ERR(proto_curve_read_public(write_file("x.key", text, 0600), public_key, &why),
              ERR_USAGE);
    CHECK_HAS(why.text, "x.key:1: expected one line \"public KEY\"");
    CHECK(strstr(why.text, keys.secret_key) == NULL);
    keys.public_key[5] = ' ';
    CHECK_ERR(proto_curve_read_public(keys.public_key, public_key, &why), ERR_USAGE);
    CHECK_HAS(why.text, "neither a file nor a key");
    CHECK_STR(public_key, "");
}

/* systemd and Kubernetes give a service a file of root's that its group may read. */
static void test_given_by_root(void)
{
    struct proto_curve keys = {0}, c = {0};
    struct err_msg why;
    char text[256];
    if (geteuid() != 0)
        return; /* nobody here who could give it */
    CHECK_OK(proto_curve_make(&keys, &why), why);
    snprintf(text, sizeof text, "secret %s\n", keys.secret_key);
    static const mode_t modes[] = {0440, 0460, 0444, 0640};
    static const bool good[] = {true, false, false, true};
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        const char *at = write_file("given.key", text, modes[i]);
        if (chmod(dir, 0755) != 0 || chown(at, 0, 65534) != 0 || setegid(65534) != 0 ||
            seteuid(65534) != 0)
            abort();
        CHECK_ERR(proto_curve_read(at, &c, &why), good[i] ? ERR_OK : ERR_USAGE);
        if (seteuid(0) != 0 || setegid(0) != 0)
            abort();
        CHECK_ERR(proto_curve_read(at, &c, &why), ERR_USAGE); /* root's own is root's alone */
    }
}

static void test_connect(void)
{
    static const char *const local[] = {"ipc:///tmp/x", "tcp://127.0.0.1:5", "tcp://127.9.8.7:5",
                                        "tcp://localhost:5", "tcp://[::1]:5"};
    static const char *const remote[] = {
        "tcp://0.0.0.0:5",       "tcp://*:5",    "tcp://10.0.0.1:5",  "tcp://127.example.org:5",
        "tcp://localhost.org:5", "tcp://[::]:5", "tcp://128.0.0.1:5", "tcp://gpu1:5"};
    struct proto_curve keys = {0}, c = {0};
    struct proto_curve_options none = {0}, insecure = {.insecure = true};
    struct err_msg why;
    for (size_t i = 0; i < sizeof local / sizeof local[0]; i++) {
        CHECK(proto_endpoint_is_local(local[i]));
        CHECK_OK(proto_curve_connect(local[i], &none, &c, &why), why);
    }
    for (size_t i = 0; i < sizeof remote / sizeof remote[0]; i++) {
        CHECK(!proto_endpoint_is_local(remote[i]));
        CHECK_ERR(proto_curve_connect(remote[i], &none, &c, &why), ERR_USAGE);
        CHECK_HAS(why.text, remote[i]);
        CHECK_HAS(why.text, "--curve-key FILE and --server-key FILE");
        CHECK_OK(proto_curve_connect(remote[i], &insecure, &c, &why), why);
    }
    CHECK_STR(c.secret_key, "");
    CHECK_OK(proto_curve_make(&keys, &why), why);
    CHECK_OK(proto_curve_write(path("c.key"), "c", &keys, &why), why);
    struct proto_curve_options own = {.curve_key = path("c.key")};
    CHECK_ERR(proto_curve_connect(local[0], &own, &c, &why), ERR_USAGE);
    CHECK_HAS(why.text, "--curve-key without --server-key");
    struct proto_curve_options theirs = {.server_key = keys.public_key};
    CHECK_ERR(proto_curve_connect(local[0], &theirs, &c, &why), ERR_USAGE);
    CHECK_HAS(why.text, "--server-key without --curve-key");
    struct proto_curve_options both = {.curve_key = own.curve_key, .server_key = keys.public_key};
    CHECK_OK(proto_curve_connect(remote[0], &both, &c, &why), why);
    CHECK_STR(c.secret_key, keys.secret_key);
    CHECK_STR(c.server_key, keys.public_key);
    both.server_key = path("c.key.pub");
    CHECK_OK(proto_curve_connect(remote[0], &both, &c, &why), why);
    CHECK_STR(c.server_key, keys.public_key);
    CHECK_ERR(proto_curve_connect("http://x", &both, &c, &why), ERR_USAGE);
}

static void test_roles(void)
{
    static const struct {
        const char *text;
        unsigned roles;
    } good[] = {{"work", PROTO_ROLE_WORK},
                {"submit", PROTO_ROLE_SUBMIT},
                {"admin,work", PROTO_ROLE_ADMIN | PROTO_ROLE_WORK},
                {"work,submit,admin", 7}};
    static const char *const bad[] = {
        "",     ",",      "work,",     ",work",         "work,,submit",
        "Work", "worker", "work work", "submit,submit", "work, admin"};
    struct err_msg why;
    unsigned roles = 0;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        CHECK_OK(proto_roles_parse(str_of(good[i].text), &roles, &why), why);
        CHECK_INT(roles, good[i].roles);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_ERR(proto_roles_parse(str_of(bad[i]), &roles, &why), ERR_USAGE);
        CHECK_HAS(why.text, "expected work, submit or admin");
    }

    unsigned senders = 0;
    for (size_t t = 0; t <= proto_message_count() + 1; t++) {
        enum msg_type type = (enum msg_type)t;
        enum proto_role role = proto_message_role(type);
        CHECK(!proto_roles_allow(0, type));
        CHECK_INT(proto_roles_allow(7, type), role != PROTO_ROLE_BROKER);
        CHECK_INT(proto_roles_allow(PROTO_ROLE_WORK, type), role == PROTO_ROLE_WORK);
        CHECK_INT(proto_roles_allow(PROTO_ROLE_SUBMIT, type), role == PROTO_ROLE_SUBMIT);
        CHECK_INT(proto_roles_allow(PROTO_ROLE_ADMIN, type),
                  role == PROTO_ROLE_ADMIN || role == PROTO_ROLE_SUBMIT);
        senders += role != PROTO_ROLE_BROKER;
    }
    CHECK(senders >= 12);
    CHECK_INT(proto_message_role(MSG_TYPE_RESULTS), PROTO_ROLE_WORK);
    CHECK_INT(proto_message_role(MSG_TYPE_FETCH), PROTO_ROLE_SUBMIT);
    CHECK_INT(proto_message_role(MSG_TYPE_GRANT), PROTO_ROLE_BROKER);

    char longest[66];
    memset(longest, 'x', sizeof longest);
    CHECK(proto_name_is_good((struct str){longest, 64}));
    CHECK(!proto_name_is_good((struct str){longest, 65}));
    CHECK(proto_name_is_good(STR_LIT("a.b-c_d@host9")));
    CHECK(!proto_name_is_good(STR_LIT("")));
    CHECK(!proto_name_is_good(STR_LIT("a b")) && !proto_name_is_good(STR_LIT("a\0b")));
    CHECK(!proto_name_is_good(STR_LIT("a=b")) && !proto_name_is_good(STR_LIT("j\303\266rg")));
}

int main(void)
{
    if (mkdtemp(dir) == NULL)
        abort();
    test_pair();
    test_bad_files();
    test_given_by_root();
    test_connect();
    test_roles();
    check_remove(dir);
    return check_report();
}
