"""The safetensors files of a checkpoint folder: what they claim to hold, checked before use.

Headers are read, without the tensors, so that a folder of 16 GB is checked in milliseconds and
every problem is found before a model is built.
"""

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dllmquant_exp.models.formats import CheckpointError, Shape, joined
from dllmquant_exp.store.strict_json import parse_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DTYPES = ("F32", "BF16", "F16")  # what a full-precision checkpoint may hold
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_WHOLE_DIGEST_BYTES = 100_000_000
_SAMPLES, _SAMPLE_BYTES = 64, 16_384
# Tables that older libraries stored; this transformer computes them from config.json.
_ROTARY = re.compile(r"(.*\.)?rotary_emb\.(original_)?(inv_freq|cos_cached|sin_cached)")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorFiles:
    """The validated tensor files of one checkpoint: file -> the official names it holds."""

    folder: Path
    names: Mapping[Path, tuple[str, ...]]


def check_tensor_files(
    folder: Path, expected: Mapping[str, Shape], dtypes: Mapping[str, Sequence[str]] | None = None
) -> TensorFiles:
    """Find the tensor files of `folder` and compare them with the tensors expected.

    Stored tables of rotary angles are left out, and the log says so.

    Args:
        dtypes: types that each tensor may be stored in, by safetensors' names; None allows those
            of full-precision checkpoints.

    Raises:
        CheckpointError: one message naming every missing, extra, misshapen or duplicated tensor,
            every unsupported dtype, every missing or truncated file and every index error.
    """
    files, weight_map, problems = _find_files(folder)
    present: dict[str, tuple[Path, str, Shape]] = {}
    for file in files:
        if not file.is_file():
            problems.append(f"{file.name}: this file is missing; download it again")
            continue
        try:
            header = _header(file)
        except PermissionError as error:
            problems.append(f"{file.name}: cannot be read ({error.strerror}); make it readable")
            continue
        except (SafetensorError, OSError) as error:
            problems.append(f"{file.name}: damaged or not safetensors ({error}); download it again")
            continue
        for name, (dtype, shape) in header.items():
            if name in present:
                problems.append(f"{name}: stored twice, in {present[name][0].name} and {file.name}")
            present[name] = (file, dtype, shape)
    rotary = [name for name in present if name not in expected and _ROTARY.fullmatch(name)]
    for name in rotary:
        del present[name]
        if weight_map is not None:
            weight_map.pop(name, None)
    unreadable = bool(problems)
    problems += _compare(present, expected, dtypes, report_missing=not unreadable)
    if weight_map is not None and not unreadable:
        problems += [
            f"{name}: the index says {weight_map[name]}, but it is stored in {file.name}"
            for name, (file, _, _) in present.items()
            if name in weight_map and weight_map[name] != file.name
        ]
        problems += [
            f"{name}: stored in {file.name}, but not in the index"
            for name, (file, _, _) in present.items()
            if name not in weight_map and name in expected
        ]
        problems += [
            f"{name}: in the index, but neither in {file} nor part of this model"
            for name, file in weight_map.items()
            if name not in present and name not in expected
        ]
    if problems:
        raise CheckpointError(joined(f"{folder}: this checkpoint cannot be loaded", problems))
    if rotary:
        logger.info(
            "%s: %d stored tables of rotary angles (%s, ...) are ignored; config.json says them",
            folder, len(rotary), rotary[0],
        )  # fmt: skip
    return TensorFiles(
        folder, {file: tuple(n for n, p in present.items() if p[0] == file) for file in files}
    )


def checkpoint_digest(path: str | Path) -> str:
    """A fingerprint of a checkpoint folder: configuration, tokenizer and tensor files.

    Up to 100 MB the digest covers every byte (`sha256:...`). Larger folders would cost minutes, so
    it covers every file's name, size and header and 64 evenly spaced samples of 16 KiB of each
    tensor file (`sampled-sha256:...`): enough to tell Base, Instruct and 1.5 apart, which share
    every shape; not a protection against deliberate tampering.
    """
    folder = Path(path)
    try:
        return _digest(folder)
    except OSError as error:
        raise CheckpointError(f"{error.filename or folder}: cannot be read ({error})") from error


def _digest(folder: Path) -> str:
    next(folder.iterdir(), None)  # glob is silent about a folder that may not be listed
    patterns = ("*.safetensors", "*.json", "*.txt", "*.jinja")
    files = sorted({f for p in patterns for f in folder.glob(p) if f.is_file()})
    if not files:
        raise CheckpointError(f"{folder}: no checkpoint files to fingerprint")
    whole = sum(file.stat().st_size for file in files) < _WHOLE_DIGEST_BYTES
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        if whole or file.suffix != ".safetensors":
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
        else:
            _update_with_samples(digest, file, size)
    return f"{'sha256' if whole else 'sampled-sha256'}:{digest.hexdigest()}"


def read_json(file: Path) -> Any:
    """The parsed content of a JSON file of a checkpoint; CheckpointError names the file."""
    try:
        return parse_json(file.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(
            f"{file}: this file is missing; a checkpoint folder holds config.json, "
            f"{SINGLE_FILE} (or {INDEX_FILE} and its shards) and tokenizer files"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({error})") from error


def _find_files(folder: Path) -> tuple[list[Path], dict[str, str] | None, list[str]]:
    """Tensor files, the index's weight map (None for a single file), and problems so far."""
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.is_file() and index.is_file():
        raise CheckpointError(
            f"{folder}: holds both {SINGLE_FILE} and {INDEX_FILE}; delete the one that is stale"
        )
    if single.is_file():
        return [single], None, []
    if not index.is_file():
        pickled = sorted(f.name for f in folder.iterdir() if f.suffix in _PICKLED)
        if pickled:
            raise CheckpointError(
                f"{folder}: holds only pickled weights ({', '.join(pickled[:5])}), and unpickling "
                "a file can run any program hidden in it; convert it to safetensors first"
            )
        raise CheckpointError(f"{folder}: holds neither {SINGLE_FILE} nor {INDEX_FILE}")
    raw = read_json(index)
    weight_map = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no weight_map (tensor name -> file)")
    names = sorted({name for name in weight_map.values() if isinstance(name, str)})
    odd = [repr(v) for v in weight_map.values() if not isinstance(v, str) or Path(v).name != v]
    if odd or not all(name.endswith(".safetensors") for name in names):
        bad = odd or [repr(name) for name in names if not name.endswith(".safetensors")]
        raise CheckpointError(
            f"{index}: weight_map must name .safetensors files of the same folder, "
            f"not {', '.join(bad[:5])}"
        )
    return [folder / name for name in names], weight_map, []


@contextmanager
def opened_tensors(file: Path) -> Iterator[Any]:
    """A safetensors file, open (SafetensorError, OSError)."""
    file.open("rb").close()  # safetensors calls a file that may not be read a missing one
    with safe_open(file, framework="pt", device="cpu") as opened:
        yield opened


def _header(file: Path) -> dict[str, tuple[str, Shape]]:
    """Name -> dtype and shape of the tensors of one file, read without them."""
    with opened_tensors(file) as opened:
        parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        return {name: (part.get_dtype(), (*part.get_shape(),)) for name, part in parts.items()}


def _compare(
    present: Mapping[str, tuple[Path, str, Shape]],
    expected: Mapping[str, Shape],
    dtypes: Mapping[str, Sequence[str]] | None,
    *,
    report_missing: bool,
) -> list[str]:
    """Problems of names, shapes and dtypes. Missing names are skipped when a file was unreadable:
    they would only repeat that problem, once per tensor."""
    problems = []
    if report_missing:
        problems += [
            f"{name}: missing (expected shape {list(shape)})"
            for name, shape in expected.items()
            if name not in present
        ]
    for name, (file, dtype, shape) in present.items():
        if name not in expected:
            problems.append(f"{name}: not part of this model (in {file.name})")
            continue
        if shape != expected[name]:
            problems.append(
                f"{name}: shape {list(shape)} instead of {list(expected[name])} (in {file.name})"
            )
        supported = list(DTYPES) if dtypes is None else dtypes[name]
        if dtype not in supported:
            problems.append(
                f"{name}: dtype {dtype} is not supported (supported: {', '.join(supported)})"
            )
    return problems


def _update_with_samples(digest: "hashlib._Hash", file: Path, size: int) -> None:
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = int.from_bytes(prefix, "little")
        digest.update(prefix)
        digest.update(stream.read(min(length, _MAX_HEADER_BYTES)))
        for i in range(_SAMPLES):
            stream.seek(max(0, (size - _SAMPLE_BYTES) * i // (_SAMPLES - 1)))
            digest.update(stream.read(_SAMPLE_BYTES))
