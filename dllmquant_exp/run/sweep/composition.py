"""The jobs of a command line, each composed and checked, and none of them run.

A sweep as a whole is composed of its folder, table and launcher alone; every other word reaches its
jobs. A job that has no use for a word goes without it, which is said; a word that no job has a use
for is refused.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dllmquant_exp.config.experiment import Experiment, resolve, to_mapping
from dllmquant_exp.config.folder import SEARCH_PATH, config_folder
from dllmquant_exp.config.overrides import NoUse, Overrides
from dllmquant_exp.config.quantized_model import COMPONENTS
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.run.sweep.refusals import explain
from dllmquant_exp.store.schema import unknown_key

NAMED_JOBS = 4  # of those that have one problem in common
DEFAULT_MODELS = "embedded"  # the option of the group `models` in conf/config.yaml
NEAR = "did you mean"  # see `schema.unknown_key`
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """The words of a job's command line, and what they stand for."""

    words: list[str]
    experiment: Experiment
    left_out: Mapping[str, str] = field(default_factory=dict)  # words without a use, and why
    uses_seed: bool = True  # a setting beside `seed` itself depends on it

    def with_seed(self, word: str) -> "Job":
        """The same job with another seed, as in `seed=1`."""
        words = [word if text.startswith("seed=") else text for text in self.words]
        common = replace(self.experiment.common, seed=int(word.removeprefix("seed=")))
        return replace(self, words=words, experiment=replace(self.experiment, common=common))


def compose_jobs(line: Overrides) -> list[Experiment]:
    """Every job of a command line, in order.

    Raises:
        ConfigError: words that Hydra refuses, or a job that cannot run.
    """
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        try:
            if line.sweeps:
                config = loader.load_configuration("config", line.of_sweep(), RunMode.MULTIRUN)
                words, others = line.without("hydra").texts, line.beside_others
                jobs = sweep_jobs(config, loader, words, beside_others=others)
                return [job.experiment for job in jobs]
            texts = [*line.folders.words, *line.texts]
            config = loader.load_configuration("config", texts, RunMode.RUN)
            return [experiment_of(config)]
        except HydraException as error:
            raise ConfigError(explain(error)) from error


def experiment_of(config: DictConfig, hydra: Any = None) -> Experiment:
    """The experiment of a job that Hydra composed.

    Args:
        hydra: Hydra's part of the configuration, where it was taken out.

    Raises:
        ConfigError: it cannot run.
    """
    hydra = hydra or config.hydra
    folders = [word for word in hydra.overrides.hydra if word.startswith(f"{SEARCH_PATH}=")]
    words = [*folders, *hydra.overrides.task]
    return resolve(to_mapping(config), words, hydra.runtime.choices)


def sweep_jobs(
    config: DictConfig, loader: ConfigLoader, words: Sequence[str], *, beside_others: bool = False
) -> list[Job]:
    """Every job of a sweep, with the words that it has a use for. Jobs that are alike are one.

    Args:
        config: the composed configuration of the sweep as a whole, with Hydra's part.
        words: of the command line, but for Hydra's own.
        beside_others: the call has further sweeps, which may have a use for what this one has not.

    Raises:
        ConfigError: all jobs that cannot run, and why; or words that none has a use for.
    """
    lines = combinations(config, loader, words)
    jobs: dict[tuple[str, ...], Job] = {}
    unused: dict[str, dict[int, str]] = {}  # words that set one thing; jobs without a use; reasons
    problems: dict[str, list[int]] = {}
    given, compose = Overrides.read(words), partial(loader.load_sweep_config, config)
    known: dict[tuple[str, ...], Job] = {}  # whatever the seed: composing takes most of the time
    for number, line in enumerate(lines):
        seeds = [word for word in line if re.fullmatch(r"seed=\d+", word)]
        others = tuple(word for word in line if word not in seeds)
        left_out: dict[str, str] = {}
        try:
            job = known[others].with_seed(seeds[-1]) if others in known else None
            job = job or _fit(compose, Overrides.read(line), left_out)
        except (ConfigError, HydraException) as error:
            problems.setdefault(explain(error), []).append(number)
        else:
            jobs.setdefault(tuple(job.words), job)
            left_out = dict(job.left_out)
            if seeds and not job.uses_seed:
                known[others] = job
        for text, reason in left_out.items():
            touching = given.touching(Overrides.read([text]).words[0].name) or [text]
            unused.setdefault(" ".join(touching), {})[number] = reason
    problems |= _refused(unused, len(lines), beside_others)
    if problems:
        raise ConfigError(_of_other_models(given) or _all_problems(lines, problems))
    found = list(jobs.values())
    _check_launcher(config, {job.experiment.common.device for job in found})
    _say(lines, unused)
    return found


def _check_launcher(config: DictConfig, devices: Iterable[str]) -> None:
    """Refuse GPUs that a launcher gives no job, and a folder that it would call otherwise."""
    launcher = config.get("launcher") or {}
    gpus = launcher.get("gpus_per_node")
    if gpus is None:  # this process's own machine
        return
    folder = Path(config.hydra.sweep.dir).absolute()
    if "%" in str(folder):
        raise ConfigError(
            f"runs_dir: {folder.parent.parent.parent} holds a %, which the launcher reads as a "
            "place for a job's number; choose another folder, or launcher=local"
        )
    if "gpu" in str(launcher.get("extra", "")):  # asked for in Slurm's own words
        return
    for device in sorted(devices):
        number = re.fullmatch(r"cuda:?(\d*)", device)
        wanted = 0 if number is None else int(number[1] or 0) + 1
        if wanted > gpus:
            raise ConfigError(
                f"device = {device}, but launcher.gpus_per_node = {gpus} is all that a job gets; "
                f"set launcher.gpus_per_node={wanted}"
            )


def _refused(
    unused: Mapping[str, Mapping[int, str]], jobs: int, beside_others: bool
) -> dict[str, list[int]]:
    """The refusals of words that no job has a use for, with the jobs' numbers."""
    found = {}
    for words, reasons in unused.items():
        # A reason that knows a near name, or says most, knows best what was meant.
        reason = max(reasons.values(), key=lambda reason: (NEAR in reason, len(reason)))
        if len(reasons) == jobs and (NEAR in reason or not beside_others):
            found[reason if words in reason else f"{words}: {reason}"] = [*reasons]
    return found


def _of_other_models(given: Overrides) -> str:
    """Advice where a table is to span a model that is not among those of `models`."""
    chosen = given.values("model")
    if not chosen or not given.touches("table") or given.touches("models", "task"):
        return ""
    near = []
    for option, path in given.folders.options("models").items():
        values = yaml.safe_load(path.read_text("utf-8")).values()
        if {*chosen} <= {name for value in values for name in str(value).split(",")}:
            near.append(option)
    if not near or DEFAULT_MODELS in near:
        return ""
    return (
        f"{' '.join(given.touching('model'))}: a table takes the tasks of {DEFAULT_MODELS} models "
        f"unless it is told others; add models={near[0]}"
    )


def combinations(config: DictConfig, loader: ConfigLoader, words: Sequence[str]) -> list[list[str]]:
    """Every combination of values that are separated by commas, as Hydra's basic sweeper has it."""
    params = config.hydra.sweeper.get("params") or {}
    texts = [*(f"{name}={value}" for name, value in params.items()), *words]
    try:
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(texts)
        (found,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    except HydraException as error:
        raise ConfigError(explain(error)) from error
    return found


def _fit(
    compose: Callable[[list[str]], DictConfig], line: Overrides, left_out: dict[str, str]
) -> Job:
    """The job of a line, without the words that it has no use for.

    Args:
        left_out: gets these words, and why.

    Raises:
        ConfigError, HydraException: what no such word explains.
    """
    while True:
        try:
            composed = compose(line.texts)
            uses_seed = "${seed}" in str(OmegaConf.to_container(composed, resolve=False))
            return Job(line.texts, experiment_of(composed), left_out, uses_seed)
        except NoUse as error:
            found = {text: str(error) for text in line.touching(*error.names)}
            if not found:
                raise
        except HydraException:
            found = _missing(compose, line)
            if not found:
                raise
        left_out |= found
        line = line.without(*(Overrides.read([text]).words[0].name for text in found))


def _missing(compose: Callable[[list[str]], DictConfig], line: Overrides) -> dict[str, str]:
    """The words whose settings do not exist in a job's options, and what is there instead."""
    inside = [word for word in line.words if word.changes and "." in word.name]
    if not inside:
        return {}
    options = compose([word.text for word in line.words if "." not in word.name])
    reasons = {word.text: _absent(options, word.name) for word in inside}
    return {text: reason for text, reason in reasons.items() if reason is not None}


def _absent(config: DictConfig, name: str) -> str | None:
    """Reason why a configuration lacks a key; None where it has it."""
    node: Any = config
    where = ""
    for key in name.split("."):
        if not isinstance(node, DictConfig) or node._is_none():
            return f"{where} holds no settings here, so not {name}"
        if key not in node:
            known = [str(name) for name in node if name != "hydra"]
            is_off = not where and key in COMPONENTS
            return f"{key} is off here" if is_off else unknown_key(key, known, where or "config")
        where = f"{where}.{key}".lstrip(".")
        node = node._get_node(key)
    return None


def _say(lines: Sequence[Sequence[str]], unused: Mapping[str, Mapping[int, str]]) -> None:
    """Log the words that some jobs go without."""
    names = _distinguished(lines)
    for words, reasons in unused.items():
        said = (reason.removeprefix(f"{words}: ") for reason in reasons.values())
        where, why = _which(names, [*reasons]), "; ".join(dict.fromkeys(said))
        shares = (len(reasons), len(lines))
        logger.warning("%s is left out of %d of %d jobs, %s: %s", words, *shares, where, why)


def _all_problems(jobs: Sequence[Sequence[str]], problems: Mapping[str, Sequence[int]]) -> str:
    """One problem of all jobs as it is; else each with the words that make its jobs differ."""
    everywhere = [text for text, numbers in problems.items() if len(numbers) == len(jobs)]
    if everywhere:
        return "\n".join(everywhere)
    wrong = len({number for numbers in problems.values() for number in numbers})
    lines = [f"{wrong} of {len(jobs)} jobs of this sweep cannot run, so none was started"]
    names = _distinguished(jobs)
    lines += [f"  {_which(names, numbers)}: {problem}" for problem, numbers in problems.items()]
    return "\n".join(lines)


def _distinguished(jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """Each job's words that not all jobs have."""
    varied = [len(set(column)) > 1 for column in zip(*jobs, strict=True)]
    return [[word for word, varies in zip(job, varied, strict=True) if varies] for job in jobs]


def _which(names: Sequence[Sequence[str]], numbers: Sequence[int]) -> str:
    """Some of the jobs by what they alone have in common, or else by name."""
    common = [word for word in names[numbers[0]] if all(word in names[n] for n in numbers)]
    alike = [number for number, words in enumerate(names) if set(common) <= set(words)]
    if common and alike == list(numbers):
        return " ".join(common) + (f" ({len(numbers)} jobs)" if len(numbers) > 1 else "")
    more = [f"and {len(numbers) - NAMED_JOBS} more"] if len(numbers) > NAMED_JOBS else []
    return "; ".join([" ".join(names[number]) for number in numbers[:NAMED_JOBS]] + more)
