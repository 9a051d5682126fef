"""Calibration: which inputs a quantization method measures, and what each of their tokens weighs.

sampler                      the protocol of samplers: settings, and a method that makes a set
random_segments, llm_qat,    the samplers: text, texts that the model writes, states at evenly
uniform_time, tmas           spaced steps, Algorithm 1
sources                      texts and prompts, from training splits
confidence                   the full-precision model's confidence at every token
weighting, cgq               the protocol of token weightings; mask and confidence (Eq. 10)
collect, storage             a sampler's set, made once and kept by a hash of what made it
"""

from dllmquant_exp.calibration.states import (
    CalibrationBatch,
    CalibrationError,
    CalibrationSet,
    CalibrationState,
    batches,
)

__all__ = [
    "CalibrationBatch",
    "CalibrationError",
    "CalibrationSet",
    "CalibrationState",
    "batches",
]
