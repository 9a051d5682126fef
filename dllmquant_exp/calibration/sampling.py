"""Calibration sets that are not TMAS: what the baselines use, and the controls for it.

| sampler         | states                                             | paper                  |
|-----------------|----------------------------------------------------|------------------------|
| random_segments | segments of text, nothing masked                   | baselines; "Random"    |
| self_generated  | what the model itself writes, nothing masked       | "LLM-QAT" of Table 6   |
| uniform_time    | states at evenly spaced steps, whatever their mask | "Uniform time"         |

`equal_tokens` cuts any set down to a number of tokens, to compare two at equal cost.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, replace

from transformers import PreTrainedTokenizerBase

from dllmquant_exp.calibration.scoring import scored
from dllmquant_exp.calibration.states import (
    CalibrationError,
    CalibrationSet,
    CalibrationState,
    describe,
    unscored_state,
)
from dllmquant_exp.diffusion.decoding import generate
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.diffusion.trajectory import DecodingState, states, trajectories
from dllmquant_exp.models.transformer import Transformer

SEPARATOR = "\n\n"  # between texts, as in GPTQ's preparation of WikiText-2


def random_segments(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    count: int,
    length: int,
    seed: int,
) -> CalibrationSet:
    """`count` segments of `length` tokens of the texts in random order; no token is used twice.

    The states are not scored: no model takes part (see `scoring.scored`).

    Raises:
        CalibrationError: a count or length below 1, or too little text for them.
    """
    if count < 1 or length < 1:
        raise CalibrationError(f"count = {count} and length = {length} must be at least 1")
    order = random.Random(f"random segments {seed}").sample(range(len(texts)), len(texts))
    tokens: list[int] = []
    for i in order:
        tokens += tokenizer(texts[i] + SEPARATOR, add_special_tokens=False)["input_ids"]
        if len(tokens) >= count * length:
            break
    else:
        raise CalibrationError(
            f"{len(texts)} texts hold {len(tokens)} tokens, enough for {len(tokens) // length} "
            f"segments of {length}, not {count}: ask for fewer or shorter ones, or give more texts"
        )
    segments = [tokens[start : start + length] for start in range(0, count * length, length)]
    plain = tuple(_plain_text(segment) for segment in segments)
    report = {**describe(plain), "seed": seed, "length": length}
    return CalibrationSet("random_segments", plain, report)


def self_generated(
    model: Transformer,
    tokenizer: PreTrainedTokenizerBase,
    decoding: DecodingSettings,
    *,
    count: int,
    seed: int,
    batch_size: int,
) -> CalibrationSet:
    """Texts that the full-precision model writes after one random token, as LLM-QAT does.

    A text ends with its first end-of-text. With temperature 0 little but the first token varies;
    LLM-QAT samples.

    Args:
        decoding: of the responses; `gen_length` + 1 is the longest text.
        count: texts, each one a state.
    """
    if count < 1:
        raise CalibrationError(f"count = {count} must be at least 1")
    config = model.config
    special = {config.mask_token_id, config.eos_token_id, config.pad_token_id}
    special |= set(tokenizer.all_special_ids)
    words = [i for i in range(min(len(tokenizer), config.vocab_size)) if i not in special]
    starts = random.Random(f"self-generated {seed}").choices(words, k=count)
    prompts = [[start] for start in starts]
    seeds = prompt_seeds(seed, count)
    made = generate(model, prompts, decoding, seeds=seeds, batch_size=batch_size)
    texts = [
        [start, *_until_end(response, config.eos_token_id)]
        for start, response in zip(starts, made.tokens, strict=True)
    ]
    plain = tuple(
        unscored_state(text, [token == config.mask_token_id for token in text], 1) for text in texts
    )
    report = {
        **describe(plain),
        "seed": seed,
        "decoding": asdict(decoding),
        "forwards": made.forwards,
        "token_forwards": made.token_forwards,
    }
    return scored(model, CalibrationSet("self_generated", plain, report), batch_size)


def uniform_time(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    decoding: DecodingSettings,
    *,
    count: int,
    steps_per_prompt: int,
    seed: int,
    batch_size: int,
) -> CalibrationSet:
    """`count` states at evenly spaced steps of decodes of the prompts, in their order.

    Of a decode with S steps, `steps_per_prompt` = k takes those in the middle of k equal spans.

    Raises:
        CalibrationError: numbers below 1, more steps than a decode has, or too few prompts.
    """
    if count < 1 or steps_per_prompt < 1:
        raise CalibrationError(
            f"count = {count} and steps_per_prompt = {steps_per_prompt} must be at least 1"
        )
    needed = -(-count // steps_per_prompt)
    if len(prompts) < needed:
        raise CalibrationError(
            f"{count} states, {steps_per_prompt} from each prompt, need {needed} prompts; there "
            f"are {len(prompts)}: give more, or take more steps from each"
        )
    chosen: list[CalibrationState] = []
    seeds = prompt_seeds(seed, needed)
    decodes = trajectories(model, prompts[:needed], decoding, seeds=seeds, batch_size=batch_size)
    for prompt, trajectory in zip(prompts, decodes, strict=False):
        visited = list(states(trajectory, decoding, model.config.mask_token_id))
        if len(visited) < steps_per_prompt:
            raise CalibrationError(
                f"steps_per_prompt = {steps_per_prompt}, but a decode with these settings has "
                f"{len(visited)} steps with something to decide; take fewer"
            )
        middles = [
            (2 * j + 1) * len(visited) // (2 * steps_per_prompt) for j in range(steps_per_prompt)
        ]
        chosen += [
            calibration_state(visited[i], len(prompt), visited[i].block, visited[i].block_ratio)
            for i in middles
        ]
    kept = tuple(chosen[:count])
    report = {
        **describe(kept),
        "seed": seed,
        "decoding": asdict(decoding),
        "steps_per_prompt": steps_per_prompt,
        "prompts_used": needed,
    }
    return scored(model, CalibrationSet("uniform_time", kept, report), batch_size)


def equal_tokens(calibration_set: CalibrationSet, tokens: int, *, seed: int) -> CalibrationSet:
    """A random part of a set that has as many whole states as fit into `tokens`, in their order.

    States are drawn in random order until the next one does not fit. The report says how many
    tokens there really are.

    Raises:
        CalibrationError: the set has fewer tokens than that, or no state is that short.
    """
    if calibration_set.tokens < tokens:
        raise CalibrationError(
            f"calibration set {calibration_set.name!r} has {calibration_set.tokens} tokens, fewer "
            f"than {tokens}: make it larger first"
        )
    count = len(calibration_set.states)
    room, kept = tokens, []
    for i in random.Random(f"equal tokens {seed}").sample(range(count), count):
        room -= len(calibration_set.states[i].tokens)
        if room < 0:
            break
        kept.append(i)
    chosen = tuple(calibration_set.states[i] for i in sorted(kept))
    if not chosen:
        raise CalibrationError(
            f"no state of {calibration_set.name!r} is as short as {tokens} tokens: allow more"
        )
    part = replace(calibration_set, states=chosen)
    return part.with_report(**describe(chosen), tokens_asked_for=tokens, states_before=count)


def prompt_seeds(seed: int, count: int) -> list[int]:
    """A seed per prompt, that depends on the prompt's place and not on how many there are."""
    dice = random.Random(f"prompts {seed}")
    return [dice.getrandbits(63) for _ in range(count)]


def calibration_state(
    visited: DecodingState, prompt_length: int, block: int, ratio: float
) -> CalibrationState:
    """A state of a decode as a calibration state, not scored yet."""
    return unscored_state(
        visited.tokens, visited.masked, prompt_length, block=block, step=visited.step, ratio=ratio
    )


def _plain_text(tokens: Sequence[int]) -> CalibrationState:
    return unscored_state(tokens, [False] * len(tokens), len(tokens))


def _until_end(response: Sequence[int], eos: int) -> list[int]:
    end = response.index(eos) + 1 if eos in response else len(response)
    return list(response[:end])
