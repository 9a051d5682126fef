"""The results behind README's tables, kept as archives, and the tables as they follow from them.

    python tests/published.py pack RUNS    # a folder of `table=all` -> runs/*.tar.xz
    python tests/published.py write        # the archives -> README's tables

Archives hold the result files of two sweeps, one archive per seed, and the recorded figures of each
model; nothing else that runs write. README's tables stand between two comments, and
`test_published.py` compares them with what the archives say.
"""

import io
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from dllmquant_exp.reporting import claim_verdicts, table
from dllmquant_exp.reporting.claims import FAILS, HOLDS, UNDECIDED, UNMEASURED
from dllmquant_exp.reporting.claims.figures import figure_claims
from dllmquant_exp.reporting.claims.speed import speed_claims
from dllmquant_exp.reporting.figures.recordings import ARRAYS_FILE, INFO_FILE, SCHEMA_VERSION
from dllmquant_exp.reporting.render import signed
from dllmquant_exp.store.results import RESULT_FILE, TABLES_SWEEP, ResultError, load_json

REPOSITORY = Path(__file__).resolve().parents[1]
KEPT = REPOSITORY / "runs"
README = REPOSITORY / "README.md"
PLAIN = "table6_plain"  # Table 6 on the model without outlier channels, where it is not at chance
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def pack(runs_dir: Path, kept: Path) -> list[Path]:
    """Write the archives, but for those that hold these very files: a seed that is kept already
    stays as it is in the repository's history. Returns the archives.

    Raises:
        ResultError: there is nothing to pack, or a file that cannot be read.
    """
    groups: dict[str, list[Path]] = {}
    for sweep in (TABLES_SWEEP, PLAIN):
        for path in sorted((runs_dir / sweep).glob(f"*/{RESULT_FILE}"), key=_alike):
            groups.setdefault(f"{sweep}-s{load_json(path)['cell']['seed']}", []).append(path)
    for path in sorted((runs_dir / "figures").glob(f"[!.]*/{INFO_FILE}")):
        model = load_json(path, SCHEMA_VERSION)["model"]["name"]
        groups.setdefault(f"figures-{model}", []).extend((path, path.with_name(ARRAYS_FILE)))
    if not groups:
        raise ResultError(f"{runs_dir} holds no sweep {TABLES_SWEEP!r} or {PLAIN!r} and no figures")
    kept.mkdir(exist_ok=True)
    return [_packed(paths, runs_dir, kept / f"{name}.tar.xz") for name, paths in groups.items()]


def _packed(paths: Iterable[Path], runs_dir: Path, archive: Path) -> Path:
    contents = {path.relative_to(runs_dir).as_posix(): path.read_bytes() for path in paths}
    if archive.exists() and contents == dict(_members(archive)):
        return archive
    with tarfile.open(archive, "w:xz", preset=9) as made:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return archive


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive) as packed:
        for member in packed:
            content = packed.extractfile(member)
            assert content is not None  # archives hold files only
            yield member.name, content.read()


def _alike(path: Path) -> tuple[str, str]:
    """Files of one task stand together: they compress best beside each other."""
    model_and_row, _, task = path.parent.name.partition("-micro_")
    return task, model_and_row


def unpack(kept: Path, runs_dir: Path) -> None:
    """All archives of a folder, as `tar -xf` would."""
    for archive in sorted(kept.glob("*.tar.xz")):
        with tarfile.open(archive) as packed:
            packed.extractall(runs_dir, filter="data")


def readme_tables(runs_dir: Path) -> str:
    """Tables 1 and 2 and the verdicts, for all models that the folder has results of."""
    return "\n".join(_parts(runs_dir)).strip()


def _parts(runs_dir: Path) -> Iterator[str]:
    models = []  # in Table 1's order
    for title, scores in _scores(table("table1", runs_dir)):
        yield from (f"Table 1, {title}:", "", _markdown(scores), "")
        models.append(_model(title))
    columns = {
        _model(title): scores["Avg."] for title, scores in _scores(table("table2", runs_dir))
    }
    averages = pd.DataFrame(columns)[models].fillna("-")
    yield from ("Table 2, averages of the nine tasks:", "", _markdown(averages), "")
    measured = _measured(runs_dir, TABLES_SWEEP, models)
    figures = measured["claim"].isin([claim.name for claim in figure_claims()])
    speed = measured["claim"].isin([claim.name for claim in speed_claims()])
    for heading, chosen in (
        ("Claims about scores, in points:", measured[~figures & ~speed]),
        ("Claims about what goes on inside a decode, as ratios or shares:", measured[figures]),
        ("Claims about speed and memory, as ratios:", measured[speed]),
    ):
        if len(chosen):
            yield from (heading, "", _markdown(_wide(chosen, models)), "")
    if (runs_dir / PLAIN).is_dir():
        for title, scores in _scores(table("table6", runs_dir, PLAIN)):
            yield from (f"Table 6, {title}:", "", _markdown(scores), "")
            claims = _measured(runs_dir, PLAIN, [_model(title)])
            if len(claims):
                yield from (_markdown(_wide(claims, [_model(title)])), "")


def _measured(runs_dir: Path, sweep: str, models: list[str]) -> pd.DataFrame:
    verdicts = claim_verdicts(runs_dir, sweep)
    verdicts["model"] = verdicts["model"].map(_model)
    return verdicts[verdicts["model"].isin(models) & (verdicts["verdict"] != UNMEASURED)]


def _wide(claims: pd.DataFrame, models: list[str]) -> pd.DataFrame:
    """A line per claim and a column per model."""
    texts = claims.assign(text=claims.apply(_text, axis=1))
    wide = texts.pivot(index="sentence", columns="model", values="text")
    return wide.loc[claims["sentence"].unique()].reindex(columns=models).fillna(UNMEASURED)


def _scores(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for title in frame.index.unique("model"):
        yield title, frame.loc[title].loc["score"].drop(index="items")


def _model(title: str) -> str:
    return title.partition(" ")[0]


def _text(claim: pd.Series) -> str:
    """`holds: +36.3 [31.9, 40.5], p = .008`; where undecided, behind it what is detectable."""
    if claim["verdict"] not in (HOLDS, FAILS, UNDECIDED):
        return str(claim["verdict"])
    if claim["unit"] == "tasks":
        found = f"{claim['effect']:.0f} tasks [{claim['low']:.0f}, {claim['high']:.0f}]"
        unclear = f"{found} ({claim['detectable']:.1f} points on a task)"
        return unclear if claim["verdict"] == UNDECIDED else f"{claim['verdict']}: {found}"
    digits = 1 if claim["unit"] == "points" else 2
    numbers = (claim["effect"], claim["low"], claim["high"])
    value, low, high = (
        signed(x, digits) if claim["unit"] == "points" else f"{x:.{digits}f}" for x in numbers
    )
    found = f"{value} [{low}, {high}]"
    if claim["verdict"] == UNDECIDED:
        factor = "x" if claim["unit"] == "times" else ""
        return f"{found} ({factor}{claim['detectable']:.{digits}f})"
    p = claim["p_holm"]
    if pd.isna(p):  # counted, not measured
        return f"{claim['verdict']}: {value}"
    return f"{claim['verdict']}: {found}, p {'< .001' if p < 0.001 else f'= {p:.3f}'}"


def _markdown(frame: pd.DataFrame) -> str:
    columns = frame.rename_axis(columns=None).reset_index(names="")
    sides = ["left", *["right"] * frame.shape[1]]
    return str(columns.to_markdown(index=False, disable_numparse=True, colalign=sides))


def tables_of(text: str) -> str:
    """The text between README's two comments.

    Raises:
        ValueError: one of them is missing.
    """
    return _split(text)[1].strip()


def with_tables(text: str, tables: str) -> str:
    """README with these tables between its two comments."""
    before, _, after = _split(text)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def _split(text: str) -> tuple[str, str, str]:
    before, begin, rest = text.partition(BEGIN)
    between, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README has no {BEGIN} with {END} behind it")
    return before, between, after


def main(words: Iterable[str]) -> int:
    """Pack or write; returns an exit status."""
    match list(words):
        case ["pack", folder]:
            for archive in pack(Path(folder), KEPT):
                print(f"{archive.name}: {archive.stat().st_size:,} bytes")
        case ["write"]:
            with tempfile.TemporaryDirectory() as folder:
                unpack(KEPT, Path(folder))
                made = readme_tables(Path(folder))
            text = with_tables(README.read_text(encoding="utf-8"), made)
            README.write_text(text, encoding="utf-8")
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
