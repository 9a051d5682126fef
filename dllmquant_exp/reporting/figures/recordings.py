"""Recorded figures: what a probe measured, as files that appear whole or not at all.

<runs_dir>/figures/<figure>-<model>-<hash of its configuration>/
    data.safetensors   the arrays
    figure.json        configuration, source, versions, labels of the arrays, and `numbers`: what
                       claims need, each a value with its 95% interval, n and the prompts' values
    figureN.png, figureN.pdf   drawn from these two files alone
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from dllmquant_exp.reporting.frame import check_fields, commit_of
from dllmquant_exp.store.results import (
    FIGURES_FOLDER,
    ResultError,
    canonical_json,
    load_json,
    sha256,
    with_digest,
    write_json,
)
from dllmquant_exp.store.whole_files import whole_folder

ARRAYS_FILE, INFO_FILE = "data.safetensors", "figure.json"
ARRAYS_DIGEST = "arrays_digest"  # in the JSON file; older recordings have none
SCHEMA_VERSION = 1  # of a recording's file
FIGURE_VERSION = 2  # of what probes record; pictures and claims read no other
REQUIRED: dict[str, Any] = {  # types of the fields of figure.json that are read
    "figure": str, "model.name": str, "model.embedded": bool, "model.outliers": bool,
    "config.prompts": int, "config.checkpoint_digest": (str, type(None)), "seed": int,
    "changed": dict, "labels": dict, "numbers": dict, "timing.started_at": str,
}  # fmt: skip
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class FigureData:
    """One recorded figure.

    Attributes:
        folder: where it lies, and where its pictures go.
        arrays: by name; the probe that measured them documents their shapes.
        info: the content of the JSON file.
    """

    folder: Path
    arrays: Arrays
    info: Mapping[str, Any]

    @property
    def figure(self) -> str:
        """Its name, such as `figure2`."""
        return str(self.info["figure"])

    @property
    def labels(self) -> Mapping[str, Any]:
        """Names of the arrays' rows and columns."""
        labels: Mapping[str, Any] = self.info["labels"]
        return labels

    @property
    def numbers(self) -> Mapping[str, Any]:
        """Numbers that claims need, nested by what they are about."""
        numbers: Mapping[str, Any] = self.info["numbers"]
        return numbers

    @property
    def changed(self) -> Mapping[str, Any]:
        """Settings that differ from the model's own, by name; with any, it decides no claim.

        A seed is not one of them, though older recordings name it.
        """
        return {name: value for name, value in self.info["changed"].items() if name != "seed"}

    @property
    def commit(self) -> str:
        """The source that measured it, as in `Cell.commit`."""
        return commit_of(self.info.get("source", {}))

    @property
    def note(self) -> str:
        """The model's name, labelled where it is a stand-in."""
        model = self.info["model"]
        return model_note(model["name"], embedded=model["embedded"], outliers=model["outliers"])

    @property
    def footnote(self) -> str:
        """The note, and in a second line, which a figure may go on with, how many prompts."""
        prompts = self.info["config"]["prompts"]
        return f"{self.note}\n{prompts} prompt{'s' * (prompts > 1)}"


def model_note(name: str, *, embedded: bool, outliers: bool) -> str:
    """The model's name; `outliers`: large channels were put in, see models/embedded/outliers.py."""
    if not embedded:
        return name
    put_in = ", outlier channels put in" if outliers else ""
    return f"{name}: embedded stand-in{put_in}; not a model of the paper"


def save_recording(folder: Path, arrays: Arrays, info: Mapping[str, Any]) -> None:
    """Write a recording with the digests of both files; one that is there already stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    in_order = {name: np.array(value, order="C") for name, value in arrays.items()}
    with whole_folder(folder) as partial:
        save_file(in_order, partial / ARRAYS_FILE)
        digest = sha256((partial / ARRAYS_FILE).read_bytes())
        write_json(partial / INFO_FILE, with_digest({**info, ARRAYS_DIGEST: digest}))


def load_recording(folder: Path) -> FigureData:
    """Read a recording.

    Raises:
        ResultError: files that are missing, damaged or of another version.
    """
    try:
        info = load_json(folder / INFO_FILE, SCHEMA_VERSION)
    except ResultError as error:
        raise ResultError(f"{error}: delete {folder} and record the figure again") from error
    path = folder / INFO_FILE
    if info.get("figure_version") != FIGURE_VERSION:
        raise ResultError(
            f"{path}: figure_version is {info.get('figure_version')!r}, this version reads "
            f"{FIGURE_VERSION}: delete {folder} and record the figure again"
        )
    try:
        check_fields(info, REQUIRED)
    except ValueError as error:
        raise ResultError(f"{path}: {error}") from error
    return FigureData(folder, load_arrays(folder, info.get(ARRAYS_DIGEST)), info)


def load_arrays(folder: Path, digest: str | None = None) -> dict[str, NDArray[Any]]:
    """Read the arrays alone, and compare their file with `digest` where there is one.

    Raises:
        ResultError: they cannot be read, or are not what was written.
    """
    path = folder / ARRAYS_FILE
    try:
        content = path.read_bytes()
        arrays = load(content)
    except (OSError, ValueError, SafetensorError) as error:
        raise ResultError(f"{path} cannot be read ({error}): delete {folder}") from error
    if digest not in (None, sha256(content)):
        raise ResultError(f"{path} is damaged: delete {folder}")
    return arrays


def recorded_figures(runs_dir: Path) -> tuple[list[FigureData], list[str]]:
    """Every recording of a runs folder by name, and a line per recording that cannot be read."""
    found: list[FigureData] = []
    problems: list[str] = []
    for path in sorted((runs_dir / FIGURES_FOLDER).glob(f"[!.]*/{INFO_FILE}")):
        try:
            found.append(load_recording(path.parent))
        except ResultError as error:
            problems.append(str(error))
    return found, problems


def of_model(
    figures: Iterable[FigureData], model: str, checkpoints: Collection[str] = ()
) -> list[FigureData]:
    """The recordings of one model.

    Args:
        checkpoints: digests of the checkpoints behind the sweep's results; empty: not known. A
            recording of another checkpoint is kept as one with a changed setting.
    """

    def with_checkpoint(data: FigureData) -> FigureData:
        digest = data.info["config"]["checkpoint_digest"]
        if not checkpoints or digest is None or digest in checkpoints:
            return data
        changed = {**data.changed, "checkpoint": "another than the results'"}
        return replace(data, info={**data.info, "changed": changed})

    return [with_checkpoint(data) for data in figures if data.info["model"]["name"] == model]


def deciding(figures: Iterable[FigureData]) -> list[FigureData]:
    """The recordings that speak for one figure of one model: one per seed, by seed.

    They agree in everything but the seed. Among several such groups the one with most prompts is
    taken, then the one with most seeds, then the newest.
    """
    groups: dict[str, dict[int, FigureData]] = {}
    for data in sorted(figures, key=_started):
        config = data.info["config"]
        settings = {k: v for k, v in config.get("settings", {}).items() if k != "seed"}
        same = canonical_json({**config, "settings": settings})
        groups.setdefault(same, {})[data.info["seed"]] = data

    def weight(by_seed: Mapping[int, FigureData]) -> tuple[int, int, str]:
        prompts = max(data.info["config"]["prompts"] for data in by_seed.values())
        return prompts, len(by_seed), max(map(_started, by_seed.values()))

    best = max(groups.values(), key=weight)
    return [best[seed] for seed in sorted(best)]


def all_deciding(figures: Sequence[FigureData]) -> list[FigureData]:
    """The recordings of one model that decide claims: see `deciding`, figure by figure."""
    usual = [data for data in figures if not data.changed]
    names = sorted({data.figure for data in usual})
    return [one for name in names for one in deciding(d for d in usual if d.figure == name)]


def _started(data: FigureData) -> str:
    return str(data.info["timing"]["started_at"])
