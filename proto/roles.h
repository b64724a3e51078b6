/* What a key may do. Which role a message needs is a column of messages.h. */
#ifndef OCTO_PROTO_ROLES_H
#define OCTO_PROTO_ROLES_H

#include <stdbool.h>

#include "base/err.h"
#include "base/str.h"
#include "proto/messages.h"

/* A set of them is an OR. */
enum proto_role {
    PROTO_ROLE_BROKER = 0, /* of messages that only a broker sends: nobody has it */
    PROTO_ROLE_WORK = 1,   /* take jobs and send results */
    PROTO_ROLE_SUBMIT = 2, /* batches of one's own */
    PROTO_ROLE_ADMIN = 4,  /* everybody's batches, and the workers; includes submit */
};

/* "submit" or "work,submit". ERR_USAGE: a word that is no role, none, or one twice. */
enum err proto_roles_parse(struct str text, unsigned *ret_roles, struct err_msg *why) MUST_CHECK;
const char *proto_role_name(enum proto_role role); /* "submit" */

/* The role that a message needs. */
enum proto_role proto_message_role(enum msg_type type);
/* Whether somebody with these roles may send it. */
bool proto_roles_allow(unsigned roles, enum msg_type type);

/* A key's name: it stands in logs and in one line with others. */
#define PROTO_NAME_RULE "1 to 64 letters, digits and . _ - @"
bool proto_name_is_good(struct str name);

#endif
