/* A file's lines into a batch: read, checked, sent in chunks, sealed. Doing it again is how a batch
 * is resumed: the broker knows each line by its number and hash, takes what is new and refuses what
 * was edited. Memory: one chunk, and 16 bytes a line for its custom_id. */
#ifndef OCTO_CLIENT_SUBMIT_H
#define OCTO_CLIENT_SUBMIT_H

#include "client/link.h"
#include "client/request.h"

struct submit_options {
    const char *path; /* "-": standard input */
    const char *batch;
    const char *client;  /* whose quota it counts for; NULL: nobody's in particular */
    const char *model;   /* name or hash the batch asks for; "": any */
    const char *shaping; /* all that shapes the outputs, for people; its hash guards a resume */
    struct rec_SCHEDULE schedule; /* of a batch that is not there yet */
    uint64_t max_attempts;        /* 0: the broker's */
    struct request_options request;
    /* What to do about a conflict, ends its message: of a line, of an option. */
    const char *otherwise, *otherwise_options;
    /* Called after each chunk; may be NULL. */
    void (*on_progress)(void *user, uint64_t lines);
    void *user;
};

struct submit_counts {
    uint64_t lines, accepted, duplicates;
    uint64_t refused;             /* of lines: not valid */
    struct err_msg first_refusal; /* "line 2: ..." */
};

/* BATCH_NEW. ERR_CONFLICT: it is there with other options, the message has those that differ.
 * *ret_complete: it was there, and nothing is left to do. *ret_warning: may be NULL; why nobody
 * could run it now; "": nothing is known. */
enum err submit_open(struct link *l, const struct submit_options *o, bool *ret_existed,
                     bool *ret_complete, struct err_msg *ret_warning,
                     struct err_msg *why) MUST_CHECK;
/* SUBMIT all lines, then SEAL. ERR_CONFLICT: "FILE:LINE: ..." says which line is not what it was.
 */
enum err submit_lines(struct link *l, const struct submit_options *o, struct submit_counts *ret,
                      struct err_msg *why) MUST_CHECK;

/* The batch's name for a file: its base name, cut to what the protocol takes and mended where it is
 * no UTF-8. "-" is "stdin". */
void submit_batch_name(const char *path, char ret[PROTO_MAX_ID_BYTES + 1]);

#endif
