"""Fixtures for made-up results: of any row, with any items, in memory or as a cell's file."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from recognized_rows import row_of

from dllmquant_exp.reporting.frame import Cell, read_result
from dllmquant_exp.store.results import SCHEMA_VERSION, config_hash, write_result

LABELS = {
    "truthfulqa": "Truth.", "arc": "Arc.", "hellaswag": "Hella.", "winogrande": "Wino.",
    "piqa": "PIQA", "mmlu": "MMLU", "ceval": "C-EVAL", "humaneval": "Hum.", "gsm8k": "GSM8K",
}  # fmt: skip
TASKS = tuple(LABELS)
WHAT_IT_DOES: dict[str, dict[str, Any]] = {  # to the weights, by the row's first word
    "fp": {"rotation": None, "awq": False, "gptq": None},
    "rtn": {"rotation": None, "awq": False, "gptq": None},
    "static": {"rotation": None, "awq": False, "gptq": None},
    "awq": {"rotation": None, "awq": True, "gptq": None},
    "quarot": {"rotation": {"seed": 0}, "awq": False, "gptq": {"damp": 0.01}},
}
PUBLISHED = {"llada_8b": "GSAI-ML/LLaDA-8B-Base", "dream_7b": "Dream-org/Dream-v0-Base-7B"}
SIZES = {"random": 128, "llm_qat": 128, "uniform_time": 512, "tmas": 512}
ALIASES = {"dllmquant_plus": "awq_tmas_cgq_iaaq", "dllmquant_plusplus": "quarot_tmas_cgq_iaaq"}


def _calibration(row: str) -> str | None:
    if row in ("fp", "rtn"):
        return None
    named = (name for name in ("llm_qat", "uniform_time", "tmas") if name in row)
    return next(named, "random")


def resolved(row: str, task: str, seed: int, model: str, limit: int | None) -> dict[str, Any]:
    """A cell's configuration, as a run with conf/row's option would resolve it."""
    words = ALIASES.get(row, row)
    method = words.split("_")[0]
    sampler = _calibration(words)
    calibration = {"name": sampler, "samples": SIZES[sampler], "tokens": None} if sampler else None
    cgq = {"score": "mask" not in words, "mask": "score" not in words}
    return {
        "model": {
            "name": model,
            "checkpoint": PUBLISHED.get(model, f"embedded:{model}"),
            "outliers": None,
        },
        "method": {"name": method, **WHAT_IT_DOES[method]},
        "quant": None
        if method == "fp"
        else {
            "weight_bits": 4,
            "activation_bits": 4,
            "activation_ranges": "static" if method == "static" else "dynamic",
            "attention": {"p_bits": 4, "v_bits": 4, "k_bits": 16},
            "head_bits": 16,
            "embedding_bits": 16,
        },
        "calibration": calibration,
        "cgq": cgq if {"cgq", "mask", "score"} & set(words.split("_")) else None,
        "iaaq": {"mode": "online"} if "iaaq" in words else None,
        "task": {"name": task, "kind": "micro"},
        "data_root": None,
        "limit": limit,
        "seed": seed,
    }


def collected(calibration: dict[str, Any] | None) -> dict[str, Any] | None:
    """A run's report on a calibration set; TMAS' quotas make a few states more than wanted."""
    if calibration is None:
        return None
    states = calibration["samples"] + 8 * (calibration["name"] == "tmas")
    return {"report": {"states": states, "tokens": 62 * states}}


@pytest.fixture
def write_cell(tmp_path: Path) -> Callable[..., Path]:
    """write_cell(row, task, scores, ...): a result file as a run leaves it; its path.

    scores: one per item; None for a failed cell.
    change: edits the configuration in place before it is hashed.
    """

    def write(
        row: str,
        task: str,
        scores: Sequence[float] | None,
        *,
        seed: int = 0,
        model: str = "micro",
        embedded: bool = True,
        limit: int | None = None,
        sweep: str = "tables",
        first: int = 0,
        decoding: str = "published",
        finished_at: str = "2026-01-01T00:00:00+00:00",
        change: Callable[[dict[str, Any]], None] = lambda config: None,
    ) -> Path:
        config = resolved(row, task, seed, model, limit)
        change(config)
        items = [
            {"subtask": task, "doc_id": first + i, "score": float(score)}
            for i, score in enumerate(scores or ())
        ]
        key = config_hash(config)
        return write_result(
            tmp_path / "runs" / sweep / f"{model}-{row}-{task}-s{seed}-{key[:8]}",
            {
                "schema_version": SCHEMA_VERSION,
                "status": "failed" if scores is None else "finished",
                "cell": {
                    "model": model, "method": row, "quant": None if row == "fp" else "w4a4",
                    "task": task, "label": LABELS[task], "kind": "micro", "seed": seed,
                    "embedded": embedded, "decoding": decoding, "decoding_overrides": {},
                },
                "row": {"name": row_of(config) or "", "label": ""},
                "config": config,
                "config_hash": key,
                "source": {"commit": "abc123", "modified": False},
                "calibration": collected(config["calibration"]),
                "score": None if scores is None else sum(scores) / len(scores),
                "chance": 0.25,
                "items": items,
                "error": {"message": "ValueError: it broke\nmore"} if scores is None else None,
                "timing": {"finished_at": finished_at},
            },
        )  # fmt: skip

    return write


@pytest.fixture
def made(write_cell: Callable[..., Path]) -> Callable[..., Cell]:
    """made(row, task, scores, ...): the same, read back as a line of the frame."""
    return lambda *words, **settings: read_result(write_cell(*words, **settings))


GIB = 2**30


def speed_variant(name: str, bits: int | None, seconds: list[float], size: float) -> dict[str, Any]:
    def spread(middle: float) -> dict[str, float]:
        return {"median": middle, "low": 0.9 * middle, "high": 1.1 * middle}

    return {
        "name": name,
        "activation_bits": bits,
        "extrapolated": bits is None,
        "seconds": seconds,
        "tokens_per_second": spread(16 / seconds[0]),
        "speedup": None if bits is None else spread(8 / seconds[0]),
        "weight_bytes": int(size * GIB),
        "held_bytes": int(size * GIB),
        "resident_bytes": None if bits == 8 else int(1.5 * size * GIB),
        "peak_bytes": None if bits == 8 else int(2 * size * GIB),
        "parts": None
        if bits is None
        else {"linears": 0.5, "attention": 0.2, "head": 0.1, "rotations": 0.06},
    }


MEASURED = {
    "full_precision": "bfloat16",
    "low_type": "float32",
    "block": {
        "bfloat16": {
            "seconds": {"median": 0.02, "low": 0.02, "high": 0.03},
            "speedup": {"median": 1, "low": 1, "high": 1},
        },
        "W4A4, float32": {
            "seconds": {"median": 0.01, "low": 0.01, "high": 0.01},
            "speedup": {"median": 2, "low": 1.9, "high": 2.5},
        },
    },
    "variants": [
        speed_variant("full precision", None, [8.0, 8.0], 15),
        speed_variant("W4A4", 4, [4.0, 4.0], 5),
        speed_variant("W4A8", 8, [5.0, 5.0], 5),
    ],
    "weight_bytes": {"16 16 16": 15 * GIB, "4 16 16": 5 * GIB, "4 8 16": 4 * GIB, "4 8 8": 3 * GIB},
    "rows": 128,
    "machine": {"execution": "avx2", "native_bfloat16": True, "load": [0.1, 1.0]},
    "weights": "random",
}


@pytest.fixture
def write_speed(write_cell: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """write_speed(row, model, measured): a finished speed cell, or a failed one for None."""

    def write(row: str, model: str, measured: dict[str, Any] | None = MEASURED) -> Path:
        path = write_cell(
            row,
            "gsm8k",
            None if measured is None else [1],
            model=model,
            embedded=model.startswith("micro"),
            change=lambda config: config.update(task={"name": "speed", "kind": "speed"}),
        )
        value = json.loads(path.read_text())
        value["cell"] |= {"task": "speed", "label": "Speed", "kind": "speed"}
        value |= {"score": None, "items": [], "hardware": {"cpu": "A CPU", "threads": 2}}
        if measured is not None:
            value["speed"] = measured
        return write_result(path.parent, value)

    return write
