"""The results that the repository keeps, as archives, and the page and picture of what they say.

    python tests/published.py pack RUNS    # a folder of `table=all` -> runs/*.tar.xz
    python tests/published.py write        # the archives -> runs/RESULTS.md, runs/averages.svg

Archives hold the result files of two sweeps, one archive per seed, and the recorded figures of each
model; nothing else that runs write. The page is `results_page.md` beside this file, with a table or
a list in place of each {name}. `test_published.py` compares page and picture with the archives.
"""

import io
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from dllmquant_exp.reporting import claim_verdicts, results, table, table_cells
from dllmquant_exp.reporting.claims import FAILS, HOLDS, UNDECIDED, UNMEASURED
from dllmquant_exp.reporting.claims.figures import figure_claims
from dllmquant_exp.reporting.claims.speed import speed_claims
from dllmquant_exp.reporting.figures.recordings import ARRAYS_FILE, INFO_FILE, SCHEMA_VERSION
from dllmquant_exp.reporting.figures.style import BLUE, GREEN, GREY, ORANGE, styled
from dllmquant_exp.reporting.render import signed
from dllmquant_exp.store.results import RESULT_FILE, TABLES_SWEEP, ResultError, load_json

REPOSITORY = Path(__file__).resolve().parents[1]
KEPT = REPOSITORY / "runs"
PAGE, PICTURE = KEPT / "RESULTS.md", KEPT / "averages.svg"
TEMPLATE = Path(__file__).with_name("results_page.md")
FULL = "full precision"  # the variant that others stand beside
CHANCE = 27.8  # average of the nine tasks, in percent
PLAIN = "table6_plain"  # Table 6 on the model without outlier channels, where it is not at chance


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


def results_page(runs_dir: Path) -> str:
    """The page about the results in a folder.

    Raises:
        KeyError: the template names a part that there is not.
    """
    return TEMPLATE.read_text(encoding="utf-8").format_map(_parts(runs_dir))


def _parts(runs_dir: Path) -> dict[str, str]:
    """The parts that a page can name, as Markdown."""
    scores = dict(_scores(table("table1", runs_dir)))
    models = [_model(title) for title in scores]  # in Table 1's order
    columns = {
        _model(title): scores["Avg."] for title, scores in _scores(table("table2", runs_dir))
    }
    measured = _measured(runs_dir, TABLES_SWEEP, models)
    figures = measured["claim"].isin([claim.name for claim in figure_claims()])
    speed = measured["claim"].isin([claim.name for claim in speed_claims()])
    (plain,) = _scores(table("table6", runs_dir, PLAIN))
    name = _model(plain[0])
    return {
        "kept": _kept(runs_dir),
        "table1": "\n\n".join(f"{title}:\n\n{_markdown(of)}" for title, of in scores.items()),
        "table2": _markdown(pd.DataFrame(columns)[models].fillna("-")),
        "score_claims": _markdown(_wide(measured[~figures & ~speed], models)),
        "figure_claims": _markdown(_wide(measured[figures], models)),
        "speed_claims": _markdown(_wide(measured[speed], models)),
        "table6": _markdown(plain[1]),
        "table6_claims": _markdown(_wide(_measured(runs_dir, PLAIN, [name]), [name])),
        "table4": _speed(runs_dir),
    }


def _kept(runs_dir: Path) -> str:
    """How many results there are, of which seeds, items and commits."""
    frame = results(runs_dir, TABLES_SWEEP)
    scored = frame[frame["n"] > 0]
    lines = [
        f"- {len(frame)} results of `table=all`, made by {frame['commit'].nunique()} commits; "
        f"{len(results(runs_dir, PLAIN))} of Table 6 without outlier channels",
        f"- items of a task: {scored['n'].min()} to {scored['n'].max()}",
        *(
            f"- `{model}`: calibration seeds {', '.join(map(str, sorted(of['seed'].unique())))}"
            for model, of in scored.groupby("model")
        ),
    ]
    return "\n".join(lines)


def _speed(runs_dir: Path) -> str:
    """Table 4's speed and memory, and the machine that they were measured on."""
    cells = table_cells("table4", runs_dir)
    full = cells[cells["variant"] == FULL].set_index(["model", "row"])
    lines = []
    for low in cells[cells["variant"] != FULL].itertuples():
        beside = full.loc[(low.model, low.row)]
        lines.append({
            "model": f"{low.model}, {low.row}, {low.variant}",
            f"tokens/s, {beside['type']}": _spread(beside, "tokens_per_second", 0),
            "tokens/s, 4 bits": _spread(low._asdict(), "tokens_per_second", 0),
            "times as fast": _spread(low._asdict(), "speedup", 2),
            "MiB, 16 bits": f"{beside['weight_bytes'] / 2**20:.1f}",
            "MiB, 4 bits": f"{low.weight_bytes / 2**20:.1f}",
            "times smaller": f"{beside['weight_bytes'] / low.weight_bytes:.2f}",
        })  # fmt: skip
    machine = cells[["cpu", "threads", "execution"]].drop_duplicates().to_numpy()
    said = "; ".join(f"{cpu}, {n} threads, {how} kernels" for cpu, n, how in machine)
    return f"Machine: {said}.\n\n{_markdown(pd.DataFrame(lines).set_index('model').fillna('-'))}"


def _spread(values: Mapping[str, Any], name: str, digits: int) -> str:
    median, low, high = (f"{values[name + end]:.{digits}f}" for end in ("", "_low", "_high"))
    return f"{median} ({low} to {high})"


def averages(runs_dir: Path) -> pd.DataFrame:
    """Table 1's averages, one line per model and row: score, low and high, in percent."""
    cells = table_cells("table1", runs_dir)
    found = cells[(cells["column"] == "Avg.") & (cells["variant"] == "")]
    return found[["model", "name", "score", "low", "high"]]


def draw(found: pd.DataFrame, path: Path) -> None:
    """Draw the averages with their intervals; the file's description holds the numbers."""
    names = list(found["name"].unique())
    with styled(), rc_context({"svg.fonttype": "none"}):
        figure = Figure(figsize=(5.2, 2.3), layout="constrained")
        axes = figure.add_subplot()
        colours = zip(found.groupby("model", sort=False), (BLUE, ORANGE, GREEN), strict=True)
        for n, ((model, of), colour) in enumerate(colours):
            at = [names.index(name) + 0.22 * (n - 1) for name in of["name"]]
            errors = [of["score"] - of["low"], of["high"] - of["score"]]
            style = {"fmt": "o", "ms": 3, "capsize": 1.5, "color": colour, "label": model}
            axes.errorbar(of["score"], at, xerr=errors, **style)
        axes.axvline(CHANCE, color=GREY, lw=0.8, ls=":", label="chance")
        axes.set(yticks=range(len(names)), yticklabels=names)
        axes.set_xlabel("average score of nine tasks (%), 95% interval; W4A4, embedded stand-ins")
        axes.invert_yaxis()
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(path, metadata={"Date": None, "Description": _numbers(found)})


def _numbers(found: pd.DataFrame) -> str:
    return found.to_csv(index=False, float_format="%.2f")


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


def main(words: Iterable[str]) -> int:
    """Pack or write; returns an exit status."""
    match list(words):
        case ["pack", folder]:
            for archive in pack(Path(folder), KEPT):
                print(f"{archive.name}: {archive.stat().st_size:,} bytes")
        case ["write"]:
            with tempfile.TemporaryDirectory() as folder:
                unpack(KEPT, Path(folder))
                PAGE.write_text(results_page(Path(folder)), encoding="utf-8")
                draw(averages(Path(folder)), PICTURE)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
