"""The full-precision model, its prompts and their decodes, which all figures share.

A decode is kept as three short arrays under `<runs_dir>/.cache/probes`, and every state that it
went through is made again from them, so that a figure needs no decode of its own.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.diffusion.batching import pad_rows
from dllmquant_exp.diffusion.sampling import confidence_of, most_confident
from dllmquant_exp.diffusion.schedule import steps_of
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.diffusion.trajectory import Trajectory, states, trajectories
from dllmquant_exp.evaluation.codec import Codec
from dllmquant_exp.evaluation.requests import prompt_of
from dllmquant_exp.evaluation.task_building import build_tasks
from dllmquant_exp.models.transformer import Transformer, TransformerConfig, at_least_float32
from dllmquant_exp.probes.arguments import ProbeError
from dllmquant_exp.probes.probe import Probe
from dllmquant_exp.reporting.figures.recordings import (
    SCHEMA_VERSION,
    load_arrays,
    save_recording,
)
from dllmquant_exp.run.prepare import prepare
from dllmquant_exp.store import provenance
from dllmquant_exp.store.progress import tracked
from dllmquant_exp.store.results import config_hash

logger = logging.getLogger(__name__)
LOGITS_AT_ONCE = 2**25  # 128 MB in float32, and a few copies; never fewer than one request's
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class StateBatch:
    """The model's input at one step, for some prompts.

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

    @property
    def place(self) -> slice:
        """Places of the prompts in an array over all prompts."""
        return slice(self.prompts.start, self.prompts.stop)

    def of_response(self, values: Tensor) -> Tensor:
        """Values [B, T, ...] at the response's positions, [B, gen_length, ...]."""
        return values[self.response].unflatten(0, (len(self.prompts), -1))


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
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def batch_size(self) -> int:
        return self.probe.experiment.common.batch_size

    @property
    def logits_batch(self) -> int:
        """Requests whose logits at the whole response fit into memory at once."""
        numbers = self.decoding.gen_length * self.model.config.vocab_size
        return min(self.batch_size, max(1, LOGITS_AT_ONCE // numbers))

    def states(
        self, batch_size: int, steps: Sequence[int] | None = None, title: str = ""
    ) -> Iterable[StateBatch]:
        """The decodes' states, `batch_size` prompts at a time and for these step after step.

        Args:
            steps: only these, ascending; None for all.
            title: of a progress bar; empty for none.

        Raises:
            ProbeError: a decode that had nothing to decide at a step.
        """
        wanted = range(self.decoding.steps) if steps is None else steps
        total = -(-len(self.trajectories) // batch_size) * len(wanted)
        found = self._states(batch_size, wanted)
        return tracked(found, title, total) if title else found

    def _states(self, batch_size: int, steps: Sequence[int]) -> Iterator[StateBatch]:
        count, config = len(self.trajectories), self.model.config
        length, device = self.decoding.gen_length, self.device
        for first in range(0, count, batch_size):
            prompts = range(first, min(first + batch_size, count))
            decodes = [self.trajectories[i] for i in prompts]
            visited = [[*states(d, self.decoding, config.mask_token_id)] for d in decodes]
            if any(len(found) != self.decoding.steps for found in visited):
                raise ProbeError("a decode has steps with nothing to decide; ask for fewer steps")
            for step in steps:
                rows = [found[step] for found in visited]
                tokens, lengths = pad_rows([r.tokens for r in rows], config.pad_token_id, device)
                column, ends = torch.arange(tokens.shape[1], device=device), lengths[:, None]
                real = column < ends
                response = real & (column >= ends - length)
                masked = torch.zeros_like(response)
                flags = [row.masked[-length:] for row in rows]
                masked[response] = torch.tensor(flags, device=device).flatten()
                yield StateBatch(step, prompts, tokens, real, response, masked)

    def committed(self, logits: Tensor, response: Tensor, step: int) -> Tensor:
        """The response behind one greedy step: what `generate` does at temperature 0.

        `diffusion.decoding` asks the model for the positions that a step may commit; probes have
        the logits of all positions anyway, and go on from there.

        Args:
            logits: [B, gen_length, vocab], of the model that is given `response`.
            response: [B, gen_length] ids, with the mask's where they are still to be decided.

        Returns:
            [B, gen_length].
        """
        schedule = steps_of(self.decoding)[step]
        reach = response == self.model.config.mask_token_id
        reach[:, schedule.reach :] = False
        tokens = logits.argmax(-1)
        sure = confidence_of(logits.flatten(0, 1), tokens.flatten(), self.decoding.remasking)
        sure = sure.view(response.shape).masked_fill(~reach, -torch.inf)
        chosen = most_confident(sure, schedule.commits(reach.sum(1)))
        return torch.where(chosen & reach, tokens, response)


@torch.inference_mode()
def response_logits(model: Transformer, batch: StateBatch) -> Tensor:
    """Logits at every response position, [B, gen_length, vocab], in float32 or better."""
    logits = model(batch.tokens, batch.attention_mask, batch.response)
    return logits.to(at_least_float32(logits.dtype)).unflatten(0, (len(batch.prompts), -1))


def load_subject(probe: Probe) -> Subject:
    """Load the model and decode the prompts, or read their decodes.

    Raises:
        ProbeError: fewer items than prompts asked for.
        CheckpointError, DataError, ...: as for an experiment.
    """
    prepared = prepare(probe.experiment)
    prompts = _prompts(probe, prepared.model.config, prepared.tokenizer)

    def decoded() -> Arrays:
        found = trajectories(
            prepared.model,
            prompts,
            probe.decoding,
            seeds=[probe.seed] * len(prompts),
            batch_size=probe.experiment.common.batch_size,
        )
        return _to_arrays(list(tracked(found, "decodes", len(prompts))))

    kept = cached_arrays(probe, "decodes", probe.key() | {"tokens": prompts}, decoded)
    return Subject(probe, prepared.model, prepared.tokenizer, _from_arrays(kept))


def _prompts(
    probe: Probe, config: TransformerConfig, tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Token ids of the task's first items, as an evaluation gives them to the model."""
    common, (task,) = probe.experiment.common, probe.experiment.tasks
    wanted = probe.settings.prompts
    codec = Codec(tokenizer, task.settings, config, config.max_length)
    chat = codec.chat if task.settings.chat_template else None
    texts = [
        prompt_of(built, number, task.settings, chat)
        for built in build_tasks(task.settings, data_root=common.data_folder, limit=wanted)
        for number in built.doc_ids
    ]
    if any(not isinstance(text, str) for text in texts):
        raise ProbeError(f"{task.name} has a prompt per option; choose a task with one per item")
    if len(texts) < wanted:
        raise ProbeError(f"{task.name} has {len(texts)} items, fewer than prompts = {wanted}")
    return [codec.encode_prompt(text, probe.settings.gen_length) for text in texts]


def cached_arrays(
    probe: Probe, name: str, key: Mapping[str, Any], make: Callable[[], Arrays]
) -> dict[str, NDArray[Any]]:
    """Arrays that `key` and the code stand for: read, or made and kept. Can be deleted any time."""
    own = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    full = {**key, "code": [provenance.code_digest(), hashlib.sha256(own).hexdigest()]}
    folder = probe.runs_dir / ".cache" / "probes" / f"{name}-{config_hash(full)[:16]}"
    if folder.exists():
        logger.info("%s read from %s", name, folder)
    else:
        save_recording(folder, make(), {"schema_version": SCHEMA_VERSION, "key": full})
    return load_arrays(folder)


def _to_arrays(decodes: Sequence[Trajectory]) -> Arrays:
    return {
        "lengths": np.array([len(decode.prompt) for decode in decodes]),
        "prompts": np.array([token for decode in decodes for token in decode.prompt]),
        "responses": np.array([decode.response for decode in decodes]),
        "last_masked": np.array([decode.last_masked for decode in decodes]),
    }


def _from_arrays(arrays: Arrays) -> tuple[Trajectory, ...]:
    prompts = np.split(arrays["prompts"], np.cumsum(arrays["lengths"])[:-1])
    pairs = zip(prompts, arrays["responses"], arrays["last_masked"], strict=True)
    return tuple(Trajectory(*(tuple(part.tolist()) for part in parts)) for parts in pairs)
