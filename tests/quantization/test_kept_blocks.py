"""Rounded blocks on disk: read back bit for bit, and made again when they are damaged."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from dllmquant_exp.models.checkpoints import random_model
from dllmquant_exp.models.transformer import Block, TransformerConfig
from dllmquant_exp.quantization.kept_blocks import RoundedBlock, intact_blocks, kept_or_made
from dllmquant_exp.quantization.quantizers import QuantizationError, Quantizer, quantize_weight

ROW = Quantizer(4, True, "per_channel")
CONFIG = TransformerConfig("dream", 16, 2, 4, 2, 24, 32, 64, 1e4, 1e-6, 31, 30, 30)


def block(seed: int, dtype: torch.dtype = torch.float32) -> Block:
    found = random_model(CONFIG, seed=seed).to(dtype).blocks[0]
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


def test_without_a_folder_nothing_is_kept() -> None:
    mine = block(1)
    made = kept_or_made(None, 0, mine, lambda: rounded(mine), None)
    assert made[0] == {"layers": [1, 2.5, None]}


DAMAGES = {
    "truncated": lambda data: data[:-100],
    "empty": lambda data: b"",
    "flipped": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "flipped report": lambda data: data.replace(b"2.5", b"2.7"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_blocks_are_made_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for n in (0, 1):
        mine = block(n)
        kept_or_made(tmp_path, n, mine, lambda: rounded(mine), None)  # noqa: B023
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    file = intact_blocks(tmp_path, 2)[0]
    file.write_bytes(DAMAGES[damage](before[file.name]))
    assert set(intact_blocks(tmp_path, 2)) == {1}
    assert f"block 0 in {tmp_path} is damaged; it is made again" in caplog.text
    mine = block(0)
    kept_or_made(tmp_path, 0, mine, lambda: rounded(mine), None)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_models_block_is_refused(tmp_path: Path) -> None:
    mine = block(1)
    kept_or_made(tmp_path, 0, mine, lambda: rounded(mine), None)
    other = TransformerConfig("dream", 32, 2, 4, 2, 24, 32, 64, 1e4, 1e-6, 31, 30, 30)
    reader = random_model(other, seed=0).blocks[0]
    assert isinstance(reader, Block)
    with pytest.raises(QuantizationError, match=r"(?s)block_0-.* cannot be read .*: delete it"):
        kept_or_made(tmp_path, 0, reader, never, intact_blocks(tmp_path, 1)[0])


def test_a_block_under_another_number_is_made_again(tmp_path: Path) -> None:
    for n in (0, 1):
        mine = block(n)
        kept_or_made(tmp_path, n, mine, lambda: rounded(mine), None)  # noqa: B023
    first, second = (intact_blocks(tmp_path, 2)[n] for n in (0, 1))
    second.unlink()
    first.rename(first.with_name(first.name.replace("block_0", "block_1")))
    assert intact_blocks(tmp_path, 2) == {}


def test_the_folder_may_be_deleted_at_any_time(tmp_path: Path) -> None:
    folder = tmp_path / "cache"

    def deleted_meanwhile() -> RoundedBlock:
        shutil.rmtree(folder, ignore_errors=True)
        return rounded(mine)

    mine = block(1)
    expected = rounded(block(1))[0]
    for kept in (None, folder / "block_0-0.safetensors"):
        assert kept_or_made(folder, 0, mine, deleted_meanwhile, kept)[0] == expected
        assert set(intact_blocks(folder, 1)) == {0}


def test_a_folder_that_is_deleted_while_a_block_is_written_costs_no_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, mine = tmp_path / "cache", block(1)

    def deleted_meanwhile(*arguments: Any) -> bytes:
        shutil.rmtree(folder)
        return save(*arguments)

    monkeypatch.setattr("dllmquant_exp.quantization.kept_blocks.save", deleted_meanwhile)
    kept_or_made(folder, 0, mine, lambda: rounded(mine), None)
    assert "block 0 is not kept" in caplog.text and not folder.exists()


def test_a_failure_leaves_nothing_that_looks_kept(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        kept_or_made(tmp_path, 0, block(1), never, None)
    assert intact_blocks(tmp_path, 1) == {}
