/* Roles as words, and of messages; see roles.h. */
#include "proto/roles.h"

#include <ctype.h>

#include "base/size.h"

enum { MAX_NAME_BYTES = 64 };

static const struct {
    enum proto_role role;
    const char *name;
} roles[] = {{PROTO_ROLE_WORK, "work"}, {PROTO_ROLE_SUBMIT, "submit"}, {PROTO_ROLE_ADMIN, "admin"}};

static unsigned role_of(struct str word)
{
    for (size_t i = 0; i < ARRAY_LEN(roles); i++) {
        if (str_eq(word, str_of(roles[i].name)))
            return roles[i].role;
    }
    return 0;
}

enum err proto_roles_parse(struct str text, unsigned *ret_roles, struct err_msg *why)
{
    unsigned all = 0;
    struct str word, left = text;
    bool good = text.len > 0 && text.data[text.len - 1] != ',';
    while (good && str_cut(&left, ',', &word)) {
        unsigned role = role_of(word);
        good = role != 0 && (all & role) == 0;
        all |= role;
    }
    if (!good)
        return err_set(
            why, ERR_USAGE,
            "roles \"%.*s\": expected work, submit or admin, several with commas between",
            STR_ARG(text));
    *ret_roles = all;
    return ERR_OK;
}

const char *proto_role_name(enum proto_role role)
{
    for (size_t i = 0; i < ARRAY_LEN(roles); i++) {
        if (roles[i].role == role)
            return roles[i].name;
    }
    return "broker";
}

enum proto_role proto_message_role(enum msg_type type)
{
    static const enum proto_role needed[] = {
#define X(NAME, name, role) PROTO_ROLE_##role,
        PROTO_MESSAGES(X)
#undef X
    };
    size_t index = (size_t)type - 1; /* MSG_NONE wraps around to a great one */
    return index < ARRAY_LEN(needed) ? needed[index] : PROTO_ROLE_BROKER;
}

bool proto_roles_allow(unsigned has, enum msg_type type)
{
    if ((has & PROTO_ROLE_ADMIN) != 0)
        has |= PROTO_ROLE_SUBMIT;
    return (has & proto_message_role(type)) != 0;
}

bool proto_name_is_good(struct str name)
{
    if (name.len == 0 || name.len > MAX_NAME_BYTES)
        return false;
    for (size_t i = 0; i < name.len; i++) {
        if (!isalnum((unsigned char)name.data[i]) && memchr("._-@", name.data[i], 4) == NULL)
            return false;
    }
    return true;
}
