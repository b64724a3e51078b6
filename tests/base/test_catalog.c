/* Folders of model files: what is listed, under which hash, and what is read again. */
#include "base/catalog.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "tests/check.h"

static char dir[64];
static unsigned checked; /* files that were looked at */

static const char *in_dir(const char *name)
{
    return check_path(dir, name);
}

static void write_file(const char *name, const char *text)
{
    struct err_msg why;
    CHECK_OK(file_write_atomic(in_dir(name), text, strlen(text), &why), why);
}

static enum err count_checks(void *user, const char *path, struct err_msg *why)
{
    CHECK(user == dir);
    checked++;
    return strstr(path, "refused") == NULL ? ERR_OK : err_set(why, ERR_FORMAT, "%s: no", path);
}

static struct catalog scan(const struct catalog *known)
{
    struct catalog c = {0};
    struct err_msg why;
    struct catalog_options o = {
        .dir = in_dir("models"), .extra = in_dir("extra.gguf"), .check = count_checks, .user = dir};
    CHECK_OK(catalog_scan(&o, known, &c, &why), why);
    return c;
}

static void test_lists(void)
{
    static const struct catalog none;
    char hash[33];
    struct err_msg why;
    CHECK_INT(mkdir(in_dir("models"), 0755), 0);
    CHECK_INT(mkdir(in_dir("models/fetched"), 0755), 0);
    CHECK_INT(mkdir(in_dir("models/fetched/abc"), 0755), 0);
    CHECK_INT(mkdir(in_dir("models/folder.gguf"), 0755), 0);
    write_file("models/one.gguf", "GGUF one");
    write_file("models/two.GGUF", "GGUF two");
    write_file("models/notes.txt", "GGUF");
    write_file("models/.hidden.gguf", "GGUF hidden");
    write_file("models/torn.gguf", "GGU");
    write_file("models/refused.gguf", "GGUF refused");
    write_file("models/fetched/abc/three.gguf", "GGUF three");
    write_file("models/fetched/abc/four.gguf.partial", "GGUF fo");
    write_file("extra.gguf", "GGUF extra");
    struct catalog c = scan(&none);
    CHECK_INT(checked, 5); /* torn has not even the beginning */
    CHECK_INT(c.count, 6);
    hash128_hex("GGUF three", 10, hash);
    const struct catalog_file *f = catalog_find(&c, hash);
    CHECK(f != NULL && f->fetched && f->bytes == 10);
    CHECK_STR(f == NULL ? NULL : f->name, "three");
    hash128_hex("GGUF two", 8, hash);
    CHECK(catalog_find(&c, hash) != NULL && !catalog_find(&c, hash)->fetched);
    hash128_hex("GGUF refused", 12, hash);
    CHECK(catalog_find(&c, hash) == NULL);
    CHECK(catalog_find(&c, "") == NULL);

    /* Nothing has changed: nothing is looked at. One file has: it alone. */
    struct catalog again = scan(&c);
    CHECK_INT(checked, 5);
    CHECK(catalog_same(&c, &again));
    write_file("models/one.gguf", "GGUF uno and more");
    hash128_hex("GGUF one", 8, hash);
    CHECK(catalog_find(&again, hash) != NULL && !catalog_unchanged(catalog_find(&again, hash)));
    struct catalog changed = scan(&again);
    CHECK_INT(checked, 6);
    CHECK(!catalog_same(&c, &changed));
    CHECK(catalog_find(&changed, hash) == NULL);
    catalog_free(&c);
    catalog_free(&again);
    CHECK_ERR(catalog_scan(&(struct catalog_options){.dir = in_dir("nowhere")}, &changed, &c, &why),
              ERR_IO);
    CHECK_HAS(why.text, "nowhere: cannot read the folder");
    catalog_free(&changed);
}

/* A start after another one takes the hashes from the cache: shown by one that is not the file's.
 */
static void test_cache(void)
{
    static const struct catalog none;
    char hash[33], real[33];
    hash128_hex("GGUF two", 8, real);
    memset(hash, 'a', 32);
    hash[32] = '\0';
    struct catalog c = scan(&none);
    const struct catalog_file *f = catalog_find(&c, real);
    CHECK(f != NULL);
    catalog_free(&c);

    char command[400];
    snprintf(command, sizeof command, "sed -i s/%s/%s/ %s/cache/models-*", real, hash, dir);
    CHECK_INT(system(command), 0);
    c = scan(&none);
    CHECK(catalog_find(&c, hash) != NULL && catalog_find(&c, real) == NULL);
    catalog_free(&c);
    /* Written anew, with the same size at another time: it is read. */
    write_file("models/two.GGUF", "GGUF 222");
    c = scan(&none);
    CHECK(catalog_find(&c, hash) == NULL);
    catalog_free(&c);
    /* A cache that is garbage, and one that cannot be. */
    snprintf(command, sizeof command,
             "for f in %s/cache/models-*; do head -c 5000 /dev/urandom >$f; done", dir);
    CHECK_INT(system(command), 0);
    hash128_hex("GGUF 222", 8, real);
    c = scan(&none);
    CHECK(catalog_find(&c, real) != NULL);
    catalog_free(&c);
    setenv("OCTOFLOW_CACHE_DIR", "/dev/null/no", 1);
    atomic_bool stop = true;
    struct err_msg why;
    CHECK_ERR(catalog_scan(&(struct catalog_options){.dir = in_dir("models"), .stop = &stop}, &none,
                           &c, &why),
              ERR_CANCELLED);
    c = scan(&none);
    CHECK(catalog_find(&c, real) != NULL);
    catalog_free(&c);
}

int main(void)
{
    snprintf(dir, sizeof dir, "/tmp/octo-catalog-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return 1;
    setenv("OCTOFLOW_CACHE_DIR", in_dir("cache"), 1);
    test_lists();
    test_cache();
    check_remove(dir);
    return check_report();
}
