/* Push constants of the bench_*.comp shaders, for C and GLSL. */
#ifndef OCTO_SHADERS_BENCH_PUSH_H
#define OCTO_SHADERS_BENCH_PUSH_H
#include "push.h"

/* bench_read: sums `count` times four 16-byte loads an invocation; words = 16-byte words between two loads. bench_fma,
 * bench_matrix: `count` rounds. All write one word a workgroup (bench_matrix: a subgroup) to out. */
#define PUSH_BENCH ADDR(from) ADDR_OUT U32(count) U32(words)

#ifndef OCTO_GLSL
struct push_bench { PUSH_BENCH };
#endif
#endif
