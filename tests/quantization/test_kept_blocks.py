"""Rounded blocks on disk: read back bit for bit, and made again when they are damaged."""

from pathlib import Path

import pytest
import torch
from small_models import small_model

from dllmquant_exp.models.transformer import Block
from dllmquant_exp.quantization.kept_blocks import (
    RoundedBlock,
    all_intact,
    intact_blocks,
    kept_or_made,
)
from dllmquant_exp.quantization.quantizers import Quantizer, quantize_weight

ROW = Quantizer(4, True, "per_channel")


def block(seed: int, dtype: torch.dtype = torch.float32) -> Block:
    found = small_model("dream", dtype, n_layers=1, seed=seed).blocks[0]
    assert isinstance(found, Block)
    return found


@torch.no_grad()
def rounded(of: Block) -> RoundedBlock:
    weights = {
        name: quantize_weight(of.get_submodule(name).weight, ROW) for name in ("q_proj", "o_proj")
    }
    for name, weight in weights.items():
        of.get_submodule(name).weight.copy_(weight.values(of.q_proj.weight.dtype))
    return {"layers": [1, 2.5, None]}, weights


def never() -> RoundedBlock:
    raise AssertionError("made again")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_kept_block_is_read_back(tmp_path: Path, dtype: torch.dtype) -> None:
    first, second = block(1, dtype), block(2, dtype)
    assert intact_blocks(tmp_path, 1) == {} == intact_blocks(None, 1)
    done, weights = kept_or_made(tmp_path, 0, first, lambda: rounded(first), None)
    [file] = tmp_path.iterdir()
    assert intact_blocks(tmp_path, 1) == intact_blocks(tmp_path, 2) == {0: file}
    again, found = kept_or_made(tmp_path, 0, second, never, file)
    assert again == done and found.keys() == weights.keys()
    for name, weight in weights.items():
        assert torch.equal(found[name].numbers, weight.numbers)
        assert torch.equal(found[name].scale, weight.scale)
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name
    assert list(tmp_path.iterdir()) == [file]


def test_nothing_is_kept_without_a_folder_or_of_a_failure(tmp_path: Path) -> None:
    mine = block(1)
    made = kept_or_made(None, 0, mine, lambda: rounded(mine), None)
    assert made[0] == {"layers": [1, 2.5, None]}
    with pytest.raises(AssertionError):
        kept_or_made(tmp_path, 0, mine, never, None)
    assert intact_blocks(tmp_path, 1) == {}


def test_a_damaged_block_alone_is_made_again(tmp_path: Path) -> None:
    for n in (0, 1):
        mine = block(n)
        kept_or_made(tmp_path, n, mine, lambda: rounded(mine), None)  # noqa: B023
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    file = intact_blocks(tmp_path, 2)[0]
    assert all_intact(tmp_path, 2) and not all_intact(tmp_path, 3)
    file.write_bytes(before[file.name][:-1])
    assert set(intact_blocks(tmp_path, 2)) == {1}
    mine = block(0)
    kept_or_made(tmp_path, 0, mine, lambda: rounded(mine), None)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
