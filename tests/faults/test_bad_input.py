"""Command lines that cannot run, each with its exit status and its message in `bad_input.yaml`.

They run in this process, in a folder with broken data and checkpoints; no model is loaded but
where the checkpoint or the data is what is wrong, and nothing is written. The short version takes
every second line, DLLMQUANT_LONG_TESTS=1 all. After a message has been changed on purpose, write
the file anew and read the difference:

    DLLMQUANT_REWRITE=1 python -m pytest tests/faults/test_bad_input.py; git diff tests/faults
"""

import gzip
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dllmquant_exp.__main__ import main
from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.models.checkpoints import random_checkpoint

GOLDEN = Path(__file__).with_name("bad_input.yaml")
GROUPS: dict[str, list[dict[str, Any]]] = yaml.safe_load(GOLDEN.read_text(encoding="utf-8"))
EVERY = [(group, case["line"]) for group, cases in GROUPS.items() for case in cases]
MAY_LOAD = ("checkpoints", "data")
REWRITE = os.environ.get("DLLMQUANT_REWRITE") == "1"
LONG = REWRITE or os.environ.get("DLLMQUANT_LONG_TESTS") == "1"
CASES = EVERY if LONG else EVERY[::2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command lines name: files that are broken, and some that are not."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "a_file").write_text("")
    (folder / "empty").mkdir()
    good = random_checkpoint("llada", folder / "good", d_model=32)
    random_checkpoint("dream", folder / "dream", d_model=32)
    weights = (good / "model.safetensors").read_bytes()
    config = json.loads((good / "config.json").read_text())
    for name, file, content in (
        ("truncated", "model.safetensors", weights[:-1000]),
        ("zero_length", "model.safetensors", b""),
        ("not_safetensors", "model.safetensors", b"\xff" * 1000),
        ("config_is_no_json", "config.json", b"{"),
        ("config_of_another_model", "config.json", b'{"model_type": "gpt2"}'),
        ("wider_than_its_tensors", "config.json", json.dumps(config | {"d_model": 64}).encode()),
        ("tokenizer_is_no_json", "tokenizer.json", b"{"),
    ):
        shutil.copytree(good, folder / name)
        (folder / name / file).write_bytes(content)
    for name, file in (("no_weights", "model.safetensors"), ("no_config", "config.json")):
        shutil.copytree(good, folder / name)
        (folder / name / file).unlink()
    row = json.dumps({"goal": "g", "sol1": "a", "sol2": "b", "label": 0})
    packed = gzip.compress(f"{row}\n".encode() * 100, mtime=0)
    for name, data in (
        ("data_truncated", packed[:-20]),
        ("data_flipped", packed[:40] + bytes([packed[40] ^ 1]) + packed[41:]),
        ("data_zero_length", b""),
        ("data_no_json", gzip.compress(f"{row}\n{{\n".encode(), mtime=0)),
        ("data_no_field", gzip.compress(b'{"goal": "g"}\n', mtime=0)),
        ("data_no_rows", gzip.compress(b"", mtime=0)),
    ):
        (folder / name).mkdir()
        (folder / name / "piqa_val.jsonl.gz").write_bytes(data)
    return folder


@pytest.fixture(scope="module", autouse=True)
def rewritten() -> Iterator[None]:
    """The golden file, written anew where that was asked for."""
    yield
    if REWRITE:
        text = yaml.safe_dump(GROUPS, sort_keys=False, allow_unicode=True, width=96)
        GOLDEN.write_text(text, encoding="utf-8")


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder, with neither GPU, W&B key nor hub; no file in it has changed afterwards."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("WANDB_API_KEY", "NETRC", "WANDB_BASE_URL", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = listed(folder)
    yield folder
    assert listed(folder) == before


def listed(folder: Path) -> set[tuple[str, int]]:
    """Files and their times. A refused run may leave the empty folder that it was to write to."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {(str(path), path.stat().st_mtime_ns) for path in files}


def words_of(line: str) -> list[str]:
    """As a shell splits them. One short task, where none is named, saves composing nine."""
    words = shlex.split(line)
    spans = any(word.startswith(("task=", "table=")) for word in words)
    command = words[0][0].isalpha() and "=" not in words[0]
    return words if spans or command else ["task=micro_piqa", *words]


def told(errors: str, folder: Path) -> str:
    """The message without the folder, torch's version, and the options that a group has by now."""
    plain = errors.replace(f"{folder}/", "")
    plain = re.sub(r"(Available options in '\S+': ).*", r"\1...", plain)
    return re.sub(r"torch \d\S*", "torch VERSION", plain).strip()


@pytest.mark.parametrize(("group", "line"), CASES, ids=[line for _, line in CASES])
def test_bad_input_is_refused_with_its_message(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    group: str,
    line: str,
) -> None:
    def no_model(*_: object) -> None:
        raise AssertionError("a model was going to be loaded")

    if group not in MAY_LOAD:
        monkeypatch.setattr("dllmquant_exp.run.prepare.prepare", no_model)
    status = main(words_of(line))
    out, err = capfd.readouterr()
    (case,) = (case for case in GROUPS[group] if case["line"] == line)
    if REWRITE:
        case |= {"status": status, "error": told(err, here)}
    assert (status, told(err, here)) == (case["status"], case["error"])
    assert status in (1, 2) and case["error"]
    assert "Traceback" not in out + err and not out


def test_a_refused_option_lists_those_that_there_are(capfd: pytest.CaptureFixture[str]) -> None:
    for group in ("method", "row"):
        assert main([f"{group}=quaro"]) == 2
        options = sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))
        assert f"Available options in '{group}': {', '.join(options)}" in capfd.readouterr().err


def test_there_are_enough_of_them() -> None:
    lines = [line for _, line in EVERY]
    assert len(set(lines)) == len(lines) >= 60
