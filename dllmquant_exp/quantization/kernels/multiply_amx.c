/* AMX: an instruction multiplies tiles of bytes, [16 rows, 64 inputs] by [64 inputs, 16 outputs],
   and adds them to 32 bits. */

#include <immintrin.h>

#include "packed_linear.h"

/* In memory of its own: the compiler does not see that the instruction reads all of it. */
static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} config = {
    .palette = 1,
    .bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {TILE, TILE, TILE, TILE, TILE, TILE, TILE, TILE},
};

void begin_amx(void)
{
    _tile_loadconfig(&config);
}

void end_amx(void)
{
    _tile_release();
}

/* c[2 TILE, 2 PANEL] in tiles 0..3; 4 and 5 are rows of a, 6 and 7 panels of w. */
static inline void tiles(const uint8_t *a, int64_t stride, const int8_t *w, int64_t steps, int add,
                         int32_t *c)
{
    const int64_t line = BLOCK * sizeof *c, below = TILE * BLOCK;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    if (add) {
        _tile_loadd(0, c, line);
        _tile_loadd(1, c + PANEL, line);
        _tile_loadd(2, c + below, line);
        _tile_loadd(3, c + below + PANEL, line);
    }
    for (int64_t k = 0; k < steps; k += TILE) {
        _tile_loadd(4, a + 64 * k, 64);
        _tile_loadd(6, w + 64 * k, 64);
        _tile_loadd(7, w + 4 * PANEL * steps + 64 * k, 64);
        _tile_loadd(5, a + TILE * stride + 64 * k, 64);
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
    }
    _tile_stored(0, c, line);
    _tile_stored(1, c + PANEL, line);
    _tile_stored(2, c + below, line);
    _tile_stored(3, c + below + PANEL, line);
}

void multiply_amx(const uint8_t *a, int64_t stride, int64_t rows, const int8_t *w, int64_t steps,
                  int top, int add, int32_t *c)
{
    (void)rows; /* at most STRIP, two tiles */
    (void)top;
    for (int p = 0; p < BLOCK / PANEL; p += 2)
        tiles(a, stride, w + p * 4 * PANEL * steps, steps, add, c + p * PANEL);
}
