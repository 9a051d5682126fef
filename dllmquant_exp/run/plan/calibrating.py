"""Operations, time and size of calibration sets."""

import math
from dataclasses import dataclass

from dllmquant_exp.calibration.collect import CalibrationSettings
from dllmquant_exp.calibration.tmas import visits
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.models.transformer import TransformerConfig
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
    settings: CalibrationSettings,
    config: TransformerConfig,
    itemsize: int,
    *,
    embedded: bool,
    needs_scores: bool,
) -> CalibrationSize:
    """What `calibration.collect` is going to make."""
    how = Precision(itemsize)
    if settings.name == "random":
        assert settings.length is not None
        length = float(settings.length)
        each = EMBEDDED_PROMPT * 1.3 if embedded else _official(settings.texts, whole=True)
        host = _host(embedded, math.ceil(settings.samples * length / each))
        return _sized(
            settings, config, how, settings.samples, length, needs_scores, Work(host=host)
        )
    decoding = settings.decoding(config.architecture)
    prompts, states = _prompts_and_states(settings, decoding)
    prompt = 1.0 if settings.name == "llm_qat" else _prompt(settings, embedded)
    length = prompt + decoding.gen_length
    batches = math.ceil(prompts / CALIBRATION_BATCH)
    decoded = batches * CALIBRATION_BATCH if settings.name == "tmas" else prompts
    asked = asked_per_step(decoding)
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
    texts = 0 if settings.name == "llm_qat" else prompts
    if settings.name == "tmas":  # as many prompts as states are made ready, fewer are used
        texts = settings.samples
    per_row = HOST_PER_ROW if settings.name == "llm_qat" else HOST_PER_STATE  # it keeps the ends
    host = _host(embedded and texts > 0, texts) + rows * per_row
    work = forward_work(config, how, load) + Work(host=host)
    made = _sized(settings, config, how, states, length, True, work)
    larger = max(load, made.load, key=lambda it: it.asked_at_once)
    return CalibrationSize(made.states, made.tokens, made.squares, length, made.work, larger)


def _sized(
    settings: CalibrationSettings,
    config: TransformerConfig,
    how: Precision,
    states: int,
    length: float,
    scored: bool,
    work: Work,
) -> CalibrationSize:
    """A set of states of one length, cut to `settings.tokens`, scored where that is asked for."""
    batch = min(states, CALIBRATION_BATCH)
    calls = math.ceil(states / CALIBRATION_BATCH)
    rows = (states, states * length, states * length**2, states * length)
    load = Load(calls, *rows, length, batch, batch * length if scored else 0)
    if scored:
        work = work + forward_work(config, how, load)
    if settings.tokens is not None:
        states = min(states, max(1, int(settings.tokens / length)))
    tokens = states * length
    return CalibrationSize(states, tokens, tokens * length, length, work, load)


def _prompts_and_states(
    settings: CalibrationSettings, decoding: DecodingSettings
) -> tuple[int, int]:
    if settings.tmas is None:
        per_prompt = settings.steps_per_prompt or 1
        return math.ceil(settings.samples / per_prompt), settings.samples
    quotas, seen = settings.tmas.quotas, visits(decoding, settings.tmas)
    wanted = {cell: quotas[cell[1]] for cell in seen if quotas[cell[1]]}
    needed = max(quota / seen[cell] for cell, quota in wanted.items())
    prompts = math.ceil(needed * settings.tmas.stride)
    return min(prompts, settings.samples), sum(wanted.values())


def _prompt(settings: CalibrationSettings, embedded: bool) -> float:
    return EMBEDDED_PROMPT if embedded else _official(settings.texts, whole=False)


def _official(texts: tuple[str, ...] | None, *, whole: bool) -> float:
    """Mean tokens of a training text, or of its prompt alone."""
    known = [CALIBRATION_TOKENS[name] for name in texts or () if name in CALIBRATION_TOKENS]
    return sum(pair[whole] for pair in known) / len(known) if known else 50.0


def _host(embedded: bool, texts: int) -> float:
    return (HOST_EMBEDDED if embedded else 0.0) + texts * HOST_PER_TEXT
