/* The layer: all rows are rounded, then chunks of rows are multiplied with blocks of outputs. */

#define _GNU_SOURCE
#include <cpuid.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "packed_linear.h"

enum { NO_LEVEL, AVX2, AVX512, AMX };

static int has_amx(void)
{
    unsigned a, b, c, d;
    const unsigned tile = 1u << 24, int8 = 1u << 25;
    const long request_permission = 0x1023, tile_data = 18; /* Linux: arch_prctl */
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & tile) && (d & int8) &&
           syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

/* The best level that was compiled and that this machine runs; it runs those before it as well. */
int best_level(void)
{
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return NO_LEVEL;
    if (!multiply_avx512 || !__builtin_cpu_supports("avx512f") ||
        !__builtin_cpu_supports("avx512vnni"))
        return AVX2;
    return multiply_amx && has_amx() ? AMX : AVX512;
}

struct call {
    const struct linear *linear;
    const float *x; /* [rows, x_stride] */
    int64_t x_stride, rows;
    float *y; /* [rows, out] */
    int level;
    int64_t depth, stride, blocks;
    /* Rows of x as whole numbers. Behind a row's numbers is anything: it meets weights of 0. */
    uint8_t *a;     /* [rows, stride], padded to a multiple of STRIP rows */
    float *scale;   /* [rows] */
    int32_t *zero;  /* [rows], with the offset */
    atomic_int finite;
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t pieces(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

/* Round STRIP rows. */
static void round_strip(void *context, int64_t index)
{
    struct call *call = context;
    const struct linear *l = call->linear;
    const struct grid *grid = &l->grid;
    const int64_t end = least((index + 1) * STRIP, call->rows);
    for (int64_t r = index * STRIP; r < end; r += TOGETHER) {
        const int64_t rows = least(TOGETHER, end - r);
        for (int64_t i = r; grid->given && i < r + rows; i++) {
            const int64_t which = grid->given == 1 ? 0 : i;
            call->scale[i] = grid->scale[which];
            call->zero[i] = (int32_t)grid->zero[which] + grid->offset;
        }
        const int tiles = call->level == AMX;
        uint8_t *to = tiles ? call->a + r / TILE * TILE * call->stride + r % TILE * 64
                            : call->a + r * call->stride;
        if (!quantize_rows(grid, call->x + r * call->x_stride, call->x_stride, rows, l->in,
                           call->scale + r, call->zero + r, to, tiles ? 64 : call->stride,
                           tiles ? TILE * 64 : 64)) {
            call->finite = 0;
            return;
        }
    }
}

/* y[CHUNK, BLOCK] */
static void multiply_block(void *context, int64_t index)
{
    struct call *call = context;
    const struct linear *l = call->linear;
    const int64_t row = index / call->blocks * CHUNK, rows = least(CHUNK, call->rows - row);
    const int64_t first = index % call->blocks * BLOCK, outs = least(BLOCK, l->out - first);
    const int64_t in = pieces(l->in, BLOCK) * BLOCK;
    _Alignas(64) int8_t w[BLOCK * DEEPEST];
    _Alignas(64) int32_t c[CHUNK * BLOCK];
    multiply_function *multiply = call->level == AVX2 ? multiply_avx2 : multiply_avx512;

    if (call->level == AMX) {
        multiply = multiply_amx;
        begin_amx();
    }
    for (int64_t k = 0; k < in; k += call->depth) {
        const int64_t steps = least(call->depth, in - k) / 4;
        for (int64_t p = 0; p < BLOCK / PANEL; p++)
            unpack(l->panels + ((first / PANEL + p) * in + k) * PANEL / 2, steps,
                   w + p * 4 * PANEL * steps);
        for (int64_t r = 0; r < rows; r += STRIP) {
            const int64_t strip = least(STRIP, rows - r);
            /* Where one pass over the inputs is enough, strips share a part of the cache. */
            int32_t *sums = in > call->depth ? c + r * BLOCK : c;
            const uint8_t *a = call->a + (row + r) * call->stride;
            multiply(a + k * (call->level == AMX ? TILE : 1), call->stride, strip, w, steps,
                     (int)l->grid.top, k > 0, sums);
            if (k + call->depth >= in)
                scale_sums(sums, strip, outs, l, first, call->scale + row + r,
                           call->zero + row + r, call->y + (row + r) * l->out + first);
        }
    }
    if (call->level == AMX)
        end_amx();
}

/* y [rows, out] of x [rows, x_stride]. Returns DONE, or why there is no y. */
int packed_linear(const struct linear *l, const float *x, int64_t x_stride, int64_t rows, float *y,
                  int level, int threads, team_function *team)
{
    if (rows == 0)
        return DONE;
    if (rows * l->in * l->out < 1 << 19) /* less than it takes to wake a thread */
        threads = 1;
    if (level == AMX && rows < STRIP / 2) /* its tiles would be mostly empty */
        level = AVX512;
    const int64_t strips = pieces(rows, STRIP), all = strips * STRIP;
    struct call call = {
        .linear = l,
        .x = x,
        .x_stride = x_stride,
        .rows = rows,
        .y = y,
        .level = level,
        .depth = level == AMX ? DEEPEST : DEPTH,
        /* Rows end in an odd number of cache lines: they do not compete for the same places. */
        .stride = pieces(l->in, 2 * BLOCK) * 2 * BLOCK + BLOCK,
        .blocks = pieces(l->out, BLOCK),
        .finite = 1,
    };
    const int64_t bytes = all * (call.stride + sizeof *call.scale + sizeof *call.zero);
    call.a = aligned_alloc(BLOCK, pieces(bytes, BLOCK) * BLOCK);
    if (call.a == NULL)
        return NO_MEMORY;
    call.scale = (float *)(call.a + all * call.stride);
    call.zero = (int32_t *)(call.scale + all);
    share(round_strip, &call, strips, threads, team);
    if (call.finite)
        share(multiply_block, &call, pieces(rows, CHUNK) * call.blocks, threads, team);
    free(call.a);
    return call.finite ? DONE : NOT_FINITE;
}
