/* Model files in chunks: resumed, damaged, wrong, without room, and what gives way for them. */
#include "worker/fetch.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "tests/check.h"

enum { BYTES = 5000 };

static char dir[64];

static const char *in_dir(const char *name)
{
    return check_path(dir, name);
}

/* A file of its own for each seed. */
struct source {
    char bytes[BYTES];
    char hash[33];
};

static struct source source_of(uint64_t seed)
{
    struct source s;
    struct check_rng rng = {seed};
    for (size_t i = 0; i < BYTES; i++)
        s.bytes[i] = (char)check_rng_next(&rng);
    hash128_hex(s.bytes, BYTES, s.hash);
    return s;
}

static enum err open_it(const struct source *s, const char *name, uint64_t quota, struct fetch *f,
                        struct err_msg *why)
{
    return fetch_open(dir, str_of(s->hash), str_of(name), BYTES, quota, f, why);
}

static enum err write_it(struct fetch *f, const struct source *s, uint64_t to, struct err_msg *why)
{
    size_t len = (size_t)(to - f->have);
    const char *at = s->bytes + f->have;
    return fetch_write(f, f->have, (struct str){at, len}, hash64(at, len, 0), why);
}

static const char *path_of(const struct source *s, const char *file)
{
    static char name[100];
    snprintf(name, sizeof name, "fetched/%s/%s", s->hash, file);
    return in_dir(name);
}

/* All of it. */
static void fetch_it(uint64_t seed, const char *name, uint64_t quota)
{
    struct source s = source_of(seed);
    struct err_msg why;
    struct fetch f;
    CHECK_OK(open_it(&s, name, quota, &f, &why), why);
    CHECK_OK(write_it(&f, &s, BYTES, &why), why);
    CHECK_OK(fetch_finish(&f, NULL, NULL, NULL, &why), why);
    fetch_close(&f);
}

static void test_resumes(void)
{
    struct source s = source_of(1);
    struct err_msg why;
    struct fetch f, other;
    struct buf content = {0};
    CHECK_OK(open_it(&s, "one", 0, &f, &why), why);
    CHECK_INT(f.have, 0);
    CHECK_OK(write_it(&f, &s, 2000, &why), why);
    CHECK_ERR(open_it(&s, "one", 0, &other, &why), ERR_AGAIN); /* it is on its way */
    fetch_close(&f);                                           /* as at the process's end */
    CHECK_OK(open_it(&s, "one", 0, &f, &why), why);
    CHECK_INT(f.have, 2000);
    /* Damaged, too long, from elsewhere: nothing of it is taken. */
    uint64_t sum = hash64(s.bytes + 2000, 100, 0);
    CHECK_ERR(fetch_write(&f, 2000, (struct str){s.bytes + 2001, 100}, sum, &why), ERR_PROTO);
    CHECK_HAS(why.text, "the chunk at 2000 is damaged");
    CHECK_ERR(fetch_write(&f, 1900, (struct str){s.bytes + 2000, 100}, sum, &why), ERR_PROTO);
    CHECK_ERR(fetch_write(&f, 2000, (struct str){s.bytes, BYTES}, hash64(s.bytes, BYTES, 0), &why),
              ERR_PROTO);
    CHECK_INT(f.have, 2000);
    CHECK_OK(write_it(&f, &s, BYTES, &why), why);
    CHECK_OK(fetch_finish(&f, NULL, NULL, NULL, &why), why);
    fetch_close(&f);
    CHECK_OK(file_read(path_of(&s, "one.gguf"), BYTES, &content, &why), why);
    CHECK(content.len == BYTES && memcmp(content.data, s.bytes, BYTES) == 0);
    CHECK(access(path_of(&s, "one.gguf.partial"), F_OK) != 0);
    CHECK_ERR(open_it(&s, "one", 0, &f, &why), ERR_AGAIN); /* it is there */
    buf_free(&content);
}

static enum err refuse(void *user, const char *path, struct err_msg *why)
{
    (void)user;
    return err_set(why, ERR_UNSUPPORTED, "%s: no", path);
}

static void test_wrong(void)
{
    struct source s = source_of(2), t = source_of(3);
    struct err_msg why;
    struct fetch f;
    CHECK_OK(open_it(&s, "two", 0, &f, &why), why);
    CHECK_OK(write_it(&f, &t, BYTES, &why), why);
    CHECK_ERR(fetch_finish(&f, NULL, NULL, NULL, &why), ERR_FORMAT);
    CHECK_HAS(why.text, "its hash is");
    fetch_close(&f);
    CHECK_OK(open_it(&s, "two", 0, &f, &why), why);
    CHECK_INT(f.have, 0); /* nothing of it was kept */
    CHECK_OK(write_it(&f, &s, BYTES, &why), why);
    CHECK_ERR(fetch_finish(&f, refuse, NULL, NULL, &why), ERR_FORMAT);
    fetch_close(&f);
    CHECK(access(path_of(&s, "two.gguf"), F_OK) != 0);
    /* What would lead elsewhere. */
    static const char *const names[] = {"../up", "", ".hidden", "a/b"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        CHECK_ERR(open_it(&s, names[i], 0, &f, &why), ERR_PROTO);
    CHECK_ERR(fetch_open(dir, STR_LIT("../../../../../../../../../../../"), STR_LIT("x"), BYTES, 0,
                         &f, &why),
              ERR_PROTO);
    CHECK_ERR(fetch_open(dir, STR_LIT("ABCDEFabcdef0123456789abcdef0123"), STR_LIT("x"), BYTES, 0,
                         &f, &why),
              ERR_PROTO);
    /* More than any disk has; and a folder that cannot be. */
    CHECK_ERR(fetch_open(dir, str_of(s.hash), STR_LIT("x"), UINT64_MAX / 4, 0, &f, &why), ERR_FULL);
    CHECK_HAS(why.text, "the disk has room for");
    CHECK_ERR(fetch_open("/dev/null", str_of(s.hash), STR_LIT("x"), BYTES, 0, &f, &why), ERR_IO);
}

/* The disk is full in the middle: said, and what is there stays. */
static void test_full_disk(void)
{
    struct source s = source_of(4);
    struct err_msg why;
    struct fetch f;
    CHECK_OK(open_it(&s, "full", 0, &f, &why), why);
    fetch_close(&f);
    CHECK_INT(unlink(path_of(&s, "full.gguf.partial")), 0);
    CHECK_INT(symlink("/dev/full", path_of(&s, "full.gguf.partial")), 0);
    CHECK_OK(open_it(&s, "full", 0, &f, &why), why);
    CHECK_ERR(write_it(&f, &s, BYTES, &why), ERR_FULL);
    CHECK_HAS(why.text, "full.gguf.partial: cannot write: No space left on device");
    CHECK_INT(f.have, 0);
    fetch_close(&f);
}

static void set_used(const struct source *s, int seconds)
{
    struct timespec at[2] = {{.tv_sec = 1000000 + seconds}, {.tv_sec = 1000000 + seconds}};
    utimensat(AT_FDCWD, path_of(s, ""), at, 0);
}

static void test_makes_room(void)
{
    struct source a = source_of(11), b = source_of(12), c = source_of(13);
    struct err_msg why;
    struct fetch f;
    check_remove(in_dir("fetched"));
    CHECK_OK(file_write_atomic(in_dir("own.gguf"), a.bytes, BYTES, &why), why);
    fetch_it(11, "a", 2 * BYTES);
    fetch_it(12, "b", 2 * BYTES);
    set_used(&a, 2);
    set_used(&b, 1);
    CHECK_ERR(open_it(&c, "c", BYTES - 1, &f, &why), ERR_FULL);
    CHECK_HAS(why.text, "--models-bytes is 4999");
    CHECK(access(path_of(&b, "b.gguf"), F_OK) == 0);
    fetch_it(13, "c", 2 * BYTES); /* b was used before a */
    CHECK(access(path_of(&a, "a.gguf"), F_OK) == 0);
    CHECK(access(path_of(&b, "b.gguf"), F_OK) != 0);
    CHECK(access(path_of(&b, ""), F_OK) != 0);
    /* What is loaded stays, and its use is noted. */
    char loaded[300];
    snprintf(loaded, sizeof loaded, "%s", path_of(&a, "a.gguf"));
    set_used(&a, 1);
    set_used(&c, 2);
    int held = fetch_hold(loaded);
    CHECK(held >= 0);
    struct stat st;
    CHECK(stat(path_of(&a, ""), &st) == 0 && st.st_mtim.tv_sec > 1000001);
    set_used(&a, 1);
    fetch_it(12, "b", 2 * BYTES);
    CHECK(access(path_of(&a, "a.gguf"), F_OK) == 0);
    CHECK(access(path_of(&c, "c.gguf"), F_OK) != 0);
    /* Only what is in use is left: it cannot be had. */
    CHECK_ERR(open_it(&c, "c", BYTES, &f, &why), ERR_FULL);
    CHECK_HAS(why.text, "in use");
    close(held);
    CHECK_OK(open_it(&c, "c", BYTES, &f, &why), why);
    fetch_close(&f);
    CHECK(access(in_dir("own.gguf"), F_OK) == 0); /* the user's */
}

int main(void)
{
    snprintf(dir, sizeof dir, "/tmp/octo-fetch-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return 1;
    test_resumes();
    test_wrong();
    test_full_disk();
    test_makes_room();
    check_remove(dir);
    return check_report();
}
