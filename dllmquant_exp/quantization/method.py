"""A method: the ordered steps by which a model is quantized, each a class in a file of its name.

    model steps    change the whole model once, in full precision: rotations
    block steps    change one block in full precision, on its calibration inputs: AWQ
    rounding       gives every linear its whole numbers: one step, and the last; GPTQ, or nearest

conf/method/*.yaml names the steps in their order. A key is how the command line and the report
call a step, `_target_` is its class, and the rest are its settings:

    name: quarot
    rotation: {_target_: dllmquant_exp.quantization.rotation.Rotation, seed: 0}
    gptq: {_target_: dllmquant_exp.quantization.gptq.Gptq, damp: 0.01}

A step from outside is a class in a module of its own and such a line:

    @dataclass(frozen=True)
    class Coarse(Rounding):
        bits: Literal[2, 3] = 2

        def round(self, weights, quantizer, inputs):
            coarse = replace(quantizer, bits=self.bits)
            return [Rounded(quantize_weight(weight, coarse)) for weight in weights]
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.transformer import Block, Transformer, TransformerConfig
from dllmquant_exp.quantization.blockwise import BlockBatch
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.quantizers import QuantizationError, QuantizedWeight, Quantizer
from dllmquant_exp.quantization.reports import LayerReport
from dllmquant_exp.store.schema import Settings, build, describe

Report = Mapping[str, Any]  # of a step, as JSON
Inputs = Iterable[tuple[Tensor, Tensor]]  # x [n, in] and how much each token counts [n], by batches


@dataclass(frozen=True)
class Step(Settings):
    """One thing that a method does to a model; its fields are its settings.

    Attributes:
        passes: how often at most all calibration states go through the model for it, for plans;
            0 where its work reads none, None where nobody knows.
    """

    passes: ClassVar[float | None] = 0

    def idle(self, quant: QuantSettings) -> str | None:
        """Reason why these settings leave the step nothing to do (which is refused), or None."""
        return None

    def restore(self, block: Block, device: torch.device) -> None:
        """Put in place what the step leaves to be done while the model runs.

        Called on an empty block whose weights are read from a saved model, or are random.
        """

    @property
    def online(self) -> bool:
        """Whether it leaves anything to be done while the model runs."""
        return type(self).restore is not Step.restore

    def check_shape(self, config: TransformerConfig) -> None:
        """Raise QuantizationError if it cannot change a model of this shape."""

    def check_order(self, before: Sequence["Step"]) -> None:
        """Raise QuantizationError if the step cannot follow those before it."""


@dataclass(frozen=True)
class ModelStep(Step, ABC):
    """A change of the whole model, before any block is quantized."""

    @abstractmethod
    def transform(self, model: Transformer) -> Report:
        """Change the model in place. Returns the step's report."""


@dataclass(frozen=True)
class BlockStep(Step, ABC):
    """A change of one block, whose inputs come from the quantized blocks before it."""

    @abstractmethod
    def transform(
        self, block: Block, batches: Sequence[BlockBatch], quant: QuantSettings
    ) -> Report:
        """Change the block in place.

        Args:
            block: in full precision, attention included.
            batches: calibration states at the block's input; empty where nothing is calibrated.
            quant: how weights and activations will be quantized.

        Returns:
            The step's report on this block.
        """

    def passed_on(self, quant: QuantSettings) -> QuantSettings:
        """The settings of the steps that follow."""
        return quant


@dataclass(frozen=True)
class Rounded:
    """A rounded weight, and what its layer's report says about the rounding."""

    weight: QuantizedWeight
    report: Report | None = None


@dataclass(frozen=True)
class Rounding(Step, ABC):
    """Rounds the weights of linears that share an input."""

    @abstractmethod
    def round(
        self, weights: Sequence[Tensor], quantizer: Quantizer, inputs: Inputs
    ) -> list[Rounded]:
        """Whole numbers and scales of each weight [out_i, in], which stays as it is.

        Args:
            quantizer: the grid.
            inputs: what reaches the weights; computed while they are iterated over, and empty
                where nothing is calibrated.
        """

    def notes(self, layers: Sequence[LayerReport]) -> list[str]:
        """Remarks for readers of the report; `layers` holds the whole model's."""
        return []


def idle_without_rounding(quant: QuantSettings) -> str | None:
    """See `Step.idle`: for steps that make rounded weights hurt less."""
    if quant.weight is not None:
        return None
    return "it is about rounding weights, and quant.weight_bits = 16 leaves them as they are"


@dataclass(frozen=True)
class Method:
    """A name, as tables show it, and steps by their keys; full precision has no steps.

    Raises:
        QuantizationError: steps in an order that cannot be.
    """

    name: str
    steps: Mapping[str, Step] = field(default_factory=dict)

    @property
    def quantizes(self) -> bool:
        return bool(self.steps)

    @property
    def rounding(self) -> Rounding:
        """The last step."""
        last = list(self.steps.values())[-1]
        assert isinstance(last, Rounding)
        return last

    @property
    def online(self) -> bool:
        """Whether a step leaves anything to be done while the model runs."""
        return any(step.online for step in self.steps.values())

    @property
    def model_steps(self) -> dict[str, ModelStep]:
        return {key: step for key, step in self.steps.items() if isinstance(step, ModelStep)}

    @property
    def block_steps(self) -> dict[str, BlockStep]:
        return {key: step for key, step in self.steps.items() if isinstance(step, BlockStep)}

    def calibrates(self, quant: QuantSettings) -> bool:
        """Whether a step reads calibration states."""
        return any(step.passes != 0 and not step.idle(quant) for step in self.steps.values())

    def restore(self, block: Block, device: torch.device) -> None:
        """See `Step.restore`."""
        for step in self.steps.values():
            step.restore(block, device)

    def rounded(
        self, weights: Sequence[Tensor], quantizer: Quantizer, inputs: Inputs
    ) -> list[Rounded]:
        """See `Rounding.round`.

        Raises:
            QuantizationError: the step gives no rounded weight for each of them.
        """
        given: Any = self.rounding.round(weights, quantizer, inputs)
        found = list(given) if isinstance(given, Iterable) else []
        whole = all(isinstance(r, Rounded) and isinstance(r.weight, QuantizedWeight) for r in found)
        if not whole or [r.weight.numbers.shape for r in found] != [w.shape for w in weights]:
            raise QuantizationError(
                f"method {self.name!r}, {list(self.steps)[-1]}: round({len(weights)} weights) gave "
                f"{given!r:.80}; it must return a Rounded of each weight, in their order and shape"
            )
        return found

    def describe(self) -> dict[str, Any]:
        """The name and, in their order, each step's key, settings and, from outside, its source."""
        steps = [{"step": key, **describe(step)} for key, step in self.steps.items()]
        return {"name": self.name, "steps": steps}

    def check_work(self, quant: QuantSettings) -> None:
        """Raise QuantizationError where a step has nothing to do."""
        for key, step in self.steps.items():
            reason = step.idle(quant)
            if reason is not None:
                raise QuantizationError(
                    f"method={self.name}, {key}: {reason}; change quant, or use a method without it"
                )

    def __post_init__(self) -> None:
        steps = list(self.steps.values())
        # Sorts as (ModelStep, BlockStep, Rounding), and a step of no kind behind them.
        kinds = [
            (isinstance(step, ModelStep), isinstance(step, BlockStep), isinstance(step, Rounding))
            for step in steps
        ]
        rounding = [kind for kind in kinds if kind[2]]
        if steps and (kinds != sorted(kinds, reverse=True) or rounding != kinds[-1:]):
            raise QuantizationError(
                f"method {self.name!r} has the steps {', '.join(self.steps)}; the order must be "
                "those that change the model, those that change a block, and one that rounds"
            )
        for n, step in enumerate(steps):
            step.check_order(steps[:n])


def read_method(section: Any, where: str = "method") -> Method:
    """A method from its section of the user's configuration.

    Raises:
        ConfigError: what is wrong with the section, or the steps do not fit together.
    """
    if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
        raise ConfigError(f"{where} is {section!r}, but a name and steps belong there")
    keys = [str(key) for key in section if key != "name"]
    steps = {key: build(section[key], Step, f"{where}.{key}") for key in keys}
    try:
        return Method(section["name"], steps)
    except QuantizationError as error:
        raise ConfigError(f"{where}: {error}") from error
