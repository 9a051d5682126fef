"""Sets: digest, batches, and the way to disk and back."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dllmquant_exp.calibration import (
    CalibrationError,
    CalibrationSet,
    CalibrationState,
    batches,
    cached,
    load,
    save,
)
from dllmquant_exp.calibration.storage import key_hash


@pytest.fixture
def three(state: Callable[..., CalibrationState]) -> CalibrationSet:
    states = (
        state([1, 2, 39], [0, 0, 1], [0.1, 0.2, 0.3], [0.4, 0.5, 0.3], prompt_length=1),
        state([4], [0], [0.25]),
        state([5, 39, 39, 7], [0, 1, 1, 0], [0.5, 0.6, 0.7, 0.8]),
    )
    return CalibrationSet("three", states, {"seed": 0, "filled": [[1, 2]]})


def test_digest_depends_on_every_value_and_on_the_order(three: CalibrationSet) -> None:
    first = three.states[0]
    changes: list[dict[str, Any]] = [
        {"tokens": torch.tensor([1, 2, 38])},
        {"masked": torch.tensor([False, True, True])},
        {"confidence": torch.tensor([0.1, 0.2, 0.30001])},
        {"top": torch.tensor([0.4, 0.5, 0.31])},
        {"prompt_length": 2},
        {"block": 2},
        {"step": 3},
        {"ratio": 0.5},
    ]
    digests = {three.digest}
    for change in changes:
        states = (replace(first, **change), *three.states[1:])
        digests.add(replace(three, states=states).digest)
    digests.add(replace(three, states=three.states[::-1]).digest)
    digests.add(replace(three, states=three.states[:2]).digest)
    assert len(digests) == len(changes) + 3
    assert replace(three, name="other").with_report(seed=1).digest == three.digest
    assert three.tokens == 8


def test_batches_pad_on_the_right_longest_first(three: CalibrationSet) -> None:
    first, second = batches(three, 2, pad_id=9)
    assert first.tokens.tolist() == [[5, 39, 39, 7], [1, 2, 39, 9]]
    assert first.attention_mask.tolist() == [[True] * 4, [True, True, True, False]]
    assert first.states == (three.states[2], three.states[0])
    assert second.tokens.tolist() == [[4]] and second.attention_mask.tolist() == [[True]]
    with pytest.raises(CalibrationError, match="batch_size = 0"):
        batches(three, 0, pad_id=9)


def test_states_check_themselves(three: CalibrationSet) -> None:
    first = three.states[0]
    with pytest.raises(CalibrationError, match=r"masked must be torch.bool of shape \[3\]"):
        replace(first, masked=torch.tensor([0, 0, 1]))
    with pytest.raises(CalibrationError, match="confidence must be"):
        replace(first, confidence=torch.tensor([0.5]))
    with pytest.raises(CalibrationError, match="cannot have a prompt of 4"):
        replace(first, prompt_length=4)
    with pytest.raises(CalibrationError, match="'three' is empty"):
        replace(three, states=())


def test_to_disk_and_back(three: CalibrationSet, tmp_path: Path) -> None:
    save(three, tmp_path / "a" / "three", {"seed": 0})
    back = load(tmp_path / "a" / "three")
    assert (back.digest, back.name, back.report) == (three.digest, three.name, three.report)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["three"]
    save(three, tmp_path / "a" / "three")  # another process was faster: theirs stays
    assert json.loads((tmp_path / "a" / "three" / "set.json").read_text())["key"] == {"seed": 0}
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["three"]


def test_unknown_confidences_survive(three: CalibrationSet, tmp_path: Path) -> None:
    unknown = torch.full((3,), torch.nan)
    bare = replace(three, states=(replace(three.states[0], confidence=unknown, top=unknown),))
    save(bare, tmp_path / "bare")
    assert load(tmp_path / "bare").digest == bare.digest


def test_a_cached_set_is_made_once(three: CalibrationSet, tmp_path: Path) -> None:
    calls = []

    def make() -> CalibrationSet:
        calls.append(1)
        return three

    key = {"name": "three", "seed": 0}
    first, again = cached(tmp_path, key, make), cached(tmp_path, key, make)
    assert len(calls) == 1 and first.digest == again.digest == three.digest
    assert first.report == again.report
    cached(tmp_path, key | {"seed": 1}, make)
    assert len(calls) == 2
    assert key_hash({"a": 1, "b": 2}) == key_hash({"b": 2, "a": 1})
    with pytest.raises(CalibrationError, match="JSON"):
        cached(tmp_path, {"path": tmp_path}, make)


def test_a_failed_make_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> CalibrationSet:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cached(tmp_path, {"name": "x"}, fail)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_failed_write_leaves_nothing(three: CalibrationSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        save(three.with_report(mean=float("nan")), tmp_path / "x")
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_damage_is_noticed(three: CalibrationSet, tmp_path: Path) -> None:
    path = tmp_path / "three"
    save(three, path)
    file = path / "states.safetensors"
    tensors = load_file(file)
    tensors["tokens"] = tensors["tokens"] + 1
    save_file(tensors, file)
    with pytest.raises(CalibrationError, match="digest differs"):
        load(path)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CalibrationError, match="delete it"):
        load(path)
    file.unlink()
    with pytest.raises(CalibrationError, match="delete it"):
        load(path)
