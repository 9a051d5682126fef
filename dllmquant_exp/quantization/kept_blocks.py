"""Rounded blocks on disk, so that no cell repeats the work of a killed or another one.

    <folder>/block_N-<sha256>.safetensors

holds whole numbers and scales of the rounded linears, all other tensors of the block, and in its
metadata the report of the steps. A file whose bytes do not match its name's hash is damaged, and
its block is rounded again.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from dllmquant_exp.models.transformer import Block
from dllmquant_exp.quantization.quantizers import QuantizationError, QuantizedWeight
from dllmquant_exp.store.whole_files import whole_file

logger = logging.getLogger(__name__)
# Result of rounding a block: a report, as JSON, and the weights of its linears by name.
RoundedBlock = tuple[dict[str, Any], dict[str, QuantizedWeight]]
_NUMBERS, _SCALE, _REPORT = ".numbers", ".scale", "report"


def intact_blocks(folder: Path | None, blocks: int) -> dict[int, Path]:
    """The files of those blocks that are kept, and are as they were written."""
    if folder is None:
        return {}
    files = {n: _intact_file(folder, n) for n in range(blocks)}
    return {n: path for n, path in files.items() if path is not None}


def all_intact(folder: Path, blocks: int) -> bool:
    """True where every block of a model is kept, as it was written."""
    return len(intact_blocks(folder, blocks)) == blocks


def kept_or_made(
    folder: Path | None, n: int, block: Block, make: Callable[[], RoundedBlock], kept: Path | None
) -> RoundedBlock:
    """`make()` and the block it leaves behind, written to `folder`; or read from the file `kept`.

    Raises:
        QuantizationError: a file that cannot be read, or that is another block's.
    """
    if kept is not None:
        return _load(kept, block)
    if folder is None:
        return make()
    report, weights = make()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        k: v for k, v in block.state_dict().items() if k.removesuffix(".weight") not in weights
    }
    for name, weight in weights.items():
        tensors |= {name + _NUMBERS: weight.numbers, name + _SCALE: weight.scale}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    content = save(contiguous, {_REPORT: json.dumps(report)})
    digest = hashlib.sha256(content).hexdigest()
    with whole_file(folder / f"block_{n}-{digest}.safetensors") as partial:
        partial.write_bytes(content)
    return report, weights


def _intact_file(folder: Path, n: int) -> Path | None:
    for path in sorted(folder.glob(f"block_{n}-*.safetensors")):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if path.stem == f"block_{n}-{digest}":
            return path
        logger.warning("block %d in %s is damaged; it is made again", n, folder)
    return None


def _load(path: Path, block: Block) -> RoundedBlock:
    state = block.state_dict()
    try:
        device = str(next(block.parameters()).device)
        with safe_open(path, framework="pt", device=device) as file:
            report: dict[str, Any] = json.loads(file.metadata()[_REPORT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        names = [key.removesuffix(_NUMBERS) for key in tensors if key.endswith(_NUMBERS)]
        weights = {
            name: QuantizedWeight(tensors.pop(name + _NUMBERS), tensors.pop(name + _SCALE))
            for name in names
        }
        for name, weight in weights.items():
            tensors[f"{name}.weight"] = weight.values(state[f"{name}.weight"].dtype)
        block.load_state_dict(tensors)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise QuantizationError(f"{path} cannot be read ({error}): delete it") from error
    return report, weights
