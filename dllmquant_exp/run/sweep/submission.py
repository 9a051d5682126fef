"""What is wrong with a call is said when it is made: for all jobs of a sweep, before the first.

A job can wait for hours in a queue, or behind the others; whatever can be known of it without
loading a model is known now.
"""

import difflib
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dllmquant_exp.config.components import COMPONENTS
from dllmquant_exp.config.experiment import Experiment, resolve, to_mapping
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.run.machine import UNWRITABLE, check_surroundings, explain_unwritten
from dllmquant_exp.run.save_model import identity, save_folder
from dllmquant_exp.store.schema import unknown_key

NAMED_JOBS = 4  # of those that have one problem in common
REMOTE_LAUNCHERS = ("SlurmLauncher",)  # their jobs run on machines with other devices than this one


def check_sweep(config: DictConfig) -> None:
    """Compose and check every job of a sweep, as Hydra's basic sweeper is going to.

    Args:
        config: the composed configuration of the sweep as a whole, with Hydra's part.

    Raises:
        ConfigError: all jobs that cannot run, and why, or several that would save different models
            in one folder. Nothing has been written then.
    """
    loader = GlobalHydra.instance().config_loader()
    jobs = sweep_jobs(config, loader)
    experiments: list[Experiment] = []
    problems: dict[str, list[int]] = {}
    for number, words in enumerate(jobs):
        try:
            job = loader.load_sweep_config(config, list(words))
            experiments.append(resolve(to_mapping(job), list(job.hydra.overrides.task)))
        except (ConfigError, HydraException) as error:
            problems.setdefault(explain(error), []).append(number)
    if problems:
        raise ConfigError(_all_problems(jobs, problems))
    _check_saving(experiments)
    remote = str(config.hydra.launcher._target_).endswith(REMOTE_LAUNCHERS)
    _check_surroundings(experiments, remote)


def sweep_jobs(config: DictConfig, loader: ConfigLoader) -> list[list[str]]:
    """The command line of each job of a sweep, in order.

    Raises:
        ConfigError: words that cannot be read or swept over.
    """
    params = config.hydra.sweeper.get("params") or {}
    words = [f"{name}={value}" for name, value in params.items()]
    # As they were given: ${...} stands for something else in every job.
    given = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(given, list)
    words += given
    try:
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(words)
        (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    except HydraException as error:
        raise ConfigError(explain(error)) from error
    return jobs


def report_error(error: Exception) -> int:
    """Print what ended a call, and return its exit status: 2 for bad input, else 1."""
    if _is_refusal(error):
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    if isinstance(error, OSError) and error.filename is not None and error.errno in UNWRITABLE:
        print(f"error: {explain_unwritten(Path(error.filename), error)}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    return 1


def _is_refusal(error: Exception) -> bool:
    """Whether Hydra raised it while it composed: the words are wrong, and not what a job does."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_by = str(frames[-1].f_globals.get("__name__")) if frames else ""
    return isinstance(error, HydraException) or raised_by.startswith("hydra.")


def explain(error: Exception) -> str:
    """A refusal of Hydra's in one paragraph that says what to do; other messages as they are."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        near = difflib.get_close_matches(option, error.options, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        known = ", ".join(error.options)
        return f"{group} has no option {option!r}{hint}. Available options in {group!r}: {known}"
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read ({error.message.splitlines()[0]}); write "
            "setting=value, and quote a value that is no plain word: \"setting='a=b, c'\""
        )
    cause = error.__cause__
    if isinstance(error, HydraException) and isinstance(cause, OmegaConfBaseException):
        return f"{str(error).splitlines()[0].rstrip('.')}: {_wrong_key(cause)}"
    if isinstance(error, HydraException):
        return " ".join(str(error).replace("--multirun", "-m").split())
    return str(error)


def _wrong_key(error: OmegaConfBaseException) -> str:
    """What a key should have been, where Hydra proposes to add it as it is."""
    key, parent = str(error.key), error.parent_node
    if not isinstance(parent, DictConfig):
        return str(error).splitlines()[0]
    where = parent._get_full_key("") or "config"
    if where == "config" and key in COMPONENTS:
        return f"{key} is off; switch it on with +{key}=on"
    known = {str(name) for name in parent if name != "hydra"}
    return unknown_key(key, known | ({*COMPONENTS} if where == "config" else set()), where)


def _all_problems(jobs: Sequence[Sequence[str]], problems: dict[str, list[int]]) -> str:
    """One problem of all jobs as it is; else each with the words that make its jobs differ."""
    wrong = sum(map(len, problems.values()))
    if len(problems) == 1 and wrong == len(jobs):
        return next(iter(problems))
    varied = [len(set(column)) > 1 for column in zip(*jobs, strict=True)]
    names = [[word for word, varies in zip(job, varied, strict=True) if varies] for job in jobs]
    lines = [f"{wrong} of {len(jobs)} jobs of this sweep cannot run, so none was started"]
    for problem, numbers in problems.items():
        lines.append(f"  {_which(names, numbers)}: {problem}")
    return "\n".join(lines)


def _which(names: Sequence[Sequence[str]], numbers: Sequence[int]) -> str:
    """Some of the jobs by what they alone have in common, or else by name."""
    common = [word for word in names[numbers[0]] if all(word in names[n] for n in numbers)]
    alike = [number for number, words in enumerate(names) if set(common) <= set(words)]
    if common and alike == list(numbers):
        return " ".join(common) + (f" ({len(numbers)} jobs)" if len(numbers) > 1 else "")
    more = [f"and {len(numbers) - NAMED_JOBS} more"] if len(numbers) > NAMED_JOBS else []
    return "; ".join([" ".join(names[number]) for number in numbers[:NAMED_JOBS]] + more)


def _check_saving(experiments: Sequence[Experiment]) -> None:
    """Refuse to save different models in one folder (ConfigError)."""
    models: dict[Path, set[frozenset[tuple[str, str]]]] = {}
    for experiment in (e for e in experiments if e.common.save is not None):
        of_folder = models.setdefault(save_folder(experiment).resolve(), set())
        of_folder.add(frozenset(identity(experiment, None).items()))  # a checkpoint has one digest
    for folder, found in models.items():
        if len(found) > 1:
            raise ConfigError(
                f"save={folder} is one folder, and this sweep makes {len(found)} models; name "
                "folders by what differs, as in 'save=kept/${method.name}-${seed}', or save one "
                "model at a time"
            )


def _check_surroundings(experiments: Sequence[Experiment], remote: bool) -> None:
    """What this machine has to have; leaves no folder behind where it has not (ConfigError)."""
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
