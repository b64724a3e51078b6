/* octoflow keygen: a pair of keys, and the line that lets it in at a broker. */
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "client/client.h"
#include "proto/curve.h"
#include "proto/roles.h"

struct options {
    const char *out, *name, *roles;
};

static const struct option table[] = {
    {"out", 0, OPTION_STRING, offsetof(struct options, out), .arg = "FILE",
     .help = "where the secret key goes; the public one goes to FILE.pub (default octoflow.key)"},
    {"name", 0, OPTION_STRING, offsetof(struct options, name), .arg = "NAME",
     .help = "whose key it is, in the broker's logs and quotas (default: the file's name, without "
             ".key)"},
    {"roles", 0, OPTION_STRING, offsetof(struct options, roles), .arg = "ROLE[,ROLE]",
     .help = "what the printed line allows: work (a worker), submit (its own batches), admin "
             "(everybody's batches and the workers) (default submit)"},
};

static const struct client_command command = {
    .name = "keygen",
    .text = "usage: octoflow keygen [options]\n"
            "\n"
            "Makes a pair of keys: a secret one, which stays where it is, in a file that only its\n"
            "owner may read, and a public one. Prints the line for the broker's --allow file.\n"
            "\n"
            "    octoflow keygen --out broker.key              # for octoflow-broker --curve-key\n"
            "    octoflow keygen --out alice.key >> allow.txt\n"
            "    octoflow keygen --out gpu1.key --roles work >> allow.txt\n"
            "\n",
    .options = table,
    .options_count = ARRAY_LEN(table),
    .max_arguments = 0,
    .arguments = "options only",
};

/* "keys/alice.key": "alice". */
static void name_of_file(const char *path, char *ret, size_t size)
{
    const char *slash = strrchr(path, '/');
    const char *file = slash == NULL ? path : slash + 1;
    size_t len = strlen(file);
    if (len > 4 && strcmp(file + len - 4, ".key") == 0)
        len -= 4;
    snprintf(ret, size, "%.*s", (int)len, file);
}

int cmd_keygen(int argc, char **argv)
{
    struct options o = {.out = "octoflow.key", .roles = "submit"};
    struct proto_curve keys = {0};
    struct err_msg why = {{0}};
    char name[256];
    unsigned roles = 0;
    int count = 0;
    int code = client_parse(&command, &o, argc, argv, &count);
    if (code >= 0)
        return code;
    if (o.name == NULL) {
        name_of_file(o.out, name, sizeof name);
        o.name = name;
    }
    enum err e = ERR_OK;
    if (!proto_name_is_good(str_of(o.name)))
        e = err_set(&why, ERR_USAGE, "name \"%s\": expected " PROTO_NAME_RULE " (--name NAME)",
                    o.name);
    if (e == ERR_OK)
        e = proto_roles_parse(str_of(o.roles), &roles, &why);
    if (e == ERR_OK)
        e = proto_curve_make(&keys, &why);
    if (e == ERR_OK)
        e = proto_curve_write(o.out, o.name, &keys, &why);
    proto_curve_wipe(&keys);
    if (e != ERR_OK)
        return client_fail(command.name, e, &why);
    fprintf(stderr,
            "octoflow keygen: %s has the secret key, %s.pub the public one; the line for "
            "the broker's --allow file:\n",
            o.out, o.out);
    printf("%s %s %s\n", keys.public_key, o.roles, o.name);
    return EXIT_ALL_DONE;
}
