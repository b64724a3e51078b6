/* Push constants of the bench_*.comp shaders, for C and GLSL: push.h has the conventions. */
#ifndef OCTO_SHADERS_BENCH_PUSH_H
#define OCTO_SHADERS_BENCH_PUSH_H
#ifdef OCTO_GLSL
#include "push.h"
#else
#include <stdint.h>
#define ADDR(name) uint64_t name;
#define ADDR_OUT   uint64_t out;
#define U32(name)  uint32_t name;
#endif

/* bench_read: `count` rounds of four 16-byte loads an invocation, two neighbouring loads `words` of 16 bytes apart.
 * bench_fma, bench_matrix: `count` rounds. All write a word a workgroup (bench_matrix: a subgroup) to out. */
#define PUSH_BENCH ADDR(from) ADDR_OUT U32(count) U32(words)

#ifndef OCTO_GLSL
struct push_bench { PUSH_BENCH };
#undef ADDR
#undef ADDR_OUT
#undef U32
#endif
#endif
