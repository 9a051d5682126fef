"""Abilities of a machine that decide how fast low bits and full precision run on it."""

from typing import Any

import torch

from dllmquant_exp.quantization.kernels import REFERENCE, execution
from dllmquant_exp.quantization.kernels.build import library_path


def native_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16, with AMX or AVX-512 BF16, and oneDNN may use it
    (ONEDNN_MAX_CPU_ISA=AVX2 forbids it)."""
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return bool(native and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def abilities() -> dict[str, Any]:
    """Execution of packed layers, file of their kernels, and native products of bfloat16.

    The file's name tells what it is made from; None where the layers run as reference.
    """
    how = execution()
    library = None if how == REFERENCE else library_path().name
    return {"execution": how, "kernels": library, "native_bfloat16": native_bfloat16()}
