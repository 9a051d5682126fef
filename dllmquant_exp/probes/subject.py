"""The full-precision model, its prompts and their decodes, which all figures share.

A decode is kept as three short arrays under `<runs_dir>/.cache/probes`, and every state that it
went through is made again from them, so that a figure needs no decode of its own.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.diffusion.batching import pad_rows
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.diffusion.trajectory import DecodingState, Trajectory, states, trajectories
from dllmquant_exp.evaluation.codec import Codec
from dllmquant_exp.evaluation.evaluate import FEWSHOT_SEED
from dllmquant_exp.evaluation.harness import derive_seed
from dllmquant_exp.evaluation.task_building import BuiltTask, build_tasks
from dllmquant_exp.models.transformer import Transformer, TransformerConfig, at_least_float32
from dllmquant_exp.probes.progress import watched
from dllmquant_exp.probes.settings import Probe, ProbeError
from dllmquant_exp.reporting.figures.recordings import load_arrays, save_arrays
from dllmquant_exp.run.prepare import prepare
from dllmquant_exp.store import provenance
from dllmquant_exp.store.results import config_hash

logger = logging.getLogger(__name__)
LOGITS_AT_ONCE = 2**25  # 128 MB in float32, and a few copies; never fewer than one request's


@dataclass(frozen=True, eq=False)
class Subject:
    """A model in full precision and the decodes of its prompts, in the order of the prompts."""

    probe: Probe
    model: Transformer
    tokenizer: PreTrainedTokenizerBase
    trajectories: tuple[Trajectory, ...]

    @property
    def decoding(self) -> DecodingSettings:
        return self.probe.decoding

    @property
    def batch_size(self) -> int:
        return self.probe.experiment.common.batch_size

    @property
    def logits_batch(self) -> int:
        """Requests whose logits at the whole response fit into memory at once."""
        numbers = self.decoding.gen_length * self.model.config.vocab_size
        return min(self.batch_size, max(1, LOGITS_AT_ONCE // numbers))


@dataclass(frozen=True, eq=False)
class StateBatch:
    """What the model is given at one step, for some prompts.

    Attributes:
        step: from 0.
        prompts: the prompts' numbers.
        tokens: [B, T], right-padded.
        attention_mask: [B, T] bool, True at real tokens.
        response: [B, T] bool, `gen_length` positions in every row.
        masked: [B, T] bool, response positions that are still to be decided.
    """

    step: int
    prompts: range
    tokens: Tensor
    attention_mask: Tensor
    response: Tensor
    masked: Tensor


def load_subject(probe: Probe) -> Subject:
    """Load the model and decode the prompts, or read their decodes.

    Raises:
        ProbeError: fewer items than prompts asked for.
        CheckpointError, DataError, ...: as for an experiment.
    """
    prepared = prepare(probe.experiment)
    prompts = _prompts(probe, prepared.model.config, prepared.tokenizer)
    made = cached_arrays(
        probe.runs_dir,
        "decodes",
        probe.key() | {"tokens": prompts},
        lambda: _to_arrays(_decoded(prepared.model, prompts, probe)),
    )
    return Subject(probe, prepared.model, prepared.tokenizer, _from_arrays(made))


def _decoded(
    model: Transformer, prompts: Sequence[Sequence[int]], probe: Probe
) -> tuple[Trajectory, ...]:
    common = probe.experiment.common
    made = trajectories(
        model,
        prompts,
        probe.decoding,
        seeds=[common.seed] * len(prompts),
        batch_size=common.batch_size,
    )
    return tuple(watched(made, "decoding", len(prompts)))


def _prompts(
    probe: Probe, config: TransformerConfig, tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Token ids of the task's first items, as an evaluation gives them to the model."""
    common, settings = probe.experiment.common, probe.experiment.tasks[0].settings
    data_root = None if common.data_root is None else Path(common.data_root).expanduser()
    wanted = probe.settings.prompts
    codec = Codec(tokenizer, settings, config, config.max_length)
    texts = [
        _prompt_text(built, number, codec)
        for built in build_tasks(settings, data_root=data_root, limit=wanted)
        for number in built.doc_ids
    ]
    if len(texts) < wanted:
        name = probe.experiment.tasks[0].name
        raise ProbeError(f"{name} has {len(texts)} items, fewer than prompts = {wanted}")
    return [codec.encode_prompt(text, probe.settings.gen_length) for text in texts]


def _prompt_text(built: BuiltTask, number: int, codec: Codec) -> str:
    """What `evaluate_task` gives the model for one item, examples before it included."""
    task, settings, doc = built.task, codec.settings, built.task.task_docs[number]
    task.set_fewshot_seed(derive_seed(FEWSHOT_SEED, built.name, number))
    text = task.fewshot_context(
        doc,
        num_fewshot=settings.shots,
        apply_chat_template=settings.chat_template,
        fewshot_as_multiturn=True,
        chat_template=codec.chat if settings.chat_template else None,
        gen_prefix=task.doc_to_prefix(doc),
    )
    if not isinstance(text, str):
        raise ProbeError(f"{built.name} has a prompt per option; choose a task with one per item")
    return text


def state_batches(
    config: TransformerConfig,
    decodes: Sequence[Trajectory],
    decoding: DecodingSettings,
    batch_size: int,
    steps: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[StateBatch]:
    """The states of decodes, `batch_size` prompts at a time and for these step after step.

    steps: only these, ascending; None for all.

    Raises:
        ProbeError: a decode that had nothing to decide at a step.
    """
    wanted = range(decoding.steps) if steps is None else steps
    for first in range(0, len(decodes), batch_size):
        prompts = range(first, min(first + batch_size, len(decodes)))
        visited = [list(states(decodes[i], decoding, config.mask_token_id)) for i in prompts]
        if any(len(found) != decoding.steps for found in visited):
            raise ProbeError("a decode has steps without anything to decide; ask for fewer steps")
        for step in wanted:
            yield _batch(
                step, prompts, [found[step] for found in visited], config, decoding, device
            )


def _batch(
    step: int,
    prompts: range,
    rows: Sequence[DecodingState],
    config: TransformerConfig,
    decoding: DecodingSettings,
    device: torch.device | str,
) -> StateBatch:
    tokens, lengths = pad_rows([s.tokens for s in rows], config.pad_token_id, torch.device(device))
    column = torch.arange(tokens.shape[1], device=tokens.device)
    attention_mask = column < lengths[:, None]
    response = attention_mask & (column >= lengths[:, None] - decoding.gen_length)
    masked = torch.zeros_like(response)
    masked[response] = torch.tensor(
        [state.masked[-decoding.gen_length :] for state in rows], device=tokens.device
    ).flatten()
    return StateBatch(step, prompts, tokens, attention_mask, response, masked)


@torch.inference_mode()
def response_logits(model: Transformer, batch: StateBatch) -> Tensor:
    """Logits at every response position, [B, gen_length, vocab], in float32 or better."""
    logits = model(batch.tokens, batch.attention_mask, batch.response)
    return logits.to(at_least_float32(logits.dtype)).unflatten(0, (len(batch.prompts), -1))


def device_of(model: Transformer) -> torch.device:
    return next(model.parameters()).device


def cached_arrays(
    runs_dir: Path,
    name: str,
    key: Mapping[str, Any],
    make: Callable[[], Mapping[str, NDArray[Any]]],
) -> dict[str, NDArray[Any]]:
    """Arrays that `key` and the code stand for: read, or made and kept. Can be deleted any time."""
    own = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    code = [provenance.code_digest(), hashlib.sha256(own).hexdigest()]
    full = {**key, "code": code}
    folder = runs_dir / ".cache" / "probes" / f"{name}-{config_hash(full)[:16]}"
    if folder.exists():
        logger.info("%s read from %s", name, folder)
    else:
        save_arrays(folder, make(), {"key": full})
    return load_arrays(folder)


def _to_arrays(decodes: Sequence[Trajectory]) -> dict[str, NDArray[Any]]:
    return {
        "lengths": np.array([len(decode.prompt) for decode in decodes]),
        "prompts": np.array([token for decode in decodes for token in decode.prompt]),
        "responses": np.array([decode.response for decode in decodes]),
        "last_masked": np.array([decode.last_masked for decode in decodes]),
    }


def _from_arrays(arrays: Mapping[str, NDArray[Any]]) -> tuple[Trajectory, ...]:
    prompts = np.split(arrays["prompts"], np.cumsum(arrays["lengths"])[:-1])
    pairs = zip(prompts, arrays["responses"], arrays["last_masked"], strict=True)
    return tuple(Trajectory(*(tuple(part.tolist()) for part in parts)) for parts in pairs)
