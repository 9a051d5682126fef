/* AVX-512 VNNI: an instruction multiplies 64 pairs of bytes and adds fours of them to 32 bits. */

#include <immintrin.h>
#include <string.h>

#include "packed_linear.h"

enum { ROWS = 4, PANELS = BLOCK / PANEL }; /* 16 sums in registers */

/* _mm512_dpbusd_epi32 in place: from the intrinsic, GCC 12 copies every sum back and forth. */
static inline void add_products(__m512i *sums, __m512i a, __m512i w)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sums) : "v"(a), "v"(w));
}

/* c[ROWS, BLOCK] */
static inline void tile(const uint8_t *a, int64_t stride, const int8_t *w, int64_t steps, int add,
                        int32_t *c)
{
    __m512i sums[ROWS][PANELS];
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int p = 0; p < PANELS; p++)
            sums[r][p] = _mm512_setzero_si512();
    for (int64_t k = 0; k < steps; k++) {
        __m512i column[PANELS];
        UNROLL for (int p = 0; p < PANELS; p++)
            column[p] = _mm512_load_si512(w + p * 4 * PANEL * steps + 64 * k);
        UNROLL for (int r = 0; r < ROWS; r++) {
            int32_t four;
            memcpy(&four, a + r * stride + 4 * k, 4);
            UNROLL for (int p = 0; p < PANELS; p++)
                add_products(&sums[r][p], _mm512_set1_epi32(four), column[p]);
        }
    }
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int p = 0; p < PANELS; p++) {
            int32_t *to = c + r * BLOCK + p * PANEL;
            if (add)
                sums[r][p] = _mm512_add_epi32(sums[r][p], _mm512_load_si512(to));
            _mm512_store_si512(to, sums[r][p]);
        }
}

void multiply_avx512(const uint8_t *a, int64_t stride, int64_t rows, const int8_t *w, int64_t steps,
                     int top, int add, int32_t *c)
{
    (void)top;
    for (int64_t r = 0; r < rows; r += ROWS)
        tile(a + r * stride, stride, w, steps, add, c + r * BLOCK);
}
