"""Low-bit products on the processor, in C. build.py compiles them, library.py calls them."""

from dllmquant_exp.quantization.kernels.library import REFERENCE, execution, kernels

__all__ = ["REFERENCE", "execution", "kernels"]
