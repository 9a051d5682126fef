"""The compiled kernels behind Python functions on arrays of memory: what the C headers declare.

Threads come from the OpenMP library that torch runs on, through its `GOMP_parallel`: there is one
pool, which is never busy waiting for another one.
"""

import ctypes
import functools
import logging
import os
from ctypes import POINTER, c_float, c_int, c_int32, c_int64, c_void_p
from typing import Any

import torch

from dllmquant_exp.quantization.kernels.build import BuildError, library_path

logger = logging.getLogger(__name__)

REFERENCE = "reference"
LEVELS = ("avx2", "avx512_vnni", "amx")  # as in packed_linear.c, from 1
LIMIT = "DLLMQUANT_KERNELS"  # environment: the best of these to use, or "reference"
DONE, NOT_FINITE, NO_MEMORY = range(3)


class Grid(ctypes.Structure):
    """`struct grid` of packed_linear.h."""

    _fields_ = [
        ("bottom", c_float),
        ("top", c_float),
        ("divisor", c_float),
        ("clip", c_float),
        ("offset", c_int32),
        ("symmetric", c_int32),
        ("given", c_int32),
        ("scale", c_void_p),
        ("zero", c_void_p),
    ]


class Linear(ctypes.Structure):
    """`struct linear` of packed_linear.h."""

    _fields_ = [
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("panels", c_void_p),
        ("sums", c_void_p),
        ("weight_scale", c_void_p),
        ("bias", c_void_p),
        ("grid", Grid),
    ]


class Attention(ctypes.Structure):
    """`struct attention` of packed_linear.h."""

    _fields_ = [
        *((name, c_int64) for name in ("requests", "kv_heads", "rows", "length", "size", "count")),
        *((name, c_void_p) for name in ("q", "k", "values", "products", "keep")),
        *((name, c_float) for name in ("score_scale", "top", "clip")),
    ]


class Kernels:
    """The loaded library.

    Attributes:
        levels: the instruction sets that this machine has and `LIMIT` allows, of `LEVELS`; the
            last is used.
    """

    def __init__(self, library: ctypes.CDLL, team: int) -> None:
        self._team = team
        self._packed_linear: Any = library.packed_linear
        self._packed_linear.argtypes = [
            POINTER(Linear), c_void_p, c_int64, c_int64, c_void_p, c_int, c_int, c_void_p,
        ]  # fmt: skip
        self._rotate_rows: Any = library.rotate_rows
        self._rotate_rows.argtypes = [
            c_int64, c_int64, c_int64, c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_int,
            c_void_p,
        ]  # fmt: skip
        self._rotate_rows.restype = None
        self._rounded_attention: Any = library.rounded_attention
        self._rounded_attention.argtypes = [POINTER(Attention), c_int, c_void_p]
        self.levels = allowed_levels()[: library.best_level()]

    def packed_linear(self, linear: Linear, x: torch.Tensor, y: torch.Tensor) -> int:
        """y [rows, out] of x [rows, in], float32; x with contiguous rows, y contiguous.

        Returns:
            DONE, NOT_FINITE or NO_MEMORY.
        """
        result: int = self._packed_linear(
            linear, x.data_ptr(), x.stride(0), len(x), y.data_ptr(), len(self.levels),
            torch.get_num_threads(), self._team,
        )  # fmt: skip
        return result

    def rotate_rows(
        self, power: int, factor: torch.Tensor, inner: int, x: torch.Tensor, y: torch.Tensor
    ) -> None:
        """y = x (W_power (x) factor (x) I_inner) / sqrt(power * order), see hadamard.c.

        Args:
            factor: [order, order], float32, contiguous.
            x, y: [rows, power * order * inner], float32; x with contiguous rows, y contiguous.
        """
        self._rotate_rows(
            power, len(factor), inner, factor.data_ptr(), x.data_ptr(), x.stride(0), len(x),
            y.data_ptr(), torch.get_num_threads(), self._team,
        )  # fmt: skip

    def rounded_attention(self, attention: Attention) -> int:
        """Fill what `products` points to; DONE or NO_MEMORY."""
        result: int = self._rounded_attention(attention, torch.get_num_threads(), self._team)
        return result


@functools.cache
def kernels() -> Kernels | None:
    """The kernels, compiled if need be; None where they cannot run, which is logged once.

    Raises:
        ValueError: `LIMIT` is set to something else.
    """
    if os.environ.get(LIMIT) == REFERENCE:
        _notice(f"{LIMIT}={REFERENCE}")
        return None
    try:
        library = ctypes.CDLL(str(library_path()))
        team = ctypes.cast(ctypes.CDLL(None).GOMP_parallel, c_void_p).value
        assert team is not None
        loaded = Kernels(library, team)
    except (BuildError, OSError, AttributeError) as error:
        _notice(str(error))
        return None
    if not loaded.levels:
        _notice("this processor has no AVX2 and FMA")
        return None
    return loaded


def allowed_levels() -> tuple[str, ...]:
    """Levels of `LEVELS` that the environment's `LIMIT` allows: all, unless it is set.

    Raises:
        ValueError: it is set to something else.
    """
    limit = os.environ.get(LIMIT)
    if not limit:
        return LEVELS
    if limit not in (REFERENCE, *LEVELS):
        words = ", ".join((REFERENCE, *LEVELS))
        raise ValueError(f"{LIMIT}={limit} is not one of: {words}")
    return () if limit == REFERENCE else LEVELS[: LEVELS.index(limit) + 1]


def _notice(reason: str) -> None:
    logger.warning(
        "packed layers run as reference execution, online rotations and quantized attention as "
        "products of matrices: the same results (the latter two up to rounding), but no speed: %s",
        reason,
    )


def execution() -> str:
    """Execution of packed layers on this machine: the best of its `LEVELS`, or "reference"."""
    found = kernels()
    return REFERENCE if found is None else found.levels[-1]
