/* The commands of `octoflow`. Each takes the arguments after the command's name and returns the
 * exit code: 0 done, 1 some requests failed, 2 wrong usage, 3 fatal (one line on standard error
 * says what). */
#ifndef OCTO_CLIENT_COMMANDS_H
#define OCTO_CLIENT_COMMANDS_H

int cmd_run(int argc, char **argv);
int cmd_submit(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_backup(int argc, char **argv);
int cmd_results(int argc, char **argv);
int cmd_models(int argc, char **argv);
int cmd_workers(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_events(int argc, char **argv);
int cmd_cancel(int argc, char **argv);
int cmd_drain(int argc, char **argv);
int cmd_pause(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_change(int argc, char **argv);
int cmd_keygen(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_detokenize(int argc, char **argv);

#endif
