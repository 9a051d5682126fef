"""Recordings come back whole, damage is named, and stand-ins are labelled."""

import copy
from pathlib import Path

import numpy as np
import pytest
from made_figures import arrays_and_labels, recorded

from dllmquant_exp.reporting.figures.recordings import (
    ARRAYS_DIGEST,
    ARRAYS_FILE,
    FIGURE_VERSION,
    INFO_FILE,
    REQUIRED,
    load_recording,
    model_note,
    recorded_figures,
    save_recording,
)
from dllmquant_exp.store.results import ResultError


def test_recorded_data_come_back_and_stay(tmp_path: Path) -> None:
    data = recorded(tmp_path / "figures", "figure4")
    arrays, labels = arrays_and_labels("figure4")
    assert data.labels == labels and set(data.arrays) == set(arrays)
    assert all(np.array_equal(data.arrays[name], value) for name, value in arrays.items())
    other = {"schema_version": 1, "figure_version": FIGURE_VERSION}
    save_recording(data.folder, {"other": np.zeros(1)}, other)
    assert load_recording(data.folder).info == data.info
    assert [path.name for path in data.folder.parent.iterdir()] == [data.folder.name]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_recording(tmp_path / "figures" / "x", {"a": np.zeros(1)}, {"number": float("nan")})
    assert not list((tmp_path / "figures").iterdir())


def test_damaged_figures_are_named_and_the_others_read(tmp_path: Path) -> None:
    good = recorded(tmp_path / "figures", "figure1")
    for figure, name in (("figure3", ARRAYS_FILE), ("figure5", INFO_FILE)):
        path = recorded(tmp_path / "figures", figure).folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found, problems = recorded_figures(tmp_path)
    assert [data.folder for data in found] == [good.folder]
    assert len(problems) == 2 and all("figure" in problem for problem in problems)
    with pytest.raises(ResultError, match="delete"):
        load_recording(tmp_path / "figures" / "figure3-x")
    for path in [name for name in REQUIRED if name != ARRAYS_DIGEST]:
        info = copy.deepcopy(dict(good.info))
        section, _, name = path.rpartition(".")
        del (info[section] if section else info)[name]
        save_recording(tmp_path / path, {}, info)
        with pytest.raises(ResultError, match=f"{path} is missing"):
            load_recording(tmp_path / path)
    older = tmp_path / "older"
    save_recording(older, {"a": np.zeros(1)}, {"schema_version": 1})
    with pytest.raises(ResultError, match=r"figure_version is None.*record the figure again"):
        load_recording(older)


@pytest.mark.parametrize(
    ("name", "before", "after"), [(INFO_FILE, b'"seed": 0', b'"seed": 1'), (ARRAYS_FILE, b"", b"")]
)
def test_a_changed_number_is_noticed(
    tmp_path: Path, name: str, before: bytes, after: bytes
) -> None:
    path = recorded(tmp_path, "figure1").folder / name
    content = path.read_bytes()
    assert not before or content.count(before) == 1
    last = bytes([content[-1] ^ 1])
    path.write_bytes(content.replace(before, after) if before else content[:-1] + last)
    with pytest.raises(ResultError, match=f"is damaged.*delete {path.parent}"):
        load_recording(path.parent)


def test_stand_ins_are_labelled() -> None:
    assert model_note("llada_8b", embedded=False, outliers=False) == "llada_8b"
    note = model_note("micro", embedded=True, outliers=True)
    assert "stand-in" in note and "outlier" in note and "not a model of the paper" in note
