"""Settings by which one task is evaluated with one model, and their source."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal

from dllmquant_exp.diffusion.settings import DecodingSettings, LikelihoodSettings, MaskCounts
from dllmquant_exp.errors import Refusal
from dllmquant_exp.models.transformer import Architecture
from dllmquant_exp.store.schema import AtLeast, Settings, plain, read

Variant = Literal["likelihood", "generation"]
Estimator = Literal["llada", "dream", "dream_whole"]
Length = Annotated[int, AtLeast(1)]

LIKELIHOOD_METRICS = ("acc", "acc_norm", "mc2")


class SettingsError(Refusal):
    """A task cannot be evaluated as asked for; the message says which setting and what would do."""


@dataclass(frozen=True)
class DecodingOverrides:
    """Replacements of every task's published settings; None keeps the published value."""

    name: str
    gen_length: int | None = None
    steps: int | None = None
    block_length: int | None = None
    remasking: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    guidance: float | None = None
    mc_num: int | None = None
    mask_counts: MaskCounts | None = None
    suppress_eos: bool | None = None
    confidence_eos_eot_inf: bool | None = None
    cut_at_end: bool | None = None


OVERRIDES = tuple(field.name for field in fields(DecodingOverrides) if field.name != "name")
LIKELIHOOD_OVERRIDES = ("mc_num", "mask_counts", "guidance")
GENERATION_OVERRIDES = tuple(name for name in OVERRIDES if name not in ("mc_num", "mask_counts"))


@dataclass(frozen=True)
class TaskSettings(Settings):
    """Everything that decides how a task's items become a score.

    Lengths are in tokens, `shots` in examples, `mc_num` in Monte-Carlo samples per answer.
    Generation needs gen_length, steps, block_length and remasking; likelihood needs estimator,
    mc_num and mc_batch_size; `source` says where the values were published.
    """

    harness_task: str  # lm-eval's name of the task or group, a micro task's, or a YAML's path
    variant: Variant
    metric: str  # acc, acc_norm or mc2 of a likelihood task; else what the task's scoring gives
    source: str
    shots: Annotated[int, AtLeast(0)] = 0
    chat_template: bool = False
    answer_filter: str | None = None  # name of one of the task's filters; None: its only one
    add_bos: bool = False  # put the model's begin-of-text token before every request
    guidance: float = 0.0
    mc_num: int | None = None
    mc_batch_size: int | None = None  # samples over which the mask sizes of one estimate spread
    estimator: Estimator | None = None
    gen_length: int | None = None
    steps: int | None = None
    block_length: int | None = None
    remasking: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    suppress_eos: bool = False
    include_path: str | None = None  # a folder of the user's with the task's YAML
    top_k: int | None = None
    mask_counts: MaskCounts = "uniform"
    confidence_eos_eot_inf: bool = False
    cut_at_end: bool = True  # a response ends at its first end-of-text or end-of-turn
    multiturn: bool = True  # with a chat template: each example is a turn of its own
    max_length: Length | None = None  # of a whole request; a longer one loses its beginning
    max_prompt_length: Length | None = None  # the same, of a prompt
    average: Literal["items", "members"] = "items"  # members: each of a group counts alike

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
            problems = list(_problems(self))
        except ValueError as error:
            problems = [str(error)]
        if problems:
            raise SettingsError(f"task {self.harness_task}: " + "; ".join(problems))

    def describe(self) -> dict[str, Any]:
        """Values that can change a score. Settings that older results do not know are there only
        where they are set, so that the cells of unchanged tasks keep their names."""
        names = [field.name for field in fields(self)]
        values = plain(self, later=names[names.index("include_path") :])
        del values["source"]  # says where the values come from
        return values

    def decoding(self) -> DecodingSettings:
        """The decoding of a generation task; DiffusionError where values do not fit."""
        known = [field.name for field in fields(DecodingSettings) if field.name != "end_of_turn"]
        return DecodingSettings(**{name: getattr(self, name) for name in known})

    def likelihood(self) -> LikelihoodSettings:
        """The estimator of a likelihood task; DiffusionError where the values do not fit."""
        known = [field.name for field in fields(LikelihoodSettings)]
        return LikelihoodSettings(**{name: getattr(self, name) for name in known})

    def validate(self, architecture: Architecture) -> None:
        """Raise SettingsError where remasking, estimator or guidance is another architecture's."""
        settings = self.likelihood() if self.variant == "likelihood" else self.decoding()
        try:
            settings.validate(architecture)
        except Refusal as error:
            raise SettingsError(str(error)) from None


def resolve_settings(
    task_name: str,
    task_spec: Mapping[str, Any],
    settings_name: str,
    overrides: Mapping[str, Any] | None = None,
    profile: str = "published",
) -> TaskSettings:
    """The settings of a task for a model, with a decoding option's overrides on top.

    Args:
        task_name: for messages.
        task_spec: one entry of `task.tasks`, with a mapping `settings`, and `profiles` of settings
            that take their place.
        settings_name: the model's `settings` key, such as llada_base.
        overrides: the decoding group; a value of None keeps what was published.
        profile: one of `profiles`; where it has nothing for this model, `settings` stay.

    Raises:
        SettingsError: no settings for this model, an unknown key, or an impossible value.
    """
    known = task_spec.get("settings") or {}
    if settings_name not in known:
        raise SettingsError(
            f"task {task_name} has no settings for models of kind {settings_name!r}; it has them "
            f"for: {', '.join(known) or 'none'}. Add settings.{settings_name} to conf/task/"
            f"{task_name}.yaml or choose another task"
        )
    values = profile_settings(task_spec, profile).get(settings_name, known[settings_name])
    where = f"task {task_name}, settings {settings_name}"
    try:
        settings = read(TaskSettings, values, where)
        asked = asdict(read(DecodingOverrides, {"name": "", **(overrides or {})}, "decoding"))
        return _override(settings, asked)
    except SettingsError:
        raise
    except Refusal as error:
        raise SettingsError(str(error)) from error


def profile_settings(task_spec: Mapping[str, Any], profile: str) -> Mapping[str, Any]:
    """A task's settings under a profile, by the models that it changes something for."""
    profiles: Mapping[str, Mapping[str, Any]] = task_spec.get("profiles") or {}
    return profiles.get(profile) or {}


def _override(settings: TaskSettings, overrides: Mapping[str, Any]) -> TaskSettings:
    """Apply overrides that mean something for the task's variant; the others cannot matter."""
    likelihood = settings.variant == "likelihood"
    mine = LIKELIHOOD_OVERRIDES if likelihood else GENERATION_OVERRIDES
    given = {name: overrides[name] for name in mine if overrides[name] is not None}
    if "mc_num" in given and settings.mc_batch_size is not None:
        given["mc_batch_size"] = math.gcd(settings.mc_batch_size, given["mc_num"])
    return replace(settings, **given)


def _problems(s: TaskSettings) -> list[str]:
    """List the problems of the settings, in words."""
    found = []
    if (s.variant == "likelihood") != (s.metric in LIKELIHOOD_METRICS):
        found.append(f"metric {s.metric} does not go with variant {s.variant}")
    if not s.source:
        found.append("source is empty: say where the values were published, or 'house choice: why'")
    needed = (
        ("estimator", "mc_num", "mc_batch_size")
        if s.variant == "likelihood"
        else ("gen_length", "steps", "block_length", "remasking")
    )
    missing = [name for name in needed if getattr(s, name) is None]
    if missing:
        return [*found, f"variant {s.variant} needs {', '.join(missing)}"]
    try:
        s.likelihood() if s.variant == "likelihood" else s.decoding()
    except Refusal as error:
        found.append(str(error))
    return found
