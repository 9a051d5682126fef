"""Calibration sets on disk: made once, shared by all cells that need the same one.

<folder>/<name>-<hash of the key>/
    states.safetensors   all states, one after the other
    set.json             name, report, digest, and the key in plain words
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dllmquant_exp.calibration.states import CalibrationError, CalibrationSet, CalibrationState
from dllmquant_exp.locks import locked

logger = logging.getLogger(__name__)
STATES_FILE, SET_FILE = "states.safetensors", "set.json"
_PER_TOKEN = ("tokens", "masked", "confidence", "top")


def cached(
    folder: Path, key: Mapping[str, Any], make: Callable[[], CalibrationSet]
) -> CalibrationSet:
    """The set that `key` stands for: read from `folder`, or made and written there.

    Args:
        key: JSON-able, everything that decides the content: sampler and its settings, seed,
            texts, and the model where one takes part. `key["name"]`, if any, begins the file name.

    Raises:
        CalibrationError: a stored set that is damaged, or a key that is not JSON.
    """
    path = folder / f"{key.get('name', 'set')}-{key_hash(key)}"
    if not path.exists():
        with locked(folder / f".{path.name}.lock"):  # one job makes it, the others wait and read
            if not path.exists():
                save(make(), path, key)
    else:
        logger.info("calibration set read from %s", path)
    return load(path)  # also what was just made: the first call returns what the later ones do


def key_hash(key: Mapping[str, Any]) -> str:
    """16 hex digits that depend on every entry of the key."""
    try:
        text = json.dumps(key, sort_keys=True)
    except TypeError as error:
        raise CalibrationError(f"a cache key must be JSON: {error}") from None
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save(calibration_set: CalibrationSet, path: Path, key: Mapping[str, Any] | None = None) -> None:
    """Write a set as the folder `path`, which appears complete or not at all.

    When another process has written `path` meanwhile, theirs stays: the key is the same.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        partial.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        states = calibration_set.states
        tensors = {
            name: torch.cat([getattr(state, name).cpu() for state in states]) for name in _PER_TOKEN
        }
        rows = [[len(s.tokens), s.prompt_length, s.block, s.step] for s in states]
        tensors["length_prompt_block_step"] = torch.tensor(rows)
        tensors["ratio"] = torch.tensor([s.ratio for s in states], dtype=torch.float64)
        save_file(tensors, partial / STATES_FILE)
        description = {
            "name": calibration_set.name,
            "digest": calibration_set.digest,
            "key": key,
            "report": calibration_set.report,
        }
        text = json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False)
        (partial / SET_FILE).write_text(text + "\n", encoding="utf-8")
        try:
            os.rename(partial, path)
        except OSError:
            if not path.exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load(path: Path) -> CalibrationSet:
    """Read what `save` wrote.

    Raises:
        CalibrationError: files that are missing, unreadable or not those that were written.
    """
    try:
        description = json.loads((path / SET_FILE).read_text(encoding="utf-8"))
        tensors = load_file(path / STATES_FILE)
        lengths = tensors["length_prompt_block_step"][:, 0].tolist()
        per_token = [tensors[name].split(lengths) for name in _PER_TOKEN]
        numbers = tensors["length_prompt_block_step"][:, 1:].tolist()
        ratios = tensors["ratio"].tolist()
        states = tuple(
            CalibrationState(tokens, masked, prompt, confidence, top, block, step, ratio)
            for tokens, masked, confidence, top, (prompt, block, step), ratio in zip(
                *per_token, numbers, ratios, strict=True
            )
        )
        made = CalibrationSet(description["name"], states, description["report"])
        damaged = made.digest != description["digest"]
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CalibrationError(f"{path} cannot be read ({error}): delete it") from error
    if damaged:
        raise CalibrationError(f"{path} is not what was written (its digest differs): delete it")
    return made
