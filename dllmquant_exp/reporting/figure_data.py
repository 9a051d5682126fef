"""What a figure is drawn from: arrays, and how they were measured. Written whole or not at all.

<runs_dir>/figures/<figure>-<model>-<hash of its configuration>/
    data.safetensors   the arrays
    figure.json        configuration, source, versions, labels of the arrays, and `numbers`: what
                       claims need, each a value with its 95% interval, n and the prompts' values
    figureN.png, figureN.pdf   drawn from these two files alone
"""

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from dllmquant_exp.reporting.cells import commit_of
from dllmquant_exp.store.results import (
    FIGURES_FOLDER,
    ResultError,
    canonical_json,
    json_text,
    load_json,
    sha256,
    with_digest,
)

ARRAYS_FILE, INFO_FILE = "data.safetensors", "figure.json"
ARRAYS_DIGEST = "arrays_digest"  # of the arrays' file, in the other one
FIELDS = {  # of figure.json, without which nothing can be drawn or decided
    "figure": str, "model": Mapping, "config": Mapping, "seed": int, "changed": Mapping,
    "labels": Mapping, "numbers": Mapping, "timing": Mapping,
}  # fmt: skip
NAMES = (
    ("model", "name"), ("model", "embedded"), ("model", "outliers"), ("config", "prompts"),
    ("config", "checkpoint_digest"), ("timing", "started_at"),
)  # fmt: skip
FIGURE_VERSION = 2  # of what the probes record; pictures and claims read this one only
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class FigureData:
    """One recorded figure.

    Attributes:
        folder: where it is, and where its pictures go.
        arrays: by name; the probe that measured them says their shapes.
        info: the JSON file: `figure`, `model`, `config`, `changed`, `labels`, `numbers`, ...
    """

    folder: Path
    arrays: Arrays
    info: Mapping[str, Any]

    @property
    def figure(self) -> str:
        """As `figure2`."""
        return str(self.info["figure"])

    @property
    def labels(self) -> Mapping[str, Any]:
        """What rows and columns of the arrays are."""
        found: Mapping[str, Any] = self.info["labels"]
        return found

    @property
    def numbers(self) -> Mapping[str, Any]:
        """What claims need."""
        found: Mapping[str, Any] = self.info["numbers"]
        return found

    @property
    def changed(self) -> Mapping[str, Any]:
        """Settings that are not the model's own, by name; such a figure decides no claim. A seed is
        none of them, though older recordings name it."""
        recorded: Mapping[str, Any] = self.info["changed"]
        return {name: value for name, value in recorded.items() if name != "seed"}

    @property
    def commit(self) -> str:
        """Of the source that measured it, as in `CellResult.commit`."""
        return commit_of(self.info.get("source", {}))

    @property
    def note(self) -> str:
        """Which model this is; says so where it is none of the paper's."""
        model = self.info["model"]
        return model_note(model["name"], embedded=model["embedded"], outliers=model["outliers"])

    @property
    def footnote(self) -> str:
        """The note, and in a second line, which a figure may go on with, how many prompts."""
        prompts = self.info["config"]["prompts"]
        return f"{self.note}\n{prompts} prompt{'s' * (prompts > 1)}"


def model_note(name: str, *, embedded: bool, outliers: bool) -> str:
    """`outliers`: large channels were put into the model, see models/embedded/outliers.py."""
    if not embedded:
        return name
    put_in = ", outlier channels put in" if outliers else ""
    return f"{name}: embedded stand-in{put_in}; not a model of the paper"


def figure_folder(runs_dir: Path, figure: str, model: str, config_hash: str) -> Path:
    return runs_dir / FIGURES_FOLDER / f"{figure}-{model}-{config_hash[:8]}"


def save_arrays(folder: Path, arrays: Arrays, info: Mapping[str, Any]) -> None:
    """Write a folder that appears complete or not at all; one that is there already stays.

    The JSON file holds the digests of both, by which damage is noticed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        partial.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        in_order = {name: np.array(value, order="C") for name, value in arrays.items()}
        save_file(in_order, partial / ARRAYS_FILE)
        digest = sha256((partial / ARRAYS_FILE).read_bytes())
        text = json_text(with_digest({**info, ARRAYS_DIGEST: digest}))
        (partial / INFO_FILE).write_text(text + "\n", encoding="utf-8")
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():  # another process has measured the same thing meanwhile
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_figure(folder: Path) -> FigureData:
    """Read what `save_arrays` wrote.

    Raises:
        ResultError: files that are missing, unreadable or of another schema.
    """
    try:
        info = load_json(folder / INFO_FILE)
    except ResultError as error:
        raise ResultError(f"{error}: delete {folder} and record the figure again") from error
    if info.get("figure_version") != FIGURE_VERSION:
        raise ResultError(
            f"{folder / INFO_FILE}: figure_version is {info.get('figure_version')!r}, this version "
            f"reads {FIGURE_VERSION}: delete {folder} and record the figure again"
        )
    for name, kind in FIELDS.items():
        if not isinstance(info.get(name), kind):
            raise ResultError(f"{folder / INFO_FILE}: {name} is missing or of a wrong kind")
    for section, name in NAMES:
        if name not in info[section]:
            raise ResultError(f"{folder / INFO_FILE}: {section}.{name} is missing")
    return FigureData(folder, load_arrays(folder, info.get(ARRAYS_DIGEST)), info)


def load_arrays(folder: Path, digest: str | None = None) -> dict[str, NDArray[Any]]:
    """The arrays alone.

    Args:
        digest: of their file; older recordings have none.

    Raises:
        ResultError: they cannot be read, or are not what was written.
    """
    try:
        content = (folder / ARRAYS_FILE).read_bytes()
        arrays = load(content)
    except (OSError, ValueError, SafetensorError) as error:
        reason = f"{folder / ARRAYS_FILE} cannot be read ({error}): delete {folder}"
        raise ResultError(reason) from error
    if digest not in (None, sha256(content)):
        raise ResultError(f"{folder / ARRAYS_FILE} is damaged: delete {folder}")
    return arrays


def recorded_figures(runs_dir: Path) -> tuple[list[FigureData], list[str]]:
    """Every recorded figure of a runs folder by name, and what could not be read."""
    found: list[FigureData] = []
    problems: list[str] = []
    for path in sorted((runs_dir / FIGURES_FOLDER).glob(f"[!.]*/{INFO_FILE}")):
        try:
            found.append(load_figure(path.parent))
        except ResultError as error:
            problems.append(str(error))
    return found, problems


def deciding(figures: Iterable[FigureData]) -> list[FigureData]:
    """Of several recordings of one figure those that speak for it: one per seed, by seed.

    They agree in everything but their seed. Of several such groups that with most prompts, of these
    that with most seeds, then the newest.
    """
    groups: dict[str, dict[int, FigureData]] = {}
    for data in sorted(figures, key=_started):
        config = data.info["config"]
        settings = {k: v for k, v in config.get("settings", {}).items() if k != "seed"}
        same = canonical_json({**config, "settings": settings})
        groups.setdefault(same, {})[data.info["seed"]] = data
    best = max(groups.values(), key=_weight)
    return [best[seed] for seed in sorted(best)]


def _weight(by_seed: Mapping[int, FigureData]) -> tuple[int, int, str]:
    prompts = {data.info["config"]["prompts"] for data in by_seed.values()}
    return max(prompts), len(by_seed), max(map(_started, by_seed.values()))


def _started(data: FigureData) -> str:
    return str(data.info["timing"]["started_at"])
