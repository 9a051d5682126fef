"""Rounded blocks on disk: read back bit for bit, and refused when they are damaged."""

from pathlib import Path

import pytest
import torch

from dllmquant_exp.models.checkpoints import random_model
from dllmquant_exp.models.transformer import Block, TransformerConfig
from dllmquant_exp.quantization.kept_blocks import Rounded, all_kept, kept_or_made
from dllmquant_exp.quantization.quantizers import QuantizationError, Quantizer, quantize_weight

ROW = Quantizer(4, True, "per_channel")
CONFIG = TransformerConfig("dream", 16, 2, 4, 2, 24, 32, 64, 1e4, 1e-6, 31, 30, 30)


def block(seed: int, dtype: torch.dtype = torch.float32) -> Block:
    found = random_model(CONFIG, seed=seed).to(dtype).blocks[0]
    assert isinstance(found, Block)
    return found


@torch.no_grad()
def rounded(of: Block) -> Rounded:
    weights = {
        name: quantize_weight(of.get_submodule(name).weight, ROW) for name in ("q_proj", "o_proj")
    }
    for name, weight in weights.items():
        of.get_submodule(name).weight.copy_(weight.values(of.q_proj.weight.dtype))
    return {"layers": [1, 2.5, None]}, weights


def never() -> Rounded:
    raise AssertionError("made again")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_kept_block_is_read_back(tmp_path: Path, dtype: torch.dtype) -> None:
    first, second = block(1, dtype), block(2, dtype)
    assert not all_kept(tmp_path, 1)
    done, weights = kept_or_made(tmp_path, 0, first, lambda: rounded(first))
    assert all_kept(tmp_path, 1) and not all_kept(tmp_path, 2)
    again, found = kept_or_made(tmp_path, 0, second, never)
    assert again == done and found.keys() == weights.keys()
    for name, weight in weights.items():
        assert torch.equal(found[name].numbers, weight.numbers)
        assert torch.equal(found[name].scale, weight.scale)
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name
    assert {path.name for path in tmp_path.iterdir()} == {"block_0.json", "block_0.safetensors"}


def test_without_a_folder_nothing_is_kept() -> None:
    mine = block(1)
    assert kept_or_made(None, 0, mine, lambda: rounded(mine))[0] == {"layers": [1, 2.5, None]}


@pytest.mark.parametrize("damage", ["truncated", "empty", "report", "missing", "other shape"])
def test_damaged_blocks_are_refused(tmp_path: Path, damage: str) -> None:
    mine = block(1)
    kept_or_made(tmp_path, 0, mine, lambda: rounded(mine))
    tensors, report = tmp_path / "block_0.safetensors", tmp_path / "block_0.json"
    if damage == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    elif damage == "empty":
        tensors.write_bytes(b"")
    elif damage == "report":
        report.write_text("{")
    elif damage == "missing":
        tensors.unlink()
    other = TransformerConfig("dream", 32, 2, 4, 2, 24, 32, 64, 1e4, 1e-6, 31, 30, 30)
    reader = random_model(other, seed=0).blocks[0] if damage == "other shape" else block(2)
    assert isinstance(reader, Block)
    with pytest.raises(QuantizationError, match=r"(?s)block 0 in .* cannot be read .*: delete it"):
        kept_or_made(tmp_path, 0, reader, never)


def test_a_failure_leaves_nothing_that_looks_kept(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        kept_or_made(tmp_path, 0, block(1), never)
    assert not all_kept(tmp_path, 1)
