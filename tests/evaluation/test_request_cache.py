"""Answers survive a kill; half a line does not spoil the file."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from dllmquant_exp.evaluation.request_cache import (
    Cost,
    RequestCache,
    model_fingerprint,
    request_key,
)
from dllmquant_exp.models.transformer import Transformer


def taken(cache: RequestCache) -> dict[str, Any]:
    """The answers of all batches of a file, whose keys begin with the same letter each."""
    for keys in (["a"], ["b"], ["a", "aa"], ["b", "bb"], ["c", "cc"]):
        cache.take(keys)
    return cache.answers


def test_answers_and_costs_come_back(tmp_path: Path) -> None:
    path = tmp_path / "cell" / "requests.jsonl"
    first = RequestCache(path)
    first.add({"a": [-1.5, False], "b": [3, 4]}, Cost(100, 7, 1.5))
    first.add({"c": "x"}, Cost(11, 2, 0.25))
    second = RequestCache(path)
    assert second.take(["a", "b"]) and second.take(["c"]) and second.take(["a", "b"])
    assert second.answers == {"a": [-1.5, False], "b": [3, 4], "c": "x"}
    assert (second.token_forwards, second.forwards) == (111, 9)
    assert (first.seconds_before, second.seconds_before) == (0, 1.75)


@pytest.mark.parametrize(
    "other",
    [
        ["x"],  # of another checkpoint
        ["a", "b"], ["b", "a", "c"], ["b"],  # of a cell with other batches or another limit
        ["a"],  # twice the same
    ],
)  # fmt: skip
def test_only_the_batches_of_this_cell_cost_it_something(tmp_path: Path, other: list[str]) -> None:
    wanted, path = [["a"], ["b", "c"]], tmp_path / "requests.jsonl"
    cache = RequestCache(path)
    for keys in (other, wanted[0], other, wanted[1]):
        cache.add(dict.fromkeys(keys, 1.0 if keys in wanted else 2.0), Cost(10, 1, 0.5))
    again = RequestCache(path)
    assert all(again.take(keys) for keys in wanted)
    assert again.answers == dict.fromkeys("abc", 1.0)
    assert (again.token_forwards, again.forwards, again.seconds_before) == (20, 2, 1)
    assert not again.take(["b", "d"]) and not RequestCache(path).take(["c"])


@pytest.mark.parametrize(
    "tail",
    [
        b'{"key": "b", "ans',
        b'{"key": "b"}\n',
        b'{"key": "b", "answer": 2}\n',  # whole, but the rest of its batch is not there
        b'{"key": "b", "answer": 2}\n{"token_forwards": 5, "forw',
        b'{"key": "b", "answer": 2}\n'  # whole, but without the digest of a batch
        b'{"token_forwards": 5, "forwards": 1, "seconds": 0.5, "batch": "b"}\n',
        b"\xff\xfe",
        b"[1]\n",
        b"[" * 100_000 + b"\n",
        b'{"key": "b", "answer": ' + b"[" * 500 + b"]" * 500 + b"}\n",
        b'{"key": "b", "answer": NaN}\n',
        b'{"key": "b", "key": "c", "answer": 1}\n',
    ],
)
def test_an_unreadable_end_is_dropped_with_a_notice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tail: bytes
) -> None:
    path = tmp_path / "requests.jsonl"
    RequestCache(path).add({"a": 1.0}, Cost(10, 1, 0))
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    with caplog.at_level(logging.WARNING):
        again = RequestCache(path)
    assert taken(again) == {"a": 1.0}
    assert f"the last {len(tail)} bytes are incomplete or damaged" in caplog.text
    assert path.read_bytes() == whole
    again.add({"b": 2.0}, Cost(0, 0, 0))
    assert taken(RequestCache(path)) == {"a": 1.0, "b": 2.0}


def test_a_flipped_bit_anywhere_drops_its_batch_and_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    whole: list[bytes] = []
    for name in "abc":
        RequestCache(path).add({name: 0.5, name * 2: [3, 4]}, Cost(10, 1, 0.25))
        whole.append(path.read_bytes())
    for bit in range(8 * len(whole[0]), 8 * len(whole[1])):  # all bits of the second batch
        damaged = bytearray(whole[2])
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert taken(RequestCache(path)) == {"a": 0.5, "aa": [3, 4]}, bit
        assert path.read_bytes() == whole[0]


def test_exact_floats_come_back(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    values = torch.rand(50, dtype=torch.float64).mul(-100).tolist()
    RequestCache(path).add({"a": values}, Cost(1, 1, 0))
    assert taken(RequestCache(path))["a"] == values


def test_the_key_depends_on_every_part() -> None:
    parts = ["model", "likelihood", (1, 2), (3,), 4]
    keys = {request_key(*parts)}
    for i, changed in enumerate(["other", "generation", (1, 3), (2, 3), 5]):
        keys.add(request_key(*parts[:i], changed, *parts[i + 1 :]))
    assert len(keys) == len(parts) + 1


def test_the_fingerprint_sees_weights_and_modules(llada: Transformer) -> None:
    before = model_fingerprint(llada)
    weight = llada.blocks[1].down_proj.weight
    weight.data[0, 0] += 1
    changed = model_fingerprint(llada)
    weight.data[0, 0] -= 1
    assert changed != before
    assert model_fingerprint(llada) == before
