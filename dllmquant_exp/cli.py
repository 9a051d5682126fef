"""Help and subcommands: everything on the command line that is not a composition for Hydra.

A command's settings are declared once, in `COMMANDS`. Each command imports the code that it runs
when it runs, so help and refusals come at once.
"""

import difflib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dllmquant_exp
from dllmquant_exp.config.command import PROGRAM, Command, Given, Setting
from dllmquant_exp.config.folder import Folders, split_folders
from dllmquant_exp.errors import ConfigError, Refusal
from dllmquant_exp.probes.arguments import figure_settings

HELP_FLAGS = ("-h", "--help")


def dispatch(words: Sequence[str]) -> int | None:
    """Handle help and subcommands. Returns an exit status, or None where Hydra is meant."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or file that does not know a letter
            stream.reconfigure(errors="backslashreplace")
    try:
        folders, rest = split_folders(words)
        if rest and "=" not in rest[0] and rest[0][:1] not in "-+~":
            return _run_command(rest, folders)
    except Refusal as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if set(HELP_FLAGS) & set(rest):
        from dllmquant_exp.config.help import print_help

        summaries = {name: command.summary for name, command in COMMANDS.items()}
        more = [f"report {page}: {REPORTS[page].summary}" for page in list(REPORTS)[1:]]
        summaries["report"] = "; ".join([summaries["report"], *more])
        print_help(folders, summaries)
        return 0
    if rest == ["--version"]:
        print(f"dllmquant-exp {dllmquant_exp.__version__}")
        return 0
    return None


def _run_command(words: Sequence[str], folders: Folders) -> int:
    name, rest = words[0], list(words[1:])
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(
            f"{name!r} is not a command{hint} (there are: {', '.join(COMMANDS)}); settings are "
            f"written setting=value, see {PROGRAM} --help"
        )
    command = COMMANDS[name]
    if name == "report":
        pages = [word for word in rest[:1] if "=" not in word and word[0] != "-"]
        page = pages[0] if pages else "table" if _names_a_table(rest) else "sweep"
        if page not in REPORTS:
            raise ConfigError(f"there is no report {page!r} (there are: {', '.join(REPORTS)})")
        name, command, rest = f"report {page}", REPORTS[page], rest[len(pages) :]
    return command.call(name, rest, folders)


def _names_a_table(words: Sequence[str]) -> bool:
    """Whether `table=` is among the words, or means to be."""
    names = [word.partition("=")[0] for word in words]
    return bool(difflib.get_close_matches("table", names, n=1, cutoff=0.8))


def _settings(given: Given) -> dict[str, Any]:
    """The settings that have a value."""
    own = {name: value for name, value in vars(given).items() if value is not None}
    return {name: value for name, value in own.items() if name not in ("words", "folders")}


def _plan(given: Given) -> int:
    line = _line(given)
    from dllmquant_exp.run.plan.command import plan

    return plan(line, given.on, given.utilisation, given.slowdown, given.throughput)


def _figures(given: Given) -> int:
    line = _line(given)
    from dllmquant_exp.probes.command import figures

    return figures(_settings(given), [*given.folders.words, *line.texts])


def _line(given: Given) -> Any:
    """The words of an experiment, checked as far as that is quick."""
    from dllmquant_exp.config.overrides import Overrides

    line = Overrides.read([*given.folders.words, *given.words])
    line.check_names()
    return line


def _ls(given: Given) -> int:
    from dllmquant_exp.config.listing import list_group, list_options, show

    group, folders = given.group, given.folders
    show(list_options(folders) if group is None else list_group(folders, group))
    return 0


def _cite(given: Given) -> int:
    from dllmquant_exp.config.citation import bibtex

    print(bibtex())
    return 0


def _train(given: Given) -> int:
    from dllmquant_exp.models.embedded.train import train_model

    return train_model(given.model, given.folder, given.threads, steps=given.steps, seed=given.seed)


def _random_checkpoint(given: Given) -> int:
    from dllmquant_exp.models.checkpoints import random_checkpoint

    folder = random_checkpoint(**_settings(given))
    print(f"wrote {folder}")
    return 0


def _report_sweep(given: Given) -> int:
    from dllmquant_exp.reporting.commands import report_sweep

    return report_sweep(_sweep(given), given.format, _report_folder(given))


def _report_table(given: Given) -> int:
    from dllmquant_exp.reporting.commands import report_tables

    tracking = _tracking(given.folders, given.tracking)
    return report_tables(given.table, _sweep(given), _report_folder(given), given.format, tracking)


def _report_claims(given: Given) -> int:
    from dllmquant_exp.reporting.commands import report_claims

    return report_claims(_sweep(given), _report_folder(given), given.format)


def _report_audit(given: Given) -> int:
    from dllmquant_exp.reporting.commands import report_audit

    return report_audit(_report_folder(given))


def _sweep(given: Given) -> Any:
    """The sweep to report, of the models that are named, separated by commas; none means all."""
    from dllmquant_exp.reporting.reports import Sweep

    models = [name.strip() for name in (given.model or "").split(",") if name.strip()]
    return Sweep(Path(given.runs_dir), given.sweep, models, (*given.folders,))


def _report_folder(given: Given) -> Path:
    """Folder of the files; by default beside the cells, where no sweep looks for results."""
    return Path(given.folder or Path(given.runs_dir, given.sweep, "report"))


def _tracking(folders: Folders, name: str) -> Any:
    """An option of the group `tracking`, checked.

    Raises:
        ConfigError, TrackingError: no such option, or one that cannot be used here.
    """
    import yaml

    from dllmquant_exp.store.schema import read
    from dllmquant_exp.store.tracking import TrackingSettings, check_tracking

    options = folders.options("tracking")
    if name not in options:
        raise ConfigError(f"tracking = {name!r} is not one of: {', '.join(options)}")
    settings = read(TrackingSettings, yaml.safe_load(options[name].read_text("utf-8")), "tracking")
    check_tracking(settings, os.environ)
    return settings


_RUNS = {"runs_dir": Setting("where results are", "runs")}
_SOME = {"model": Setting("of these models alone, separated by commas")}
_FOLDER = {"folder": Setting("where files go (default: <runs_dir>/<sweep>/report)")}
_TABLES = {"sweep": Setting("whose results", "tables")}
_FORMAT = {"format": Setting("or some of markdown, latex, csv, html, separated by commas", "all")}
_STATUS = "Exit status 1: cells are missing, failed or unreadable; they are named."
REPORTS = {
    "sweep": Command(
        "the tables of a sweep",
        f"Prints a sweep's tables from its result files, and runs nothing. {_STATUS}\n\n"
        "Other reports write files as well: report table=table1 (to table6, or all), the\n"
        "paper's tables beside its numbers; report claims, a verdict on each of its claims;\n"
        "report audit, what does not add up in its printed numbers. Each has its own --help.",
        {"sweep": Setting("whose results", "default"), **_RUNS, **_SOME,
         "format": Setting("what is printed; html: a page in the folder as well", "table",
                           choices=("table", "csv", "html")), **_FOLDER},
        _report_sweep, examples=("report sweep=seeds", "report table=all", "report claims"),
    ),
    "table": Command(
        "the paper's tables",
        f"Prints the paper's tables beside its numbers, and writes them to files. {_STATUS}",
        {"table": Setting("table1 to table6, or all", needed=True), **_TABLES, **_RUNS, **_SOME,
         **_FOLDER, **_FORMAT,
         "tracking": Setting("an option of the group: tables go to W&B too", "off")},
        _report_table, examples=("report table=table1", "report table=all model=micro_llada"),
    ),
    "claims": Command(
        "a verdict on each of the paper's claims",
        f"Prints a verdict on each of the paper's claims, for each model. {_STATUS}",
        {**_TABLES, **_RUNS, **_SOME, **_FOLDER, **_FORMAT},
        _report_claims, examples=("report claims",),
    ),
    "audit": Command(
        "what does not add up in the paper's numbers",
        "Prints what does not add up in the paper's own printed numbers. Needs no results.",
        {**_TABLES, **_RUNS, **_FOLDER},
        _report_audit, examples=("report audit folder=audit",),
    ),
}  # fmt: skip
COMMANDS = {
    "ls": Command(
        "what can be chosen, a line each; ls GROUP: its settings with types and defaults",
        "Lists every option of every group, yours marked. With the name of a group it lists the\n"
        "group's settings: default, type, and the comment in their file.",
        {"group": Setting("one of the groups")},
        _ls, examples=("ls", "ls quant", "ls task", "--config-dir mine ls method"), bare="group",
    ),
    "cite": Command(
        "BibTeX of the paper and of this software",
        "Prints BibTeX entries of the paper and of this software.",
        {}, _cite, examples=("cite",),
    ),
    "plan": Command(
        "print what a sweep will take (time, memory, disk per cell) without running it",
        "Prints what the same command without `plan` would do, and runs none of it: the cells,\n"
        "which of them are finished, what they share, and an estimate of time, memory and disk.\n"
        "Token-forwards are counted from the requests. One forward costs what finished cells of\n"
        "the same row took; where there are none, what a part of the model takes now, or what is\n"
        "stated. No checkpoint is downloaded; tasks whose rows are read from the hub are named.\n"
        "All other words are the sweep's.",
        {"on": Setting("here: this machine; or a GPU by its name, such as h100 "
                       "(default: here, and a100 where device=cuda and this machine has no GPU)"),
         "utilisation": Setting("of a named GPU's dense peak", 0.4, float),
         "slowdown": Setting("time of a quantized forward on a named GPU over one in full "
                             "precision", 1.0, float),
         "throughput": Setting("FLOP/s, as 1.2e14, in place of what is measured or a GPU's peak",
                               kind=float)},
        _plan, composes=True,
        examples=("plan -m row=fp,rtn,awq limit=100",
                  "plan table=table1 models=paper device=cuda dtype=bfloat16 on=h100"),
    ),
    "train": Command(
        "train an embedded model by its recipe; a killed training goes on where it stopped",
        "Trains an embedded model by its recipe. A killed training goes on where it stopped.",
        {"model": Setting("which recipe", "micro_llada"),
         "folder": Setting("where it is written (default: runs/train/<model>)"),
         "threads": Setting("of the CPU", 2, int, least=1),
         "steps": Setting("of training (default: the recipe's)", kind=int, least=1),
         "seed": Setting("(default: the recipe's)", kind=int)},
        _train, examples=("train model=micro_dream",),
    ),
    "report": REPORTS["sweep"],
    "figures": Command(
        "measure and draw: figures figure=1 (to 10, or all) model=micro_llada prompts=64",
        "Measures a model for each figure, keeps the numbers under <runs_dir>/figures and\n"
        "draws them as PNG and PDF. A recorded figure is drawn again without measuring.\n"
        "Figures 1 to 6 are the paper's; 7 (ablation) and 8 (paper and ours) are drawn from the\n"
        "results of a sweep; 9 is the sensitivity of each layer, 10 the outliers of\n"
        "each kind of tensor.\n\n"
        "All other words are those of an experiment (model, runs_dir, device, threads, ...). A\n"
        "setting that none of the chosen figures reads is refused. `report claims` is decided by\n"
        "figures recorded with a model's own settings (but any number of prompts) and checkpoint,\n"
        "and names the others. With seed=0,1,2 each is recorded, and claims cover its choice too:\n"
        "the seed of figure 2's calibration sets, of the positions that get figure 4's noise, and\n"
        "of the tokens that figure 6 draws.",
        figure_settings(),
        _figures, composes=True, examples=("figures figure=2 model=micro_dream prompts=16",),
    ),
    "random-checkpoint": Command(
        "write a small random checkpoint in an official layout, to try things on",
        "Writes a small checkpoint with random weights in an official layout, to try things on.",
        {"architecture": Setting("its layout", needed=True, choices=("llada", "dream")),
         "folder": Setting("where it is written", needed=True),
         "seed": Setting("of the weights", 0, int),
         "d_model": Setting("width", 64, int, least=1),
         "n_layers": Setting("blocks", 2, int, least=1),
         "max_length": Setting("tokens", 2048, int, least=1),
         "tokenizer_from": Setting("a checkpoint (default: a small tokenizer of its own)")},
        _random_checkpoint, examples=("random-checkpoint architecture=dream folder=small",),
    ),
}  # fmt: skip
