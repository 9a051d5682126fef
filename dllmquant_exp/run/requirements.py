"""Everything that jobs need of their checkpoints and data, checked before any of them starts.

Only what is on this disk is read: of a hub id, a known shape. A checkpoint that cannot be read is
left to the cells, which record it.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from dllmquant_exp.calibration.sources import check_texts
from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.config.quantized_model import ModelSettings
from dllmquant_exp.errors import ConfigError, Refusal
from dllmquant_exp.evaluation.codec import prompt_room
from dllmquant_exp.evaluation.task_building import check_local_data
from dllmquant_exp.models.checkpoints import CheckpointError, load_config, resolve_checkpoint
from dllmquant_exp.models.published_shapes import SHAPES
from dllmquant_exp.models.transformer import TransformerConfig
from dllmquant_exp.quantization.pipeline import check_shape
from dllmquant_exp.run.cell import cells_of, is_on_this_disk, local_digest


def check_left(jobs: Iterable[Experiment]) -> None:
    """Check the jobs that are not finished, see `check_jobs`."""
    check_jobs(job for job in jobs if _is_left(job))


def check_jobs(jobs: Iterable[Experiment]) -> None:
    """Refuse jobs that cannot end well, before hours go into the others.

    Raises:
        ConfigError: sizes that do not fit a model, calibration texts or data that are missing,
            malformed or too few. All of them are named.
    """
    checks: dict[Any, Callable[[], None]] = {}
    for number, job in enumerate(jobs):
        common, sampler = job.common, job.calibration
        root = common.data_folder
        checks[number] = partial(_check_model, job)
        if sampler is not None and hasattr(sampler, "texts"):
            asked = (tuple(sampler.texts), sampler.least_texts, job.model.embedded, root)
            checks["texts", *asked] = partial(check_texts, *asked, seed=common.seed)
        for task in job.tasks:
            if task.speed is None and root is not None:
                settings = task.settings
                rows = (settings.harness_task, settings.include_path, settings.shots, root)
                checks[rows] = partial(check_local_data, settings, root)
    problems: dict[str, None] = {}
    for check in checks.values():
        try:
            check()
        except Refusal as error:
            problems[str(error)] = None
    if problems:
        raise ConfigError("\n".join(problems))


def _is_left(job: Experiment) -> bool:
    digest = local_digest(job, keep_going=True)
    return not all(cell.is_finished(digest) for cell in cells_of(job))


def _check_model(job: Experiment) -> None:
    """Refuse sizes that do not fit the job's model (ConfigError)."""
    config = job.saved.layout.config if job.saved is not None else known_shape(job.model)
    if config is None:
        return
    try:
        _check_stated(config, job.same_as)
        if job.quant is not None:
            check_shape(config, job.method, job.quant)
        for settings in (task.settings for task in job.tasks if task.speed is None):
            if settings.gen_length is not None:
                longest = min(config.max_length, settings.max_length or config.max_length)
                prompt_room(settings.gen_length, longest)
    except Refusal as error:
        raise ConfigError(f"{job.model.name}: {error}") from error


def _check_stated(config: TransformerConfig, same_as: str | None) -> None:
    """Refuse to call weights a copy of others that have another shape (ConfigError)."""
    published = SHAPES[same_as] if same_as else config
    names = ("architecture", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ffn", "vocab_size")
    for name in names:
        given, expected = getattr(config, name), getattr(published, name)
        if given != expected:
            raise ConfigError(
                f"model.same_as = {same_as} has {name} = {expected}, and this checkpoint {given}"
            )


def known_shape(settings: ModelSettings) -> TransformerConfig | None:
    """The shape of a checkpoint; None where nothing on this disk tells, or it cannot be read."""
    try:
        folder = local_folder(settings)
        known = SHAPES.get(settings.checkpoint)
        return known if folder is None else load_config(folder, settings.layout)
    except CheckpointError:
        return None


def local_folder(settings: ModelSettings) -> Path | None:
    """The checkpoint's folder where it is on this disk, else None; nothing is downloaded.

    Raises:
        CheckpointError: an embedded model or a folder that does not exist.
    """
    checkpoint = settings.checkpoint
    if is_on_this_disk(checkpoint) or checkpoint.count("/") != 1:  # no hub id either, and refused
        return resolve_checkpoint(checkpoint, settings.revision)
    found = try_to_load_from_cache(checkpoint, "config.json", revision=settings.revision)
    return Path(found).parent if isinstance(found, str) else None
