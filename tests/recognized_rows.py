"""The rows by parts of their configuration: a reference for the rows that results record."""

from collections.abc import Mapping
from typing import Any

# Per option of conf/row: method, sampler, parts of CGQ, and whether IA-AQ and static ranges are on.
ROWS = {
    "fp": ("fp", None, "", False, False),
    "rtn": ("rtn", None, "", False, False),
    "awq": ("awq", "random", "", False, False),
    "awq_tmas": ("awq", "tmas", "", False, False),
    "awq_tmas_cgq": ("awq", "tmas", "score mask", False, False),
    "dllmquant_plus": ("awq", "tmas", "score mask", True, False),
    "gptq": ("gptq", "random", "", False, False),
    "quarot": ("rotation gptq", "random", "", False, False),
    "quarot_tmas": ("rotation gptq", "tmas", "", False, False),
    "quarot_tmas_mask": ("rotation gptq", "tmas", "mask", False, False),
    "quarot_tmas_score": ("rotation gptq", "tmas", "score", False, False),
    "quarot_tmas_cgq": ("rotation gptq", "tmas", "score mask", False, False),
    "dllmquant_plusplus": ("rotation gptq", "tmas", "score mask", True, False),
    "static_random": ("rtn", "random", "", False, True),
    "static_llm_qat": ("rtn", "llm_qat", "", False, True),
    "static_uniform_time": ("rtn", "uniform_time", "", False, True),
    "static_tmas": ("rtn", "tmas", "", False, True),
}
_BY_RECIPE = {recipe: name for name, recipe in ROWS.items()}


def row_of(config: Mapping[str, Any]) -> str | None:
    """The row of a result's configuration; None where it is no row of conf/row."""
    method, quant, cgq = config["method"], config.get("quant"), config.get("cgq") or {}
    calibration = config.get("calibration")
    steps = {step["step"] for step in method["steps"]} if "steps" in method else method
    parts = [name for name in ("rotation", "awq", "gptq") if name in steps and method.get(name, 1)]
    recipe = (
        "fp" if quant is None else " ".join(parts) or "rtn",
        calibration and calibration["name"],
        " ".join(name for name in ("score", "mask") if cgq.get(name)),
        config.get("iaaq") is not None,
        quant is not None and quant.get("activation_ranges") == "static",
    )
    return _BY_RECIPE.get(recipe)
