"""Token-forwards of a task: counted from its requests, else from the known size of its data.

Known sizes. Items are the rows of the published splits: TruthfulQA 817 (Lin et al. 2022),
ARC-Challenge test 1172 (Clark et al. 2018), HellaSwag validation 10042 (Zellers et al. 2019),
WinoGrande validation 1267 (Sakaguchi et al. 2020), PIQA validation 1838 (Bisk et al. 2020), MMLU
test 14042 (Hendrycks et al. 2021), C-Eval validation 1346 (Huang et al. 2023), HumanEval 164 (Chen
et al. 2021), GSM8K test 1319 (Cobbe et al. 2021). Lengths are mean tokens of Qwen's tokenizer
(Dream's; LLaDA's own is on the hub only) over the prompts that lm-eval 0.4.13 makes of these rows,
counted once on 100 to 600 rows of each set; LLaDA's chat prompts in proportion to their characters.
A chat template adds about ten tokens per turn, which are left out.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

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

SAMPLED = 50  # items whose requests are built and encoded, spread evenly; the rest is scaled
DRAWN = 4  # requests that stand for all of one known length, as masks are drawn at random


class KnownSize(NamedTuple):
    """One task of lm-eval.

    items: of the evaluated split. requests: per item (options of a question, 1 where an answer is
    generated). prompt: mean tokens without examples. shot: tokens that each example adds.
    targets: token counts of the options, one per decile; empty where an answer is generated.
    """

    items: int
    requests: float
    prompt: int
    shot: int
    targets: tuple[int, ...] = ()


LETTERS = (1,)  # options of one token behind one prompt: one masked input answers all of them
KNOWN_SIZES = {
    "arc_challenge": KnownSize(1172, 4, 31, 37, (1, 2, 3, 4, 5, 6, 7, 8, 10, 12)),
    "arc_challenge_letters": KnownSize(1172, 1, 91, 93),
    "arc_challenge_llada": KnownSize(295, 1, 71, 73),
    "ceval-valid": KnownSize(1346, 4, 98, 87, LETTERS),
    "gsm8k": KnownSize(1319, 1, 63, 186),
    "gsm8k_cot": KnownSize(1319, 1, 63, 83),
    "gsm8k_llada": KnownSize(1319, 1, 71, 280),
    "hellaswag": KnownSize(10042, 4, 51, 77, (8, 12, 17, 24, 29, 32, 35, 39, 45, 52)),
    "hellaswag_letters": KnownSize(10042, 1, 189, 189),
    "hellaswag_llada": KnownSize(10042, 1, 192, 192),
    "humaneval": KnownSize(164, 1, 134, 336),
    "humaneval_dream": KnownSize(164, 1, 134, 336),
    "humaneval_dream_chat": KnownSize(164, 1, 296, 482),
    "humaneval_llada": KnownSize(164, 1, 144, 346),
    "mmlu": KnownSize(14042, 4, 105, 100, LETTERS),
    "mmlu_dream": KnownSize(14042, 1, 105, 100),
    "mmlu_llada": KnownSize(14042, 1, 108, 131),
    "piqa": KnownSize(1838, 2, 13, 37, (4, 7, 8, 10, 12, 16, 21, 28, 39, 67)),
    "truthfulqa_mc2": KnownSize(817, 7.32, 168, 180, (2, 5, 6, 7, 9, 9, 10, 12, 14, 17)),
    "winogrande": KnownSize(1267, 2, 17, 22, (3, 3, 4, 4, 5, 6, 7, 7, 9, 11)),
}


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
def demand(
    settings: TaskSettings,
    config: TransformerConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    data_root: str | None,
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
    data_root: str | None,
    limit: int | None,
) -> tuple[list[LikelihoodRequest], int, float]:
    """Requests of some items, the number of all items, and how many each of the former stands for.

    A prompt that is answered by a decode is a context without a target.
    """
    root = None if data_root is None else Path(data_root).expanduser()
    built = build_tasks(settings, data_root=root, limit=limit)
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
    if settings.harness_task not in KNOWN_SIZES:
        raise ConfigError(
            f"the size of {settings.harness_task} is not known; give its data (data_root) and a "
            "checkpoint's folder with its tokenizer, so that its requests can be counted"
        )
    size = KNOWN_SIZES[settings.harness_task]
    items = min(size.items, limit or size.items)
    prompt = size.prompt + settings.shots * size.shot
    requests = round(items * size.requests)
    if settings.variant == "generation":
        prompt = min(prompt, config.max_length - settings.decoding().gen_length)
        return [LikelihoodRequest((0,) * prompt, (), 0)], items, requests, items
    targets = size.targets * DRAWN
    pairs = [
        LikelihoodRequest((number,) * prompt, tuple(range(target)), number)
        for number, target in enumerate(targets)
    ]
    inputs = items if size.targets == LETTERS else requests
    return pairs, items, requests, inputs / len(pairs)


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
