"""Tensors in files named by their bytes: read back as they were, or not at all."""

import logging
from pathlib import Path

import pytest
import torch

from dllmquant_exp.store import hashed_tensors

TENSORS = {
    "a": torch.arange(12, dtype=torch.int8).reshape(3, 4).T,
    "b": torch.tensor([0.1, torch.nan], dtype=torch.bfloat16),
}
DESCRIPTION = {"layers": [1, 2.5, None], "text": "ä"}
DAMAGES = {
    "truncated": lambda data: data[:-1],
    "empty": lambda data: b"",
    "flipped": lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
    "another description": lambda data: data.replace(b"2.5", b"2.7"),
}


def write(folder: Path, name: str = "n_1") -> Path:
    hashed_tensors.write(folder, name, TENSORS, DESCRIPTION)
    found = hashed_tensors.intact_file(folder, name)
    assert found is not None
    return found


def test_to_disk_and_back(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    assert hashed_tensors.intact_file(folder, "n_1") is None
    path = write(folder)
    tensors, description = hashed_tensors.read(path)
    assert description == DESCRIPTION and tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name].nan_to_num(), tensor.nan_to_num())
    assert write(folder) == path and list(folder.iterdir()) == [path]
    assert hashed_tensors.intact_file(folder, "n") is None
    assert hashed_tensors.intact_file(folder, "n_[1]") is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_counts_as_absent(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = write(tmp_path), write(tmp_path, "n_2")
    written = path.read_bytes()
    path.write_bytes(DAMAGES[damage](written))
    with caplog.at_level(logging.WARNING):
        assert hashed_tensors.intact_file(tmp_path, "n_1") is None
    assert f"n_1 in {tmp_path} is damaged; it is made again" in caplog.text
    assert hashed_tensors.intact_file(tmp_path, "n_2") == other
    assert write(tmp_path) == path and path.read_bytes() == written
