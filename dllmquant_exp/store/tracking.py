"""Weights & Biases behind one small interface: one W&B run per cell, closed with the cell, and one
per call of `report table=...` for its tables.

The result file is the record; W&B is a log of it, so what is logged is taken from the result and
from nowhere else.
"""

import logging
import netrc
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args
from urllib.parse import urlparse

from dllmquant_exp.errors import Refusal
from dllmquant_exp.store.paths import expanded
from dllmquant_exp.store.whole_files import scratch_folder

if TYPE_CHECKING:
    import pandas as pd

Mode = Literal["offline", "online", "off"]
DEFAULT_SERVER = "https://api.wandb.ai"
# Seconds for a server to take a new run, and the rest of its data.
INIT_TIMEOUT, FINISH_TIMEOUT = ("WANDB_INIT_TIMEOUT", 30), ("WANDB_FINISH_TIMEOUT", 120)
logger = logging.getLogger(__name__)


class TrackingError(Refusal):
    """W&B cannot be used as asked."""


@dataclass(frozen=True)
class TrackingSettings:
    mode: Mode
    project: str
    entity: str | None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise TrackingError(
                f"tracking.mode = {self.mode!r} is not one of: {', '.join(get_args(Mode))}"
            )


class Tracker(Protocol):
    """Destination of a cell's result."""

    def log_result(self, result: Mapping[str, Any]) -> None:
        """Log a finished cell's result, as it is in its result file."""


class NoTracker:
    """Tracking is off: nothing is recorded."""

    def log_result(self, result: Mapping[str, Any]) -> None:
        return None


class WandbTracker:
    """Logs into one open W&B run.

    Failures of W&B are logged and not raised: by then the result is computed, and its file holds
    everything.
    """

    def __init__(self, run: Any) -> None:
        self.run = run
        self.folder = Path(run.dir).parent

    def log_result(self, result: Mapping[str, Any]) -> None:
        with _complaints(self.folder):
            self.run.summary["status"] = "finished"
            self.run.config.update({name: result[name] for name in ("config_hash", "source")})
            self.run.log(measurements(result))

    def log_failure(self, error: BaseException) -> None:
        with _complaints(self.folder):
            self.run.summary["status"] = "failed"
            self.run.summary["error"] = f"{type(error).__name__}: {error}"

    def close(self, *, failed: bool) -> None:
        with _complaints(self.folder):
            self.run.finish(exit_code=int(failed))


@contextmanager
def _complaints(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        logger.warning(
            "W&B did not take everything (%s). The files hold it; what was recorded can be "
            "sent later with: wandb sync %s", error, folder,
        )  # fmt: skip


def measurements(result: Mapping[str, Any]) -> dict[str, float | int]:
    """The numbers of a finished result that W&B gets, flat. Scores are fractions in [0, 1]."""
    if "speed" in result:
        return {
            f"tokens_per_second/{variant['name']}": variant["tokens_per_second"]["median"]
            for variant in result["speed"]["variants"]
        }
    low, high = result["interval95"]
    timing = result["timing"]
    return {
        "score": result["score"],
        "score_low95": low,
        "score_high95": high,
        "items": result["n"],
        "token_forwards": result["token_forwards"],
        "forwards": result["forwards"],
        "truncated": result["truncated"],
        **{f"seconds/{name}": value for name, value in timing["wall_seconds"].items()},
        "peak_memory_bytes": timing["peak_memory_bytes"],
    }


def check_tracking(settings: TrackingSettings, environment: Mapping[str, str]) -> None:
    """Refuse online tracking without a key, and limits that are no numbers, before anything runs.

    Raises:
        TrackingError: says where a key was looked for.
    """
    if settings.mode == "off":
        return
    for limit in (INIT_TIMEOUT, FINISH_TIMEOUT):
        _seconds(environment, *limit)
    if settings.mode == "offline":
        return
    host = urlparse(environment.get("WANDB_BASE_URL", DEFAULT_SERVER)).hostname or ""
    if environment.get("WANDB_API_KEY") or _netrc_key(host, environment):
        return
    raise TrackingError(
        f"tracking=online needs a W&B key, and there is none in WANDB_API_KEY nor for {host} in "
        "the netrc file. Run `wandb login`, set WANDB_API_KEY, or use tracking=offline (the "
        "record can be sent later with `wandb sync`)"
    )


def _seconds(environment: Mapping[str, str], name: str, usual: int) -> float:
    text = environment.get(name, usual)
    try:
        return float(text)
    except ValueError:
        raise TrackingError(f"{name} = {text!r} is no number of seconds; unset it") from None


def _netrc_key(host: str, environment: Mapping[str, str]) -> bool:
    named = environment.get("NETRC")
    home = Path(environment.get("HOME") or os.path.expanduser("~"))  # "~": there is none
    for path in [expanded(named)] if named else [home / ".netrc", home / "_netrc"]:
        try:
            entry = netrc.netrc(str(path)).authenticators(host)
        except (OSError, netrc.NetrcParseError):
            continue
        if entry and entry[2]:
            return True
    return False


def log_tables(
    settings: TrackingSettings,
    folder: Path,
    *,
    name: str,
    group: str,
    tables: Mapping[str, "pd.DataFrame"],
) -> None:
    """Log data frames as W&B tables, in a run of their own in `folder`/wandb.

    Args:
        name, group: the run's name, and the sweep whose tables these are.
        tables: by the name that W&B shows; an index becomes columns.

    Raises:
        TrackingError: W&B could not start at all.
    """
    if settings.mode == "off":
        return
    wandb = _wandb()

    config = {"report": name, "sweep": group}
    run = _online_or_offline(settings, settings.mode, folder, name, group, config)
    tracker = WandbTracker(run)
    with _complaints(tracker.folder):
        made = {}
        for title, frame in tables.items():
            flat = frame if frame.index.names == [None] else frame.reset_index()
            rows = flat.astype(object).where(flat.notna(), None).values.tolist()
            columns = [str(column) for column in flat.columns]
            made[title] = wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
        tracker.run.log(made)
    tracker.close(failed=False)


@contextmanager
def start(
    settings: TrackingSettings,
    folder: Path,
    *,
    name: str,
    group: str,
    config: Mapping[str, Any],
) -> Iterator[Tracker]:
    """Open a W&B run in `folder`/wandb for one cell; an exception inside marks it as failed.

    Args:
        folder: the cell's folder.
        name: the cell's name.
        group: the sweep's name; W&B shows its cells together.
        config: the cell's resolved configuration.

    Where the server of an online run cannot be reached, the run is recorded offline, with the
    command that sends it later.

    Raises:
        TrackingError: W&B could not start at all.
    """
    if settings.mode == "off":
        yield NoTracker()
        return
    tracker = WandbTracker(_online_or_offline(settings, settings.mode, folder, name, group, config))
    try:
        yield tracker
    except BaseException as error:
        tracker.log_failure(error)
        tracker.close(failed=True)
        raise
    tracker.close(failed=False)


def _online_or_offline(
    settings: TrackingSettings,
    mode: Literal["offline", "online"],
    folder: Path,
    name: str,
    group: str,
    config: Mapping[str, Any],
) -> Any:
    try:
        return _open_run(settings, mode, folder, name, group, config)
    except TrackingError as error:
        if mode == "offline":
            raise
        logger.warning(
            "%s. This run is recorded offline; send it later with: wandb sync %s",
            error, folder / "wandb" / "offline-run-*",
        )  # fmt: skip
        return _open_run(settings, "offline", folder, name, group, config)


def _wandb() -> Any:
    """The package, a second of import time, which then makes folders for temporary files."""
    scratch = str(scratch_folder("dllmquant-wandb"))
    if os.path.expanduser("~") == "~":  # W&B looks for its settings at home, and cannot do without
        os.environ["HOME"] = scratch
    before, tempfile.tempdir = tempfile.tempdir, scratch
    try:
        import wandb

        shared = wandb.setup().settings
        shared.sweep_id, shared.launch = None, False  # as either, WANDB_RUN_ID names every run
    finally:
        tempfile.tempdir = before
    return wandb


def _open_run(
    settings: TrackingSettings,
    mode: Literal["offline", "online"],
    folder: Path,
    name: str,
    group: str,
    config: Mapping[str, Any],
) -> Any:
    wandb = _wandb()

    folder.mkdir(parents=True, exist_ok=True)
    try:
        return wandb.init(
            project=settings.project,
            entity=settings.entity,
            dir=os.fspath(folder),
            id=secrets.token_hex(4),  # WANDB_RUN_ID would make one run of all cells
            resume="never",  # whatever WANDB_RESUME says
            name=name,
            group=group,
            config=dict(config),
            mode=mode,
            reinit="finish_previous",
            settings=wandb.Settings(
                silent=True,
                console="off",
                x_disable_stats=True,
                disable_git=True,  # the result file names the commit
                disable_code=True,
                # not W&B's own limits: a server that is gone would hold every cell up
                init_timeout=_seconds(os.environ, *INIT_TIMEOUT),
                finish_timeout=_seconds(os.environ, *FINISH_TIMEOUT),
                finish_timeout_raises=True,
            ),
        )
    except wandb.errors.Error as error:
        reason = str(error).strip().splitlines()[0]
        raise TrackingError(f"W&B could not start a run with tracking={mode}: {reason}") from error
