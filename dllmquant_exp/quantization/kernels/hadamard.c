/* Rows times Hadamard matrices, x (W (x) F (x) I_inner) / sqrt(power * order), in float32: W is
   Sylvester's [power, power] and takes butterflies, F [order, order] is any matrix of +-1. Built
   for AVX2. */

#include <immintrin.h>
#include <math.h>

#include "packed_linear.h"

enum { WIDTH = 8 };

struct rotation {
    int64_t power, order, inner;
    const float *factor; /* F */
};

static inline __m256i first_lanes(int64_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n < WIDTH ? (int)n : WIDTH),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* y[g, j] = norm sum_i x[g, i] f[i, j] for x, y [groups, order]; groups is a constant up to 4. */
static inline __attribute__((always_inline)) void
mix_groups(const float *f, int64_t order, int groups, const float *x, float norm, float *y)
{
    for (int64_t j = 0; j < order; j += 2 * WIDTH) {
        const __m256i lanes[2] = {first_lanes(order - j), first_lanes(order - j - WIDTH)};
        __m256 sums[4][2];
        UNROLL for (int g = 0; g < groups; g++)
            sums[g][0] = sums[g][1] = _mm256_setzero_ps();
        for (int64_t i = 0; i < order; i++) {
            const __m256 f0 = _mm256_maskload_ps(f + i * order + j, lanes[0]);
            const __m256 f1 = _mm256_maskload_ps(f + i * order + j + WIDTH, lanes[1]);
            UNROLL for (int g = 0; g < groups; g++) {
                const __m256 a = _mm256_broadcast_ss(x + g * order + i);
                sums[g][0] = _mm256_fmadd_ps(a, f0, sums[g][0]);
                sums[g][1] = _mm256_fmadd_ps(a, f1, sums[g][1]);
            }
        }
        UNROLL for (int g = 0; g < groups; g++)
            UNROLL for (int half = 0; half < 2; half++)
                _mm256_maskstore_ps(y + g * order + j + half * WIDTH, lanes[half],
                                    _mm256_mul_ps(sums[g][half], _mm256_set1_ps(norm)));
    }
}

/* y[j, c] = norm sum_i x[i, c] f[i, j] for x, y [order, inner]. */
static void mix_inner(const float *f, int64_t order, int64_t inner, const float *x, float norm,
                      float *y)
{
    for (int64_t c = 0; c < inner; c += WIDTH) {
        const __m256i lanes = first_lanes(inner - c);
        for (int64_t j = 0; j < order; j++) {
            __m256 sum = _mm256_setzero_ps();
            for (int64_t i = 0; i < order; i++)
                sum = _mm256_fmadd_ps(_mm256_broadcast_ss(f + i * order + j),
                                      _mm256_maskload_ps(x + i * inner + c, lanes), sum);
            _mm256_maskstore_ps(y + j * inner + c, lanes, _mm256_mul_ps(sum, _mm256_set1_ps(norm)));
        }
    }
}

/* y = norm x W_8 for 8 values. */
static inline void walsh8(const float *x, float norm, float *y)
{
    const __m256 ones = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
    const __m256 twos = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
    const __m256 fours = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
    __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x), _mm256_set1_ps(norm));
    v = _mm256_fmadd_ps(v, ones, _mm256_permute_ps(v, 0xB1));
    v = _mm256_fmadd_ps(v, twos, _mm256_permute_ps(v, 0x4E));
    v = _mm256_fmadd_ps(v, fours, _mm256_permute2f128_ps(v, v, 1));
    _mm256_storeu_ps(y, v);
}

/* y = norm x (I (x) F (x) I_inner); returns how many neighbours are mixed with each other. */
static int64_t mix(const struct rotation *r, const float *x, float norm, float *y)
{
    const int64_t group = r->order * r->inner, size = r->power * group;
    if (group == 1 && size >= WIDTH) { /* F is 1: three stages of W instead */
        for (int64_t g = 0; g < size; g += WIDTH)
            walsh8(x + g, norm, y + g);
        return WIDTH;
    }
    if (r->inner == 1 && r->power >= 4)
        for (int64_t g = 0; g < size; g += 4 * group)
            mix_groups(r->factor, group, 4, x + g, norm, y + g);
    else if (r->inner == 1)
        for (int64_t g = 0; g < size; g += group)
            mix_groups(r->factor, group, 1, x + g, norm, y + g);
    else
        for (int64_t g = 0; g < size; g += group)
            mix_inner(r->factor, r->order, r->inner, x + g, norm, y + g);
    return group;
}

/* Two stages of butterflies, W_4, on four vectors. */
static inline void butterfly_vectors(float *x, int64_t span)
{
    const __m256 a = _mm256_loadu_ps(x), b = _mm256_loadu_ps(x + span);
    const __m256 c = _mm256_loadu_ps(x + 2 * span), d = _mm256_loadu_ps(x + 3 * span);
    const __m256 a_plus_b = _mm256_add_ps(a, b), a_minus_b = _mm256_sub_ps(a, b);
    const __m256 c_plus_d = _mm256_add_ps(c, d), c_minus_d = _mm256_sub_ps(c, d);
    _mm256_storeu_ps(x, _mm256_add_ps(a_plus_b, c_plus_d));
    _mm256_storeu_ps(x + span, _mm256_add_ps(a_minus_b, c_minus_d));
    _mm256_storeu_ps(x + 2 * span, _mm256_sub_ps(a_plus_b, c_plus_d));
    _mm256_storeu_ps(x + 3 * span, _mm256_sub_ps(a_minus_b, c_minus_d));
}

static inline void butterfly(float *x, int64_t span)
{
    const float a = x[0], b = x[span];
    x[0] = a + b;
    x[span] = a - b;
}

/* W_4 on x[0..span), x[span..2 span), ... */
static void butterflies(float *x, int64_t span)
{
    int64_t j = 0;
    for (; j + WIDTH <= span; j += WIDTH)
        butterfly_vectors(x + j, span);
    for (; j < span; j++) {
        butterfly(x + j, span);
        butterfly(x + j + 2 * span, span);
        butterfly(x + j, 2 * span);
        butterfly(x + j + span, 2 * span);
    }
}

static void rotate_row(const struct rotation *r, const float *x, float *y)
{
    const int64_t size = r->power * r->order * r->inner;
    int64_t span = mix(r, x, 1 / sqrtf((float)(r->power * r->order)), y);
    for (; 4 * span <= size; span *= 4)
        for (int64_t base = 0; base < size; base += 4 * span)
            butterflies(y + base, span);
    if (span < size)
        for (int64_t j = 0; j < span; j++)
            butterfly(y + j, span);
}

struct call {
    struct rotation rotation;
    const float *x;
    int64_t x_stride, rows, at_once;
    float *y;
};

static void rotate_some(void *context, int64_t index)
{
    const struct call *call = context;
    const int64_t size = call->rotation.power * call->rotation.order * call->rotation.inner;
    for (int64_t r = index * call->at_once; r < (index + 1) * call->at_once && r < call->rows; r++)
        rotate_row(&call->rotation, call->x + r * call->x_stride, call->y + r * size);
}

/* y [rows, power * order * inner] of x [rows, x_stride], which must not overlap. */
void rotate_rows(int64_t power, int64_t order, int64_t inner, const float *factor, const float *x,
                 int64_t x_stride, int64_t rows, float *y, int threads, team_function *team)
{
    const int64_t at_once = 1 + 16384 / (power * order * inner); /* some microseconds */
    struct call call = {{power, order, inner, factor}, x, x_stride, rows, at_once, y};
    share(rotate_some, &call, (rows + at_once - 1) / at_once, threads, team);
}
