"""The text of `--help`: everything that a command line can be composed of."""

import re
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dllmquant_exp.config.command import PROGRAM
from dllmquant_exp.config.folder import Folders, config_folder

EXAMPLES = (
    ("-m method=fp,rtn limit=100",
     "the main job: the embedded model, in full precision and at W4A4, on its nine tasks"),
    ("-m method=awq,quarot +tmas=on",
     "two methods, calibrated on states that TMAS picks from decodes"),
    ("table=table1",
     "the cells of the paper's Table 1, on the embedded models"),
    ("-m model=llada_8b method=fp,rtn task=nine device=cuda dtype=bfloat16 sweep=llada",
     "LLaDA-8B on the paper's nine tasks, as a sweep of its own"),
    ("report table=table1",
     "that table beside the paper's rows, as Markdown, LaTeX, HTML, CSV, from its result files"),
)  # fmt: skip


def print_help(folders: Folders, commands: Mapping[str, str]) -> None:
    """Print the groups with their options, common settings, commands and examples.

    Args:
        commands: their summaries by name.
    """
    console = Console()

    def say(text: str = "", style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    say(f"{PROGRAM} [-m] [--config-dir FOLDER] [group=option ...] [setting=value ...]", "bold")
    say(f"{PROGRAM} command [setting=value ...] (each has its own --help)\n", "bold")
    say(
        "Runs a diffusion language model, quantized or not, on a suite of tasks, writes one\n"
        "result file per task and prints the table. -m runs every combination of values that\n"
        "are separated by commas. --config-dir adds options of your own.\n"
    )
    groups = {name: f"{text}\n{_options(folders, name)}" for name, text in group_texts().items()}
    for title, rows in (
        ("groups", groups),
        ("settings", common_settings()),
        ("commands", commands),
    ):
        say(title, "bold")
        console.print(_rows(rows))
    say("examples", "bold")
    for number, (line, text) in enumerate(EXAMPLES, 1):
        say(f"  {number}. {text}")
        say(f"     {PROGRAM} {line}", "cyan")
    say(
        "\nAny setting inside a group can be given too, as in quant.weight_bits=3. --cfg job\n"
        "prints the composed configuration without running it; --hydra-help is Hydra's own help."
    )


def common_settings() -> dict[str, str]:
    """`name=default` and the comment of every top-level setting of config.yaml."""
    lines = re.findall(r"^(\w+): (\S+) +# (.+)$", _text(), flags=re.MULTILINE)
    return {f"{name}={default}": comment for name, default, comment in lines}


def group_texts() -> dict[str, str]:
    """The comment of every group of config.yaml, of those that its defaults lack as well."""
    pattern = r"^  (?:# )?- (\w+): \S+ # (.+)$"
    return dict(re.findall(pattern, _text(), flags=re.MULTILINE))


def _text() -> str:
    return (config_folder() / "config.yaml").read_text(encoding="utf-8")


def _options(folders: Folders, group: str) -> str:
    """A group's options, ours first, a user's marked as theirs."""
    ours = sorted(Folders().options(group))
    theirs = sorted(set(folders.options(group)) - set(ours))
    yours = f"\nyours: {', '.join(theirs)}" if theirs else ""
    return ", ".join(ours) + yours


def _rows(rows: Mapping[str, str]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for left, right in rows.items():
        table.add_row(Text(left), Text(right))
    return table
