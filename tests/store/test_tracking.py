"""Tracking: what W&B recorded offline is what was measured; keys are looked for before a run."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import wandb

from dllmquant_exp.store import tracking
from dllmquant_exp.store.tracking import TrackingError, TrackingSettings, check_tracking

OFFLINE = TrackingSettings("offline", "test-project", None)
Recorded = Callable[[Path], dict[str, Any]]
ONLINE = TrackingSettings("online", "test-project", None)
RESULT: dict[str, Any] = {
    "status": "finished",
    "config_hash": "0a1b",
    "source": {"commit": "c0ffee", "modified": False},
    "score": 0.625,
    "interval95": [0.31, 0.86],
    "n": 8,
    "token_forwards": 12345,
    "forwards": 67,
    "truncated": 1,
    "timing": {"wall_seconds": {"load": 1.5, "evaluate": 2.25}, "peak_memory_bytes": 1 << 30},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two offline runs: `good` logged a result, `bad` broke."""
    folder = tmp_path_factory.mktemp("tracking")
    config = {"model": {"name": "m"}, "seed": 3}
    with tracking.start(OFFLINE, folder / "good", name="cell", group="s", config=config) as tracker:
        tracker.log_result(RESULT)
    with (
        pytest.raises(RuntimeError, match="out of luck"),
        tracking.start(OFFLINE, folder / "bad", name="cell", group="s", config=config),
    ):
        raise RuntimeError("out of luck")
    return folder


def test_an_offline_record_holds_the_result(folder: Path, recorded: Recorded) -> None:
    found = recorded(folder / "good")
    (history,) = found["history"]
    assert {key: value for key, value in history.items() if key[0] != "_"} == {
        "score": 0.625,
        "score_low95": 0.31,
        "score_high95": 0.86,
        "items": 8,
        "token_forwards": 12345,
        "forwards": 67,
        "truncated": 1,
        "seconds/load": 1.5,
        "seconds/evaluate": 2.25,
        "peak_memory_bytes": 1 << 30,
    }
    assert (found["name"], found["group"], found["project"]) == ("cell", "s", "test-project")
    assert {key: found["config"][key] for key in ("model", "seed", "config_hash", "source")} == {
        "model": {"name": "m"},
        "seed": 3,
        "config_hash": "0a1b",
        "source": {"commit": "c0ffee", "modified": False},
    }
    assert found["exit"] == 0
    assert found["summary"]["status"] == "finished"


def test_a_failure_is_recorded_and_passed_on(folder: Path, recorded: Recorded) -> None:
    found = recorded(folder / "bad")
    assert found["exit"] == 1
    assert found["summary"]["status"] == "failed"
    assert found["summary"]["error"] == "RuntimeError: out of luck"
    assert found["history"] == []


def test_the_environment_does_not_make_one_run_of_all_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: Recorded
) -> None:
    said = {"RUN_ID": "abc123", "RESUME": "must", "NAME": "x", "RUN_GROUP": "x"}
    for name, value in said.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.setup().settings.sweep_id = "s1"  # as WANDB_SWEEP_ID says when W&B is loaded
    wandb.setup().settings.run_id = "abc123"
    for cell in ("a", "b"):
        with tracking.start(OFFLINE, tmp_path / cell, name=cell, group="s", config={}) as tracker:
            tracker.log_result(RESULT)
    runs = [path.name.rpartition("-")[2] for path in tmp_path.glob("*/wandb/offline-run-*")]
    assert len(set(runs)) == 2 and "abc123" not in runs
    assert [recorded(tmp_path / cell)["name"] for cell in "ab"] == ["a", "b"]


KILLED = """
import os, signal, sys
import pandas as pd
from pathlib import Path
from dllmquant_exp.store import tracking
settings = tracking.TrackingSettings("offline", "p", None)
with tracking.start(settings, Path(sys.argv[1]), name="n", group="g", config={}) as tracker:
    import wandb
    tracker.run.log({"t": wandb.Table(columns=["a"], data=[[1]])})
    os.kill(os.getpid(), signal.SIGKILL if sys.argv[2] == "killed" else 0)
"""


def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "HOME": str(tmp_path)}
    for end in ("killed", "ended"):
        words = [sys.executable, "-c", KILLED, str(tmp_path / end), end]
        subprocess.run(words, env=environment, timeout=120)
    assert [path.name for path in temporary.iterdir() if "wandb" in path.name] == []


def test_a_server_out_of_reach_costs_no_result(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    recorded: Recorded,
) -> None:
    """The run is recorded offline, whole, and the log says how to send it."""
    with socket.socket() as taken:  # bound and not listening: connections are refused at once
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
        cell = tmp_path / "cell"
        with tracking.start(ONLINE, cell, name="cell", group="s", config={}) as tracker:
            tracker.log_result(RESULT)
    found = recorded(cell)
    for _ in range(100):  # W&B's own process may still be writing on a busy machine
        if "exit" in found:
            break
        time.sleep(0.1)
        found = recorded(cell)
    assert found["history"][0]["score"] == 0.625 and found["exit"] == 0
    assert f"send it later with: wandb sync {cell}/wandb/offline-run-*" in caplog.text


def test_a_server_lost_on_the_way_costs_no_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class LostRun:
        """A run as W&B leaves it when its data could not be sent in time."""

        dir = str(tmp_path / "wandb" / "run-1" / "files")
        summary: ClassVar[dict[str, Any]] = {}
        config: ClassVar[dict[str, Any]] = {}

        def log(self, values: Any) -> None:
            raise ConnectionError("reset by peer")

        def finish(self, exit_code: int) -> None:
            raise TimeoutError("Timed out finishing run.")

    tracker = tracking.WandbTracker(LostRun())
    tracker.log_result(RESULT)
    tracker.close(failed=False)
    assert caplog.text.count(f"wandb sync {tmp_path / 'wandb' / 'run-1'}") == 2


def test_off_writes_nothing(tmp_path: Path) -> None:
    off = TrackingSettings("off", "p", None)
    with tracking.start(off, tmp_path / "cell", name="n", group="g", config={}) as tracker:
        tracker.log_result(RESULT)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_mode_names_the_known_ones() -> None:
    with pytest.raises(TrackingError, match="'on' is not one of: offline, online, off"):
        TrackingSettings("on", "p", None)  # type: ignore[arg-type]


def test_online_without_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"WANDB_API_KEY.*api\.wandb\.ai.*tracking=offline"):
        check_tracking(ONLINE, {"HOME": str(tmp_path)})
    check_tracking(OFFLINE, {"HOME": str(tmp_path)})


def test_a_limit_that_is_no_number_is_refused_before_anything_runs() -> None:
    with pytest.raises(TrackingError, match="WANDB_INIT_TIMEOUT = 'soon' is no number"):
        check_tracking(OFFLINE, {"WANDB_INIT_TIMEOUT": "soon"})
    check_tracking(TrackingSettings("off", "p", None), {"WANDB_INIT_TIMEOUT": "soon"})


@pytest.mark.parametrize(
    ("text", "server", "accepted"),
    [
        ("machine api.wandb.ai login user password k", None, True),
        ("machine other.org login user password k", None, False),
        ("machine wandb.my.org login user password k", "https://wandb.my.org:8080", True),
        ("machine", None, False),
    ],
    ids=["key", "another machine", "own server", "broken file"],
)
def test_a_key_may_be_in_the_environment_or_in_netrc(
    tmp_path: Path, text: str, server: str | None, accepted: bool
) -> None:
    (tmp_path / ".netrc").write_text(text + "\n")
    (tmp_path / ".netrc").chmod(0o600)
    environment = {"HOME": str(tmp_path)} | ({"WANDB_BASE_URL": server} if server else {})
    check_tracking(ONLINE, {**environment, "WANDB_API_KEY": "k"})
    if accepted:
        check_tracking(ONLINE, environment)
    else:
        with pytest.raises(TrackingError):
            check_tracking(ONLINE, environment)


def test_tables_are_logged_cell_by_cell(tmp_path: Path, recorded: Recorded) -> None:
    index = pd.MultiIndex.from_tuples([("m", "FP"), ("m", "RTN")], names=["model", "row"])
    page = pd.DataFrame({"Arc.": ["90.0 ±2.6", "-"]}, index=index)
    cells = pd.DataFrame({"score": [0.5, None], "n": [3, 4], "paper": [None, "61.2"]})
    tables = {"table1": page, "cells": cells}
    tracking.log_tables(OFFLINE, tmp_path, name="report table1", group="tables", tables=tables)
    found = recorded(tmp_path)
    assert (found["name"], found["group"]) == ("report table1", "tables")
    (files,) = tmp_path.glob("wandb/offline-run-*/files")
    (history,) = found["history"]
    read = {name: json.loads((files / history[f"{name}/path"]).read_text()) for name in tables}
    assert read["table1"]["columns"] == ["model", "row", "Arc."]
    assert read["table1"]["data"] == [["m", "FP", "90.0 ±2.6"], ["m", "RTN", "-"]]
    assert read["cells"]["data"] == [[0.5, 3, None], [None, 4, "61.2"]]


def test_tables_are_not_logged_where_tracking_is_off(tmp_path: Path) -> None:
    off = TrackingSettings("off", "p", None)
    tables = {"a": pd.DataFrame({"x": [1]})}
    tracking.log_tables(off, tmp_path, name="n", group="g", tables=tables)
    assert list(tmp_path.iterdir()) == []
