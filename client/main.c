/* octoflow: a table of commands. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/size.h"
#include "client/client.h"
#include "octo_build.h"

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *what;
};

static const struct command commands[] = {
    {"run", cmd_run, "answer a file of prompts here, from start to end"},
    {"submit", cmd_submit, "send a file of prompts to a broker"},
    {"status", cmd_status, "what a broker's batches and workers are doing"},
    {"workers", cmd_workers, "who works for a broker: GPU, heat, watts, speed"},
    {"models", cmd_models, "which models there are, and who has them loaded"},
    {"top", cmd_top, "batches and workers on a screen that follows them"},
    {"events", cmd_events, "what happened: workers lost, batches completed, trouble"},
    {"backup", cmd_backup, "a copy of a broker's ledger, while it works"},
    {"results", cmd_results, "a batch's results into a file"},
    {"cancel", cmd_cancel, "stop a batch, or some of its lines"},
    {"drain", cmd_drain, "ask a worker, or all of a machine, to leave"},
    {"pause", cmd_pause, "start no more of a batch's lines"},
    {"resume", cmd_resume, "go on with a paused batch"},
    {"change", cmd_change, "when and how much of a batch runs"},
    {"keygen", cmd_keygen, "a key for a broker, a worker or a person"},
    {"inspect", cmd_inspect, "what is in a model file, and whether it can run"},
    {"tokenize", cmd_tokenize, "text on standard input to token ids"},
    {"detokenize", cmd_detokenize, "token ids on standard input to text"},
};

static void print_help(FILE *out)
{
    fprintf(
        out,
        "octoflow: a file of prompts in, a file of answers out, by a language model (GGUF) on\n"
        "whatever GPUs are there. No line is lost and none is answered twice, whatever is killed:\n"
        "the same command again goes on where it was.\n"
        "\n"
        "usage: octoflow COMMAND [options]\n"
        "\n");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        fprintf(out, "  %-11s %s\n", commands[i].name, commands[i].what);
    fprintf(
        out,
        "\n"
        "    octoflow run -m model.gguf prompts.jsonl -o results.jsonl\n"
        "    octoflow submit  --broker tcp://localhost:7420 prompts.jsonl --batch night\n"
        "    octoflow status  --broker tcp://localhost:7420\n"
        "    octoflow top     --broker tcp://localhost:7420\n"
        "    octoflow results --broker tcp://localhost:7420 night -o results.jsonl --wait\n"
        "    octoflow cancel  --broker tcp://localhost:7420 night\n"
        "    octoflow inspect model.gguf\n"
        "    echo 'Hello' | octoflow tokenize -m model.gguf\n"
        "    echo '970' | octoflow detokenize -m model.gguf\n"
        "\n"
        "A prompt is a line of JSON: {\"prompt\": \"Once upon a time\"}, {\"messages\": "
        "[...]}, or an\n"
        "OpenAI Batch request. `octoflow help COMMAND` explains a command and its options.\n"
        "\n"
        "Exit codes: 0 all done, 1 some lines failed (or are not finished), 2 wrong usage, 3 "
        "fatal\n"
        "(nothing could run, or it had to stop; of run also Ctrl-C), 130 Ctrl-C (nothing is lost); "
        "Ctrl-C\n"
        "ends top, status --watch and events --follow with 0.\n");
}

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

static int unknown(const char *name)
{
    fprintf(stderr, "octoflow: unknown command \"%s\"; expected", name);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        fprintf(stderr, "%s %s", i == 0 ? "" : ",", commands[i].name);
    fprintf(stderr, " (octoflow --help explains)\n");
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    log_init("octoflow", LOG_LEVEL_INFO);
    if (argc < 2) {
        fprintf(stderr, "octoflow: a command is missing; octoflow --help lists them\n");
        return EXIT_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0) {
        printf("octoflow %s\n", OCTO_BUILD);
        return EXIT_ALL_DONE;
    }
    bool help = strcmp(name, "help") == 0;
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || (help && argc == 2)) {
        print_help(stdout);
        return EXIT_ALL_DONE;
    }
    const struct command *c = find(help ? argv[2] : name);
    if (c == NULL)
        return unknown(help ? argv[2] : name);
    if (help) {
        char flag[] = "--help";
        return c->run(1, (char *[]){flag, NULL});
    }
    struct err_msg why;
    int code = c->run(argc - 2, argv + 2);
    bool ended = code == EXIT_ALL_DONE || code == EXIT_SOME_FAILED;
    /* what `run` was asked for is in a file by now */
    if (ended && c->run != cmd_run && client_flush(&why) != ERR_OK)
        return client_fail(name, ERR_IO, &why);
    return code;
}
