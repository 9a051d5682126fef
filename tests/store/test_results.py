"""Result files are written whole or not at all, and read back with checks."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from result_content import CELL, content

from dllmquant_exp.reporting.frame import read_result
from dllmquant_exp.store.results import (
    ResultError,
    canonical_json,
    config_hash,
    finished_result,
    load_json,
    write_result,
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = write_result(tmp_path / "sweep" / "cell", content())
    cell = read_result(path)
    assert (cell.model, cell.method, cell.quant, cell.score) == ("m", "rtn", "w4a4", 0.5)
    assert cell.items == (("t", "0"), ("t", "1")) and cell.scores.tolist() == [1.0, 0.0]
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_a_crash_while_writing_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_result(tmp_path, content(score=0.5))

    def crash(*_: object) -> None:
        raise OSError("power cut")

    monkeypatch.setattr("dllmquant_exp.store.whole_files.os.replace", crash)
    with pytest.raises(OSError, match="power cut"):
        write_result(tmp_path, content(score=0.9))
    assert json.loads(path.read_text())["score"] == 0.5
    assert os.listdir(tmp_path) == ["result.json"]


def test_nan_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(tmp_path / "cell", content(score=float("nan")))
    assert not (tmp_path / "cell").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, True), ({"status": "failed"}, False), ({"config_hash": "other"}, False)],
)
def test_only_a_finished_result_of_this_configuration_counts(
    tmp_path: Path, changes: dict[str, Any], expected: bool
) -> None:
    write_result(tmp_path, content(**changes))
    assert (finished_result(tmp_path, "abc") is not None) == expected


def test_an_unreadable_result_is_not_finished(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{")
    assert finished_result(tmp_path, "abc") is None
    assert finished_result(tmp_path / "nowhere", "abc") is None


def test_the_digest_is_of_the_content_and_not_of_times(tmp_path: Path) -> None:
    early, late = ({"finished_at": day, "wall_seconds": {}} for day in ("2026-01-01", "2026-01-02"))
    files = [
        write_result(tmp_path / name, content(**changes))
        for name, changes in {
            "early": {"timing": early},
            "late": {"timing": late},
            "other": {"timing": early, "score": 0.25},
        }.items()
    ]
    first, again, other = (load_json(file)["content_digest"] for file in files)
    assert first == again != other
    restored = load_json(files[2]) | {"score": content()["score"]}
    changed = write_result(tmp_path / "changed", restored)
    assert load_json(changed)["content_digest"] == first


def test_every_changed_byte_of_the_content_is_noticed(tmp_path: Path) -> None:
    path = write_result(tmp_path, content(label="ü"))
    whole = path.read_bytes()
    end = whole.index(b'"content_digest"')
    assert whole.index(b'"timing"') > end
    for position in range(end):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(ResultError):
            load_json(path)


def forged(text: str, kind: str) -> str:
    """A result file with another score, whose digest is that of its beginning where it has one."""
    timing = text.index(',\n "timing"')
    if kind == "repeated behind":
        return text[:timing] + ',\n "score": 0.9' + text[timing:]
    if kind == "repeated at the end":
        return text.rstrip()[:-2] + ',\n "score": 0.9\n}\n'
    if kind == "repeated inside timing":
        return text.replace('"timing": {', '"timing": {"a": 1, "a": 2, ')
    if kind == "another key behind":
        return text[:timing] + ',\n "row": 1'.replace("row", "rows") + text[timing:]
    if kind == "without a digest":
        start = text.index(',\n "content_digest"')
        return text[:start] + text[timing:]
    assert kind == "without a digest or timing"
    return text[: text.index(',\n "content_digest"')] + "\n}\n"


@pytest.mark.parametrize(
    "kind",
    ["repeated behind", "repeated at the end", "repeated inside timing", "another key behind",
     "without a digest", "without a digest or timing"],
)  # fmt: skip
def test_nothing_goes_around_the_digest(tmp_path: Path, kind: str) -> None:
    path = write_result(tmp_path, content())
    path.write_text(forged(path.read_text(), kind))
    with pytest.raises(ResultError, match=r"is repeated|is damaged"):
        load_json(path)
    assert finished_result(tmp_path, "abc") is None


@pytest.mark.parametrize("version", [None, 1, 3, "2", True])
def test_other_versions_are_named(tmp_path: Path, version: object) -> None:
    path = write_result(tmp_path, content(schema_version=version))
    with pytest.raises(ResultError, match=f"schema_version is {version!r}, and this version reads"):
        load_json(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 200 + "1" + "}" * 200, '{"a": NaN}'])
def test_odd_results_are_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ResultError, match=r"result\.json: not a readable result file"):
        load_json(tmp_path / "result.json")


@pytest.mark.parametrize("name", ["../../up", "/etc", "a\x1b[2J", "a b", "", "x" * 300, None, 3])
@pytest.mark.parametrize("field", ["model", "method", "quant", "task", "kind"])
def test_names_in_result_files_are_checked(tmp_path: Path, field: str, name: object) -> None:
    if (field, name) in (("quant", ""), ("quant", None)):
        return
    path = write_result(tmp_path, content(cell={**CELL, field: name}))
    with pytest.raises(ResultError, match=field):
        read_result(path)


def test_the_hash_is_of_the_content_not_of_its_order() -> None:
    assert config_hash({"a": 1, "b": [2, None]}) == config_hash({"b": [2, None], "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})
    assert canonical_json({"b": 1, "a": "ü"}) == '{"a":"ü","b":1}'


def test_reporting_knows_no_models() -> None:
    import subprocess
    import sys

    code = (
        "import sys, dllmquant_exp.reporting.commands, dllmquant_exp.cli;"
        "from dllmquant_exp.reporting import table;"
        "print([m for m in ('torch', 'transformers', 'hydra', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
