/* What the oracle's files share: oracle.c computes, oracle_file.c makes weights and files. */
#ifndef OCTO_TESTS_ORACLE_IMPL_H
#define OCTO_TESTS_ORACLE_IMPL_H

#include "tests/engine/oracle.h"

enum { ORACLE_MAX_TENSORS = 1024 };

struct oracle_tensor {
    char name[48];
    uint32_t dims_count;
    uint64_t dims[3]; /* the first is contiguous */
    float *data;
    bool bf16; /* in the file; data holds such numbers */
};

struct oracle {
    struct oracle_case c; /* head_size, rope_dims, rope_base, max_ctx filled in */
    struct oracle_tensor tensors[ORACLE_MAX_TENSORS];
    size_t tensors_count;
};

/* In layer `layer`, or anywhere: layer < 0. NULL: no such tensor. */
const float *oracle_tensor(const struct oracle *o, int layer, const char *name);

static const float oracle_eps = 0.01f; /* large, so that leaving it out shows */

#endif
