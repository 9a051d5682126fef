"""`python -m dllmquant_exp plan -m ...`: what a sweep will take, without running it."""

import logging
from dataclasses import replace

import torch
from rich.console import Console

from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.config.tables import sweeps
from dllmquant_exp.config.task_config import SPEED
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.transformer import TransformerConfig
from dllmquant_exp.run.machine import check_device
from dllmquant_exp.run.plan.counting import estimate
from dllmquant_exp.run.plan.machines import GPUS, measured, named_gpu
from dllmquant_exp.run.plan.pages import print_plan
from dllmquant_exp.run.plan.work import Machine
from dllmquant_exp.run.sweep.composition import compose_jobs

HERE = "here"


def plan(line: Overrides, on: str | None, utilisation: float, throughput: float | None) -> int:
    """Print the plan of a sweep's command line.

    Args:
        on: `here`, or a named GPU; None chooses by the sweep's device.
        utilisation: of a named GPU's peak.
        throughput: of matrix products in FLOP/s, in place of what is measured or stated.

    Raises:
        ConfigError: settings of the plan or of the sweep that cannot be.
    """
    console = Console()
    if not 0 < utilisation <= 1:
        raise ConfigError(f"utilisation = {utilisation:g} must be in (0, 1]")
    if throughput is not None and not throughput > 0:
        raise ConfigError(f"throughput = {throughput:g} must be a number above 0")
    everything = [job for one in sweeps(line) for job in compose_jobs(one)]
    jobs = [job for job in everything if all(task.kind != SPEED for task in job.tasks)]
    if not jobs:
        raise ConfigError("task=speed measures for as long as it says; there is nothing to plan")
    if jobs[0].common.threads is not None:
        torch.set_num_threads(jobs[0].common.threads)
    device = jobs[0].common.device
    where = on or _default_place(device)

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


def _default_place(device: str) -> str:
    return "a100" if device.startswith("cuda") and not torch.cuda.is_available() else HERE
