"""Sets on disk: made once, whole or not at all."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dllmquant_exp.calibration import CalibrationSet
from dllmquant_exp.calibration.storage import cached
from dllmquant_exp.store import hashed_tensors


def test_a_cached_set_is_made_once_and_read_back(three: CalibrationSet, tmp_path: Path) -> None:
    calls = []

    def make() -> CalibrationSet:
        calls.append(1)
        return three

    key = {"name": "three", "seed": 0}
    for found in (cached(tmp_path, key, make), cached(tmp_path, key, make)):
        assert found.digest == three.digest
        assert (found.name, found.report) == (three.name, three.report)
    assert len(calls) == 1
    (path,) = tmp_path.glob("three-*.safetensors")
    assert hashed_tensors.read(path)[1]["key"] == key
    cached(tmp_path, key | {"seed": 1}, make)
    assert len(calls) == 2
    cached(tmp_path, {"seed": 0, "name": "three"}, make)
    assert len(calls) == 2, "the order of a key's entries does not count"
    path.write_bytes(path.read_bytes()[:-1])
    assert cached(tmp_path, key, make).digest == three.digest
    assert len(calls) == 3, "a damaged set is made again"


def test_unknown_confidences_survive(three: CalibrationSet, tmp_path: Path) -> None:
    unknown = torch.full((3,), torch.nan)
    bare = replace(three, states=(replace(three.states[0], confidence=unknown, top=unknown),))
    found = cached(tmp_path, {"name": "bare"}, lambda: bare)
    assert found.digest == bare.digest and not found.is_scored


def test_a_failed_make_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> CalibrationSet:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cached(tmp_path, {"name": "x"}, fail)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
