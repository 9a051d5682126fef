"""The models that are compared: full precision, and low bits with some bits of activations."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import nn

from dllmquant_exp.diffusion.decoding import generate
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.models.transformer import Block, Transformer, TransformerConfig
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.packed import PackedLinear, pack_model
from dllmquant_exp.quantization.pipeline import needs_calibration, quantize
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.speed.full_precision import dtype_of, prepack
from dllmquant_exp.speed.half_ends import with_half_ends
from dllmquant_exp.speed.memory import available_bytes, weight_bytes
from dllmquant_exp.speed.random_models import random_full, random_packed, random_packed_block
from dllmquant_exp.speed.settings import SpeedError, SpeedSettings

Module = TypeVar("Module", bound=nn.Module)
MEMORY_SHARE = 0.7  # of what the system can give, for a whole model; the rest is for its work


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        config: the model's shape.
        load: makes the model in full precision, in a type; None takes random weights.
        method, quant, iaaq: how it is quantized. Only what has to be done while the model runs
            matters: weights are rounded to the nearest, whatever the method does to them.
            None for quant measures full precision alone.
        decoding: how responses are decoded; their length must not depend on what they say.
        settings: see there.
        seed: of random weights, prompts and the order of the rounds.
    """

    config: TransformerConfig
    load: Callable[[torch.dtype], Transformer] | None
    method: Method
    quant: QuantSettings | None
    iaaq: Iaaq | None
    decoding: DecodingSettings
    settings: SpeedSettings
    seed: int

    def __post_init__(self) -> None:
        if needs_calibration(self.runtime_method, self.quant, self.iaaq):
            raise SpeedError(
                "static ranges and static alphas come from calibration, which a measurement of "
                "speed does not do; use quant.activation_ranges=dynamic and iaaq.mode=online"
            )
        quant = self.quant
        if quant is not None and (
            quant.weight_bits > 4
            or quant.activation_bits > 8
            or "per_group" in (quant.weight_granularity, quant.activation_granularity)
        ):
            raise SpeedError(
                "packed layers have weights of at most 4 bits, activations of at most 8, and no "
                "groups; nothing else runs in low bits here"
            )
        length = self.settings.prompt_length + self.decoding.gen_length
        if length > self.config.max_length:
            raise SpeedError(
                f"prompt_length + gen_length = {length} is more than the model's "
                f"{self.config.max_length} positions"
            )

    @property
    def runtime_method(self) -> Method:
        """The steps that leave work to be done while the model runs, and rounding to nearest."""
        if not self.method.quantizes:
            return self.method
        online = {key: step for key, step in self.method.steps.items() if step.online}
        return replace(self.method, steps={**online, "round": Nearest()})

    @property
    def rows(self) -> int:
        """Tokens in a forward pass."""
        return self.settings.responses * (self.settings.prompt_length + self.decoding.gen_length)

    @property
    def bits(self) -> tuple[int, ...]:
        """Of the activations that are measured, the chosen ones first."""
        if self.quant is None:
            return ()
        others = {self.settings.beside_bits} - {None, self.quant.activation_bits}
        return (self.quant.activation_bits, *(bits for bits in others if bits is not None))

    def with_layers(self, layers: int) -> TransformerConfig:
        return replace(self.config, n_layers=layers)


def full_block(subject: Subject, form: str) -> nn.Module:
    """One block in full precision with random weights; see full_precision.py for the forms."""
    with torch.device("meta"):
        block = Block(subject.config)
    return prepack(random_full(block, dtype_of(form), subject.seed), form, subject.rows)


def low_block(subject: Subject) -> Block:
    """One packed block with random numbers; it computes in the type of its input."""
    assert subject.quant is not None
    generator = torch.Generator().manual_seed(subject.seed)
    return random_packed_block(
        subject.config, subject.quant, subject.method, subject.iaaq, generator
    )


def full_model(subject: Subject, form: str) -> Transformer:
    """The loaded model; without one, a random one of a single block."""
    dtype = dtype_of(form)
    if subject.load is not None:
        model = subject.load(dtype)
    else:
        with torch.device("meta"):
            model = Transformer(subject.with_layers(1))
        random_full(model, dtype, subject.seed)
    for block in model.blocks:
        prepack(block, form, subject.rows)
    return model


def low_model(subject: Subject, dtype: torch.dtype) -> Transformer:
    """The model quantized and packed, computing in `dtype`; see half_ends.py. A random one is of a
    single block where it does not fit."""
    assert subject.quant is not None
    if subject.load is not None:
        model = subject.load(dtype)
        quantize(model, subject.runtime_method, subject.quant, iaaq=subject.iaaq)
        pack_model(model)
        return with_half_ends(model, dtype)
    free = available_bytes()
    needed = low_bytes(subject.config, subject.quant)
    layers = 1 if free is not None and needed > MEMORY_SHARE * free else subject.config.n_layers
    model = random_packed(
        subject.with_layers(layers), subject.quant, subject.method, subject.iaaq,
        subject.seed,
    )  # fmt: skip
    return with_half_ends(model, dtype)


def low_bytes(config: TransformerConfig, quant: QuantSettings) -> int:
    """Bytes of a low-bit model's weights, whatever type it computes in; see memory.weight_bytes."""
    head, embedding = (min(max(bits, 8), 16) for bits in (quant.head_bits, quant.embedding_bits))
    return weight_bytes(config, 4, head, embedding)


def full_bytes(config: TransformerConfig, form: str) -> int:
    """Bytes that the weights take in a form of full precision."""
    return weight_bytes(config, 16, 16, 16) // 2 * dtype_of(form).itemsize


def with_bits(module: Module, bits: int) -> Module:
    """The same module, sharing its tensors, with activations of other bits."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    other = copy.deepcopy(module, shared)
    for layer in other.modules():
        if isinstance(layer, PackedLinear):
            layer.activation = replace(layer.activation, bits=bits)
    return other


def decode(subject: Subject, model: Transformer) -> None:
    """Decode all responses to their end."""
    count = subject.settings.responses
    generate(model, random_prompts(subject), subject.decoding, seeds=range(count), batch_size=count)


def random_prompts(subject: Subject) -> Sequence[Sequence[int]]:
    """Tokens at random, other than the special ones, of the vocabulary's first 4096."""
    config, settings = subject.config, subject.settings
    special = {config.mask_token_id, config.eos_token_id, config.pad_token_id}
    plain = torch.tensor([i for i in range(min(config.vocab_size, 4096)) if i not in special])
    generator = torch.Generator().manual_seed(subject.seed)
    shape = (settings.responses, settings.prompt_length)
    chosen: list[list[int]] = plain[torch.randint(len(plain), shape, generator=generator)].tolist()
    return chosen
