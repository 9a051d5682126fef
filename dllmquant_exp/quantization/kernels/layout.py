"""4-bit weights as bytes, in the order in which the kernels read them: see packed_linear.h."""

import torch
from torch import Tensor

from dllmquant_exp.quantization.quantizers import QuantizationError

LOWEST, HIGHEST = -8, 7
PANEL, STEP = 16, 4  # outputs and inputs that share 32 bytes
MULTIPLE = 64  # sizes are padded to multiples of it, with weights 0


def pack(numbers: Tensor) -> Tensor:
    """Whole numbers from -8 to 7, [out, in], as bytes [panels, steps, 32].

    Raises:
        QuantizationError: numbers that do not fit into 4 bits.
    """
    if numbers.numel() and (numbers.amin() < LOWEST or numbers.amax() > HIGHEST):
        raise QuantizationError(
            f"weights from {int(numbers.amin())} to {int(numbers.amax())} do not fit into 4 bits, "
            f"{LOWEST} to {HIGHEST}; use weight_bits of at most 4, or execution=fake"
        )
    outputs, inputs = (-(-size // MULTIPLE) * MULTIPLE for size in numbers.shape)
    padded = numbers.new_full((outputs, inputs), -LOWEST, dtype=torch.uint8)
    padded[: numbers.shape[0], : numbers.shape[1]] = (numbers - LOWEST).to(torch.uint8)
    # [panel, half, 8 outputs, step, 4 inputs] -> two of [panel, step, 8 outputs, 4 inputs]
    halves = padded.view(-1, 2, PANEL // 2, inputs // STEP, STEP).transpose(2, 3)
    low, high = halves.unbind(1)
    return (low | (high << 4)).flatten(2)


def unpack(packed: Tensor, outputs: int, inputs: int) -> Tensor:
    """The numbers of `pack`, int8 [outputs, inputs]."""
    halves = torch.stack((packed & 15, packed >> 4), dim=1)  # [panel, half, step, 32]
    ordered = halves.unflatten(3, (PANEL // 2, STEP)).transpose(2, 3)
    padded = ordered.reshape(len(packed) * PANEL, -1)
    return padded[:outputs, :inputs].to(torch.int8) + LOWEST
