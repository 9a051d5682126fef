"""A model as Python code handles it: what it is, how it is quantized, its scores on tasks.

Each call composes the words of a command line and runs its job: the same cells, in the same runs
folder. A notebook and a sweep go on with each other's work.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from dllmquant_exp.calibration.states import CalibrationSet
from dllmquant_exp.config.experiment import Experiment, to_mapping
from dllmquant_exp.config.folder import (
    Folders,
    config_folder,
    content_of,
    group_with,
    split_folders,
)
from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.config.quantized_model import read_model, read_sampler
from dllmquant_exp.config.words import to_words
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.quantization.method import Step, read_method
from dllmquant_exp.reporting.frame import read_cells
from dllmquant_exp.reporting.frames import scores
from dllmquant_exp.run import job
from dllmquant_exp.run.cell import local_digest
from dllmquant_exp.run.machine import check_surroundings, torch_threads
from dllmquant_exp.run.prepare import Preparation, Prepared, calibration_set, prepare
from dllmquant_exp.run.requirements import check_left
from dllmquant_exp.run.save_model import save_model
from dllmquant_exp.run.sweep.composition import experiment_of
from dllmquant_exp.run.sweep.refusals import explain
from dllmquant_exp.store.results import ResultError
from dllmquant_exp.store.schema import TARGET

Folder = str | Path
FULL_PRECISION = ("method=fp",)


@dataclass(frozen=True)
class Model:
    """A model in full precision, or as it is to be quantized; made by `load`.

    Holds words of the command line alone. Weights are loaded, calibration states collected and
    weights rounded when something needs them. States and rounded weights are kept under
    `<runs_dir>/.cache`, as those of a sweep.

    Attributes:
        words: the checkpoint and what else was set.
        recipe: how it is quantized.
        calibration: what it is calibrated on, where that was chosen.
        method: the steps, where they are a user's own.
    """

    words: tuple[str, ...]
    recipe: tuple[str, ...] = FULL_PRECISION
    calibration: tuple[str, ...] = ()
    method: Mapping[str, Any] | None = field(default=None, repr=False)

    def calibrate(self, sampler: str, **settings: Any) -> "Model":
        """The same model, calibrated on the states of a sampler.

        Args:
            sampler: tmas, or an option of the group `calibration`: random, llm_qat, uniform_time.
            settings: the sampler's, as `samples=64`.

        Raises:
            ConfigError: no such sampler.

        >>> from dllmquant_exp import load
        >>> model = load("micro_llada", threads=1).calibrate("random", samples=4)
        >>> states = model.states()
        >>> len(states.states), states.tokens
        (4, 256)
        """
        if sampler == "tmas":
            chosen: dict[str, Any] = {"tmas": "on"}
        else:
            chosen = {group_with(self._folders, sampler, "calibration"): sampler}
        (group,) = chosen
        return replace(self, calibration=(*to_words(chosen), *to_words({group: settings})))

    def quantize(self, how: str | Sequence[Step], *, name: str = "", **settings: Any) -> "Model":
        """The same model, to be quantized.

        Args:
            how: a row of the tables (rtn, quarot, dllmquant_plusplus, ...), a method, or steps in
                their order, as `[Rotation(seed=1), Gptq()]`.
            name: own steps' name in tables; by default the names of their classes.
            settings: groups and settings, as `quant="w3a3"`, `quant={"weight_bits": 3}`,
                `cgq="on"`.

        Raises:
            ConfigError: no such row or method, or a step that is defined in no module.

        >>> from dllmquant_exp import load
        >>> from dllmquant_exp.quantization.nearest import Nearest
        >>> model = load("micro_llada", threads=1)
        >>> model.quantize("quarot", tmas="on").label
        'QuaRot + TMAS'
        >>> model.quantize([Nearest()]).label  # rows go by what runs
        'RTN'
        """
        if isinstance(how, str):
            recipe = to_words({group_with(self._folders, how, "row", "method"): how, **settings})
            return replace(self, recipe=recipe, method=None)
        if "method" in settings:
            raise ConfigError("method=... has no effect beside own steps; set it on the steps")
        method = _method(how, name, self._folders)
        return replace(self, recipe=to_words(settings), method=method)

    @property
    def label(self) -> str:
        """The name of its row in tables.

        Raises:
            ConfigError: settings that do not fit together.
        """
        return self.experiment().row.label

    def states(self) -> CalibrationSet:
        """The calibration set: states with tokens and masks, and the sampler's report.

        Raises:
            ConfigError: nothing is calibrated.
            CalibrationError, CheckpointError: texts or files that cannot be used.
        """
        experiment = self.experiment()
        if experiment.calibration is None and self.calibration:
            line = Overrides.read([*self.words, *self.recipe, *self.calibration])
            config = to_mapping(self._composed(line))
            sampler = read_sampler(config, read_model(config).architecture)
            experiment = replace(experiment, calibration=sampler)
        if experiment.calibration is None:
            raise ConfigError(
                f"{self.label} is calibrated on nothing; choose by .calibrate('tmas')"
            )
        with torch_threads(experiment.common.threads):
            return calibration_set(experiment)

    def prepare(self) -> Prepared:
        """The torch module that is evaluated, its tokenizer, and the report of its quantization.

        Raises:
            CheckpointError, CalibrationError, QuantizationError: files or settings that cannot be
                used.

        >>> from dllmquant_exp import load
        >>> made = load("micro_llada", threads=1).quantize("rtn").prepare()
        >>> made.model.config.n_layers, made.report["method"]
        (6, 'rtn')
        """
        experiment = self.experiment()
        with torch_threads(experiment.common.threads):
            return prepare(experiment)

    def save(self, folder: Folder, *, export: str | None = None) -> Path:
        """Write the quantized model, for `load(folder)` or, exported, for other programs.

        Args:
            export: compressed-tensors, for transformers and vLLM; None for our own format.

        Raises:
            ConfigError: full precision, or a model that cannot be exported.
            CheckpointError: the folder holds something else, or cannot be written.

        >>> import tempfile
        >>> from dllmquant_exp import load
        >>> folder = load("micro_llada", threads=1).quantize("rtn").save(tempfile.mkdtemp())
        >>> load(folder, threads=1).label
        'RTN'
        """
        experiment = self.experiment(save=folder, export=export)
        digest = local_digest(experiment, keep_going=False)
        with torch_threads(experiment.common.threads):
            save_model(experiment, digest, Preparation(experiment).get)
        return Path(folder)

    def experiment(self, **settings: Any) -> Experiment:
        """The checked settings that a job of a sweep would have.

        Raises:
            ConfigError: all problems of all settings.
        """
        quantized = self.recipe != FULL_PRECISION
        words = [*self.words, *self.recipe, *(self.calibration if quantized else ())]
        line = Overrides.read(words).with_words(*to_words(settings))
        line.check_names()
        return experiment_of(self._composed(line))

    @property
    def _folders(self) -> Folders:
        return split_folders(self.words)[0]

    def _composed(self, line: Overrides) -> DictConfig:
        """The configuration that Hydra composes of a line, with the user's own steps in it."""
        words = [*line.folders.words, *line.texts]
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            try:
                config = compose("config", words, return_hydra_config=True)
            except HydraException as error:
                raise ConfigError(explain(error)) from error
        OmegaConf.set_readonly(config.hydra, False)
        OmegaConf.set_struct(config, False)
        given = config.hydra.overrides  # several tasks are a suite; each is an option
        given.task = [word for word in given.task if not word.startswith("task=[")]
        if self.method is not None:
            config.method, config.hydra.runtime.choices = dict(self.method), {}
        return config


def evaluate(
    models: Model | Sequence[Model],
    tasks: str | Sequence[str] | None = None,
    *,
    seeds: Sequence[int] = (),
    **settings: Any,
) -> pd.DataFrame:
    """Evaluate models on tasks, and compare them with full precision where that is among them.

    Cells go to `<runs_dir>/<sweep>` (by default runs/default). Those that are finished there are
    read. W&B records nothing unless `tracking="offline"` or `"online"`.

    Args:
        tasks: tasks or suites; by default the nine of the models.
        seeds: each model is evaluated with each of them; by default with its own.
        settings: of the command line, as `limit=100` items a task, `batch_size=16`,
            `decoding="smoke"`.

    Returns:
        A line per row and task, and for each row's average over tasks: `score` in percent, its
        95% interval `low` to `high`, `change` from full precision in points on the same items with
        its interval, `to_right` and `to_wrong` the items in percent that flipped, items `n`,
        `state` (finished, failed, missing, partial), seeds, hash and commit of the runs.
        `attrs["notes"]` says what to know before numbers are compared.

    Raises:
        ConfigError: any model's settings; nothing runs then.
        Refusal: checkpoints or data that cannot be used.

    >>> from dllmquant_exp import evaluate, load
    >>> model = load("micro_llada", threads=1)
    >>> scores = evaluate([model, model.quantize("rtn")], "micro_piqa", limit=4)
    >>> scores[["row", "task", "n", "state"]].values.tolist()
    [['fp', 'micro_piqa', 4, 'finished'], ['rtn w4a4', 'micro_piqa', 4, 'finished']]
    """
    listed = [models] if isinstance(models, Model) else list(models)
    more = {"tracking": "off", **({} if tasks is None else {"task": tasks}), **settings}
    each = [{**more, "seed": seed} for seed in seeds] or [more]
    experiments = [model.experiment(**words) for model in listed for words in each]
    folders: dict[Path, None] = {}
    if any(task.speed is not None for of in experiments for task in of.tasks):
        raise ConfigError(
            "speed has no scores; run task=speed as a sweep, and read table('table4')"
        )
    check_surroundings(experiments)
    check_left(experiments)
    for experiment in experiments:
        folders |= dict.fromkeys(cell.folder for cell in job.run(experiment, keep_going=False))
    cells, problems = read_cells(folders)
    if problems:
        raise ResultError("; ".join(problems))
    return scores(cells)


def _method(steps: Sequence[Step], name: str, folders: Folders) -> dict[str, Any]:
    """The section `method` of steps, as a YAML of conf/method would have it (ConfigError)."""
    section: dict[str, Any] = {}
    for step in steps:
        cls = type(step)
        if cls.__module__ == "__main__":
            raise ConfigError(
                f"{cls.__name__} is defined in a notebook or script, and results are identified by "
                "the file of a step's class; put it in a module, and import it"
            )
        key = cls.__name__.lower()
        while key in section:
            key += "_again"
        section[key] = {TARGET: f"{cls.__module__}.{cls.__qualname__}", **asdict(step)}
    name = name or "_".join(section)
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"name = {name!r} is part of folders' names: use letters, digits, . _ -")
    made = {"name": name, **section}
    stated = content_of(folders, "method", name) if name in folders.options("method") else made
    if read_method(made).describe() != read_method(stated).describe():
        raise ConfigError(f"name = {name!r}: there is a method of this name, with other steps")
    return made
