/* What submit, status, results and cancel share: where the broker is, and waiting for a batch. */
#ifndef OCTO_CLIENT_REMOTE_H
#define OCTO_CLIENT_REMOTE_H

#include "base/options.h"
#include "client/link.h"

struct remote_options {
    const char *broker;
    struct proto_curve_options curve;
    double timeout_s;
};

/* The rows for an options table whose target begins with a struct remote_options. */
#define REMOTE_OPTIONS                                                                             \
    {"The broker", .type = OPTION_SECTION},                                                        \
        {"broker",                                                                                 \
         0,                                                                                        \
         OPTION_STRING,                                                                            \
         offsetof(struct remote_options, broker),                                                  \
         .arg = "ENDPOINT",                                                                        \
         .help = "tcp://HOST:PORT or ipc://PATH (default: the variable OCTOFLOW_BROKER)"},         \
        {"curve-key",                                                                              \
         0,                                                                                        \
         OPTION_STRING,                                                                            \
         offsetof(struct remote_options, curve.curve_key),                                         \
         .arg = "FILE",                                                                            \
         .help = "your secret key (octoflow keygen), for a broker that lets in keys on its list "  \
                 "(default: the file that OCTOFLOW_CURVE_KEY names)"},                             \
        {"server-key",                                                                             \
         0,                                                                                        \
         OPTION_STRING,                                                                            \
         offsetof(struct remote_options, curve.server_key),                                        \
         .arg = "FILE|KEY",                                                                        \
         .help = "the broker's public key, or the file with it (default: OCTOFLOW_SERVER_KEY)"},   \
        {"insecure", 0, OPTION_FLAG, offsetof(struct remote_options, curve.insecure),              \
         .help = "without keys, connect to another machine all the same: whoever is on the way "   \
                 "can read and change everything"},                                                \
    {                                                                                              \
        "timeout", 0, OPTION_FLOAT, offsetof(struct remote_options, timeout_s),                    \
            .min = 0.1, .max = 86400, .arg = "SECONDS",                                            \
            .help = "give up when the broker has not answered for this long (default 30)"          \
    }

#define REMOTE_DEFAULTS                                                                            \
    {                                                                                              \
        .timeout_s = 30                                                                            \
    }

/* ERR_USAGE: no endpoint, or a bad one. `command` names who says what is waited for. */
enum err remote_open(const struct remote_options *o, const char *command, struct link *ret,
                     struct err_msg *why) MUST_CHECK;
/* Shows progress until the batch is complete. */
enum err remote_wait(struct link *l, const char *batch, struct err_msg *why) MUST_CHECK;

#endif
