"""What a task asks of a model: counted from its data and tokenizer, else from its known size."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.config.experiment import CommonSettings
from dllmquant_exp.config.task_config import Task
from dllmquant_exp.diffusion.likelihood import LikelihoodRequest, input_sizes
from dllmquant_exp.diffusion.schedule import steps_of
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.evaluation.codec import Codec
from dllmquant_exp.evaluation.evaluate import build_requests
from dllmquant_exp.evaluation.harness import derive_seed
from dllmquant_exp.evaluation.settings import TaskSettings
from dllmquant_exp.evaluation.task_building import build_tasks, quiet_libraries
from dllmquant_exp.models.transformer import TransformerConfig
from dllmquant_exp.run.plan.forwards import Load
from dllmquant_exp.run.plan.known_sizes import KNOWN_SIZES, KnownSize

SAMPLED = 100  # items whose requests are made and encoded, spread evenly; the rest is scaled
HOST_PER_ITEM = 2e-3  # seconds to make and encode an item's requests, where that is not measured
HOST_PER_ROW = 40e-6  # seconds of Python per row: masks, padding, stop strings
HOST_PER_PROGRAM = 0.1  # seconds to start a process for a generated program, and run it


@dataclass(frozen=True)
class Demand:
    """What one task asks of a model.

    Attributes:
        items: that are evaluated.
        requests: answers that are asked for.
        load: forward passes; for generation the most there can be, as answers may end early.
        host: seconds of Python around them.
        counted: from the data itself, not from its known size.
        generated: answers are decoded, and not options compared.
    """

    items: int
    requests: int
    load: Load
    host: float
    counted: bool
    generated: bool


def counted_demand(
    task: Task,
    common: CommonSettings,
    config: TransformerConfig,
    tokenizer: PreTrainedTokenizerBase,
) -> Demand:
    """From the task's data: requests of up to `SAMPLED` items, scaled to all.

    Raises:
        SettingsError, DataError: as the evaluation would.
    """
    begin = time.perf_counter()
    settings = task.settings
    data_root = Path(common.data_root).expanduser() if common.data_root else None
    built = build_tasks(settings, data_root=data_root, limit=common.limit)
    items = sum(len(member.doc_ids) for member in built)
    stride = -(-items // SAMPLED)
    codec = Codec(tokenizer, settings, config, config.max_length)
    instances: list[Instance] = []
    sampled = 0
    made = time.perf_counter()
    with quiet_libraries():
        for member in built:
            part = replace(member, doc_ids=member.doc_ids[::stride])
            chat = codec.chat if settings.chat_template else None
            instances += build_requests(part, settings, chat)
            sampled += len(part.doc_ids)
    lengths = (
        _input_sizes(instances, settings, config, codec, common.seed)
        if settings.variant == "likelihood"
        else _decode_sizes(instances, settings, codec)
    )
    share = items / sampled
    host = made - begin + (time.perf_counter() - made) * share
    load = _load(lengths, settings, common.batch_size, share)
    return Demand(
        items=items,
        requests=round(len(instances) * share),
        load=load,
        host=host + _host(settings, load),
        counted=True,
        generated=settings.variant == "generation",
    )


def known_demand(task: Task, common: CommonSettings, config: TransformerConfig) -> Demand:
    """From the published size of the task's evaluation set.

    Raises:
        ConfigError: a task whose size is not known.
    """
    settings = task.settings
    if settings.harness_task not in KNOWN_SIZES:
        raise ConfigError(
            f"the size of {settings.harness_task} is not known; give its data (data_root) and a "
            "checkpoint's folder with its tokenizer, so that its requests can be counted"
        )
    size = KNOWN_SIZES[settings.harness_task]
    items = min(size.items, common.limit or size.items)
    prompt = size.prompt + settings.shots * size.per_shot
    if settings.variant == "likelihood":
        lengths = list(_expected_inputs(size, settings, prompt))
        requests = items * size.requests
        share = items if size.one_input else requests / len(size.targets)
    else:
        decoding = settings.decoding()
        room = config.max_length - decoding.gen_length
        lengths = [_decode_size(min(prompt, room), decoding)]
        requests, share = items, items
    load = _load(lengths, settings, common.batch_size, share)
    host = items * HOST_PER_ITEM + _host(settings, load)
    generated = settings.variant == "generation"
    return Demand(items, round(requests), load, host, counted=False, generated=generated)


@dataclass(frozen=True)
class _Size:
    """Some rows of one length (all steps of a decode), and how many positions they ask for."""

    length: float
    rows: float
    asked: float
    asked_at_once: float


def _input_sizes(
    instances: Sequence[Instance],
    settings: TaskSettings,
    config: TransformerConfig,
    codec: Codec,
    seed: int,
) -> list[_Size]:
    requests = []
    for instance in instances:
        context, target = codec.encode_pair(*instance.args)
        masks = derive_seed(seed, instance.task_name, instance.doc_id)  # shared by its options
        requests.append(LikelihoodRequest(tuple(context), tuple(target), masks))
    sizes = input_sizes(requests, settings.likelihood(), config)
    return [_Size(length, 1, masked, masked) for length, masked in sizes]


def _decode_sizes(
    instances: Sequence[Instance], settings: TaskSettings, codec: Codec
) -> list[_Size]:
    decoding = settings.decoding()
    prompts = [codec.encode_prompt(i.args[0], decoding.gen_length) for i in instances]
    return [_decode_size(len(prompt), decoding) for prompt in prompts]


def _decode_size(prompt: float, decoding: DecodingSettings) -> _Size:
    asked = asked_per_step(decoding)
    return _Size(prompt + decoding.gen_length, len(asked), sum(asked), max(asked))


def asked_per_step(decoding: DecodingSettings) -> list[int]:
    """Positions that each forward pass of one row's decode predicts, where none ends early."""
    found, committed = [], 0
    for step in steps_of(decoding):
        left = step.reach - committed
        commits = min(left, int(step.commits(torch.tensor([left]))))
        if commits:
            found.append(left)
            committed += commits
    return found


def _expected_inputs(size: KnownSize, settings: TaskSettings, prompt: int) -> Iterator[_Size]:
    end = 0 if settings.estimator == "llada" else 1  # the appended end-of-text
    targets = (1,) if size.one_input else size.targets
    for target in targets:
        inputs = expected_inputs(target, settings.mc_num or 1, settings.estimator == "llada")
        masked = (target + 1) / 2
        yield _Size(prompt + target + end, inputs, inputs * masked, target)


def expected_inputs(length: int, samples: int, llada: bool) -> float:
    """Expected number of distinct non-empty masks among `samples` random ones of `length` tokens.

    A mask of k tokens has probability 1 / (n C(length, k)), with n = length (LLaDA: k is uniform
    on 1..length) or length + 1 (Dream: each token is masked with a uniform probability, so k is
    uniform on 0..length).
    """
    if length == 1:
        return 1.0
    sizes = length if llada else length + 1
    total = 0.0
    for k in range(1, length + 1):
        masks = math.comb(length, k)
        missed = samples * math.log1p(-1 / (sizes * masks))
        total += -masks * math.expm1(missed)
    return total


def _load(sizes: Sequence[_Size], settings: TaskSettings, batch: int, share: float) -> Load:
    """The sum of all rows, `share` times, in batches of `batch`; guidance doubles each."""
    rows = share * sum(size.rows for size in sizes)
    double = 2 if settings.guidance else 1
    at_once = [size.asked_at_once for size in sizes]
    generated = settings.variant == "generation"
    # Rows of a decode share their steps; likelihood's inputs are batched whatever they belong to.
    per_row = max(size.rows for size in sizes) if generated else 1.0
    batches = math.ceil(rows / per_row / batch)
    filled = min(batch, math.ceil(rows / per_row))
    return Load(
        calls=batches * per_row,
        rows=double * rows,
        tokens=double * share * sum(s.rows * s.length for s in sizes),
        squares=double * share * sum(s.rows * s.length**2 for s in sizes),
        asked=double * share * sum(s.asked for s in sizes),
        longest=max(s.length for s in sizes),
        batch=double * filled,
        asked_at_once=double * filled * max(at_once),
    )


def _host(settings: TaskSettings, load: Load) -> float:
    programs = HOST_PER_PROGRAM if settings.metric == "pass@1" else 0.0
    per_item = load.rows / max(1, settings.steps or 1)
    return load.rows * HOST_PER_ROW + programs * per_item
