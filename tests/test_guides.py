"""Every command, file and Python block of README and of the guides, in order, at small limits.

Each guide has a folder of its own, in which its blocks run one after the other, in this process.
Commands that need a cluster, the hub or a GPU, and whole tables, are composed and checked as they
are printed; all others run, on a tiny random checkpoint, with SMALL values in place of the printed
ones. Scripts and programs are not run here: their files and flags have to be there.
"""

import doctest
import io
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dllmquant_exp.__main__ import main
from dllmquant_exp.cli import COMMANDS
from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.config.tables import sweeps
from dllmquant_exp.run.sweep.composition import compose_jobs

REPOSITORY = Path(__file__).resolve().parents[1]
GUIDES = (
    "README.md", "conf/README.md", "dllmquant_exp/evaluation/README.md",
    "dllmquant_exp/quantization/README.md", "dllmquant_exp/reporting/README.md",
    "runs/RESULTS.md", "tests/README.md",
)  # fmt: skip
LANGUAGES = {"sh", "python", "yaml", "json", "text", "bibtex"}
PROGRAM = "python -m dllmquant_exp"
SMALL = {  # what stands in place of a printed value, where one is printed
    "limit": "1", "seed": "0", "prompts": "2", "tmas.samples": "4,8", "calibration.samples": "2,3",
    "decoding.steps": "2,4", "threads": "1", "quant.weight_bits": "3", "figure": "1,5",
}  # fmt: skip
COMPOSED = (  # too much for a test, or in need of something that it lacks
    "table=table", "table=all", "models=", "device=cuda", "launcher=", "task=speed", "model=llada",
    "model=dream",
)  # fmt: skip
# What reports read: results of two models as the tables' sweep, and the default sweep.
READY = (
    "table=table1 model=micro_llada,micro_dream row=fp,rtn task=micro_arc limit=2",
    "-m method=fp,rtn task=micro_arc limit=2",
)


@dataclass(frozen=True)
class Block:
    """A fenced block, and the file that the comment above it names."""

    language: str
    text: str
    file: str


def blocks(guide: str) -> list[Block]:
    text = (REPOSITORY / guide).read_text(encoding="utf-8")
    fenced = r"(?:^<!-- file: (\S+) -->\n)?^```(\w*)\n(.*?)^```$"
    found = re.findall(fenced, text, flags=re.MULTILINE | re.DOTALL)
    return [Block(language, body, file) for file, language, body in found]


def lines(text: str) -> Iterator[str]:
    """The commands of a block, continued lines joined and comments left out."""
    for line in text.replace("\\\n", " ").splitlines():
        for command in re.split(r" && |; |& done", line.partition(" #")[0]):
            found = re.sub(r"^(for [^;]*|do|done|wait)( |$)", "", command.strip())
            if found:
                yield found


def small(words: Sequence[str], checkpoint: Path) -> list[str]:
    """The words of an experiment, made quick."""
    found = [_small(word) for word in words]
    names = {word.partition("=")[0].lstrip("+") for word in found}
    text = " ".join(found)
    calibrates = re.search(r"awq|gptq|quarot|dllmquant", text) and "model=saved" not in found
    tmas = re.search(r"tmas|dllmquant", text)
    own = "model" in names or "checkpoint" in text
    extra = {
        "limit": "1",
        "tracking": "off",
        "threads": "1",
        "task": "micro_arc" if "task" not in names or "micro_nine" in text else "",
        "model.checkpoint": "" if own else str(checkpoint),
        "calibration.samples": "2" if calibrates and "+tmas=on" not in found else "",
        **(dict.fromkeys(("tmas.samples", "tmas.steps", "tmas.gen_length"), "4") if tmas else {}),
    }
    if "micro_nine" in text:
        found = [word for word in found if not word.startswith("task=")]
    return [*found, *(f"{k}={v}" for k, v in extra.items() if v and k not in names)]


def _small(word: str) -> str:
    name, equals, text = word.partition("=")
    values = text.split(",")
    if name in SMALL:
        values = SMALL[name].split(",")[: len(values)]
    elif name in ("row", "method"):  # the first and the last of a sweep
        values = [values[0], *values[1:][-1:]]
    return f"{name}{equals}{','.join(values)}"


def compose(words: Sequence[str]) -> None:
    """Compose the jobs as they are printed; of a table, whose names are checked, a single one."""
    for line in sweeps(Overrides.read(words)):
        line.check_names()
    if "table=table1" in words or "table=table2" in words:
        others = [word for word in words if not word.startswith(("seed=", "shards="))]
        one = "llada_8b task=piqa" if "models=paper" in words else "micro_llada task=micro_arc"
        compose_jobs(Overrides.read([*others, "row=awq", *f"model={one}".split()]))
    elif not any(word.startswith("table=") for word in words):
        compose_jobs(Overrides.read(words))


def run(words: list[str], checkpoint: Path) -> int:
    """The exit status of a command of the package."""
    command = words[0] if words and re.fullmatch(r"[a-z][a-z-]*", words[0]) else ""
    if "--help" in words or command in ("ls", "cite", "random-checkpoint"):
        return main(words)
    if command == "report" or "sweep=tables" in words:
        return 0 if main(words) in (0, 1) else 2  # 1: cells are missing here
    text = " ".join(words)
    if any(name in text for name in COMPOSED):
        own = (command, *COMMANDS[command].settings) if command else ()
        compose([word for word in words if word.partition("=")[0] not in own])
        return 0
    experiment = small(words[1:] if command else words, checkpoint)
    if command == "figures":
        printed = [_small(word) for word in words if not word.startswith(("threads=", "seed="))]
        own = [f"model.checkpoint={checkpoint}", "threads=1", "gen_length=8", "steps=4"]
        return main([*printed, *own])
    return main([command, *experiment] if command else experiment)


def check_script(words: Sequence[str]) -> None:
    """Check that files of the repository are there, and know the flags that they are given."""
    paths = [REPOSITORY / word for word in words if "/" in word and not word.startswith("-")]
    scripts = [path for path in paths if path.suffix == ".py" or path.parent.name == ".ci"]
    assert all(path.exists() for path in scripts), words
    text = "".join(path.read_text(encoding="utf-8") for path in scripts)
    flags = [word for word in words if word.startswith("--")]
    assert not scripts or all(f'"{flag}"' in text for flag in flags), words


def follow(command: str, checkpoint: Path, patch: pytest.MonkeyPatch) -> None:
    """Run one line of a `sh` block."""
    words = shlex.split(command)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        name, _, value = words.pop(0).partition("=")
        if name == "PYTHONPATH":
            patch.syspath_prepend(str(Path(value).resolve()))
    text = " ".join(words).removeprefix(".venv/bin/")
    if text.startswith((f"{PROGRAM} ", "dllmquant ")):
        given = words[3:] if text.startswith(PROGRAM) else words[1:]
        assert run(given, checkpoint) == 0, command
    elif text.startswith(("python tests/", "python notebooks/", ".ci/")):
        check_script(words)
    else:
        assert text.startswith(("pip install ", "python3 -m venv ", "python -m pytest ", "tar ")), (
            text
        )


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with the results that reports read."""
    runs_dir = tmp_path_factory.mktemp("ready") / "runs"
    for words in READY:
        assert main([*words.split(), "tracking=off", "threads=1", f"runs_dir={runs_dir}"]) == 0
    return runs_dir


@pytest.mark.parametrize("guide", GUIDES)
def test_every_block_runs(
    guide: str, ready: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ready, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    session: dict[str, Any] = {}  # what a guide's Python blocks have in common
    for block in blocks(guide):
        if block.file:
            path = tmp_path / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            execute(block.text, session, guide)
        elif block.language == "sh":
            for command in lines(block.text):
                follow(command, checkpoint, monkeypatch)


def execute(text: str, session: dict[str, Any], guide: str) -> None:
    """Run a Python block; one with prompts is a doctest."""
    if ">>>" not in text:
        exec(compile(text, guide, "exec"), session)
        return
    example = doctest.DocTestParser().get_doctest(text, session, guide, guide, 0)
    printed = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(example, out=printed.write, clear_globs=False)
    session.update(example.globs)
    assert not runner.failures, printed.getvalue()


@pytest.mark.parametrize("guide", GUIDES)
def test_links_lead_somewhere(guide: str) -> None:
    path = REPOSITORY / guide
    text = path.read_text(encoding="utf-8")
    assert {block.language for block in blocks(guide)} <= LANGUAGES
    for file, anchor in re.findall(r"\]\((?!http)([^)#\s]*)#?([^)\s]*)\)", text):
        target = (path.parent / file) if file else path
        assert target.exists(), file
        assert not anchor or anchor in anchors(target), f"{file}#{anchor}"
    assert all((path.parent / file).exists() for file in re.findall(r'src="([^"]+)"', text))


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_is_short_and_names_every_guide() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 260 and len(text.encode()) <= 18_000
    assert all(f"({guide})" in text for guide in GUIDES[1:])
