"""Needs of a call beside its configuration: folders to save in, this machine, a way to fail.

A job can wait for hours in a queue, or behind the others; whatever can be known of it without
loading a model is known when the call is made.
"""

import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.config.identity import saved_parts
from dllmquant_exp.errors import ConfigError, Refusal
from dllmquant_exp.run.machine import UNWRITABLE, check_surroundings, explain_unwritten
from dllmquant_exp.run.save_model import save_folder
from dllmquant_exp.run.sweep.composition import explain

REMOTE_LAUNCHERS = ("SlurmLauncher",)  # their jobs run on machines with other devices than this one


def check_sweep(config: DictConfig, experiments: Sequence[Experiment]) -> None:
    """Refuse a sweep that would save different models in one folder, or lacks what it needs here.

    Raises:
        ConfigError: nothing has been written then.
    """
    _check_saving(experiments)
    remote = str(config.hydra.launcher._target_).endswith(REMOTE_LAUNCHERS)
    _check_machine(experiments, remote)


def report_error(error: Exception) -> int:
    """Print what ended a call, and return its exit status: 2 for bad input, else 1."""
    if isinstance(error, Refusal) or _is_hydras(error):
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    if isinstance(error, OSError) and error.filename is not None and error.errno in UNWRITABLE:
        print(f"error: {explain_unwritten(Path(error.filename), error)}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    return 1


def _is_hydras(error: Exception) -> bool:
    """Whether Hydra raised it while it composed: the words are wrong, and not what a job does."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_by = str(frames[-1].f_globals.get("__name__")) if frames else ""
    return isinstance(error, HydraException) or raised_by.startswith("hydra.")


def _check_saving(experiments: Sequence[Experiment]) -> None:
    """Refuse to save different models in one folder (ConfigError)."""
    models: dict[Path, set[frozenset[tuple[str, str]]]] = {}
    for experiment in (e for e in experiments if e.common.save is not None):
        of_folder = models.setdefault(save_folder(experiment).resolve(), set())
        parts = saved_parts(experiment, None)  # without digests: a checkpoint has one
        of_folder.add(frozenset(parts.items()))
    for folder, found in models.items():
        if len(found) > 1:
            raise ConfigError(
                f"save={folder} is one folder, and this sweep makes {len(found)} models; name "
                "folders by what differs, as in 'save=kept/${method.name}-${seed}', or save one "
                "model at a time"
            )


def _check_machine(experiments: Sequence[Experiment], remote: bool) -> None:
    """Check this machine; leave no folder behind where it lacks something (ConfigError)."""
    folders = {experiment.sweep_folder for experiment in experiments}
    paths = {path for folder in folders for path in (folder, *folder.parents)}
    missing = sorted((path for path in paths if not Path(path).exists()), reverse=True)
    problems = []
    for common, tracking in dict.fromkeys((e.common, e.tracking) for e in experiments):
        try:
            check_surroundings(replace(common, device="cpu") if remote else common, tracking)
        except ConfigError as error:
            problems.append(str(error))
    if not problems:
        return
    for path in missing:
        with suppress(OSError):  # it was not made, or something else is in it
            path.rmdir()
    raise ConfigError("\n".join(dict.fromkeys(problems)))
