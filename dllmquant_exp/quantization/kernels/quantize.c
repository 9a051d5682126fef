/* Activations to whole numbers: as Range.parameters and to_integers of quantizers.py, operation by
   operation, so that every bit is the same. Built for AVX2. */

#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "packed_linear.h"

enum { WIDTH = 8, AT_ONCE = 4 * WIDTH };

static inline float largest(__m256 v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return fmaxf(_mm_cvtss_f32(m), _mm_cvtss_f32(_mm_movehdup_ps(m)));
}

/* The range of x and 0; returns 0 where a value is not finite. Four of each in turn, because one
   alone would wait for its predecessor. */
static int range(const float *x, int64_t n, float *lowest, float *highest)
{
    const __m256 none = _mm256_setzero_ps();
    __m256 low[4], high[4], nan[4]; /* nan: 0, or NaN once a value was not finite */
    UNROLL for (int j = 0; j < 4; j++)
        low[j] = high[j] = nan[j] = none;
    int64_t i = 0;
    for (; i + AT_ONCE <= n; i += AT_ONCE)
        UNROLL for (int j = 0; j < 4; j++) {
            __m256 v = _mm256_loadu_ps(x + i + j * WIDTH);
            low[j] = _mm256_min_ps(v, low[j]); /* leaves out NaN */
            high[j] = _mm256_max_ps(v, high[j]);
            nan[j] = _mm256_fmadd_ps(v, none, nan[j]);
        }
    for (; i < n; i++) { /* the other lanes are 0, which is in every range */
        __m256 v = _mm256_blend_ps(none, _mm256_set1_ps(x[i]), 1);
        low[0] = _mm256_min_ps(v, low[0]);
        high[0] = _mm256_max_ps(v, high[0]);
        nan[0] = _mm256_fmadd_ps(v, none, nan[0]);
    }
    for (int j = 1; j < 4; j++) {
        low[0] = _mm256_min_ps(low[0], low[j]);
        high[0] = _mm256_max_ps(high[0], high[j]);
        nan[0] = _mm256_add_ps(nan[0], nan[j]);
    }
    *lowest = -largest(_mm256_sub_ps(none, low[0]));
    *highest = largest(high[0]);
    return _mm256_movemask_ps(_mm256_cmp_ps(nan[0], nan[0], _CMP_UNORD_Q)) == 0;
}

static void parameters(const struct grid *grid, float low, float high, float *scale, int32_t *zero)
{
    low *= grid->clip;
    high *= grid->clip;
    *scale = (grid->symmetric ? fmaxf(high, -low) : high - low) / grid->divisor;
    if (!(*scale > FLT_MIN))
        *scale = 1;
    *zero = (grid->symmetric ? 0 : (int32_t)rintf(-low / *scale)) + grid->offset;
}

struct rounding {
    __m256 scale, inverse, zero, bottom, top, near_half;
};

static inline __m256 clamped(__m256 v, const struct rounding *r)
{
    return _mm256_min_ps(_mm256_max_ps(v, r->bottom), r->top);
}

static inline __m256i divided(__m256 x, const struct rounding *r)
{
    __m256 ratio = _mm256_div_ps(x, r->scale);
    __m256 whole = _mm256_round_ps(ratio, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm256_cvtps_epi32(clamped(_mm256_add_ps(whole, r->zero), r));
}

/* round(x / scale) + zero is what counts; x (1 / scale) + zero takes a third of the time. Between
   them lie three roundings, each by at most 2^-24 of |x / scale| + |zero|, and |x / scale| is at
   most top + |zero| + 1 unless both end at the same edge of the grid. So they can differ only where
   a value is that near to a half; such values are divided, with all that stand beside them. (An
   inverse below 2^-126 has an error of up to 2^-150, but all |x| < 2^128: 2^-22 in the product.) */
static inline void round_32(const float *x, const struct rounding *r, uint8_t *q)
{
    const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(INT32_MAX));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* packing mixes halves */
    __m256 furthest = _mm256_setzero_ps();
    __m256i i[4];
    UNROLL for (int j = 0; j < 4; j++) {
        __m256 v = _mm256_fmadd_ps(_mm256_loadu_ps(x + j * WIDTH), r->inverse, r->zero);
        v = clamped(v, r);
        i[j] = _mm256_cvtps_epi32(v); /* half to even */
        __m256 distance = _mm256_sub_ps(v, _mm256_cvtepi32_ps(i[j]));
        furthest = _mm256_max_ps(furthest, _mm256_and_ps(distance, no_sign));
    }
    if (_mm256_movemask_ps(_mm256_cmp_ps(furthest, r->near_half, _CMP_GT_OQ)))
        UNROLL for (int j = 0; j < 4; j++)
            i[j] = divided(_mm256_loadu_ps(x + j * WIDTH), r);
    __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(i[0], i[1]),
                                        _mm256_packus_epi32(i[2], i[3]));
    _mm256_storeu_si256((__m256i *)q, _mm256_permutevar8x32_epi32(bytes, order));
}

static void round_row(const struct grid *grid, const float *x, int64_t n, float scale, int32_t zero,
                      uint8_t *q, int64_t q_step)
{
    const float margin = (grid->top + fabsf((float)zero) + 1) * 0x1p-21f; /* above the bound */
    const struct rounding r = {
        .scale = _mm256_set1_ps(scale),
        .inverse = _mm256_set1_ps(1 / scale),
        .zero = _mm256_set1_ps((float)zero),
        .bottom = _mm256_set1_ps(grid->bottom),
        .top = _mm256_set1_ps(grid->top),
        .near_half = _mm256_set1_ps(0.5f - margin),
    };
    int64_t i = 0;
    for (; i + AT_ONCE <= n; i += AT_ONCE)
        round_32(x + i, &r, q + i / 64 * q_step + i % 64);
    if (i < n) {
        float rest[AT_ONCE] = {0};
        memcpy(rest, x + i, (n - i) * sizeof *x);
        round_32(rest, &r, q + i / 64 * q_step + i % 64);
    }
}

static int has_nan(const float *x, int64_t n)
{
    int found = 0;
    for (int64_t i = 0; i < n; i++)
        found |= x[i] != x[i];
    return found;
}

/* Ranges, then parameters, then numbers of all rows: no row waits for its own divisions. */
int quantize_rows(const struct grid *grid, const float *x, int64_t stride, int64_t rows, int64_t n,
                  float *scale, int32_t *zero, uint8_t *q, int64_t q_stride, int64_t q_step)
{
    float low[TOGETHER], high[TOGETHER];
    int finite = 1;
    if (grid->given)
        for (int64_t r = 0; r < rows; r++)
            scale[r] = has_nan(x + r * stride, n) ? NAN : scale[r]; /* and so is all of y */
    else {
        for (int64_t r = 0; r < rows; r++)
            finite &= range(x + r * stride, n, low + r, high + r) && isfinite(high[r] - low[r]);
        if (!finite)
            return 0;
        for (int64_t r = 0; r < rows; r++)
            parameters(grid, low[r], high[r], scale + r, zero + r);
    }
    for (int64_t r = 0; r < rows; r++)
        round_row(grid, x + r * stride, n, scale[r], zero[r], q + r * q_stride, q_step);
    return 1;
}
