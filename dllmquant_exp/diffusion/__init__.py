"""Diffusion decoding and likelihood: what a masked diffusion language model is asked to do.

`generate` decodes responses, `log_likelihoods` scores targets. Both take any number of requests of
any length, batch them, and give each the answer that it would get alone.
"""

from dllmquant_exp.diffusion.decoding import Generations, generate
from dllmquant_exp.diffusion.likelihood import (
    LikelihoodRequest,
    LikelihoodResult,
    log_likelihoods,
)
from dllmquant_exp.diffusion.settings import (
    DecodingSettings,
    DiffusionError,
    LikelihoodSettings,
)

__all__ = [
    "DecodingSettings",
    "DiffusionError",
    "Generations",
    "LikelihoodRequest",
    "LikelihoodResult",
    "LikelihoodSettings",
    "generate",
    "log_likelihoods",
]
