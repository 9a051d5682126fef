"""The settings of the command `figures`: types, ranges, defaults and help, each declared once."""

import difflib
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, get_type_hints

from dllmquant_exp.errors import ConfigError, Refusal
from dllmquant_exp.store.results import TABLES_SWEEP
from dllmquant_exp.store.schema import Above, AtLeast, AtMost, Settings

HELP = """\
python -m dllmquant_exp figures [figure=all] [model=micro_llada] [setting=value ...]

Measures a model for each figure, keeps the numbers under <runs_dir>/figures and draws them as PNG
and PDF. A recording of the same settings is drawn again without measuring. Figures 1 to 6 are the
paper's; 7 (ablation) and 8 (paper and ours) are drawn from the results of a sweep; 9 is the
sensitivity of each layer.

{settings}
Common settings (runs_dir, device, threads, ...) are those of an experiment. A setting that none of
the chosen figures reads is refused. `report claims` is decided by figures recorded with a model's
own settings (but any number of prompts) and checkpoint, and names the others.

  python -m dllmquant_exp figures figure=2 model=micro_dream prompts=16
"""


class ProbeError(Refusal):
    """A figure that cannot be measured as asked."""


@dataclass(frozen=True)
class ProbeSettings(Settings):
    """How much is measured, and what is shown; the last annotation of a field is its help."""

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
    states: Annotated[int, AtLeast(1), "per prompt, evenly over the decode, for figure 9"] = 4

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


def arguments() -> dict[str, tuple[str, str]]:
    """Every setting of the command by name: its default as text (empty: see the help), its help."""
    hints = get_type_hints(ProbeSettings, include_extras=True)
    own = {
        f.name: ("" if f.default is MISSING else str(f.default), hints[f.name].__metadata__[-1])
        for f in fields(ProbeSettings)
    }
    seed = (
        "of figure 2's calibration sets, of the unmasked positions that get figure 4's noise, and "
        "of the tokens that figure 6 draws; seed=0,1,2 records each, and claims then cover the "
        "choice of seed too"
    )
    return {
        "figure": ("all", "or some of 1 to 9, separated by commas"),
        "task": ("", "where prompts are from: micro_gsm8k, or piqa for a published checkpoint"),
        **own,
        "sweep": (TABLES_SWEEP, "whose results figures 7 and 8 show"),
        "seed": ("0", seed),
    }


def help_text() -> str:
    """The answer to `figures --help`."""
    lines = []
    for name, (default, text) in arguments().items():
        first, *others = textwrap.wrap(text, 80)
        lines += [f"  {f'{name}={default}':<16}{first}", *(" " * 18 + line for line in others)]
    return HELP.format(settings="".join(line + "\n" for line in lines))


def split_words(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The command's own settings by name, and the words that are Hydra's, such as `seed=1`.

    Raises:
        ConfigError: a word that is no setting, or is given twice.
    """
    own = [name for name in arguments() if name != "seed"]
    given: dict[str, str] = {}
    others = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{word!r} is not setting=value, as in figures figure=2 prompts=64")
        near = difflib.get_close_matches(name, own, n=1, cutoff=0.8)
        if name not in own and near:
            raise ConfigError(f"figures has no setting {name!r} (did you mean {near[0]!r}?)")
        if name not in own:
            others.append(word)
        elif name in given:
            raise ConfigError(f"{name} is given twice")
        else:
            given[name] = value
    return given, others
