"""Calibration sets on disk: made once, shared by all cells that need the same one.

<folder>/<name>-<hash of the key>/
    states.safetensors   all states, one after the other
    set.json             name, report, digest, and the key in plain words
"""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dllmquant_exp.calibration.states import CalibrationError, CalibrationSet, CalibrationState
from dllmquant_exp.store.locks import locked
from dllmquant_exp.store.whole_files import whole_folder

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

    A stored set that is damaged is made again; so nothing is lost but time.

    Raises:
        CalibrationError: a key that is not JSON.
    """
    path = folder / f"{key.get('name', 'set')}-{key_hash(key)}"
    found = _intact(path)
    if found is not None:
        return found
    with locked(folder / f".{path.name}.lock"):  # one job makes it, the others wait and read
        found = _intact(path)
        if found is None:
            save(make(), path, key)
    return found or load(path)  # the first call returns what the later ones do


def _intact(path: Path) -> CalibrationSet | None:
    """A stored set; None where there is none, or a damaged one, which is then removed."""
    if not path.exists():
        return None
    try:
        found = load(path)
    except CalibrationError as error:
        logger.warning("%s; it is made again", error)
        _remove(path)
        return None
    logger.info("calibration set read from %s", path)
    return found


def _remove(path: Path) -> None:
    """Take a folder out of the way in one step, so that nobody finds half of it."""
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    with suppress(FileNotFoundError):  # another process was faster
        path.rename(aside / path.name)
    shutil.rmtree(aside, ignore_errors=True)


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
    with whole_folder(path) as partial:
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
        description["sha256"] = _digest(json.loads(json.dumps(description)))
        text = json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False)
        (partial / SET_FILE).write_text(text + "\n", encoding="utf-8")


def _digest(description: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


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
        written = (description["digest"], description.pop("sha256"))
        damaged = (made.digest, _digest(description)) != written
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        raise CalibrationError(f"{path} cannot be read ({error}): delete it") from error
    if damaged:
        raise CalibrationError(f"{path} is not what was written (its digest differs): delete it")
    return made
