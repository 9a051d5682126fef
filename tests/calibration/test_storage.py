"""Sets on disk: made once, whole or not at all, damage noticed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dllmquant_exp.calibration import CalibrationError, CalibrationSet
from dllmquant_exp.calibration.storage import cached, load, save


def test_to_disk_and_back(three: CalibrationSet, tmp_path: Path) -> None:
    path = tmp_path / "a" / "three"
    save(three, path, {"seed": 0})
    back = load(path)
    assert (back.digest, back.name, back.report) == (three.digest, three.name, three.report)
    assert list((tmp_path / "a").iterdir()) == [path]
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["set"][64:])["key"] == {"seed": 0}


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
    cached(tmp_path, {"seed": 0, "name": "three"}, make)
    assert len(calls) == 2, "the order of a key's entries does not count"


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


def test_the_folder_may_be_deleted_at_any_time(
    three: CalibrationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"

    def deleted(*_: object, **__: object) -> bytes:
        shutil.rmtree(folder)
        return b""

    def make() -> CalibrationSet:
        shutil.rmtree(folder)
        return three

    assert cached(folder, {"name": "x"}, make).digest == three.digest
    with monkeypatch.context() as patch:
        patch.setattr("dllmquant_exp.calibration.storage.to_bytes", deleted)
        assert cached(folder, {"name": "y"}, lambda: three).digest == three.digest
    assert not list(folder.glob("y*"))


def test_a_set_that_may_not_be_read_is_called_that(
    three: CalibrationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    save(three, tmp_path / "three")
    monkeypatch.setattr(Path, "open", denied)  # root may read everything
    with pytest.raises(CalibrationError, match=r"Permission denied.*make it readable"):
        load(tmp_path / "three")


def test_damage_is_noticed(three: CalibrationSet, tmp_path: Path) -> None:
    path = tmp_path / "three"
    save(three, path)
    written = path.read_bytes()
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    save_file(tensors | {"tokens": tensors["tokens"] + 1}, path, metadata)
    with pytest.raises(CalibrationError, match="digest differs"):
        load(path)
    save_file(tensors, path, metadata | {"set": metadata["set"].replace("[[1, 2]]", "[[1, 3]]")})
    with pytest.raises(CalibrationError, match="digest differs"):
        load(path)
    for damaged in (written[:-9], b""):
        path.write_bytes(damaged)
        with pytest.raises(CalibrationError, match="delete it"):
            load(path)
    path.unlink()
    with pytest.raises(CalibrationError, match="delete it"):
        load(path)
