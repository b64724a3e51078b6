/* Where a device's matrix units hold a product's values is not something Vulkan tells: the kernels
 * expect NVIDIA's places (shaders/matrix.glsl). A matmul of small integers, whose sums are exact,
 * shows whether they are those. */
#include <stdbool.h>
#include <string.h>

#include "engine/matrix.h"

enum { OUTPUTS = 32, ROWS = 8, COLS = 288, GROUPS = COLS / 32, SLOTS = 8 };
enum { WEIGHTS = OUTPUTS * COLS, VALUES = ROWS * COLS };

static int weight_of(uint32_t j, uint32_t k)
{
    return (int)((j * 7 + k * 13 + j * k) % 31) - 15;
}

static int value_of(uint32_t r, uint32_t k)
{
    return (int)((r * 11 + k * 5 + r * k * 3) % 29) - 14;
}

/* f16 of -2047 .. 2047 */
static uint16_t half_of(int x)
{
    uint32_t most = (uint32_t)(x < 0 ? -x : x), power = 0;
    if (x == 0)
        return 0;
    while (most >> (power + 1) != 0)
        power++;
    return (uint16_t)((x < 0 ? 0x8000u : 0) | (15 + power) << 10 |
                      ((most << (10 - power)) & 0x3ffu));
}

/* Weight tiles, then row tiles. In both a lane's values are an octet of a group of 32. */
static void fill(uint16_t *weights, uint16_t *values)
{
    for (uint32_t j = 0; j < OUTPUTS; j++)
        for (uint32_t k = 0; k < COLS; k++) {
            uint32_t c = k % 32, lane = j % 8 * 4 + c % 16 / 4;
            uint32_t half = (j / 16 * GROUPS + k / 32) * 2 + j % 16 / 8;
            weights[(half * 32 + lane) * SLOTS + c / 16 * 4 + c % 4] = half_of(weight_of(j, k));
        }
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t k = 0; k < COLS; k++) { /* tile_place() */
            uint32_t c = k % 32, lane = (c % 16 / 4 * 2 + c % 2) * 4 + r / 2;
            uint32_t word = c / 16 * 2 + c % 4 / 2;
            values[(k / 32 * 32 + lane) * SLOTS + word * 2 + r % 2] = half_of(value_of(r, k));
        }
}

static bool is_right(const float *out)
{
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t j = 0; j < OUTPUTS; j++) {
            int sum = 0;
            for (uint32_t k = 0; k < COLS; k++)
                sum += weight_of(j, k) * value_of(r, k);
            if (out[r * OUTPUTS + j] != (float)sum)
                return false;
        }
    return true;
}

static enum err multiply(struct matrix *m, struct gpu *g, const struct gpu_buffer *in,
                         const struct gpu_buffer *out, struct err_msg *why)
{
    struct matrix_weight w = {.tiles = in->address, .rows = OUTPUTS, .cols = COLS};
    struct push_matrix_matmul p = {.a = in->address + WEIGHTS * sizeof(uint16_t),
                                   .out = out->address,
                                   .rows = ROWS,
                                   .out_stride = OUTPUTS};
    enum err e = matrix_prepare(m, &w, ROWS, why);
    if (e == ERR_OK)
        e = matrix_compile(m, why);
    if (e == ERR_OK)
        e = gpu_begin(g, why);
    if (e != ERR_OK)
        return e;
    matrix_matmul(m, &p, &w);
    e = gpu_submit(g, why);
    return e == ERR_OK ? gpu_wait(g, why) : e;
}

enum err matrix_check(struct matrix *m, struct gpu *g, struct err_msg *why)
{
    struct gpu_buffer in = {0}, out = {0};
    uint64_t out_bytes = ROWS * OUTPUTS * sizeof(float);
    enum err e = gpu_buffer_create(g, GPU_UPLOAD, (WEIGHTS + VALUES) * sizeof(uint16_t),
                                   "the matrix units' check", &in, why);
    if (e == ERR_OK)
        e = gpu_buffer_create(g, GPU_READBACK, out_bytes, "the matrix units' check", &out, why);
    if (e == ERR_OK) {
        uint16_t *weights = in.mapped;
        fill(weights, weights + WEIGHTS);
        memset(out.mapped, 0xff, out_bytes); /* NaN: what was not written is wrong */
        e = multiply(m, g, &in, &out, why);
    }
    if (e == ERR_OK && !is_right(out.mapped))
        e = err_set(why, ERR_UNSUPPORTED,
                    "the device's matrix units do not multiply as the kernels expect");
    gpu_buffer_destroy(g, &in);
    gpu_buffer_destroy(g, &out);
    return e;
}
