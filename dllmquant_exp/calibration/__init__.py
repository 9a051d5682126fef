"""Calibration: which inputs a quantization method measures, and what each of their tokens weighs.

sources    texts and prompts, from training splits
sampling   random segments, self-generated, uniform time; tmas: Algorithm 1
scoring    the full-precision model's confidence at every token
cgq        token weights from mask and confidence (Eq. 10)
storage    sets on disk, by a hash of what made them
"""

from dllmquant_exp.calibration.cgq import CgqSettings, batch_weights, token_weights, weight_report
from dllmquant_exp.calibration.sampling import (
    equal_tokens,
    random_segments,
    self_generated,
    uniform_time,
)
from dllmquant_exp.calibration.scoring import scored
from dllmquant_exp.calibration.sources import (
    CalibrationText,
    disjoint,
    embedded_evaluation_items,
    embedded_texts,
    official_texts,
)
from dllmquant_exp.calibration.states import (
    CalibrationBatch,
    CalibrationError,
    CalibrationSet,
    CalibrationState,
    batches,
)
from dllmquant_exp.calibration.storage import cached, load, save
from dllmquant_exp.calibration.tmas import TmasSettings, tmas

__all__ = [
    "CalibrationBatch",
    "CalibrationError",
    "CalibrationSet",
    "CalibrationState",
    "CalibrationText",
    "CgqSettings",
    "TmasSettings",
    "batch_weights",
    "batches",
    "cached",
    "disjoint",
    "embedded_evaluation_items",
    "embedded_texts",
    "equal_tokens",
    "load",
    "official_texts",
    "random_segments",
    "save",
    "scored",
    "self_generated",
    "tmas",
    "token_weights",
    "uniform_time",
    "weight_report",
]
