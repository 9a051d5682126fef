"""A masked diffusion language model as lm-eval sees it.

lm-eval asks how likely an answer is (loglikelihood), and what comes next (generate_until). Each
question becomes token ids plus a seed, answered by `diffusion` in batches of any mixture of
lengths.

The seed of a request comes from the run's seed, the task's name and the item's number, and from
nothing else: an answer depends neither on the batch it was computed in nor on `limit`, and the
options of one question share their random masks, so that comparing them cancels that noise.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.diffusion import LikelihoodRequest, generate, log_likelihoods
from dllmquant_exp.diffusion.batching import batches
from dllmquant_exp.evaluation.chunks import Costly, answer_chunks, consecutive
from dllmquant_exp.evaluation.codec import Codec
from dllmquant_exp.evaluation.request_cache import RequestCache, model_fingerprint, request_key
from dllmquant_exp.evaluation.settings import SettingsError, TaskSettings
from dllmquant_exp.models.transformer import Transformer

BATCHES_PER_SAVE = 64  # forward batches of likelihoods between two writes of the request cache


def derive_seed(seed: int, *parts: object) -> int:
    """A seed in [0, 2^63) that depends on `seed` and on every part, and on nothing else."""
    digest = hashlib.sha256(json.dumps([seed, *map(str, parts)]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@register_model("dllmquant")
class DiffusionLM(TemplateLM):
    """lm-eval's view of a model, its tokenizer and one task's settings.

    Args:
        settings: of the task; decides guidance, samples, lengths and remasking. The generation
            arguments of a task file are not followed, except its stop strings (`until`).
        seed: of the run.
        batch_size: rows per forward pass.
        max_length: tokens that a sequence may have; longer contexts lose their beginning, which
            `truncated` counts. None: the model's own.
        cache_path: JSON-lines file of answers; None keeps them in memory only.
        other_caches: such files of other shards, which are read only.
        shard: (k, n): answer every n-th part of the requests only, from the k-th on, and raise
            ShardsMissing where answers of the others are missing then.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: PreTrainedTokenizerBase,
        settings: TaskSettings,
        *,
        seed: int,
        batch_size: int,
        max_length: int | None = None,
        cache_path: Path | None = None,
        other_caches: Sequence[Path] = (),
        shard: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        settings.validate(model.config.architecture)
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.seed = seed
        self.batch_size = batch_size
        self.max_length = min(max_length or model.config.max_length, model.config.max_length)
        self.codec = Codec(tokenizer, settings, model.config, self.max_length)
        self.cache = RequestCache(cache_path, other_caches)
        self.shard = shard
        self.endless = 0
        parts = (model_fingerprint(model), asdict(settings), self.max_length)
        self._fingerprint = request_key(*parts)

    @property
    def token_forwards(self) -> int:
        """Tokens that went through the model, resumed requests included."""
        return self.cache.token_forwards

    @property
    def forwards(self) -> int:
        """Rows that went through the model, resumed requests included."""
        return self.cache.forwards

    @property
    def truncated(self) -> int:
        """Requests that lost their beginning because they were longer than `max_length`."""
        return self.codec.truncated

    @property
    def eot_token_id(self) -> int:
        return self.model.config.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        return self.codec.prefix_token_id

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        return self.codec.encode(string, add_special_tokens)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return self.codec.chat(chat_history, add_generation_prompt)

    # likelihood

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log p(target | context) in nats, False) of each request, in order.

        lm-eval wants to know too whether greedy decoding gives the target; that is not computed.
        """
        pairs = [self.codec.encode_pair(*request.args) for request in requests]
        seeds = [self._seed_of(request) for request in requests]
        return self._score(pairs, seeds, disable_tqdm)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        """Score tokens as `loglikelihood` scores text; the seed comes from the context."""
        pairs = [self.codec.fit_pair(context, target) for _, context, target in requests]
        seeds = [derive_seed(self.seed, "tokens", context) for context, _ in pairs]
        return self._score(pairs, seeds, disable_tqdm)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        raise SettingsError(
            "rolling likelihood of whole texts is not estimated; choose a task of "
            "another output_type: multiple_choice or generate_until"
        )

    def _score(
        self, pairs: list[tuple[list[int], list[int]]], seeds: list[int], disable_tqdm: bool
    ) -> list[tuple[float, bool]]:
        """Log-likelihoods through the cache. Options of a question stay in one batch of requests,
        where they share forward passes."""
        settings = self.settings.likelihood()
        todo: list[LikelihoodRequest] = []
        for (context, target), seed in zip(pairs, seeds, strict=True):
            todo.append(LikelihoodRequest(tuple(context), tuple(target), seed))
        keys = [
            request_key(self._fingerprint, "likelihood", r.context, r.target, r.seed) for r in todo
        ]
        by_key = dict(zip(keys, todo, strict=True))
        size = max(8, BATCHES_PER_SAVE * self.batch_size // settings.mc_num)
        order = sorted(by_key, key=lambda k: (-len(by_key[k].context), by_key[k].seed))

        def answer(chunk: list[str], update: Callable[[float], None]) -> Costly:
            part = [by_key[key] for key in chunk]
            result = log_likelihoods(
                self.model, part, settings, batch_size=self.batch_size, progress=update
            )
            return result.values, result.token_forwards, result.forwards

        chunks = list(consecutive(order, size, lambda k: by_key[k].seed))
        answer_chunks(self.cache, chunks, answer, self.shard, "likelihood", disable_tqdm)
        return [(float(self.cache.answers[key]), False) for key in keys]

    # generation

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The response to each request as text; see `Codec.response_text`.

        `endless` then counts responses that were still going on at their last token.
        """
        gen_length = self.settings.decoding().gen_length
        prompts, stops, keys, seeds = [], [], [], []
        repeats: Counter[tuple[object, ...]] = Counter()
        for request in requests:
            text, arguments = request.args
            prompts.append(self.codec.encode_prompt(text, gen_length))
            stops.append(_stop_strings(arguments))
            identity = (request.task_name, request.doc_id, request.idx, text)
            seeds.append(derive_seed(self._seed_of(request), request.idx, repeats[identity]))
            repeats[identity] += 1
            parts = ("generation", prompts[-1], seeds[-1], stops[-1])
            keys.append(request_key(self._fingerprint, *parts))
        self._generate(prompts, stops, keys, seeds, disable_tqdm)
        found = [(self.cache.answers[key], stop) for key, stop in zip(keys, stops, strict=True)]
        self.endless = sum(not self.codec.has_ended(answer, stop) for answer, stop in found)
        return [self.codec.response_text(answer, stop) for answer, stop in found]

    def _generate(
        self,
        prompts: list[list[int]],
        stops: list[tuple[str, ...]],
        keys: list[str],
        seeds: list[int],
        disable_tqdm: bool,
    ) -> None:
        decoding = replace(self.settings.decoding(), end_of_turn=self.codec.end_of_turn)
        row = {key: i for i, key in reversed(list(enumerate(keys)))}  # equal requests: once
        order = sorted(row, key=lambda k: (stops[row[k]], -len(prompts[row[k]]), row[k]))
        each = [list(same) for _, same in groupby(order, key=lambda k: stops[row[k]])]
        chunks = [chunk for same in each for chunk in batches(same, self.batch_size)]

        def answer(chunk: list[str], update: Callable[[float], None]) -> Costly:
            rows = [row[key] for key in chunk]
            result = generate(
                self.model,
                [prompts[i] for i in rows],
                decoding,
                seeds=[seeds[i] for i in rows],
                batch_size=self.batch_size,
                finished=partial(self.codec.is_finished, stops=stops[rows[0]]),
                progress=update,
            )
            return result.tokens, result.token_forwards, result.forwards

        answer_chunks(self.cache, chunks, answer, self.shard, "generation", disable_tqdm)

    def _seed_of(self, request: Instance) -> int:
        """Derive a request's seed from its task and item; without an item, from its content."""
        if request.task_name is not None and request.doc_id is not None:
            return derive_seed(self.seed, request.task_name, request.doc_id)
        content = request.doc if request.doc else request.args[0]
        return derive_seed(self.seed, json.dumps(content, sort_keys=True, default=str))


def _stop_strings(arguments: dict[str, Any]) -> tuple[str, ...]:
    until = arguments.get("until") or []
    return tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop)
