"""Calibration sets on disk: made once, shared by all cells that need the same one.

A file holds the tensors of all states, one after the other, and in its description the set's name
and report, and the key in plain words. See `store.hashed_tensors`.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from dllmquant_exp.calibration.states import CalibrationSet, CalibrationState
from dllmquant_exp.store import hashed_tensors
from dllmquant_exp.store.locks import locked
from dllmquant_exp.store.results import config_hash

logger = logging.getLogger(__name__)
_PER_TOKEN = ("tokens", "masked", "confidence", "top")
_PER_STATE = "length_prompt_block_step"


def cached(
    folder: Path, key: Mapping[str, Any], make: Callable[[], CalibrationSet]
) -> CalibrationSet:
    """The set of a key: read from `folder`, or made and written there.

    A stored set that is damaged is made again, so that nothing is lost but time.

    Args:
        key: JSON-able, everything that decides the content: sampler and its settings, seed,
            texts, and the model where one takes part. `key["name"]`, if any, begins the file name.
    """
    name = f"{key.get('name', 'set')}-{config_hash(key)[:16]}"
    found = hashed_tensors.intact_file(folder, name)
    if found is None:
        with locked(folder / f".{name}.lock"):  # one job makes it, the others wait and read
            if hashed_tensors.intact_file(folder, name) is None:
                _write(folder, name, make(), key)
        found = hashed_tensors.intact_file(folder, name)
        assert found is not None
    else:
        logger.info("calibration set read from %s", found)
    return _read(found)  # the first call returns what the later ones do


def _write(folder: Path, name: str, made: CalibrationSet, key: Mapping[str, Any]) -> None:
    states = made.states
    tensors = {field: torch.cat([getattr(s, field) for s in states]) for field in _PER_TOKEN}
    rows = [[len(s.tokens), s.prompt_length, s.block, s.step] for s in states]
    tensors[_PER_STATE] = torch.tensor(rows)
    tensors["ratio"] = torch.tensor([s.ratio for s in states], dtype=torch.float64)
    description = {"name": made.name, "report": made.report, "key": key}
    hashed_tensors.write(folder, name, tensors, description)


def _read(path: Path) -> CalibrationSet:
    tensors, description = hashed_tensors.read(path)
    lengths = tensors[_PER_STATE][:, 0].tolist()
    per_token = [tensors[name].split(lengths) for name in _PER_TOKEN]
    states = tuple(
        CalibrationState(tokens, masked, prompt, confidence, top, block, step, ratio)
        for tokens, masked, confidence, top, (prompt, block, step), ratio in zip(
            *per_token, tensors[_PER_STATE][:, 1:].tolist(), tensors["ratio"].tolist(), strict=True
        )
    )
    return CalibrationSet(description["name"], states, description["report"])
