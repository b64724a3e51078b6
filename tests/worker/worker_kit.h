/* What the tests of jobs share: octo-tiny's tokenizer, a job context, grants from requests. */
#ifndef OCTO_TESTS_WORKER_KIT_H
#define OCTO_TESTS_WORKER_KIT_H

#include "base/arena.h"
#include "check.h"
#include "proto/codec.h"
#include "worker/job.h"

struct kit {
    struct gguf *gguf;
    struct tokenizer *tokenizer;
    struct chat_template *chat;
    struct job_context context;
    struct arena arena; /* decoded outputs */
};

static inline bool kit_open(struct kit *k, const char *model_path)
{
    struct err_msg why = {{0}};
    *k = (struct kit){0};
    CHECK_OK(gguf_open(model_path, &k->gguf, &why), why);
    if (k->gguf == NULL)
        return false;
    CHECK_OK(tokenizer_create(k->gguf, NULL, &k->tokenizer, &why), why);
    CHECK_OK(chat_template_create(k->gguf, NULL, &k->chat, &why), why);
    k->context = (struct job_context){.tokenizer = k->tokenizer,
                                      .chat = k->chat,
                                      .chat_problem = "",
                                      .max_ctx = 2048,
                                      .model_name = "octo-tiny",
                                      .model_hash = "0123456789abcdef",
                                      .quantization = "Q4_K",
                                      .numeric_class = "class-1",
                                      .device = "fake",
                                      .driver = "fake 1",
                                      .build = "test",
                                      .worker = "w0"};
    return k->tokenizer != NULL && k->chat != NULL;
}

static inline void kit_close(struct kit *k)
{
    arena_free(&k->arena);
    chat_template_destroy(&k->chat);
    tokenizer_destroy(&k->tokenizer);
    gguf_close(&k->gguf);
}

/* A request with OpenAI's defaults. */
static inline struct rec_REQUEST kit_request(const char *prompt)
{
    return (struct rec_REQUEST){
        .prompt = str_of(prompt), .max_tokens = 100, .temperature = 1, .top_p = 1, .seed = 42};
}

static inline enum err kit_job(struct kit *k, const struct rec_REQUEST *q, struct str checkpoint,
                               uint64_t serial, struct job **ret, struct job_refusal *ret_refusal,
                               struct err_msg *why)
{
    struct buf body = {0};
    CHECK_OK(proto_encode_request(q, &body, why), *why);
    struct rec_GRANT_JOB g = {.job = 1,
                              .epoch = 1,
                              .attempt = 1,
                              .body = {body.data, body.len},
                              .checkpoint = checkpoint};
    enum err e = job_create(&k->context, &g, serial, ret, ret_refusal, why);
    buf_free(&body);
    return e;
}

/* As a checkpoint of the request's job has it. */
static inline void kit_prompt_hash(struct kit *k, const struct rec_REQUEST *q, char ret_hex[33])
{
    struct job *j = NULL;
    struct job_refusal refusal;
    struct err_msg why;
    CHECK_OK(kit_job(k, q, (struct str){0}, 1, &j, &refusal, &why), why);
    job_prompt_hash(j, ret_hex);
    job_destroy(&j);
}

/* Points into body and the kit's arena. */
static inline struct rec_OUTPUT kit_output(struct kit *k, const struct buf *body)
{
    struct err_msg why = {{0}};
    struct rec_OUTPUT o = {0};
    CHECK_OK(proto_decode_output(body->data, body->len, &k->arena, &o, &why), why);
    return o;
}

static inline bool kit_is(struct str got, const char *want)
{
    bool same = str_eq(got, str_of(want));
    if (!same)
        fprintf(stderr, "    got \"%.*s\", expected \"%s\"\n", STR_ARG(got), want);
    return same;
}

#endif
