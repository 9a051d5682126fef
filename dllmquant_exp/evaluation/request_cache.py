"""Answers of the model that are already known, so that a killed cell goes on where it stopped.

One file of JSON lines per cell, or per shard of a cell. A line is either an answer,
`{"key": ..., "answer": ...}`, or what the batch of answers before it cost, `{"token_forwards": ...,
"forwards": ..., "seconds": ..., "batch": ..., "sha256": ...}`, which names the batch by the key of
its first answer and seals it with a digest. The key is a hash of all that can change an answer: the
model, the settings, the tokens and the seed.

Only whole, undamaged batches are read: answers without their cost would make a resumed run cheaper
than an undisturbed one, and a flipped bit would be another answer. And only those are taken that an
undisturbed run would ask for as they are: batches of another checkpoint, or with other requests
beside the wanted ones, cost this cell nothing.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dllmquant_exp.store.strict_json import parse_json

logger = logging.getLogger(__name__)
SAMPLED_VALUES = 4096  # per tensor; hashing every value of an 8B model would take minutes


def model_fingerprint(model: nn.Module) -> str:
    """A hash of a model's modules and of its weights and buffers, of large ones a regular sample.

    Two models that differ by quantization, by seed or by training differ here; the text of the
    modules tells apart models that quantize activations differently with the same weights.
    """
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {tensor.device.type}".encode())
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, -(-flat.numel() // SAMPLED_VALUES))]
        digest.update(sample.to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()


def request_key(*parts: Any) -> str:
    """A hash of JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Cost:
    """The cost of a batch of answers: tokens and rows through the model, and wall time."""

    token_forwards: int
    forwards: int
    seconds: float


class RequestCache:
    """Answers by key, in memory and, where a path is given, on disk as they come in.

    Args:
        path: the file that answers are added to.
        others: files that are read as well, such as the other shards'.

    Attributes:
        answers: of the batches that were added or taken.
        seconds_before: wall time of those that were taken.
    """

    def __init__(self, path: Path | None, others: Sequence[Path] = ()) -> None:
        self.path = path
        self.answers: dict[str, Any] = {}
        self.seconds_before = 0.0
        self._costs: list[Cost] = []
        self._kept: dict[tuple[str, ...], tuple[dict[str, Any], Cost]] = {}
        self.read(others)
        if path is not None and path.exists():
            self._load(path, ours=True)

    def read(self, others: Sequence[Path]) -> None:
        """Take in what other files hold by now."""
        for other in others:
            self._load(other, ours=False)

    @property
    def token_forwards(self) -> int:
        return sum(cost.token_forwards for cost in self._costs)

    @property
    def forwards(self) -> int:
        return sum(cost.forwards for cost in self._costs)

    def take(self, keys: Sequence[str]) -> bool:
        """Whether the answers of this very batch are known; they and their cost count from now."""
        if all(key in self.answers for key in keys):
            return True
        if tuple(keys) not in self._kept:
            return False
        answers, cost = self._kept[tuple(keys)]
        self.answers |= answers
        self._costs.append(cost)
        self.seconds_before += cost.seconds
        return True

    def add(self, answers: Mapping[str, Any], cost: Cost) -> None:
        """Remember the answers of one batch and what they cost; on disk before returning."""
        first = next(iter(answers))
        self.answers.update(answers)
        self._costs.append(cost)
        if self.path is None:
            return
        lines = [json.dumps({"key": k, "answer": a}) + "\n" for k, a in answers.items()]
        end: dict[str, Any] = {**asdict(cost), "batch": first}
        end["sha256"] = _seal("".join(lines).encode(), end)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(lines) + json.dumps(end) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _load(self, path: Path, *, ours: bool) -> None:
        """Read whole batches; cut off what comes behind the last good one, where the file is ours.

        The cut removes a batch that a kill left incomplete, or a damaged one and all that follows.
        """
        text = path.read_bytes()
        read = good = 0
        batch: dict[str, Any] = {}
        for line in text.splitlines(keepends=True):
            entry = _entry(line)
            if entry is None:
                break
            if "key" in entry:
                batch[entry["key"]] = entry["answer"]
                read += len(line)
                continue
            if entry.pop("sha256", None) != _seal(text[good:read], entry):
                break
            cost = Cost(entry["token_forwards"], entry["forwards"], entry["seconds"])
            self._kept[tuple(batch)] = batch, cost
            read += len(line)
            batch, good = {}, read
        if good < len(text) and ours:
            logger.warning(
                "%s: the last %d bytes are incomplete or damaged (was the run killed while writing "
                "them?); they are dropped and their requests computed again",
                path,
                len(text) - good,
            )
            os.truncate(path, good)


def _seal(answers: bytes, cost: Mapping[str, Any]) -> str:
    """Digest of a batch: its lines of answers and the line of its cost without the digest."""
    return hashlib.sha256(answers + json.dumps(cost, sort_keys=True).encode()).hexdigest()


def _entry(line: bytes) -> dict[str, Any] | None:
    """Parse a line of the file; None where it is not a whole JSON object."""
    try:
        entry = parse_json(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    if not isinstance(entry, dict):
        return None
    if isinstance(entry.get("key"), str) and "answer" in entry:
        return entry
    counts = (entry.get("token_forwards"), entry.get("forwards"))
    is_cost = all(type(count) is int and count >= 0 for count in counts)
    seconds, batch = entry.get("seconds"), entry.get("batch")
    timed = isinstance(seconds, int | float) and seconds >= 0 and isinstance(batch, str)
    return entry if is_cost and timed else None
