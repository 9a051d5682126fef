"""Fixtures that several rooms' tests use."""

import json
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

pytest_plugins = ["made_experiments", "made_results", "users_folder"]

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _records(file: Path) -> Iterator[Any]:
    """The protobuf records of a .wandb file: LevelDB log framing after a header of 7 bytes.

    W&B's process may be writing still: a record whose end is missing ends the reading.
    """
    data = file.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:  # a block's rest is too short for a header
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        if position + 7 + length > len(data):
            return
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def _recorded(folder: Path, patience: float = 30.0) -> dict[str, Any]:
    """See `_read`; W&B's own process may write the end a moment after the run is closed."""
    end = time.monotonic() + patience
    while "exit" not in (found := _read(folder)) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def _read(folder: Path) -> dict[str, Any]:
    """What the one offline run under `folder` recorded: name, configuration, history, exit code."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found: dict[str, Any] = {"history": [], "summary": {}, "config": {}}
    for record in _records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found |= {"name": run.display_name, "group": run.run_group, "project": run.project}
            found["config"] |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif kind == "config":
            for item in record.config.update:
                found["config"][item.key] = json.loads(item.value_json)
        elif kind == "history":
            found["history"].append({
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            })  # fmt: skip
        elif kind == "summary":
            for item in record.summary.update:
                key = item.key or "/".join(item.nested_key)
                found["summary"][key] = json.loads(item.value_json)
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found


@pytest.fixture(scope="session")
def recorded() -> Callable[[Path], dict[str, Any]]:
    """Reads back the offline W&B run of a cell's folder."""
    return _recorded


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say it where nobody can overlook it, not among the skipped tests."""
    for report in terminalreporter.stats.get("skipped", ()):
        if "test_slurm" in report.nodeid:
            terminalreporter.section("SLURM WAS NOT TESTED", yellow=True)
            terminalreporter.line(f"{report.nodeid}: {report.longrepr[-1]}")
