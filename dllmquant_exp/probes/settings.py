"""What is measured for the figures: the command's words, composed like any other experiment.

The words `figure=2 prompts=64` are read here; all others are Hydra's, as in `model=... seed=1`.
Prompts are PIQA's, as in the paper; an embedded model, which answers nothing but what it was
trained on, gets those of a task that it generates for. Responses are as long as the model's own
calibration decodes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dllmquant_exp.config.experiment import Experiment, resolve, to_mapping
from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.errors import ConfigError, Refusal
from dllmquant_exp.models.checkpoints import checkpoint_digest, resolve_checkpoint
from dllmquant_exp.run.sweep.composition import explain

# What a figure decides itself (execution: INT8 exists in fake alone), or no figure reads: nothing
# is accepted and then ignored.
CHOSEN = (
    "row", "method", "quant", "tmas", "cgq", "iaaq", "calibration", "table", "models", "limit",
    "decoding", "execution", "tracking",
)  # fmt: skip
UNREAD = ("save", "export", "shards", "shard", "launcher", "hydra")
DRAWN = {"figure7": ("sweep",), "figure8": ("sweep",)}  # from results, which measure nothing
# What each measured figure reads beside MEASURING; blocks also decide how LLaDA decodes.
READS = {
    "figure1": ("blocks",),
    "figure2": ("blocks", "seed"),
    "figure3": ("prompt", "layer", "head"),
    "figure4": ("blocks", "prompt", "noise", "seed"),
    "figure5": ("prompt", "head"),
    "figure6": ("seed",),
    "figure9": ("states",),
}
# Of every measurement: what its (greedy) decodes are made of, and where it runs.
MEASURING = (
    "prompts", "task", "gen_length", "steps",
    "data_root", "device", "dtype", "batch_size", "threads",
)  # fmt: skip
PROMPTS = {True: 64, False: 1000}  # by embedded; the paper's 1,000 PIQA prompts
TASKS = {True: "micro_gsm8k", False: "piqa"}
BLOCKS = 4


class ProbeError(Refusal):
    """A figure that cannot be measured as asked."""


@dataclass(frozen=True)
class ProbeSettings:
    """How much is measured, and which prompt, block and head are shown.

    Attributes:
        prompts: of the task, the first ones.
        gen_length, steps, blocks: of the decodes; at most one step per token. Dream decodes in one
            block, and its blocks are equal parts of the steps.
        prompt: whose decode and attention Figures 3-5 show.
        layer, head: of Figure 3's softmax map and values, from 0; -1 for the middle layer.
        noise: RMS of Figure 4's noise, as a share of the RMS of the block's output.
        states: per prompt, evenly spaced over the decode, for Figure 9.
    """

    prompts: int
    gen_length: int
    steps: int
    blocks: int = BLOCKS
    prompt: int = 0
    layer: int = -1
    head: int = 0
    noise: float = 0.5
    states: int = 4

    def __post_init__(self) -> None:
        for name in ("prompts", "gen_length", "steps", "blocks", "states"):
            if getattr(self, name) < 1:
                raise ProbeError(f"{name} = {getattr(self, name)} must be at least 1")
        if not 0 <= self.prompt < self.prompts:
            raise ProbeError(f"prompt = {self.prompt} must be between 0 and {self.prompts - 1}")
        for name, least in (("layer", -1), ("head", 0)):
            if getattr(self, name) < least:
                raise ProbeError(f"{name} = {getattr(self, name)} must be at least {least}")
        if not 0 < self.noise <= 10:
            raise ProbeError(f"noise = {self.noise} must be above 0 and at most 10")
        if self.gen_length % self.blocks or self.steps % self.blocks:
            raise ProbeError(
                f"blocks = {self.blocks} must divide gen_length = {self.gen_length} and steps = "
                f"{self.steps}"
            )
        if self.steps > self.gen_length:
            raise ProbeError(
                f"steps = {self.steps} for gen_length = {self.gen_length} leave steps with nothing "
                "to decide; ask for at most one step per token"
            )
        if self.states > self.steps:
            raise ProbeError(f"states = {self.states} per prompt, but there are {self.steps} steps")


@dataclass(frozen=True)
class Probe:
    """One model's measurements: settings, and the experiments that they are measured on.

    Attributes:
        experiment: in full precision, with the one task that prompts are taken from.
        config_folder, words: what other rows are composed from.
    """

    settings: ProbeSettings
    experiment: Experiment
    config_folder: Path
    words: tuple[str, ...]

    @property
    def runs_dir(self) -> Path:
        return Path(self.experiment.common.runs_dir)

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
        return resolve(_composed(self.config_folder, [*self.words, *words]))

    def reads(self, figure: str) -> set[str]:
        """The settings that decide anything about a figure; `model` and `runs_dir` always do."""
        if figure in DRAWN:
            return set(DRAWN[figure])
        decides = ("blocks",) if self.experiment.model.architecture == "llada" else ()
        return {*MEASURING, *READS[figure], *decides}

    def key(self) -> dict[str, Any]:
        """Everything that decides a decode in full precision, which is greedy: no seed."""
        cell = self.experiment.cell_config(self.experiment.tasks[0])
        common = ("model", "task", "data_root", "device", "dtype", "batch_size", "threads")
        checkpoint, found = self.experiment.model.checkpoint, None
        if checkpoint.startswith("embedded:") or Path(checkpoint).expanduser().exists():
            revision = self.experiment.model.revision
            found = checkpoint_digest(resolve_checkpoint(checkpoint, revision))
        return {name: cell[name] for name in common} | {
            "checkpoint_digest": found,  # None where a hub would have to be asked
            "prompts": self.settings.prompts,
            "decoding": asdict(self.decoding),
        }


def read_probe(given: Mapping[str, Any], words: Sequence[str], config_folder: Path) -> Probe:
    """Compose the model and check what is asked for.

    Args:
        given: settings of `ProbeSettings` by name, and `task`; what is missing fits the model.
        words: Hydra's, such as `model=micro_llada`.

    Raises:
        ConfigError, ProbeError: what is wrong, and what would work.
    """
    line = Overrides.read(words)
    if line.touches(*CHOSEN):
        found = line.within(*CHOSEN)
        raise ConfigError(
            f"{found.texts[0]}: figures decide their own {found.names[0]}; leave it out"
        )
    if line.touches(*UNREAD):
        found = line.within(*UNREAD)
        raise ConfigError(f"{found.texts[0]}: no figure reads {found.names[0]}; leave it out")
    model = _composed(config_folder, words)["model"]
    embedded, decodes = bool(model["embedded"]), model["calibration"]
    defaults = {
        "prompts": PROMPTS[embedded],
        "gen_length": decodes["gen_length"],
        "steps": decodes["steps"],
    }
    numbers = {name: value for name, value in given.items() if name != "task"}
    settings = ProbeSettings(**{**defaults, **numbers})
    chosen = (*words, f"task={given.get('task', TASKS[embedded])}")
    experiment = resolve(_composed(config_folder, [*chosen, "row=fp"]))
    if len(experiment.tasks) > 1:
        names = ", ".join(task.name for task in experiment.tasks)
        raise ProbeError(f"prompts come from one task, not from several ({names}); choose one")
    return Probe(settings, experiment, config_folder, chosen)


def check_read(probe: Probe, figures: Sequence[str], names: Iterable[str]) -> None:
    """Refuse what none of the figures reads.

    Args:
        names: of the command's settings, and Hydra's words.

    Raises:
        ConfigError: a setting that would change nothing, and which figures read it.
    """
    for word in names:
        name = _group(word)
        if name == "runs_dir" or word.startswith("model=") or word.startswith("model.name="):
            continue
        readers = [
            figure
            for figure in (*READS, *DRAWN)
            if name in probe.reads(figure) or (name == "model" and figure in READS)
        ]
        if not set(readers) & set(figures):
            raise ConfigError(
                f"{word}: {_numbered(figures)} would not change with it; leave it out (read by "
                f"{_numbered(sorted(readers)) if readers else 'none'})"
            )


def _numbered(figures: Sequence[str]) -> str:
    """`figures 1, 2`"""
    numbers = ", ".join(figure.removeprefix("figure") for figure in figures)
    return f"figure{'s' if len(figures) > 1 else ''} {numbers}"


def changed_settings(probe: Probe, figure: str) -> dict[str, Any]:
    """What decides a figure and is not the model's own default, by name.

    Left out: how many prompts, the seed (claims are about any), what is only shown (prompt, layer,
    head), where it runs and in which precision, and where the checkpoint lies (its digest says
    which one it is).
    """
    line = Overrides.read(probe.words)
    chosen = [f"model={name}" for name in line.values("model")]
    words = [*line.folders.words, *chosen]
    usual = read_probe({}, words, probe.config_folder)
    read = probe.reads(figure) - {"prompts", "prompt", "layer", "head"}
    own, default = (
        {name: value for name, value in asdict(one.settings).items() if name in read}
        | {"task": one.experiment.tasks[0].name}
        | _flat("model", _composed(probe.config_folder, one.words)["model"])
        for one in (probe, usual)
    )
    left_out = ("model.checkpoint", "model.revision")
    return {
        name: value
        for name, value in own.items()
        if name not in left_out and (name not in default or default[name] != value)
    }


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {name: value}
    return {key: leaf for k, v in value.items() for key, leaf in _flat(f"{name}.{k}", v).items()}


def _group(word: str) -> str:
    """The first name of a word, as `quant` of `+quant.weight_bits=4`; a plain name as it is."""
    return Overrides.read([word]).names[0] if "=" in word else word


def _composed(config_folder: Path, words: Sequence[str]) -> dict[str, Any]:
    try:
        with initialize_config_dir(str(config_folder), version_base="1.3"):
            return to_mapping(compose("config", list(words)))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
