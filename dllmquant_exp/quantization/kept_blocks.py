"""Rounded blocks on disk, so that no cell repeats the work of a killed or another one.

    <folder>/block_N-<sha256>.safetensors

holds whole numbers and scales of the rounded linears, all other tensors of the block, and in its
metadata the report of the steps. The hash is of N and the bytes. A file that does not match it is
damaged or another block's, and its block is rounded again; so is one whose file is deleted while a
model is quantized.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
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
        QuantizationError: a file that cannot be read, or is of another model.
        OSError: `folder` cannot be written.
    """
    if kept is not None:
        try:
            return _load(kept, block)
        except QuantizationError:
            if kept.exists():
                raise
    report, weights = make()
    if folder is not None:
        try:
            _write(folder, n, block, report, weights)
        except FileNotFoundError as error:
            logger.warning("block %d is not kept: %s was deleted meanwhile", n, error.filename)
    return report, weights


def _write(
    folder: Path,
    n: int,
    block: Block,
    report: Mapping[str, Any],
    weights: Mapping[str, QuantizedWeight],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        k: v for k, v in block.state_dict().items() if k.removesuffix(".weight") not in weights
    }
    for name, weight in weights.items():
        tensors |= {name + _NUMBERS: weight.numbers, name + _SCALE: weight.scale}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    content = save(contiguous, {_REPORT: json.dumps(report)})
    digest = _numbered(n)
    digest.update(content)
    with whole_file(folder / f"block_{n}-{digest.hexdigest()}.safetensors") as unfinished:
        unfinished.write_bytes(content)


def _numbered(n: int) -> "hashlib._Hash":
    return hashlib.sha256(f"{n}\0".encode())


def _intact_file(folder: Path, n: int) -> Path | None:
    for path in sorted(folder.glob(f"block_{n}-*.safetensors")):
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, partial(_numbered, n)).hexdigest()
        except FileNotFoundError:
            continue
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
