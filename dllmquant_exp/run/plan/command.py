"""`python -m dllmquant_exp plan -m ...`: what a sweep will take, without running it."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from dllmquant_exp.config.all_tables import sweeps
from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.config.task_config import SPEED
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.transformer import TransformerConfig
from dllmquant_exp.run.machine import check_device
from dllmquant_exp.run.plan.counting import estimate
from dllmquant_exp.run.plan.jobs import compose_jobs
from dllmquant_exp.run.plan.machines import GPUS, UTILISATION, measured, named_gpu
from dllmquant_exp.run.plan.pages import print_plan
from dllmquant_exp.run.plan.work import Machine

HERE = "here"
HELP = f"""python -m dllmquant_exp plan [-m] [group=option ...] [setting=value ...]

Prints what the same command without `plan` would do, and runs none of it: the cells, which of them
are finished, what they share, and an estimate of time, memory and disk, from counted operations.
No weights are loaded and nothing is downloaded. Settings of its own:

  on=here          the device of the sweep is this machine's, and is measured for two seconds;
                   or a named GPU at a stated part of its peak: {", ".join(GPUS)}
                   (default: here, and a100 where device=cuda and this machine has no GPU)
  utilisation={UTILISATION:g}  of a named GPU's peak
  throughput=X     matrix products in FLOP/s, as in 1.2e14, in place of what is measured or stated

  python -m dllmquant_exp plan -m row=fp,rtn,awq limit=100
  python -m dllmquant_exp plan table=table1 models=paper device=cuda dtype=bfloat16 on=h100"""
_OWN = {"on": "", "utilisation": f"{UTILISATION:g}", "throughput": ""}


def plan(words: Sequence[str], config_folder: Path, console: Console) -> int:
    """Print the plan of a sweep's command line; see `HELP`.

    Raises:
        ConfigError: settings of the plan or of the sweep that cannot be.
    """
    if {"-h", "--help"} & set(words):
        console.print(HELP, markup=False, highlight=False, soft_wrap=True)
        return 0
    own, rest = _split(words)
    utilisation, throughput = _number(own, "utilisation"), _number(own, "throughput")
    if utilisation is None or utilisation > 1:
        raise ConfigError(f"utilisation = {own['utilisation']} must be in (0, 1]")
    everything = _jobs(rest, config_folder)
    jobs = [job for job in everything if all(task.kind != SPEED for task in job.tasks)]
    if not jobs:
        raise ConfigError("task=speed measures for as long as it says; there is nothing to plan")
    if jobs[0].common.threads is not None:
        torch.set_num_threads(jobs[0].common.threads)
    device = jobs[0].common.device
    where = own["on"] or _default_place(device)

    def machine_of(config: TransformerConfig, dtype: torch.dtype) -> Machine:
        if where == HERE:
            found = measured(config, dtype, check_device(device))
        else:
            found = named_gpu(where, dtype, utilisation)
        if throughput is None:
            return found
        source = f"stated: {throughput:.3g} FLOP/s; for the rest, {found.source}"
        return replace(found, flops=throughput, source=source)

    if where not in (HERE, *GPUS):
        raise ConfigError(f"on = {where!r} is not one of: {', '.join((HERE, *GPUS))}")
    logging.getLogger("dllmquant_exp").setLevel(logging.WARNING)
    with console.status("counting") as status:
        found = estimate(jobs, machine_of, lambda what: status.update(f"counting {what}"))
    print_plan(found, console)
    if len(jobs) < len(everything):
        left_out = f"{len(everything) - len(jobs)} measurements of speed (Table 4)"
        console.print(f"Not estimated: {left_out}.", markup=False, highlight=False)
    return 0


def _split(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The plan's own settings, and the sweep's words."""
    own, rest = dict(_OWN), []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in own:
            own[key] = value
        else:
            rest.append(word)
    return own, rest


def _number(own: dict[str, str], name: str) -> float | None:
    if not own[name]:
        return None
    try:
        value = float(own[name])
    except ValueError:
        value = 0.0
    if not value > 0:
        raise ConfigError(f"{name} = {own[name]!r} must be a number above 0")
    return value


def _default_place(device: str) -> str:
    return "a100" if device.startswith("cuda") and not torch.cuda.is_available() else HERE


def _jobs(words: list[str], config_folder: Path) -> list[Experiment]:
    """Of one sweep, or of all tables."""
    return [j for line in sweeps(words, config_folder) for j in compose_jobs(line, config_folder)]
