"""Check this machine for a run: GPU, kernels, W&B key, data folder, runs folder."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from dllmquant_exp.calibration.sources import check_files
from dllmquant_exp.calibration.states import CalibrationError
from dllmquant_exp.config.experiment import CommonSettings, Experiment
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.quantization.kernels.library import allowed_levels
from dllmquant_exp.store.tracking import TrackingError, TrackingSettings, check_tracking

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNWRITABLE = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM)
LEAST_ROOM = 1 << 18  # bytes; a cell's files are larger, but not much where the tasks are small


def check_surroundings(common: CommonSettings, tracking: TrackingSettings) -> None:
    """Refuse what this machine cannot do: GPU, kernels, W&B key, data folder, runs folder.

    Raises:
        ConfigError: what is not there, and what would work instead.
    """
    problems: list[str] = []
    made: list[Path] = []
    for check in (
        lambda: check_device(common.device),
        check_kernels,
        lambda: check_data_root(common.data_root),
        lambda: check_tracking(tracking, os.environ),
        lambda: made.extend(check_writable(Path(common.runs_dir) / common.sweep)),
    ):
        try:
            check()
        except (ConfigError, TrackingError) as error:
            problems.append(str(error))
    if problems:
        _remove(made)
        raise ConfigError("; ".join(problems))


def _remove(folders: list[Path]) -> None:
    """Remove nested folders, innermost first, while they are empty."""
    for folder in reversed(folders):
        with suppress(OSError):
            folder.rmdir()


def check_kernels() -> None:
    """Refuse an environment that limits the kernels to unknown ones (ConfigError)."""
    try:
        allowed_levels()
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_data_root(data_root: str | None) -> None:
    """Refuse a `data_root` that is no folder (ConfigError)."""
    if data_root is not None and not Path(data_root).expanduser().is_dir():
        raise ConfigError(
            f"data_root = {data_root} is not a folder; it should hold the official tasks' "
            "files, or be null to take them from the hub"
        )


def check_texts(experiment: Experiment) -> None:
    """Refuse calibration texts that a `data_root` lacks, before a model is loaded (ConfigError)."""
    sampler, root = experiment.calibration, experiment.common.data_root
    if sampler is None or root is None or experiment.model.embedded:
        return
    try:
        check_files(getattr(sampler, "texts", ()), Path(root).expanduser())
    except CalibrationError as error:
        raise ConfigError(str(error)) from error


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Set torch's CPU threads while the block runs; None leaves them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_device(device: str) -> torch.device:
    """The torch device of a `device` setting; ConfigError when this machine does not have it."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ConfigError(f"device = {device!r} is not one of: cpu, cuda, cuda:N")
    wanted = torch.device(device)
    if wanted.type == "cpu":
        return wanted
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (wanted.index or 0) >= count:
        found = f"{count} GPU{'s' if count != 1 else ''}" if count else "no GPU"
        raise ConfigError(
            f"device = {device}, but torch {torch.__version__} finds {found} here; use device=cpu"
            + (f" or cuda:0 to cuda:{count - 1}" if count else "")
        )
    return wanted


def explain_unwritten(folder: Path, error: OSError) -> str:
    """Reason why nothing can be written to `folder`, and the remedy, in one line."""
    advice = "make room there" if error.errno in FULL else "make it writable"
    return (
        f"{folder} cannot be written ({error.strerror or error}): {advice}, or set runs_dir to "
        "another folder; the same command then goes on, and what is finished stays"
    )


def check_writable(folder: Path) -> list[Path]:
    """Find out by writing, and return the folders that it made; none where it fails."""
    made: list[Path] = []
    try:
        for parent in [*reversed(folder.parents), folder]:
            if not parent.exists():
                parent.mkdir()
                made.append(parent)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(LEAST_ROOM))  # a full disk takes empty files
    except OSError as error:
        _remove(made)
        raise ConfigError(
            f"the runs folder {folder} cannot be written ({error.strerror}); set runs_dir to a "
            "folder that can"
        ) from error
    return made
