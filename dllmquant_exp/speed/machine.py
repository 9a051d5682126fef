"""What of a machine decides how fast low bits and full precision run on it."""

from typing import Any

from dllmquant_exp.quantization.kernels import REFERENCE, execution
from dllmquant_exp.quantization.kernels.build import library_path
from dllmquant_exp.speed.full_precision import native_bfloat16


def abilities() -> dict[str, Any]:
    """How packed layers run, the file of their kernels (named by what it is made from; None where
    they run as reference), and whether the processor multiplies bfloat16."""
    how = execution()
    library = None if how == REFERENCE else library_path().name
    return {"execution": how, "kernels": library, "native_bfloat16": native_bfloat16()}
