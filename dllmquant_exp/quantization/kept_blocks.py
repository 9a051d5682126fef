"""Rounded blocks on disk, so that no cell repeats the work of a killed or another one.

The file `block_N` holds whole numbers and scales of the rounded linears, all other tensors of the
block, and as its description the report of the steps. See `store.hashed_tensors`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dllmquant_exp.models.transformer import Block
from dllmquant_exp.quantization.quantizers import QuantizedWeight
from dllmquant_exp.store import hashed_tensors

# Result of rounding a block: a report, as JSON, and the weights of its linears by name.
RoundedBlock = tuple[dict[str, Any], dict[str, QuantizedWeight]]
_NUMBERS, _SCALE = ".numbers", ".scale"


def intact_blocks(folder: Path | None, blocks: int) -> dict[int, Path]:
    """The files of those blocks that are kept, and are as they were written."""
    if folder is None:
        return {}
    files = {n: hashed_tensors.intact_file(folder, f"block_{n}") for n in range(blocks)}
    return {n: path for n, path in files.items() if path is not None}


def all_intact(folder: Path, blocks: int) -> bool:
    """True where every block of a model is kept, as it was written."""
    return len(intact_blocks(folder, blocks)) == blocks


def kept_or_made(
    folder: Path | None, n: int, block: Block, make: Callable[[], RoundedBlock], kept: Path | None
) -> RoundedBlock:
    """`make()` and the block it leaves, written to `folder`; or both read from the file `kept`."""
    if kept is not None:
        return _read(kept, block)
    report, weights = make()
    if folder is not None:
        tensors = {
            k: v for k, v in block.state_dict().items() if k.removesuffix(".weight") not in weights
        }
        for name, weight in weights.items():
            tensors |= {name + _NUMBERS: weight.numbers, name + _SCALE: weight.scale}
        hashed_tensors.write(folder, f"block_{n}", tensors, report)
    return report, weights


def _read(path: Path, block: Block) -> RoundedBlock:
    state = block.state_dict()
    tensors, report = hashed_tensors.read(path, block.q_proj.weight.device)
    names = [key.removesuffix(_NUMBERS) for key in tensors if key.endswith(_NUMBERS)]
    weights = {
        name: QuantizedWeight(tensors.pop(name + _NUMBERS), tensors.pop(name + _SCALE))
        for name in names
    }
    for name, weight in weights.items():
        tensors[f"{name}.weight"] = weight.values(state[f"{name}.weight"].dtype)
    block.load_state_dict(tensors)
    return report, weights
