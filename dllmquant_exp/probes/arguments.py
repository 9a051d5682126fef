"""The settings of the command `figures`: types, ranges, defaults and help, each declared once."""

from dataclasses import MISSING, dataclass, fields
from typing import Annotated, get_args, get_type_hints

from dllmquant_exp.config.command import Setting
from dllmquant_exp.errors import Refusal
from dllmquant_exp.store.results import TABLES_SWEEP
from dllmquant_exp.store.schema import Above, AtLeast, AtMost, Settings


class ProbeError(Refusal):
    """A figure that cannot be measured as asked."""


@dataclass(frozen=True)
class ProbeSettings(Settings):
    """Amounts that are measured, and what is shown; a field's last annotation is its help."""

    prompts: Annotated[
        int,
        AtLeast(1),
        "the task's first ones: 64, or 1000 for a published checkpoint, as in the paper. Claims "
        "need 6, and with n of them no p-value is below 2^(1-n)",
    ]
    gen_length: Annotated[int, AtLeast(1), "of the decodes; default: as those for calibration"]
    steps: Annotated[int, AtLeast(1), "of the decodes, at most one per token; default likewise"]
    blocks: Annotated[
        int, AtLeast(1), "of the decodes; Dream decodes in one, and its blocks are equal parts"
    ] = 4
    prompt: Annotated[int, AtLeast(0), "whose decode and attention figures 3 to 5 show"] = 0
    layer: Annotated[int, AtLeast(-1), "of figure 3, from 0; -1 is the middle one"] = -1
    head: Annotated[int, AtLeast(0), "of figures 3 and 5, from 0"] = 0
    noise: Annotated[
        float, Above(0), AtMost(10), "figure 4's RMS, as a share of the RMS of a block's output"
    ] = 0.5
    states: Annotated[int, AtLeast(1), "per prompt, evenly over the decode: figures 9, 10"] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt >= self.prompts:
            raise ProbeError(f"prompt = {self.prompt} must be between 0 and {self.prompts - 1}")
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


def figure_settings() -> dict[str, Setting]:
    """Every setting of the command by name, with the ranges and defaults of `ProbeSettings`."""
    hints = get_type_hints(ProbeSettings, include_extras=True)
    own = {}
    for field in fields(ProbeSettings):
        kind, *_, text = get_args(hints[field.name])
        usual = "" if field.default is MISSING else f" (default: {field.default})"
        own[field.name] = Setting(text + usual, kind=kind, least=-1)
    return {
        "figure": Setting("or some of 1 to 10, separated by commas", "all"),
        "task": Setting("where prompts are from: micro_gsm8k, or piqa for a published checkpoint"),
        **own,
        "sweep": Setting(f"whose results figures 7 and 8 show (default: {TABLES_SWEEP})"),
    }
