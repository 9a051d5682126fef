"""Check this machine for a run: GPU, kernels, W&B key, data folder, runs folder."""

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.quantization.kernels.library import allowed_levels
from dllmquant_exp.store.tracking import check_tracking

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNWRITABLE = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM)
LEAST_ROOM = 1 << 18  # bytes; a cell's files are larger, but not much where the tasks are small


def check_surroundings(jobs: Iterable[Experiment], *, remote: bool = False) -> None:
    """Refuse what this machine cannot do, before anything is written.

    Args:
        remote: the jobs run on other machines, which may have other devices.

    Raises:
        ConfigError: everything that is not there, and what would work instead.
    """
    jobs = list(jobs)
    checks: dict[Any, Callable[[], object]] = {"kernels": allowed_levels}
    for job in jobs:
        named = named_device if remote else check_device
        checks[job.common.device] = partial(named, job.common.device)
        checks[job.common.data_folder] = partial(_check_data_folder, job.common.data_folder)
        checks[job.tracking] = partial(check_tracking, job.tracking, os.environ)
    problems = []
    for check in checks.values():
        try:
            check()
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(problems))
    for folder in dict.fromkeys(job.sweep_folder for job in jobs):
        check_writable(folder)


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
    wanted = named_device(device)
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


def named_device(device: str) -> torch.device:
    """The torch device of a `device` setting, on whatever machine (ConfigError: there is none)."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ConfigError(f"device = {device!r} is not one of: cpu, cuda, cuda:N")
    return torch.device(device)


def _check_data_folder(folder: Path | None) -> None:
    if folder is not None and not folder.is_dir():
        raise ConfigError(
            f"data_root = {folder} is not a folder; it should hold the official tasks' "
            "files, or be null to take them from the hub"
        )


def explain_unwritten(folder: Path, error: OSError) -> str:
    """Reason why nothing can be written to `folder`, and the remedy, in one line."""
    advice = "make room there" if error.errno in FULL else "make it writable"
    return (
        f"{folder} cannot be written ({error.strerror or error}): {advice}, or set runs_dir to "
        "another folder; the same command then goes on, and what is finished stays"
    )


def check_writable(folder: Path) -> None:
    """Find out by writing; remove the folders that were made for it where that fails.

    Raises:
        ConfigError: it cannot be written.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(LEAST_ROOM))  # a full disk takes empty files
    except OSError as error:
        for path in missing:
            with suppress(OSError):  # it was not made, or another job is in it
                path.rmdir()
        raise ConfigError(
            f"the runs folder {folder} cannot be written ({error.strerror}); set runs_dir to a "
            "folder that can"
        ) from error
