"""Token-forwards of a task: counted from its requests, else from the known size of its data."""

from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.diffusion.likelihood import LikelihoodRequest, input_sizes
from dllmquant_exp.diffusion.schedule import steps_of
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.evaluation.codec import Codec
from dllmquant_exp.evaluation.harness import derive_seed
from dllmquant_exp.evaluation.local_data import SOURCES
from dllmquant_exp.evaluation.requests import build_requests
from dllmquant_exp.evaluation.settings import TaskSettings
from dllmquant_exp.evaluation.task_building import build_tasks, quiet_libraries
from dllmquant_exp.evaluation.tasks import task_configs
from dllmquant_exp.models.transformer import TransformerConfig

SAMPLED = 50  # items whose requests are built and encoded, spread evenly; the rest is scaled
DRAWN = 4  # requests that stand for all of one known length, as masks are drawn at random


class KnownSize(NamedTuple):
    """The size of one task of lm-eval; known_sizes.yaml explains the fields."""

    items: int
    requests: float
    prompt: int
    shot: int
    targets: tuple[int, ...] = ()


class Demand(NamedTuple):
    """The forwards that one task asks for.

    Attributes:
        items, requests: that are evaluated, and answers that are asked for.
        rows: sequences that go through the model; at most, where decodes can end early.
        tokens: of all rows (token-forwards).
        asked: positions whose logits are computed, over all rows.
        longest, most_asked: tokens and positions asked of the largest row.
        counted: from the data, not from a known size.
    """

    items: int
    requests: int
    rows: float
    tokens: float
    asked: float
    longest: int
    most_asked: int
    counted: bool


@cache
def known_sizes() -> dict[str, KnownSize]:
    """The sizes of known_sizes.yaml by lm-eval's name of the task."""
    sizes = yaml.safe_load(files(__package__).joinpath("known_sizes.yaml").read_text("utf-8"))
    return {name: KnownSize(**size) for name, size in sizes.items()}


@cache
def demand(
    settings: TaskSettings,
    config: TransformerConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    data_root: Path | None,
    limit: int | None,
) -> Demand:
    """Count what a task asks of a model; seeds draw other masks, but as many.

    Args:
        tokenizer: None where there is none, or no data, and a known size has to do.

    Raises:
        SettingsError, DataError: as the evaluation would.
        ConfigError: neither data nor a known size.
    """
    if tokenizer is None:
        pairs, items, requests, share = _known_requests(settings, config, limit)
    else:
        pairs, items, share = _real_requests(settings, config, tokenizer, data_root, limit)
        requests = round(len(pairs) * share)
    if settings.variant == "generation":
        decoding = settings.decoding()
        asked = asked_per_step(decoding)
        rows = [(len(pair.context) + decoding.gen_length, n) for pair in pairs for n in asked]
    else:
        rows = input_sizes(pairs, settings.likelihood(), config)
    passes = 2 * share if settings.guidance else share
    return Demand(
        items=items,
        requests=requests,
        rows=passes * len(rows),
        tokens=passes * sum(length for length, _ in rows),
        asked=passes * sum(asked for _, asked in rows),
        longest=max(length for length, _ in rows),
        most_asked=max(asked for _, asked in rows),
        counted=tokenizer is not None,
    )


def _real_requests(
    settings: TaskSettings,
    config: TransformerConfig,
    tokenizer: PreTrainedTokenizerBase,
    data_root: Path | None,
    limit: int | None,
) -> tuple[list[LikelihoodRequest], int, float]:
    """Requests of some items, the number of all items, and how many each of the former stands for.

    A prompt that is answered by a decode is a context without a target.
    """
    built = build_tasks(settings, data_root=data_root, limit=limit)
    items = sum(len(member.doc_ids) for member in built)
    stride = -(-items // SAMPLED)
    parts = [replace(member, doc_ids=member.doc_ids[::stride]) for member in built]
    codec = Codec(tokenizer, settings, config, config.max_length)
    chat = codec.chat if settings.chat_template else None
    with quiet_libraries():
        instances = [made for part in parts for made in build_requests(part, settings, chat)]
    pairs = []
    for instance in instances:
        target: list[int] = []
        if settings.variant == "generation":
            context = codec.encode_prompt(instance.args[0], settings.decoding().gen_length)
        else:
            context, target = codec.encode_pair(*instance.args)
        masks = derive_seed(0, instance.task_name, instance.doc_id)  # options share their masks
        pairs.append(LikelihoodRequest(tuple(context), tuple(target), masks))
    return pairs, items, items / sum(len(part.doc_ids) for part in parts)


def _known_requests(
    settings: TaskSettings, config: TransformerConfig, limit: int | None
) -> tuple[list[LikelihoodRequest], int, int, float]:
    """Requests of a known size's lengths, and the numbers of all items and requests; see above."""
    size = known_sizes().get(settings.harness_task)
    if size is None:
        raise ConfigError(
            f"the size of {settings.harness_task} is not known; give its data (data_root) and a "
            "checkpoint's folder with its tokenizer, so that its requests can be counted"
        )
    items = min(size.items, limit or size.items)
    prompt = size.prompt + settings.shots * size.shot
    requests = round(items * size.requests)
    if settings.variant == "generation":
        prompt = min(prompt, config.max_length - settings.decoding().gen_length)
        return [LikelihoodRequest((0,) * prompt, (), 0)], items, requests, items
    pairs = [
        LikelihoodRequest((number,) * prompt, tuple(range(target)), number)
        for number, target in enumerate([*size.targets] * DRAWN)
    ]
    inputs = items if [*size.targets] == [1] else requests  # one input answers all its options
    return pairs, items, requests, inputs / len(pairs)


def hub_data(settings: TaskSettings, data_root: Path | None) -> list[str]:
    """The data sets of a task that are not on this disk, as far as its configuration tells."""

    def is_here(config: dict[str, Any]) -> bool:
        path, more = config.get("dataset_path"), config.get("dataset_kwargs") or {}
        served = data_root is not None and path in SOURCES
        files = str(more.get("data_files", "://"))
        return path is None or served or Path(path).exists() or "://" not in files

    configs = task_configs(settings.harness_task, settings.include_path)
    return list(dict.fromkeys(str(c["dataset_path"]) for c in configs if not is_here(c)))


def asked_per_step(decoding: DecodingSettings) -> list[int]:
    """Positions that each forward of one row's decode predicts, where none ends early."""
    found, committed = [], 0
    for step in steps_of(decoding):
        left = step.reach - committed
        commits = min(left, int(step.commits(torch.tensor([left]))))
        if commits:
            found.append(left)
            committed += commits
    return found
