/* What happens to a block of outputs before and after its product. Plain loops: built for AVX2, the
   compiler makes them vectors. */

#include <stddef.h>

#include "packed_linear.h"

void unpack(const uint8_t *restrict packed, int64_t pieces, int8_t *restrict w)
{
    for (int64_t p = 0; p < pieces; p++, packed += 32, w += 64)
        for (int i = 0; i < 32; i++) {
            w[i] = (int8_t)((packed[i] & 15) - 8);
            w[32 + i] = (int8_t)((packed[i] >> 4) - 8);
        }
}

static inline void scale_row(const int32_t *restrict c, int64_t outs, const struct linear *l,
                             int64_t first, float scale, int32_t zero, float *restrict y)
{
    const int32_t *restrict sums = l->sums + first;
    const float *restrict weight_scale = l->weight_scale + first;
    if (l->bias == NULL)
        for (int64_t i = 0; i < outs; i++)
            y[i] = (float)(c[i] - zero * sums[i]) * weight_scale[i] * scale;
    else {
        const float *restrict bias = l->bias + first;
        for (int64_t i = 0; i < outs; i++)
            y[i] = (float)(c[i] - zero * sums[i]) * weight_scale[i] * scale + bias[i];
    }
}

void scale_sums(const int32_t *c, int64_t rows, int64_t outs, const struct linear *l, int64_t first,
                const float *scale, const int32_t *zero, float *y)
{
    for (int64_t r = 0; r < rows; r++, c += BLOCK, y += l->out)
        if (outs == BLOCK) /* a constant, so that there is no remainder to look for */
            scale_row(c, BLOCK, l, first, scale[r], zero[r], y);
        else
            scale_row(c, outs, l, first, scale[r], zero[r], y);
}
