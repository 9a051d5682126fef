"""One model's measurements: the command's words, composed like any other experiment.

Prompts are PIQA's, as in the paper. An embedded model answers only tasks that it was trained on and
gets the prompts of a generation task. Responses are as long as the model's own calibration decodes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dllmquant_exp.config.experiment import Experiment, resolve, to_mapping
from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.probes.arguments import ProbeError, ProbeSettings
from dllmquant_exp.reporting.figures.catalog import catalog
from dllmquant_exp.reporting.figures.recordings import FIGURE_VERSION, SCHEMA_VERSION
from dllmquant_exp.reporting.frame import flat
from dllmquant_exp.run.cell import local_digest
from dllmquant_exp.run.sweep.refusals import explain
from dllmquant_exp.store.schema import describe, read

# Read by every measurement: what its (greedy) decodes are made of, and where it runs.
OF_CELL = ("model", "task", "data_root", "device", "dtype", "batch_size", "threads")
MEASURING = (*OF_CELL, "prompts", "gen_length", "steps")
SHOWN = ("prompt", "layer", "head")  # change the picture, not what claims are decided by
PROMPTS = {True: 64, False: 1000}  # by embedded; the paper's 1,000 PIQA prompts
TASKS = {True: "micro_gsm8k", False: "piqa"}


@dataclass(frozen=True)
class Probe:
    """One model's measurements: settings, and the experiments that they are measured on.

    Attributes:
        experiment: in full precision, with the one task that prompts are taken from.
        model: the composed section of that name.
        words: what other rows are composed from.
    """

    settings: ProbeSettings
    experiment: Experiment
    model: Mapping[str, Any]
    words: tuple[str, ...]

    @property
    def runs_dir(self) -> Path:
        return self.experiment.common.runs_folder

    @property
    def seed(self) -> int:
        return self.experiment.common.seed

    @property
    def decoding(self) -> DecodingSettings:
        """Greedy, the surest first, as calibration decodes."""
        llada = self.experiment.model.architecture == "llada"
        length = self.settings.gen_length
        return DecodingSettings(
            gen_length=length,
            steps=self.settings.steps,
            block_length=length // self.settings.blocks if llada else length,
            remasking="low_confidence" if llada else "entropy",
        )

    def row(self, *words: str) -> Experiment:
        """The same model in another row, as `row=quarot quant=w8a8`."""
        return resolve(_composed([*self.words, *words]))

    def key(self) -> dict[str, Any]:
        """Everything that decides a decode in full precision, which is greedy: no seed."""
        cell = self.experiment.cell_config(self.experiment.tasks[0])
        return {name: cell[name] for name in OF_CELL} | {
            "checkpoint_digest": local_digest(self.experiment, keep_going=False),
            "prompts": self.settings.prompts,
            "decoding": describe(self.decoding),
        }


def read_probe(given: Mapping[str, Any], words: Sequence[str]) -> Probe:
    """Compose the model and check the settings.

    Args:
        given: settings of `ProbeSettings` by name, and `task`; what is missing fits the model.
        words: Hydra's, such as `model=micro_llada`.

    Raises:
        ConfigError, ProbeError: what is wrong, and what would work.
    """
    model = _composed(words)["model"]
    embedded, decodes = bool(model["embedded"]), model["calibration"]
    values: dict[str, Any] = {
        "prompts": PROMPTS[embedded],
        "gen_length": decodes["gen_length"],
        "steps": decodes["steps"],
    } | {name: value for name, value in given.items() if name != "task"}
    chosen = (*words, f"task={given.get('task', TASKS[embedded])}")
    settings = read(ProbeSettings, values, "figures")
    experiment = resolve(_composed([*chosen, "row=fp"]))
    if len(experiment.tasks) > 1:
        names = ", ".join(task.name for task in experiment.tasks)
        raise ProbeError(f"prompts come from one task, not from several ({names}); choose one")
    return Probe(settings, experiment, model, chosen)


def figure_config(probe: Probe, figure: str) -> dict[str, Any]:
    """Everything that decides what is recorded for a figure; its hash names the recording."""
    kind = catalog()[figure]
    settings = asdict(probe.settings) | {"seed": probe.seed}
    return {
        "figure": figure,
        "schema_version": SCHEMA_VERSION,
        "figure_version": FIGURE_VERSION,
        **probe.key(),
        "settings": {name: settings[name] for name in kind.reads},
        "quantized": resolve_name(kind.models)(probe) if kind.models else {},
    }


def settings_read(figure: str, architecture: str) -> set[str]:
    """The settings that decide anything about a figure; blocks decide how LLaDA decodes."""
    kind = catalog()[figure]
    if kind.table:
        return {"sweep"}
    return {*MEASURING, *kind.reads, *(["blocks"] if architecture == "llada" else [])}


def architecture_of(words: Sequence[str]) -> str:
    """The architecture of the model that the words choose; only those about the model count."""
    line = Overrides.read(words)
    return str(
        _composed([*line.folders.words, *line.within("model").texts])["model"]["architecture"]
    )


def check_read(figures: Sequence[str], words: Iterable[str], architecture: str) -> None:
    """Refuse settings that none of the figures reads; results are read of a model in a runs folder.

    Args:
        words: names of the command's settings, and Hydra's words.

    Raises:
        ConfigError: a setting that would change nothing, and which figures read it.
    """
    for word in words:
        name = Overrides.read([word]).names[0] if "=" in word else word
        if name == "runs_dir" or word.startswith(("model=", "model.name=")):
            continue
        readers = [one for one in catalog() if name in settings_read(one, architecture)]
        if not readers:
            raise ConfigError(f"{word}: no figure reads {name}; leave it out")
        if not set(readers) & set(figures):
            raise ConfigError(
                f"{word}: {_numbered(figures)} would not change with it; leave it out (read by "
                f"{_numbered(readers)})"
            )


def changed_settings(probe: Probe, figure: str) -> dict[str, Any]:
    """Settings that decide a figure's numbers and differ from the model's own default, by name.

    Left out are the number of prompts, the seed (claims are about any), what is only shown, where
    it runs and in which precision, and where the checkpoint lies (its digest identifies it).
    """
    line = Overrides.read(probe.words)
    models = [f"model={name}" for name in line.values("model")]
    usual = read_probe({}, [*line.folders.words, *models])
    counted = settings_read(figure, probe.experiment.model.architecture) - {"prompts", *SHOWN}
    own, default = (
        {name: value for name, value in asdict(one.settings).items() if name in counted}
        | {"task": one.experiment.tasks[0].name}
        | flat("model", one.model)
        for one in (probe, usual)
    )
    left_out = ("model.checkpoint", "model.revision")
    return {
        name: value
        for name, value in own.items()
        if name not in left_out and (name not in default or default[name] != value)
    }


def _numbered(figures: Sequence[str]) -> str:
    """`figures 1, 2`"""
    numbers = ", ".join(figure.removeprefix("figure") for figure in figures)
    return f"figure{'s' * (len(figures) > 1)} {numbers}"


def _composed(words: Sequence[str]) -> dict[str, Any]:
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            return to_mapping(compose("config", list(words)))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
