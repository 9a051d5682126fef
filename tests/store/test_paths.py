"""`~` is the home folder everywhere, and a user without one can work as well."""

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dllmquant_exp.errors import ConfigError
from dllmquant_exp.quantization.kernels import build
from dllmquant_exp.store.paths import expanded
from dllmquant_exp.store.tracking import TrackingError, TrackingSettings, check_tracking

STRANGER = ["unshare", "--user", "--map-user=4242", "--map-group=4242"]  # in no list of users


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("XDG_CACHE_HOME", build.CACHE_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def test_the_home_folder_is_put_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert [str(expanded(path)) for path in ("~/a", "~", "a/~", Path("~/b"))] == [
        "/somewhere/a", "/somewhere", "a/~", "/somewhere/b",
    ]  # fmt: skip


@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_only_what_needs_one_is_refused() -> None:
    assert expanded("/a") == Path("/a")
    with pytest.raises(ConfigError, match=r"~/a: no home folder is known .* set HOME"):
        expanded("~/a")
    with pytest.raises(build.BuildError, match=r"set HOME, or DLLMQUANT_CACHE"):
        build.cache_folder()
    with pytest.raises(TrackingError, match="needs a W&B key"):
        check_tracking(TrackingSettings("online", "p", None), {})


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*STRANGER, "true"]).returncode != 0,
    reason="NOT TESTED: no user namespaces for a user without an entry",
)
def test_a_user_without_a_home_folder_runs_a_cell(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    words = ["task=micro_piqa", "limit=1", "method=fp", "decoding.mc_num=1", "tracking=offline"]
    done = subprocess.run(
        [*STRANGER, sys.executable, "-m", "dllmquant_exp", *words],
        cwd=tmp_path, env=environment | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/default/*/result.json"))) == 1
