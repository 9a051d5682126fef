"""`figures [figure=1|2|...|all] [model=micro_llada] [prompts=64] ...`: measure, record and draw.

Figures with a probe are measured on the model, those that read a seed once for each of
`seed=0,1,2`; the others are drawn from the results of a sweep.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from dllmquant_exp.reporting.figures.recordings import (
    FigureData,
    load_recording,
    save_recording,
)
from dllmquant_exp.run.machine import check_device, check_writable, torch_threads
from dllmquant_exp.store import provenance
from dllmquant_exp.store.results import FIGURES_FOLDER, TABLES_SWEEP, config_hash

if TYPE_CHECKING:
    from dllmquant_exp.probes.decodes import Subject


def figures(values: Mapping[str, Any], words: Sequence[str], config_folder: Path) -> int:
    """Print the path of every picture. Returns 0, or 1 where results for one are missing.

    Args:
        values: `figure`, `task`, `sweep` and settings of `ProbeSettings`, by name.
        words: of the experiment, for Hydra.

    Raises:
        ConfigError, ProbeError: settings that are wrong, or that none of the figures reads.
    """
    given = dict(values)
    names = wanted(given.pop("figure"))
    asked = [*given, *Overrides.read(words).texts]
    check_read(names, asked, architecture_of(words, config_folder))
    sweep = given.pop("sweep", TABLES_SWEEP)
    probes = [read_probe(given, chosen, config_folder) for chosen in one_seed_each(words)]
    probe = probes[0]
    check_device(probe.experiment.common.device)
    check_writable(probe.runs_dir / FIGURES_FOLDER)
    with torch_threads(probe.experiment.common.threads):
        for path in _measured_and_drawn(probes, [n for n in names if catalog()[n].measure]):
            print(path)
    status = 0
    for name in (n for n in names if catalog()[n].table):
        pictures, missing = draw_results(name, probe.runs_dir, sweep, probe.experiment.model.name)
        for path in pictures:
            print(path)
        if missing:
            print(f"{name}: {missing}")
            status = 1
    return status


def _measured_and_drawn(probes: Sequence[Probe], names: Sequence[str]) -> Iterator[Path]:
    """probes: one per seed."""
    if not names:
        return
    # lm-eval takes seconds to import, and figures of results do not need it.
    from dllmquant_exp.probes.decodes import load_subject

    loaded = cache(lambda: load_subject(probes[0]))  # its decodes are greedy: no seed
    for name in names:
        for probe in probes if "seed" in catalog()[name].reads else probes[:1]:
            yield from draw(record(probe, name, lambda p=probe: replace(loaded(), probe=p)))  # type: ignore[misc]


def record(probe: Probe, figure: str, subject: "Callable[[], Subject]") -> FigureData:
    """The recording of one figure in `<runs_dir>/figures`, measured first where there is none.

    Args:
        figure: one with a `measure` in the catalog.
        subject: loads the model; not called where the figure is recorded.

    Raises:
        ResultError: a recording that cannot be read.
        ProbeError, CheckpointError, ...: what the measurement cannot do.
    """
    config = figure_config(probe, figure)
    model, digest = probe.experiment.model, config_hash(config)
    folder = probe.runs_dir / FIGURES_FOLDER / f"{figure}-{model.name}-{digest[:8]}"
    if folder.exists():
        return load_recording(folder)
    started, start = provenance.now(), time.perf_counter()
    loaded = subject()
    ready = time.perf_counter()
    measured = resolve_name(catalog()[figure].measure)(loaded)
    info = {
        **{name: config[name] for name in ("schema_version", "figure_version", "figure")},
        "model": {
            "name": model.name,
            "embedded": model.embedded,
            "outliers": model.outliers is not None,
        },
        "config": config,
        "config_hash": digest,
        "changed": changed_settings(probe, figure),
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
    save_recording(folder, measured.arrays, info)
    return load_recording(folder)


def one_seed_each(words: Sequence[str]) -> list[list[str]]:
    """Hydra's words once for each of the seeds in `seed=0,1,2`.

    Raises:
        ConfigError: a seed that is there twice.
    """
    line = Overrides.read(words)
    seeds = line.values("seed")
    if len(set(seeds)) < len(seeds) or len(line.touching("seed")) > 1:
        raise ConfigError(
            f"{' '.join(line.touching('seed'))}: give each seed once, as in seed=0,1,2"
        )
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
