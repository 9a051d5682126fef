/* AVX2: maddubs multiplies bytes and adds neighbours, into 16 bits that saturate. A step of four
   inputs adds at most 2 * 8 * top to each, so that 136 steps fit for activations of 4 bits and 8
   steps for those of 8 bits; then the sums are widened to 32 bits. */

#include <immintrin.h>
#include <string.h>

#include "packed_linear.h"

enum { ROWS = 4 }; /* rows: their 8 sums stay in registers */

/* The sum in place: from the intrinsic, GCC 12 copies every sum back and forth. */
static inline void add_products(__m256i *sums, __m256i a, __m256i w)
{
    __asm__("vpaddw %1, %0, %0" : "+x"(*sums) : "x"(_mm256_maddubs_epi16(a, w)));
}

static inline void store_widened(__m256i sums, int add, int32_t *c)
{
    __m256i wide = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
    if (add)
        wide = _mm256_add_epi32(wide, _mm256_load_si256((const __m256i *)c));
    _mm256_store_si256((__m256i *)c, wide);
}

/* c[ROWS, PANEL] */
static inline void tile(const uint8_t *a, int64_t stride, const int8_t *w, int64_t steps,
                        int64_t limit, int add, int32_t *c)
{
    for (int64_t from = 0; from < steps; from += limit, add = 1) {
        const int64_t to = from + limit < steps ? from + limit : steps;
        __m256i sums[ROWS][2];
        UNROLL for (int r = 0; r < ROWS; r++)
            sums[r][0] = sums[r][1] = _mm256_setzero_si256();
        for (int64_t k = from; k < to; k++) {
            const __m256i w0 = _mm256_load_si256((const __m256i *)(w + 64 * k));
            const __m256i w1 = _mm256_load_si256((const __m256i *)(w + 64 * k + 32));
            UNROLL for (int r = 0; r < ROWS; r++) {
                int32_t four;
                memcpy(&four, a + r * stride + 4 * k, 4);
                add_products(&sums[r][0], _mm256_set1_epi32(four), w0);
                add_products(&sums[r][1], _mm256_set1_epi32(four), w1);
            }
        }
        UNROLL for (int r = 0; r < ROWS; r++)
            UNROLL for (int half = 0; half < 2; half++)
                store_widened(sums[r][half], add, c + r * BLOCK + 8 * half);
    }
}

void multiply_avx2(const uint8_t *a, int64_t stride, int64_t rows, const int8_t *w, int64_t steps,
                   int top, int add, int32_t *c)
{
    const int64_t limit = INT16_MAX / (2 * 8 * top);
    for (int p = 0; p < BLOCK / PANEL; p++)
        for (int64_t r = 0; r < rows; r += ROWS)
            tile(a + r * stride, stride, w + p * 4 * PANEL * steps, steps, limit, add,
                 c + r * BLOCK + p * PANEL);
}
