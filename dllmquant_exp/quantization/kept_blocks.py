"""Rounded blocks on disk, so that no cell makes again what a killed or another one has made.

<folder>/
    block_N.safetensors   whole numbers and scales of the rounded linears, and all other tensors
    block_N.json          what was done and the tensors' sha256; written last

A block that is damaged is made again.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from dllmquant_exp.models.transformer import Block
from dllmquant_exp.quantization.quantizers import QuantizationError, QuantizedWeight
from dllmquant_exp.store.whole_files import whole_file

logger = logging.getLogger(__name__)
# What rounding a block gives: what was done, as JSON, and the weights of its linears by name.
Rounded = tuple[dict[str, Any], dict[str, QuantizedWeight]]
_NUMBERS, _SCALE = ".numbers", ".scale"


def intact_blocks(folder: Path | None, blocks: int) -> set[int]:
    """Numbers of the kept blocks that are what was written."""
    return set() if folder is None else {n for n in range(blocks) if _is_intact(folder, n)}


def all_intact(folder: Path, blocks: int) -> bool:
    """True where every block of a model is kept, as it was written."""
    return len(intact_blocks(folder, blocks)) == blocks


def kept_or_made(
    folder: Path | None, n: int, block: Block, make: Callable[[], Rounded], *, kept: bool
) -> Rounded:
    """`make()` and the block it leaves behind, written to `folder`; read from there where `kept`.

    Raises:
        QuantizationError: files that cannot be read, or that are another block's.
    """
    if folder is None:
        return make()
    if kept:
        return _load(folder, n, block)
    done, weights = make()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        k: v for k, v in block.state_dict().items() if k.removesuffix(".weight") not in weights
    }
    for name, weight in weights.items():
        tensors |= {name + _NUMBERS: weight.numbers, name + _SCALE: weight.scale}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with whole_file(_tensors(folder, n)) as partial:
        partial.write_bytes(save(contiguous))  # save_file would leave a file of its own if killed
    with whole_file(_report(folder, n)) as partial:
        partial.write_text(_sealed(done, _tensors(folder, n)))
    return done, weights


def _sealed(done: dict[str, Any], tensors: Path) -> str:
    """The report's text: what was done, and a hash of it and of the tensors' file."""
    text = json.dumps(done)
    with tensors.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(text.encode())
    return json.dumps({"done": done, "sha256": digest.hexdigest()})


def _is_intact(folder: Path, n: int) -> bool:
    path = _report(folder, n)
    if not path.exists():
        return False
    try:
        text = path.read_text(encoding="utf-8")
        intact = _sealed(json.loads(text)["done"], _tensors(folder, n)) == text
    except (OSError, ValueError, LookupError, TypeError):
        intact = False
    if not intact:
        logger.warning("block %d in %s is damaged; it is made again", n, folder)
    return intact


def _load(folder: Path, n: int, block: Block) -> Rounded:
    state: dict[str, Tensor] = block.state_dict()
    try:
        kept = load_file(_tensors(folder, n), device=str(next(block.parameters()).device))
        done: dict[str, Any] = json.loads(_report(folder, n).read_text())["done"]
        names = [key.removesuffix(_NUMBERS) for key in kept if key.endswith(_NUMBERS)]
        weights = {
            name: QuantizedWeight(kept.pop(name + _NUMBERS), kept.pop(name + _SCALE))
            for name in names
        }
        for name, weight in weights.items():
            kept[f"{name}.weight"] = weight.values(state[f"{name}.weight"].dtype)
        block.load_state_dict(kept)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise QuantizationError(
            f"block {n} in {folder} cannot be read ({error}): delete it"
        ) from error
    return done, weights


def _tensors(folder: Path, n: int) -> Path:
    return folder / f"block_{n}.safetensors"


def _report(folder: Path, n: int) -> Path:
    return folder / f"block_{n}.json"
