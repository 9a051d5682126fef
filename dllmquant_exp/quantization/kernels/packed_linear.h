/* A linear layer of packed 4-bit weights and activations of up to 8 bits, multiplied as integers;
   below, attention with rounded weights.

       s[m, n] = sum_k a[m, k] w[n, k] - zero[m] sum_k w[n, k]
       y[m, n] = s[m, n] * weight_scale[n] * scale[m] + bias[n]

   a is 0..255 and w is -8..7, so that all sums are exact. They are scaled as linear.py does it:
   where its sums of floating-point numbers are exact too, both give the same bits.

   Packed weights [out / 16][in / 4][32]: 32 bytes hold four consecutive inputs of 16 outputs, the
   low halves of the bytes those of outputs 0..7, the high halves those of outputs 8..15.

       byte 4 n + t  =  (w[n, k + t] + 8)  |  (w[8 + n, k + t] + 8) << 4        n = 0..7, t = 0..3

   Unpacked they are 64 bytes [16 outputs][4 inputs], as AVX2, AVX-512 VNNI and AMX multiply them.
   Outputs and inputs are padded to multiples of 64 with weights 0. */

#ifndef PACKED_LINEAR_H
#define PACKED_LINEAR_H

#include <stdint.h>

enum {
    PANEL = 16,   /* outputs that are stored together */
    BLOCK = 64,   /* outputs that are multiplied together */
    DEPTH = 512,  /* inputs that are multiplied together: 32 KB of unpacked weights */
    DEEPEST = 2048, /* as many for AMX, which reads them from the second cache as fast */
    STRIP = 32,   /* rows that are multiplied together; the memory of rows is padded to it */
    CHUNK = 256,  /* rows, at most, that weights are unpacked for */
    TILE = 16,    /* rows of an AMX tile */
    TOGETHER = 4, /* rows that are rounded together */
};

enum { DONE, NOT_FINITE, NO_MEMORY }; /* what packed_linear and rounded_attention return */

/* How activations become whole numbers: clamp(round(x / scale) + zero, bottom, top), where signed
   grids are moved by `offset` so that bottom >= 0. */
struct grid {
    float bottom, top;
    float divisor; /* scale = size of the range / divisor */
    float clip;    /* fraction of the range that is kept */
    int32_t offset;
    int32_t symmetric;
    int32_t given; /* scales: 0 = none, rows are measured; 1 = one for all rows; 2 = one per row */
    const float *scale, *zero;
};

struct linear {
    int64_t in, out;
    const uint8_t *panels;
    const int32_t *sums;       /* [out], sums of each output's weights */
    const float *weight_scale; /* [out] */
    const float *bias;         /* [out] or NULL */
    struct grid grid;
};

/* Round up to TOGETHER rows of n values to q, whose rows are padded to a multiple of 32; q_step is
   the distance from one cache line of a row to its next one, 64 where they are neighbours. Scales and
   zeros (with the offset) are measured, and 0 is returned where a value or a range is not finite;
   or they are read where the grid gives them, and a row with NaN gets a scale of NaN. */
int quantize_rows(const struct grid *, const float *x, int64_t stride, int64_t rows, int64_t n,
                  float *scale, int32_t *zero, uint8_t *q, int64_t q_stride, int64_t q_step);

/* c[rows, BLOCK] = or += a[rows, 4 steps] w, with w [BLOCK / PANEL][steps][PANEL][4], no a
   above `top`, and at most STRIP rows, all of which may be read and written. */
typedef void multiply_function(const uint8_t *a, int64_t stride, int64_t rows, const int8_t *w,
                               int64_t steps, int top, int add, int32_t *c);
multiply_function multiply_avx2;

/* NULL where the compiler was too old for them, see build.py. */
#define OPTIONAL __attribute__((weak))
OPTIONAL multiply_function multiply_avx512, multiply_amx;

/* AMX reads rows in tiles, a[STRIP / TILE][inputs / 64][TILE][64], from neighbouring addresses; a
   thread multiplies with it between these. */
OPTIONAL void begin_amx(void), end_amx(void);

/* `pieces` times 32 packed bytes to 64. */
void unpack(const uint8_t *packed, int64_t pieces, int8_t *w);

/* y[rows, outs] of the outputs from `first` on, from their sums c[rows, BLOCK]. */
void scale_sums(const int32_t *c, int64_t rows, int64_t outs, const struct linear *, int64_t first,
                const float *scale, const int32_t *zero, float *y);

/* products[n] = scale * round(softmax(q k^T score_scale) / scale) values[n] for each n, with one scale
   per row, on a grid from 0 to top that ends at `clip` times the row's largest weight. Keys that are
   not kept have no weight; a row without any key is 0, one with NaN is NaN. A row does not depend on
   the others, nor on keys that are not kept behind those that are. */
struct attention {
    int64_t requests, kv_heads, rows, length, size, count;
    const float *q;             /* [requests, kv_heads, rows, size] */
    const float *k;             /* [requests, kv_heads, length, size] */
    const float *const *values; /* count times as k */
    float *const *products;     /* count times as q */
    const uint8_t *keep;        /* [requests, length], or NULL where all are */
    float score_scale, top, clip;
};

/* Call item(context, 0 .. items - 1) on so many threads. `team` is the GOMP_parallel of the OpenMP library that torch runs on: there is one pool, which is never
   busy waiting for another one. */
typedef void item_function(void *context, int64_t index);
typedef void team_function(void (*)(void *), void *, unsigned, unsigned);
void share(item_function *, void *context, int64_t items, int threads, team_function *);

/* Before loops over sums that are to stay in registers. */
#define UNROLL _Pragma("GCC unroll 4")
#define UNROLL_6 _Pragma("GCC unroll 6")

#endif
