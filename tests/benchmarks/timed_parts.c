/* Time in the parts of a packed layer: packed_linear.py --profile links this in front of them, by
   the linker's --wrap, so that the kernels themselves know nothing of it. */

#include <stdatomic.h>
#include <x86intrin.h>

#include "packed_linear.h"

enum { ROUNDING, UNPACKING, MULTIPLYING, SCALING };
atomic_ullong spent[4]; /* ticks, of all threads */

unsigned long long ticks(void)
{
    return __rdtsc();
}

#define COUNTED(part, call)                                                                      \
    const unsigned long long start = __rdtsc();                                                  \
    call;                                                                                        \
    atomic_fetch_add_explicit(&spent[part], __rdtsc() - start, memory_order_relaxed)

__typeof__(quantize_rows) __real_quantize_rows, __wrap_quantize_rows;
int __wrap_quantize_rows(const struct grid *grid, const float *x, int64_t stride, int64_t rows,
                         int64_t n, float *scale, int32_t *zero, uint8_t *q, int64_t q_stride,
                         int64_t q_step)
{
    COUNTED(ROUNDING, const int done = __real_quantize_rows(grid, x, stride, rows, n, scale, zero,
                                                            q, q_stride, q_step));
    return done;
}

__typeof__(unpack) __real_unpack, __wrap_unpack;
void __wrap_unpack(const uint8_t *packed, int64_t pieces, int8_t *w)
{
    COUNTED(UNPACKING, __real_unpack(packed, pieces, w));
}

#define MULTIPLY(name)                                                                           \
    multiply_function __real_##name, __wrap_##name;                                              \
    void __wrap_##name(const uint8_t *a, int64_t stride, int64_t rows, const int8_t *w,          \
                       int64_t steps, int top, int add, int32_t *c)                              \
    {                                                                                            \
        COUNTED(MULTIPLYING, __real_##name(a, stride, rows, w, steps, top, add, c));             \
    }
MULTIPLY(multiply_avx2)
MULTIPLY(multiply_avx512)
MULTIPLY(multiply_amx)

__typeof__(scale_sums) __real_scale_sums, __wrap_scale_sums;
void __wrap_scale_sums(const int32_t *c, int64_t rows, int64_t outs, const struct linear *l,
                       int64_t first, const float *scale, const int32_t *zero, float *y)
{
    COUNTED(SCALING, __real_scale_sums(c, rows, outs, l, first, scale, zero, y));
}
