"""The rows of the paper's tables, recognised by a result's resolved configuration.

One entry per option of conf/row, in its words: what is done to the weights (rotation, AWQ, GPTQ;
nothing: round to nearest), what is calibrated on, CGQ's parts, IA-AQ, and whether activation ranges
are static. Bits are not part of a row; sizes of calibration sets neither, so that a control with
as many samples as another row is a variant of its own row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

SPEED_TABLE = "table4"  # the only one of them without scores
Sampler = Literal["random", "llm_qat", "uniform_time", "tmas"]
Part = Literal["rotation", "awq", "gptq"]
Bits = tuple[object, ...]
QUAROT: frozenset[Part] = frozenset({"rotation", "gptq"})
AWQ: frozenset[Part] = frozenset({"awq"})


@dataclass(frozen=True)
class Recipe:
    """What makes a row."""

    parts: frozenset[Part] = frozenset()
    quantized: bool = True
    calibration: Sampler | None = None
    score: bool = False  # CGQ counts confidences
    mask: bool = False  # CGQ tells masked tokens from others
    iaaq: bool = False
    static: bool = False  # activation ranges come from calibration


ROWS = {
    "fp": Recipe(quantized=False),
    "rtn": Recipe(),
    "awq": Recipe(AWQ, calibration="random"),
    "awq_tmas": Recipe(AWQ, calibration="tmas"),
    "awq_tmas_cgq": Recipe(AWQ, calibration="tmas", score=True, mask=True),
    "dllmquant_plus": Recipe(AWQ, calibration="tmas", score=True, mask=True, iaaq=True),
    "gptq": Recipe(frozenset({"gptq"}), calibration="random"),
    "quarot": Recipe(QUAROT, calibration="random"),
    "quarot_tmas": Recipe(QUAROT, calibration="tmas"),
    "quarot_tmas_mask": Recipe(QUAROT, calibration="tmas", mask=True),
    "quarot_tmas_score": Recipe(QUAROT, calibration="tmas", score=True),
    "quarot_tmas_cgq": Recipe(QUAROT, calibration="tmas", score=True, mask=True),
    "dllmquant_plusplus": Recipe(QUAROT, calibration="tmas", score=True, mask=True, iaaq=True),
    "static_random": Recipe(calibration="random", static=True),
    "static_llm_qat": Recipe(calibration="llm_qat", static=True),
    "static_uniform_time": Recipe(calibration="uniform_time", static=True),
    "static_tmas": Recipe(calibration="tmas", static=True),
}
# What conf/calibration and conf/tmas collect: the paper's 128 segments and 512 states.
SAMPLES: Mapping[Sampler, int] = {"random": 128, "llm_qat": 128, "uniform_time": 512, "tmas": 512}
_BY_RECIPE = {recipe: name for name, recipe in ROWS.items()}


def row_of(config: Mapping[str, Any]) -> str | None:
    """The row that a result's configuration belongs to; None where it is no row of conf/row."""
    method, quant, cgq = config["method"], config.get("quant"), config.get("cgq")
    calibration = config.get("calibration")
    recipe = Recipe(
        parts=frozenset(part for part in ("rotation", "awq", "gptq") if part in _steps(method)),
        quantized=quant is not None,
        calibration=calibration and calibration["name"],
        score=cgq is not None and cgq["score"],
        mask=cgq is not None and cgq["mask"],
        iaaq=config.get("iaaq") is not None,
        static=quant is not None and quant.get("activation_ranges") == "static",
    )
    return _BY_RECIPE.get(recipe)


def bits_of(config: Mapping[str, Any]) -> Bits | None:
    """Weight and activation bits, those of P, V and K, of head and embedding; None for fp."""
    quant = config.get("quant")
    if quant is None:
        return None
    attention = quant.get("attention") or {}
    return (
        quant["weight_bits"],
        quant["activation_bits"],
        *(attention.get(name) for name in ("p_bits", "v_bits", "k_bits")),
        quant.get("head_bits"),
        quant.get("embedding_bits"),
    )


def usual_size(config: Mapping[str, Any]) -> bool:
    """Whether the calibration set, if there is one, has the number of samples of SAMPLES."""
    calibration = config.get("calibration")
    if calibration is None:
        return True
    usual = SAMPLES.get(calibration["name"])
    return calibration.get("samples") == usual and calibration.get("tokens") is None


def _steps(method: Mapping[str, Any]) -> set[str]:
    """The keys of a method's steps; before there were steps, methods had a setting for each."""
    if "steps" in method:
        return {step["step"] for step in method["steps"]}
    return {key for key, value in method.items() if value}
