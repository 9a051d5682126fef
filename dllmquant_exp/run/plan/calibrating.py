"""Operations, time and size of calibration sets."""

import math
from dataclasses import dataclass

from dllmquant_exp.calibration.llm_qat import LlmQat
from dllmquant_exp.calibration.random_segments import RandomSegments
from dllmquant_exp.calibration.sampler import DecodingSampler, Sampler
from dllmquant_exp.calibration.tmas import Tmas
from dllmquant_exp.calibration.uniform_time import UniformTime
from dllmquant_exp.models.transformer import Architecture, TransformerConfig
from dllmquant_exp.run.plan.forwards import Load, Precision, forward_work
from dllmquant_exp.run.plan.known_sizes import CALIBRATION_TOKENS
from dllmquant_exp.run.plan.requests import HOST_PER_ROW, asked_per_step
from dllmquant_exp.run.plan.work import Work
from dllmquant_exp.run.prepare import CALIBRATION_BATCH

EMBEDDED_PROMPT = 30  # mean tokens of a micro-world training prompt
HOST_EMBEDDED = 2.0  # seconds to make the evaluation items that texts must not be
HOST_PER_TEXT = 5e-3  # seconds to make or read, encode and compare one
HOST_PER_STATE = 4e-3  # seconds of Python per state of a decode that is looked at
BYTES_PER_TOKEN = 17  # a number of 8 bytes, a flag, two confidences of 4


@dataclass(frozen=True)
class CalibrationSize:
    """A calibration set: how large it is and what it takes to make.

    Attributes:
        states, tokens, squares: its inputs, their lengths' sum and sum of squares.
        longest: of them, in tokens.
        work: to make it.
        load: the largest of its forward passes, for memory.
    """

    states: int
    tokens: float
    squares: float
    longest: float
    work: Work
    load: Load

    @property
    def disk(self) -> float:
        return self.tokens * BYTES_PER_TOKEN + 4000

    @property
    def as_load(self) -> Load:
        """One forward pass over all states."""
        calls = math.ceil(self.states / CALIBRATION_BATCH)
        return Load(calls, self.states, self.tokens, self.squares, 0, self.longest,
                    min(self.states, CALIBRATION_BATCH))  # fmt: skip


def calibration_size(
    sampler: Sampler,
    config: TransformerConfig,
    itemsize: int,
    *,
    embedded: bool,
    needs_scores: bool,
) -> CalibrationSize:
    """What `calibration.collect` is going to make."""
    how = Precision(itemsize)
    if not isinstance(sampler, DecodingSampler):
        text = _text_tokens(sampler, embedded, whole=True)
        length = float(sampler.length) if isinstance(sampler, RandomSegments) else text
        work = Work(host=_host(embedded, math.ceil(sampler.samples * length / text)))
        return _sized(sampler, config, how, sampler.samples, length, needs_scores, work)
    prompts, states = _prompts_and_states(sampler, config.architecture)
    prompt = 1 if isinstance(sampler, LlmQat) else _text_tokens(sampler, embedded, whole=False)
    length = prompt + sampler.gen_length
    batches = math.ceil(prompts / CALIBRATION_BATCH)
    decoded = batches * CALIBRATION_BATCH if isinstance(sampler, Tmas) else prompts
    asked = asked_per_step(sampler.decoding(config.architecture))
    rows = decoded * len(asked)
    load = Load(
        calls=batches * len(asked),
        rows=rows,
        tokens=rows * length,
        squares=rows * length**2,
        asked=decoded * sum(asked),
        longest=length,
        batch=CALIBRATION_BATCH,
        asked_at_once=CALIBRATION_BATCH * max(asked),
    )
    texts = 0 if isinstance(sampler, LlmQat) else prompts
    per_row = HOST_PER_STATE if texts else HOST_PER_ROW  # only the ends are looked at
    host = _host(embedded and texts > 0, texts) + rows * per_row
    work = forward_work(config, how, load) + Work(host=host)
    made = _sized(sampler, config, how, states, length, True, work)
    larger = max(load, made.load, key=lambda it: it.asked_at_once)
    return CalibrationSize(made.states, made.tokens, made.squares, length, made.work, larger)


def _sized(
    sampler: Sampler,
    config: TransformerConfig,
    how: Precision,
    states: int,
    length: float,
    scored: bool,
    work: Work,
) -> CalibrationSize:
    """A set of states of one length, cut to `sampler.tokens`, scored where that is asked for."""
    batch = min(states, CALIBRATION_BATCH)
    calls = math.ceil(states / CALIBRATION_BATCH)
    rows = (states, states * length, states * length**2, states * length)
    load = Load(calls, *rows, length, batch, batch * length if scored else 0)
    if scored:
        work = work + forward_work(config, how, load)
    if sampler.tokens is not None:
        states = min(states, max(1, int(sampler.tokens / length)))
    tokens = states * length
    return CalibrationSize(states, tokens, tokens * length, length, work, load)


def _prompts_and_states(sampler: DecodingSampler, architecture: Architecture) -> tuple[int, int]:
    if isinstance(sampler, UniformTime):
        return math.ceil(sampler.samples / sampler.steps_per_prompt), sampler.samples
    if not isinstance(sampler, Tmas):
        return sampler.samples, sampler.samples
    quotas, seen = sampler.quotas, sampler.visits(architecture)
    wanted = {cell: quotas[cell[1]] for cell in seen if quotas[cell[1]]}
    needed = max(quota / seen[cell] for cell, quota in wanted.items())
    return min(math.ceil(needed * sampler.stride), sampler.samples), sum(wanted.values())


def _text_tokens(sampler: Sampler, embedded: bool, whole: bool) -> float:
    """Mean tokens of a training text, or of its prompt alone."""
    if embedded:
        return EMBEDDED_PROMPT * 1.3 if whole else EMBEDDED_PROMPT
    names = getattr(sampler, "texts", ())
    known = [CALIBRATION_TOKENS[name] for name in names if name in CALIBRATION_TOKENS]
    return sum(pair[whole] for pair in known) / len(known) if known else 50.0


def _host(embedded: bool, texts: int) -> float:
    return (HOST_EMBEDDED if embedded else 0.0) + texts * HOST_PER_TEXT
