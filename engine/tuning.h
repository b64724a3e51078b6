/* Tunables: where the engine goes over from one way to another. Every way gives the same
 * bits, so they are no part of the numeric class. The defaults are what was fastest when it was
 * measured (bench/NOTES.md); `octoflow-bench --set` compares others without a build for each. */
#ifndef OCTO_ENGINE_TUNING_H
#define OCTO_ENGINE_TUNING_H

#include <stdint.h>

#include "base/err.h"

/* X(name, default, most, what it is) */
#define TUNABLES(X)                                                                                \
    X(chain_rows, 96, 1024, "steps of up to so many rows are chains of dispatches")                \
    X(in_band_rows, 32, 32, "results of up to so many rows are waited for in band")                \
    X(split_rows, 8, 8, "of those, a long sum is two workgroups' work for up to so many rows")     \
    X(rehearse, 1, 1, "1: attention of few rows runs once for nothing while it waits")             \
    X(norm_rows, 16, 16, "matmuls norm up to so many rows themselves")                             \
    X(stream_rows, 64, 64, "matmuls of up to so many rows, rounded up to 8, stream their weights") \
    X(byte_tiles_mib, 16, 65536,                                                                   \
      "MiB of f16 tiles above which a matrix streams byte tiles instead")                          \
    X(direct_input, 1, 1, "1: the host writes a step's input into the device's memory, no copy")   \
    X(round_rows, 1, 1, "1: a step takes fewer sequences than could go on, where that is faster")  \
    X(sample_parts, 0, 32, "workgroups that draw a row's token, of few rows; 0: as many as fill")

struct tuning {
#define X(name, usual, most, help) uint32_t name;
    TUNABLES(X)
#undef X
};

/* The tunables with their defaults, for --help. */
#define TUNING_TEXT(x) #x
#define TUNING_LINE(name, usual, most, help)                                                       \
    " " #name "=" TUNING_TEXT(usual) " (" help "; at most " #most ")"
#define TUNING_HELP TUNABLES(TUNING_LINE)

struct tuning tuning_defaults(void);
/* "norm_rows=8,chain_rows=96": those named, the others stay. ERR_USAGE: an unknown name, no number,
 * or one that is too large; *t is as it was. */
enum err tuning_parse(const char *list, struct tuning *t, struct err_msg *why) MUST_CHECK;

#endif
