"""`figures [figure=1|2|...|all] [model=micro_llada] [prompts=64] ...`: measure, then draw.

Figures 1-6 and 9 are measured on the model, those that read a seed once for each of `seed=0,1,2`;
7 and 8 are drawn from the results of a sweep.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.probes.settings import (
    READS,
    Probe,
    ProbeError,
    check_read,
    read_probe,
)
from dllmquant_exp.reporting.figure_data import FigureData
from dllmquant_exp.reporting.figures import FIGURES, FROM_RESULTS, draw, draw_results
from dllmquant_exp.run.machine import check_device, check_writable, torch_threads
from dllmquant_exp.store.results import FIGURES_FOLDER, TABLES_SWEEP


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
    sweep = given.pop("sweep", TABLES_SWEEP)
    probes = [read_probe(given, words, config_folder) for words in one_seed_each(words)]
    probe = probes[0]
    check_read(probe, names, asked)
    check_device(probe.experiment.common.device)
    check_writable(probe.runs_dir / FIGURES_FOLDER)
    status = 0
    with torch_threads(probe.experiment.common.threads):
        pictures = _measured_and_drawn(probes, [n for n in names if n not in FROM_RESULTS])
        for path in pictures:
            print(path)
    for name in (n for n in names if n in FROM_RESULTS):
        made, missing = draw_results(name, probe.runs_dir, sweep, probe.experiment.model.name)
        for path in made:
            print(path)
        if missing:
            print(f"{name}: {missing}")
            status = 1
    return status


def _measured_and_drawn(probes: Sequence[Probe], names: Sequence[str]) -> Iterator[Path]:
    """probes: one per seed."""
    if not names:
        return
    # lm-eval takes seconds to import, and figures 7 and 8 do not need it.
    from dllmquant_exp.probes.record import record
    from dllmquant_exp.probes.subject import load_subject

    loaded = cache(lambda: load_subject(probes[0]))  # its decodes are greedy: no seed

    def recorded(probe: Probe, name: str) -> FigureData:
        return record(probe, name, lambda: replace(loaded(), probe=probe))

    for name in names:
        for probe in probes if "seed" in READS[name] else probes[:1]:
            yield from draw(recorded(probe, name))


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
        return list(FIGURES)
    names = [f"figure{part.removeprefix('figure')}" for part in re.split(r"\s*,\s*", text)]
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        known = ", ".join(name.removeprefix("figure") for name in FIGURES)
        raise ProbeError(f"figure = {text!r} is not all or some of: {known}")
    return names
