"""From settings to a calibration set: texts, then a sampler, then the store that cells share."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from transformers import PreTrainedTokenizerBase

from dllmquant_exp.calibration.sampling import (
    equal_tokens,
    random_segments,
    self_generated,
    uniform_time,
)
from dllmquant_exp.calibration.scoring import scored
from dllmquant_exp.calibration.sources import (
    CalibrationText,
    disjoint,
    embedded_evaluation_items,
    embedded_texts,
    official_evaluation_items,
    official_texts,
)
from dllmquant_exp.calibration.states import CalibrationError, CalibrationSet
from dllmquant_exp.calibration.storage import cached
from dllmquant_exp.calibration.tmas import TmasSettings, tmas
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.models.embedded import world
from dllmquant_exp.models.transformer import Architecture, Transformer

Sampler = Literal["random", "llm_qat", "uniform_time", "tmas"]
# What each sampler reads besides its name and the number of samples.
_READS: dict[str, set[str]] = {
    "random": {"texts", "length"},
    "llm_qat": {"gen_length", "steps", "blocks"},
    "uniform_time": {"texts", "gen_length", "steps", "blocks", "steps_per_prompt"},
    "tmas": {"texts", "gen_length", "steps", "tmas"},
}


@dataclass(frozen=True)
class CalibrationSettings:
    """What a quantization method is calibrated on.

    Attributes:
        name: the sampler.
        samples: states (tmas: before its quotas are rounded).
        texts: training data that segments or prompts are taken from.
        length: tokens of a random segment.
        gen_length, steps: of the decodes that states are taken from.
        blocks: of these decodes (LLaDA; Dream decodes one block); tmas has its own.
        steps_per_prompt: states that uniform_time takes from one decode.
        tokens: at most so many are kept, whole states drawn at random, to compare two sets at equal
            cost; None keeps all.
        tmas: Algorithm 1's readings.

    Raises:
        CalibrationError: a setting that this sampler needs and lacks, or has and does not read.
    """

    name: Sampler
    samples: int
    texts: tuple[str, ...] | None = None
    length: int | None = None
    gen_length: int | None = None
    steps: int | None = None
    blocks: int | None = None
    steps_per_prompt: int | None = None
    tokens: int | None = None
    tmas: TmasSettings | None = None

    def __post_init__(self) -> None:
        if self.name not in get_args(Sampler):
            raise CalibrationError(
                f"name = {self.name!r} is not one of: {', '.join(get_args(Sampler))}"
            )
        reads = _READS[self.name]
        for name in (
            "texts",
            "length",
            "gen_length",
            "steps",
            "blocks",
            "steps_per_prompt",
            "tmas",
        ):
            value = getattr(self, name)
            if (value is None) == (name in reads):
                fault = "needs" if value is None else "does not read"
                raise CalibrationError(f"{self.name} {fault} {name}")
            if isinstance(value, int) and value < 1:
                raise CalibrationError(f"{name} = {value} must be at least 1")
        for name in ("samples", "tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CalibrationError(f"{name} = {value} must be at least 1")

    def decoding(self, architecture: Architecture) -> DecodingSettings:
        """How calibration prompts are decoded: greedily, and sampled where the text is the data.

        Raises:
            DiffusionError: numbers that do not divide.
        """
        assert self.gen_length is not None and self.steps is not None
        blocks = self.tmas.blocks if self.tmas is not None else self.blocks
        assert blocks is not None
        llada = architecture == "llada"
        if llada and self.gen_length % blocks:
            raise CalibrationError(f"blocks = {blocks} do not divide gen_length {self.gen_length}")
        return DecodingSettings(
            gen_length=self.gen_length,
            steps=self.steps,
            block_length=self.gen_length // blocks if llada else self.gen_length,
            remasking="low_confidence" if llada else "entropy",
            temperature=1.0 if self.name == "llm_qat" else 0.0,
        )


def collect(
    settings: CalibrationSettings,
    model: Transformer,
    tokenizer: PreTrainedTokenizerBase,
    *,
    model_key: str,
    embedded: bool,
    data_root: Path | None,
    seed: int,
    batch_size: int,
    needs_scores: bool,
    folder: Path,
) -> CalibrationSet:
    """The calibration set of `settings`, made by the full-precision `model` or read from `folder`.

    Args:
        model_key: changes with the model's weights and with what else decides its outputs.
        embedded: texts are the micro-world's, not the official training splits.
        needs_scores: confidences are wanted for sets that are made without the model too.
        folder: of stored sets, shared by all cells of all sweeps.
    """
    key: dict[str, Any] = {
        "name": settings.name,
        "settings": asdict(settings),
        "model": model_key,
        "embedded": embedded,
        "data_root": None if data_root is None or embedded else str(data_root),
        "seed": seed,
        "batch_size": batch_size,
        # Every other sampler asks the model anyway and keeps its confidences.
        "scores": needs_scores and settings.name == "random",
    }

    def make() -> CalibrationSet:
        made = _sample(settings, model, tokenizer, embedded, data_root, seed, batch_size)
        if settings.tokens is not None:
            made = equal_tokens(made, settings.tokens, seed=seed)
        unscored = any(not state.is_scored for state in made.states)
        return scored(model, made, batch_size) if needs_scores and unscored else made

    return cached(folder, key, make)


def _sample(
    settings: CalibrationSettings,
    model: Transformer,
    tokenizer: PreTrainedTokenizerBase,
    embedded: bool,
    data_root: Path | None,
    seed: int,
    batch_size: int,
) -> CalibrationSet:
    def texts(count: int) -> list[CalibrationText]:
        return _texts(settings.texts or (), count, embedded, data_root, seed)

    def prompts(count: int) -> list[list[int]]:
        return [
            tokenizer(text.prompt, add_special_tokens=False)["input_ids"] for text in texts(count)
        ]

    if settings.name == "random":
        assert settings.length is not None
        wanted, count = settings.samples * settings.length, settings.samples
        while True:  # texts differ in length: take more until they hold enough tokens
            found = [text.text for text in texts(count)]
            tokens = sum(
                len(ids) for ids in tokenizer(found, add_special_tokens=False)["input_ids"]
            )
            if tokens >= wanted:
                break
            count = max(count + 1, int(1.1 * count * wanted / max(tokens, 1)))
        return random_segments(
            found, tokenizer, count=settings.samples, length=settings.length, seed=seed
        )
    decoding = settings.decoding(model.config.architecture)
    if settings.name == "llm_qat":
        return self_generated(
            model, tokenizer, decoding, count=settings.samples, seed=seed, batch_size=batch_size
        )
    if settings.name == "uniform_time":
        assert settings.steps_per_prompt is not None
        return uniform_time(
            model,
            prompts(-(-settings.samples // settings.steps_per_prompt)),
            decoding,
            count=settings.samples,
            steps_per_prompt=settings.steps_per_prompt,
            seed=seed,
            batch_size=batch_size,
        )
    assert settings.tmas is not None
    # One decode offers at most one state per step, so as many prompts as states are enough.
    return tmas(
        model, prompts(settings.samples), decoding, settings.tmas, seed=seed, batch_size=batch_size
    )


def _texts(
    names: Sequence[str], count: int, embedded: bool, data_root: Path | None, seed: int
) -> list[CalibrationText]:
    if embedded:
        found = embedded_texts(names, count, seed=seed)
        evaluated = embedded_evaluation_items(world.TASKS)
        disjoint((item for text in found for item in text.items), evaluated)
        return found
    share = -(-count // len(names))
    each = []
    for name in names:
        each.append(official_texts(name, share, seed=seed, data_root=data_root))
        evaluated = official_evaluation_items(name, data_root)
        disjoint((item for text in each[-1] for item in text.items), evaluated)
    return [text for turn in zip(*each, strict=True) for text in turn][:count]
