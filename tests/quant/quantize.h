/* The 16 tensor types, twice: encoders from F32 rows and decoders in double, both from the formats'
 * public definitions. Naive, shares nothing with the engine; kernels and files are tested against
 * it.
 *
 * Formats: a row is n values, n a multiple of the type's block (model/gguf.h). All multi-byte
 * fields are little-endian; "half" is IEEE binary16. q(j): the quant of value j; d, m: halves. Q4_0
 * Q5_0 Q8_0   d * (q - 8 | 16 | 0) Q4_1 Q5_1        d * q + m Q2_K Q4_K Q5_K   d * scale(sub) * q -
 * dmin * min(sub); scale and min of 4 or 6 bits Q3_K Q6_K        d * scale(sub) * q; scale signed
 * (6 and 8 bits), q signed (3 and 6 bits) IQ4_NL           d * codebook[q]; IQ4_XS: d * (6-bit
 * signed scale of 32 values) * codebook[q] MXFP4            2^(e - 127) * E2M1[q] (OCP microscaling
 * formats, E8M0 scale) */
#ifndef OCTO_TESTS_QUANTIZE_H
#define OCTO_TESTS_QUANTIZE_H

#include <stdint.h>

#include "model/gguf.h"

/* The 16-value codebook of IQ4_NL and IQ4_XS. */
extern const int8_t quant_codebook[16];
/* E2M1: sign, two bits of exponent, one of mantissa. */
extern const float quant_e2m1[16];

/* 0: n is no multiple of the block. */
uint64_t quant_row_bytes(enum tensor_type type, uint64_t n);
/* out: quant_row_bytes() bytes. Scales that a half cannot hold become the largest half. */
void quant_encode(enum tensor_type type, const float *row, uint64_t n, void *out);
void quant_decode(enum tensor_type type, const void *blocks, uint64_t n, double *out);

/* Nearest half, ties to even, beyond 65504 to 65504 (infinity stays); the value of a half. */
uint16_t quant_to_half(double x);
double quant_from_half(uint16_t bits);
/* Nearest bfloat16, ties to even; a NaN stays one. */
uint16_t quant_to_bf16(float x);

#endif
