"""Settings by which one task is evaluated with one model, and their source."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, get_args

from dllmquant_exp.diffusion.settings import DecodingSettings, LikelihoodSettings
from dllmquant_exp.errors import Refusal
from dllmquant_exp.models.transformer import Architecture

Variant = Literal["likelihood", "generation"]
Estimator = Literal["llada", "dream", "dream_whole"]

LIKELIHOOD_METRICS = ("acc", "acc_norm", "mc2")
OVERRIDES = (
    "gen_length",
    "steps",
    "block_length",
    "remasking",
    "temperature",
    "top_p",
    "guidance",
    "mc_num",
    "suppress_eos",
)


class SettingsError(Refusal):
    """A task cannot be evaluated as asked for; the message says which setting and what would do."""


@dataclass(frozen=True)
class TaskSettings:
    """Everything that decides how a task's items become a score.

    Lengths are in tokens, `shots` in examples, `mc_num` in Monte-Carlo samples per answer.
    Generation needs gen_length, steps, block_length and remasking; likelihood needs estimator,
    mc_num and mc_batch_size; `source` says where the values were published.
    """

    harness_task: str  # lm-eval's name of the task or group, a micro task's, or a YAML's path
    variant: Variant
    metric: str  # acc, acc_norm or mc2 of a likelihood task; else what the task's scoring gives
    source: str
    shots: int = 0
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

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise SettingsError(f"task {self.harness_task}: " + "; ".join(problems))

    def decoding(self) -> DecodingSettings:
        """The decoding of a generation task; DiffusionError where values do not fit."""
        assert self.gen_length is not None and self.steps is not None
        assert self.block_length is not None and self.remasking is not None
        return DecodingSettings(
            gen_length=self.gen_length,
            steps=self.steps,
            block_length=self.block_length,
            remasking=self.remasking,
            temperature=self.temperature,
            guidance=self.guidance,
            top_p=self.top_p,
            suppress_eos=self.suppress_eos,
        )

    def likelihood(self) -> LikelihoodSettings:
        """The estimator of a likelihood task; DiffusionError where the values do not fit."""
        assert self.mc_num is not None and self.mc_batch_size is not None
        assert self.estimator is not None
        return LikelihoodSettings(
            mc_num=self.mc_num,
            mc_batch_size=self.mc_batch_size,
            guidance=self.guidance,
            estimator=self.estimator,
        )

    def validate(self, architecture: Architecture) -> None:
        """Raise SettingsError where remasking, estimator or guidance is another architecture's."""
        settings = self.likelihood() if self.variant == "likelihood" else self.decoding()
        try:
            settings.validate(architecture)
        except Refusal as error:
            raise SettingsError(f"task {self.harness_task}: {error}") from None


def resolve_settings(
    task_name: str,
    task_spec: Mapping[str, Any],
    settings_name: str,
    overrides: Mapping[str, Any] | None = None,
) -> TaskSettings:
    """The settings of a task for a model, with a decoding option's overrides on top.

    Args:
        task_name: for messages.
        task_spec: one entry of `task.tasks`, with a mapping `settings`.
        settings_name: the model's `settings` key, such as llada_base.
        overrides: the decoding group; a value of None keeps what was published.

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
    values = dict(known[settings_name])
    names = [field.name for field in fields(TaskSettings)]
    _refuse_unknown(f"task {task_name}, settings {settings_name}", values, names)
    _refuse_unknown("decoding", overrides or {}, [*OVERRIDES, "name"])
    try:
        settings = TaskSettings(**values)
    except TypeError as error:
        raise SettingsError(f"task {task_name}, settings {settings_name}: {error}") from None
    return _override(settings, overrides or {})


def _override(settings: TaskSettings, overrides: Mapping[str, Any]) -> TaskSettings:
    """Apply overrides that mean something for the task's variant; the others cannot matter."""
    common = {"guidance"}
    mine = {"mc_num"} if settings.variant == "likelihood" else {*OVERRIDES} - {"mc_num"} - common
    given = {
        key: value for key, value in overrides.items() if value is not None and key in mine | common
    }
    if "mc_num" in given and settings.mc_batch_size is not None:
        given["mc_batch_size"] = math.gcd(settings.mc_batch_size, given["mc_num"])
    return replace(settings, **given)


def _refuse_unknown(where: str, values: Mapping[str, Any], known: list[str]) -> None:
    for key in values:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
            raise SettingsError(f"{where}: unknown key {key!r}{hint}")


def _problems(s: TaskSettings) -> list[str]:
    """List the problems of the settings, in words."""
    found = []
    for name, allowed in (
        ("variant", get_args(Variant)),
        ("estimator", (None, *get_args(Estimator))),
    ):
        if getattr(s, name) not in allowed:
            choices = ", ".join(str(a) for a in allowed if a is not None)
            found.append(f"{name} = {getattr(s, name)!r} is not one of: {choices}")
    if found:
        return found
    if (s.variant == "likelihood") != (s.metric in LIKELIHOOD_METRICS):
        found.append(f"metric {s.metric} does not go with variant {s.variant}")
    if not s.source:
        found.append("source is empty: say where the values were published, or 'house choice: why'")
    if s.shots < 0:
        found.append(f"shots = {s.shots} must not be negative")
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
