"""Calibration sets on disk: made once, shared by all cells that need the same one.

<folder>/<name>-<hash of the key>.safetensors
    tensors    all states, one after the other
    metadata   name, report, digest, and the key in plain words
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from dllmquant_exp.calibration.states import CalibrationError, CalibrationSet, CalibrationState
from dllmquant_exp.store.locks import locked
from dllmquant_exp.store.results import config_hash
from dllmquant_exp.store.strict_json import parse_json
from dllmquant_exp.store.whole_files import whole_file

logger = logging.getLogger(__name__)
_PER_TOKEN = ("tokens", "masked", "confidence", "top")
_PER_STATE = "length_prompt_block_step"
_DIGITS = 64  # of a sha256


def cached(
    folder: Path, key: Mapping[str, Any], make: Callable[[], CalibrationSet]
) -> CalibrationSet:
    """The set of a key: read from `folder`, or made and written there.

    A stored set that is damaged is made again, so that nothing is lost but time.

    Args:
        key: JSON-able, everything that decides the content: sampler and its settings, seed,
            texts, and the model where one takes part. `key["name"]`, if any, begins the file name.
    """
    path = folder / f"{key.get('name', 'set')}-{config_hash(key)[:16]}.safetensors"
    found = _intact(path)
    if found is not None:
        return found
    with locked(folder / f".{path.name}.lock"):  # one job makes it, the others wait and read
        return _intact(path) or _kept(make(), path, key)


def _kept(made: CalibrationSet, path: Path, key: Mapping[str, Any]) -> CalibrationSet:
    """Write a set and return what later calls will read; itself where it is deleted meanwhile."""
    try:
        save(made, path, key)
        return load(path)
    except (FileNotFoundError, CalibrationError):
        if path.exists():
            raise
        logger.warning("the calibration set is not kept: %s was deleted meanwhile", path)
        return made


def _intact(path: Path) -> CalibrationSet | None:
    """A stored set; None where there is none, or a damaged one."""
    if not path.exists():
        return None
    try:
        found = load(path)
    except CalibrationError as error:
        logger.warning("%s; it is made again", error)
        return None
    logger.info("calibration set read from %s", path)
    return found


def save(calibration_set: CalibrationSet, path: Path, key: Mapping[str, Any] | None = None) -> None:
    """Write a set as the file `path`, which appears complete or not at all."""
    states = calibration_set.states
    tensors = {
        name: torch.cat([getattr(state, name).cpu() for state in states]) for name in _PER_TOKEN
    }
    rows = [[len(s.tokens), s.prompt_length, s.block, s.step] for s in states]
    tensors[_PER_STATE] = torch.tensor(rows)
    tensors["ratio"] = torch.tensor([s.ratio for s in states], dtype=torch.float64)
    described = {
        "name": calibration_set.name,
        "digest": calibration_set.digest,
        "key": key,
        "report": calibration_set.report,
    }
    text = json.dumps(described, ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        # One entry: safetensors writes several in an order that changes from call to call.
        partial.write_bytes(to_bytes(tensors, metadata={"set": _sha256(text) + text}))


def load(path: Path) -> CalibrationSet:
    """Read what `save` wrote.

    Raises:
        CalibrationError: a file that is missing, unreadable or not what was written.
    """
    try:
        path.open("rb").close()  # safetensors calls a file that may not be read a missing one
        with safe_open(path, framework="pt") as file:
            sealed = file.metadata()["set"]
            tensors = {name: file.get_tensor(name) for name in (*_PER_TOKEN, _PER_STATE, "ratio")}
        digest, text = sealed[:_DIGITS], sealed[_DIGITS:]
        described = parse_json(text)
        made = CalibrationSet(described["name"], _states(tensors), described["report"])
        expected = (described["digest"], digest)
    except PermissionError as error:
        raise CalibrationError(f"{path} cannot be read ({error}): make it readable") from error
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        raise CalibrationError(f"{path} cannot be read ({error}): delete it") from error
    if (made.digest, _sha256(text)) != expected:
        raise CalibrationError(f"{path} is not what was written (its digest differs): delete it")
    return made


def _states(tensors: Mapping[str, Tensor]) -> tuple[CalibrationState, ...]:
    lengths = tensors[_PER_STATE][:, 0].tolist()
    numbers = tensors[_PER_STATE][:, 1:].tolist()
    per_token = [tensors[name].split(lengths) for name in _PER_TOKEN]
    return tuple(
        CalibrationState(tokens, masked, prompt, confidence, top, block, step, ratio)
        for tokens, masked, confidence, top, (prompt, block, step), ratio in zip(
            *per_token, numbers, tensors["ratio"].tolist(), strict=True
        )
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
