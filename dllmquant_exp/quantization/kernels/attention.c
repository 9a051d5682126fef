/* Rounded attention weights times several matrices, head by head: scores, softmax, rounding and the
   products of a few rows at a time, which never leave the cache. Built for AVX2. */

#include <immintrin.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "packed_linear.h"

enum {
    WIDTH = 8,
    TILE_ROWS = 6,
    TILE_COLUMNS = 2 * WIDTH, /* 12 sums in registers */
    ITEM_ROWS = 20 * TILE_ROWS, /* at most, for one thread at a time */
};

/* c[TILE_ROWS, TILE_COLUMNS] = a[TILE_ROWS, depth] b[depth, TILE_COLUMNS], term by term. */
static inline void tile(const float *a, int64_t a_stride, const float *b, int64_t b_stride,
                        int64_t depth, float *c, int64_t c_stride)
{
    __m256 sums[TILE_ROWS][2];
    UNROLL_6 for (int r = 0; r < TILE_ROWS; r++)
        sums[r][0] = sums[r][1] = _mm256_setzero_ps();
    for (int64_t k = 0; k < depth; k++) {
        const __m256 b0 = _mm256_load_ps(b + k * b_stride);
        const __m256 b1 = _mm256_load_ps(b + k * b_stride + WIDTH);
        UNROLL_6 for (int r = 0; r < TILE_ROWS; r++) {
            const __m256 one = _mm256_broadcast_ss(a + r * a_stride + k);
            sums[r][0] = _mm256_fmadd_ps(one, b0, sums[r][0]);
            sums[r][1] = _mm256_fmadd_ps(one, b1, sums[r][1]);
        }
    }
    UNROLL_6 for (int r = 0; r < TILE_ROWS; r++) {
        _mm256_store_ps(c + r * c_stride, sums[r][0]);
        _mm256_store_ps(c + r * c_stride + WIDTH, sums[r][1]);
    }
}

/* exp(x) for x <= 0, to about 2^-22 of its size: Cephes' polynomial for expf. 0 below -87; NaN
   stays, as the second of two numbers, one of which is NaN, is what max and min return. */
static inline __m256 exponential(__m256 x)
{
    const __m256 lowest = _mm256_set1_ps(-87);
    const __m256 above = _mm256_cmp_ps(x, lowest, _CMP_NLT_UQ);
    x = _mm256_max_ps(lowest, x);
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 y = _mm256_set1_ps(1.9875691500e-4f);
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(1.3981999507e-3f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(8.3334519073e-3f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(4.1665795894e-2f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(1.6666665459e-1f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(5.0000001201e-1f));
    y = _mm256_fmadd_ps(y, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1)));
    const __m256i power = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    y = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), power));
    return _mm256_and_ps(_mm256_or_ps(y, _mm256_cmp_ps(x, x, _CMP_UNORD_Q)), above); /* NaN: all 1 */
}

static inline float largest(__m256 v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return fmaxf(_mm_cvtss_f32(m), _mm_cvtss_f32(_mm_movehdup_ps(m)));
}

static inline float sum(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(s) + _mm_cvtss_f32(_mm_movehdup_ps(s));
}

struct call {
    const struct attention *of;
    int64_t chunks;    /* of a head's rows */
    atomic_int memory; /* 0 once a thread had none */
};

/* A row of scores becomes whole numbers; returns their scale. With e_i = exp(s_i - max s) and
   Z = sum_i e_i the softmax is e_i / Z, its largest value 1 / Z, and the scale clip / (top Z): so
   numbers are round(top e_i / clip), and Z is needed for the scale only. */
static float round_row(const struct attention *a, const float *mask, int64_t width, float *s)
{
    __m256 high = _mm256_set1_ps(-INFINITY), total = _mm256_setzero_ps();
    for (int64_t i = 0; i < width; i += WIDTH) {
        __m256 v = _mm256_mul_ps(_mm256_load_ps(s + i), _mm256_set1_ps(a->score_scale));
        v = _mm256_add_ps(v, _mm256_load_ps(mask + i));
        _mm256_store_ps(s + i, v);
        high = _mm256_max_ps(v, high);
    }
    const float peak = largest(high);
    const __m256 top = _mm256_set1_ps(a->top), steps = _mm256_set1_ps(a->top / a->clip);
    for (int64_t i = 0; i < width; i += WIDTH) {
        const __m256 e = exponential(_mm256_sub_ps(_mm256_load_ps(s + i), _mm256_set1_ps(peak)));
        total = _mm256_add_ps(total, e);
        __m256 n = _mm256_min_ps(top, _mm256_mul_ps(e, steps));
        n = _mm256_round_ps(n, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_store_ps(s + i, n);
    }
    return a->clip / (a->top * sum(total));
}

static int64_t padded(int64_t n)
{
    return (n + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS;
}

/* A chunk of the rows of one head of K and V. */
static void attend_chunk(void *context, int64_t index)
{
    struct call *call = context;
    const struct attention *a = call->of;
    const int64_t head = index / call->chunks, first = index % call->chunks * ITEM_ROWS;
    const int64_t end = first + ITEM_ROWS < a->rows ? first + ITEM_ROWS : a->rows;
    const int64_t length = padded(a->length), size = padded(a->size), matrix = a->length * size;
    const int64_t floats = a->size * length + a->count * matrix + length +
                           TILE_ROWS * (length + size + a->size);
    float *const keys = aligned_alloc(64, (floats + 15) / 16 * 64); /* [size, length] */
    if (keys == NULL) {
        call->memory = 0;
        return;
    }
    float *const values = keys + a->size * length; /* count times [a->length, size] */
    float *const mask = values + a->count * matrix;
    float *const s = mask + length;           /* [TILE_ROWS, length], scores, then whole numbers */
    float *const y = s + TILE_ROWS * length;  /* [TILE_ROWS, size] */
    float *const q = y + TILE_ROWS * size;    /* [TILE_ROWS, a->size] */
    const int64_t request = head / a->kv_heads;

    memset(keys, 0, (a->size * length + a->count * matrix) * sizeof *keys);
    int any = 0;
    for (int64_t t = 0; t < length; t++) {
        const int there = t < a->length && (!a->keep || a->keep[request * a->length + t]);
        mask[t] = there ? 0 : -INFINITY;
        any |= there;
    }
    for (int64_t t = 0; t < a->length; t++) {
        const int64_t from = (head * a->length + t) * a->size;
        for (int64_t d = 0; d < a->size; d++)
            keys[d * length + t] = a->k[from + d];
        for (int64_t n = 0; n < a->count; n++)
            memcpy(values + n * matrix + t * size, a->values[n] + from, a->size * sizeof *keys);
    }
    for (int64_t row = first; row < end; row += TILE_ROWS) {
        const int64_t left = end - row, rows = left < TILE_ROWS ? left : TILE_ROWS;
        const int64_t from = (head * a->rows + row) * a->size;
        float scale[TILE_ROWS];
        memset(q, 0, TILE_ROWS * a->size * sizeof *q);
        memcpy(q, a->q + from, rows * a->size * sizeof *q);
        for (int64_t t = 0; t < length; t += TILE_COLUMNS)
            tile(q, a->size, keys + t, length, a->size, s + t, length);
        for (int64_t r = 0; r < TILE_ROWS; r++)
            scale[r] = round_row(a, mask, length, s + r * length);
        for (int64_t n = 0; n < a->count; n++) {
            for (int64_t d = 0; d < size; d += TILE_COLUMNS)
                tile(s, length, values + n * matrix + d, size, a->length, y + d, size);
            float *to = a->products[n] + from;
            for (int64_t r = 0; r < rows; r++)
                for (int64_t d = 0; d < a->size; d++)
                    to[r * a->size + d] = any ? y[r * size + d] * scale[r] : 0;
        }
    }
    free(keys);
}

/* See struct attention. Returns DONE or NO_MEMORY. */
int rounded_attention(const struct attention *attention, int threads, team_function *team)
{
    const int64_t heads = attention->requests * attention->kv_heads;
    struct call call = {attention, (attention->rows + ITEM_ROWS - 1) / ITEM_ROWS, 1};
    share(attend_chunk, &call, heads * call.chunks, threads, team);
    return call.memory ? DONE : NO_MEMORY;
}
