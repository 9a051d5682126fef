/* The layer: pieces of work round a chunk of rows and multiply it with blocks of outputs. */

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

/* The best level that this machine runs; it runs those before it as well. */
int best_level(void)
{
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return NO_LEVEL;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512vnni"))
        return AVX2;
    return has_amx() ? AMX : AVX512;
}

struct call {
    const struct linear *linear;
    const float *x; /* [rows, x_stride] */
    int64_t x_stride, rows;
    float *y; /* [rows, out] */
    multiply_function *multiply;
    int64_t chunk, parts; /* the work is divided into chunks of rows times parts of the outputs */
    uint8_t *memory;      /* [threads][chunk, stride] */
    int64_t stride;
    atomic_int *result;
};

/* Rows of x as whole numbers. Behind a row's numbers is anything: it meets weights of 0. */
struct rounded {
    int64_t first, rows;
    uint8_t *a; /* [rows, stride] */
    float scale[CHUNK];
    int32_t zero[CHUNK]; /* with the offset */
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t pieces(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

static int round_rows(const struct call *call, struct rounded *to)
{
    const struct linear *l = call->linear;
    const struct grid *grid = &l->grid;
    for (int64_t r = 0; grid->given && r < to->rows; r++) {
        const int64_t which = grid->given == 1 ? 0 : to->first + r;
        to->scale[r] = grid->scale[which];
        to->zero[r] = (int32_t)grid->zero[which] + grid->offset;
    }
    int finite = 1;
    for (int64_t r = 0; finite && r < to->rows; r += TOGETHER)
        finite = quantize_rows(grid, call->x + (to->first + r) * call->x_stride, call->x_stride,
                               least(TOGETHER, to->rows - r), l->in, to->scale + r, to->zero + r,
                               to->a + r * call->stride, call->stride);
    return finite;
}

/* y[rows, BLOCK] */
static void multiply_block(const struct call *call, const struct rounded *x, int64_t block)
{
    const struct linear *l = call->linear;
    const int64_t in = pieces(l->in, BLOCK) * BLOCK;
    const int64_t first = block * BLOCK, outs = least(BLOCK, l->out - first);
    _Alignas(64) int8_t w[BLOCK * DEPTH];
    _Alignas(64) int32_t c[CHUNK * BLOCK];

    for (int64_t k = 0; k < in; k += DEPTH) {
        const int64_t steps = least(DEPTH, in - k) / 4;
        for (int64_t p = 0; p < BLOCK / PANEL; p++)
            unpack(l->panels + ((first / PANEL + p) * in + k) * PANEL / 2, steps,
                   w + p * PANEL * DEPTH);
        for (int64_t r = 0; r < x->rows; r += STRIP) {
            const int64_t rows = least(STRIP, x->rows - r);
            /* Where one pass over the inputs is enough, strips share a part of the cache. */
            int32_t *sums = in > DEPTH ? c + r * BLOCK : c;
            call->multiply(x->a + r * call->stride + k, call->stride, rows, w, steps,
                           (int)l->grid.top, k > 0, sums);
            if (k + DEPTH >= in)
                scale_sums(sums, rows, outs, l, first, x->scale + r, x->zero + r,
                           call->y + (x->first + r) * l->out + first);
        }
    }
}

/* A chunk of rows, rounded anew for each part of the outputs. */
static void piece(const void *context, int64_t index, int worker)
{
    const struct call *call = context;
    const int64_t row = index / call->parts * call->chunk, part = index % call->parts;
    const int64_t blocks = pieces(call->linear->out, BLOCK);
    struct rounded x = {.first = row, .rows = least(call->chunk, call->rows - row)};
    x.a = call->memory + worker * call->chunk * call->stride;
    if (round_rows(call, &x))
        for (int64_t b = part * blocks / call->parts; b < (part + 1) * blocks / call->parts; b++)
            multiply_block(call, &x, b);
    else
        *call->result = NOT_FINITE;
}

/* y [rows, out] of x [rows, x_stride]. Returns DONE, or why there is no y. */
int packed_linear(const struct linear *l, const float *x, int64_t x_stride, int64_t rows, float *y,
                  int level, int threads, team_function *team)
{
    if (rows == 0)
        return DONE;
    if (rows * l->in * l->out < 1 << 19) /* less than it takes to wake a thread */
        threads = 1;
    atomic_int result = DONE;
    struct call call = {
        .linear = l,
        .x = x,
        .x_stride = x_stride,
        .rows = rows,
        .y = y,
        .multiply = level == AVX2 ? multiply_avx2 : multiply_avx512,
        .chunk = least(CHUNK, pieces(pieces(rows, threads), STRIP) * STRIP),
        .parts = 1,
        /* Rows end in an odd number of cache lines: they do not compete for the same places. */
        .stride = pieces(l->in, 2 * BLOCK) * 2 * BLOCK + BLOCK,
        .result = &result,
    };
    if (level == AMX && rows >= STRIP / 2) /* its tiles would be mostly empty */
        call.multiply = multiply_amx;
    const int64_t chunks = pieces(rows, call.chunk), worth = l->out / (8 * BLOCK); /* parts */
    if (threads > 1 && chunks < 2 * threads && worth > 1)
        call.parts = least(pieces(2 * threads, chunks), worth);
    call.memory = aligned_alloc(BLOCK, threads * call.chunk * call.stride);
    if (call.memory == NULL)
        return NO_MEMORY;
    share(piece, &call, chunks * call.parts, threads, team);
    free(call.memory);
    return result;
}
