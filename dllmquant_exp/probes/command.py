"""`figures [figure=1|2|...|all] [model=micro_llada] [prompts=64] ...`: measure, record and draw.

Figures with a probe are measured on the model, those that read a seed once for each of
`seed=0,1,2`; the others are drawn from the results of a sweep.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.probes.arguments import ProbeError
from dllmquant_exp.probes.probe import (
    Probe,
    architecture_of,
    changed_settings,
    check_read,
    figure_config,
    read_probe,
)
from dllmquant_exp.reporting.figures.catalog import catalog, draw, draw_results
from dllmquant_exp.reporting.figures.recordings import FigureData, load_recording, save_recording
from dllmquant_exp.run.machine import check_device, check_writable, torch_threads
from dllmquant_exp.store import provenance
from dllmquant_exp.store.results import FIGURES_FOLDER, TABLES_SWEEP, ResultError, config_hash

if TYPE_CHECKING:
    from dllmquant_exp.probes.decodes import Subject

logger = logging.getLogger(__name__)


def figures(values: Mapping[str, Any], words: Sequence[str]) -> int:
    """Print the path of every picture. Returns 0, or 1 where results for one are missing.

    Args:
        values: `figure`, `task`, `sweep` and settings of `ProbeSettings`, by name.
        words: of the experiment, for Hydra.

    Raises:
        ConfigError, ProbeError: settings that are wrong, or that none of the figures reads.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("dllmquant_exp").setLevel(logging.INFO)
    given = dict(values)
    names = wanted(given.pop("figure"))
    check_read(names, [*given, *Overrides.read(words).texts], architecture_of(words))
    sweep = given.pop("sweep", TABLES_SWEEP)
    probes = [read_probe(given, chosen) for chosen in one_seed_each(words)]
    common, runs_dir = probes[0].experiment.common, probes[0].runs_dir
    check_device(common.device)
    check_writable(runs_dir / FIGURES_FOLDER)
    subject = cache(lambda: _load_subject(probes[0]))  # its decodes are greedy: no seed

    def drawn(name: str) -> tuple[list[Path], str]:
        kind = catalog()[name]
        if kind.table:
            return draw_results(name, runs_dir, sweep, probes[0].experiment.model.name)
        each = probes if "seed" in kind.reads else probes[:1]
        found = [record(p, name, lambda p=p: replace(subject(), probe=p)) for p in each]  # type: ignore[misc]
        return [path for data in found for path in draw(data)], ""

    status = 0
    with torch_threads(common.threads):
        for name in sorted(names, key=lambda name: bool(catalog()[name].table)):
            pictures, missing = drawn(name)
            for path in pictures:
                print(path)
            if missing:
                print(f"{name}: {missing}")
                status = 1
    return status


def _load_subject(probe: Probe) -> "Subject":
    # lm-eval takes seconds to import, and figures that are recorded do not need it.
    from dllmquant_exp.probes.decodes import load_subject

    return load_subject(probe)


def record(probe: Probe, figure: str, subject: "Callable[[], Subject]") -> FigureData:
    """The recording of one figure in `<runs_dir>/figures`, measured first where there is none.

    Args:
        figure: one with a `measure` in the catalog.
        subject: loads the model; not called where the figure is recorded.

    Raises:
        ResultError: a recording that cannot be read.
        ProbeError, CheckpointError, ...: what the measurement cannot do.
    """
    config, model = figure_config(probe, figure), probe.experiment.model.name
    folder = probe.runs_dir / FIGURES_FOLDER / f"{figure}-{model}-{config_hash(config)[:8]}"
    if not folder.exists():
        alike = _with_other_threads(probe, config, folder)
        if alike is not None:
            return alike
        save_recording(folder, *_measured(probe, config, subject))
    return load_recording(folder)


def _measured(
    probe: Probe, config: Mapping[str, Any], subject: "Callable[[], Subject]"
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The arrays of a figure, and the content of its JSON file."""
    started, start = provenance.now(), time.perf_counter()
    loaded = subject()
    ready = time.perf_counter()
    measured = resolve_name(catalog()[config["figure"]].measure)(loaded)
    model = probe.experiment.model
    return measured.arrays, {
        **{name: config[name] for name in ("schema_version", "figure_version", "figure")},
        "model": {
            "name": model.name,
            "embedded": model.embedded,
            "outliers": model.outliers is not None,
        },
        "config": config,
        "config_hash": config_hash(config),
        "changed": changed_settings(probe, config["figure"]),
        "seed": probe.seed,
        "words": [word for word in probe.words if not word.startswith("runs_dir=")],
        "labels": dict(measured.labels),
        "numbers": dict(measured.numbers),
        "versions": provenance.versions(),
        "source": provenance.source(),
        "hardware": provenance.hardware(loaded.device),
        "timing": {
            "started_at": started,
            "seconds_to_load": round(ready - start, 3),
            "seconds_to_measure": round(time.perf_counter() - ready, 3),
        },
    }


def _with_other_threads(probe: Probe, config: Mapping[str, Any], folder: Path) -> FigureData | None:
    """A recording that differs in its threads alone, where none were asked for."""
    if probe.experiment.common.threads is not None:
        return None
    for path in sorted(folder.parent.glob(f"{folder.name[:-8]}*")):
        try:
            found = load_recording(path)
        except ResultError:
            continue
        threads = found.info["config"].get("threads")
        if config_hash({**found.info["config"], "threads": None}) == config_hash(config):
            logger.warning(
                "%s is drawn from %s, measured with threads=%s; threads=N measures it anew",
                config["figure"], path, threads,
            )  # fmt: skip
            return found
    return None


def one_seed_each(words: Sequence[str]) -> list[list[str]]:
    """Hydra's words once for each of the seeds in `seed=0,1,2`.

    Raises:
        ConfigError: a seed that is there twice.
    """
    line = Overrides.read(words)
    seeds, given = line.values("seed"), line.touching("seed")
    if len(set(seeds)) < len(seeds) or len(given) > 1:
        raise ConfigError(f"{' '.join(given)}: give each seed once, as in seed=0,1,2")
    others = [*line.folders.words, *line.without("seed").texts]
    return [[*others, f"seed={seed}"] for seed in seeds] or [others]


def wanted(text: str) -> list[str]:
    """`all`, or numbers separated by commas, as names: figure1, ...

    Raises:
        ProbeError: no such figure.
    """
    if text == "all":
        return list(catalog())
    names = [f"figure{part.removeprefix('figure')}" for part in re.split(r"\s*,\s*", text)]
    if any(name not in catalog() for name in names):
        known = ", ".join(name.removeprefix("figure") for name in catalog())
        raise ProbeError(f"figure = {text!r} is not all or some of: {known}")
    return names
