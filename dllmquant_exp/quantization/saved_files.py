"""Folders of quantized models: written whole, with the hashes of all files in their config.json.

    config.json: {..., key: {..., "files": {name: sha256}, "digest": sha256 of all of this}}

A folder that was changed or damaged in any byte is noticed before it is used.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.models.folders import replacing, write_shards
from dllmquant_exp.models.formats import CheckpointError, joined
from dllmquant_exp.models.tensor_files import read_json
from dllmquant_exp.models.tokenizer_files import write_json, write_tokenizer

CONFIG_FILE = "config.json"
SHARD_BYTES = 5_000_000_000  # of tensors in a file, at most; one tensor is never split
_READ = (".safetensors", ".json", ".txt", ".jinja")  # what a loader may read


def write_folder(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    tokenizer: PreTrainedTokenizerBase,
    config: dict[str, Any],
    key: str,
    max_shard_bytes: int,
) -> None:
    """Write a model's folder, completely or not at all; hashes go under `key` of its `config`.

    Raises:
        CheckpointError: the folder is taken or cannot be written (a full disk).
    """
    with replacing(folder) as temporary:
        write_shards(tensors, temporary, max_shard_bytes)
        write_tokenizer(tokenizer, temporary)
        config[key]["files"] = {file.name: sha256(file) for file in sorted(temporary.iterdir())}
        config[key]["digest"] = config_digest(config, key)
        write_json(temporary / CONFIG_FILE, config)


def config_digest(config: Mapping[str, Any], key: str) -> str:
    """sha256 of a config.json of ours, without the digest that it holds under `key`."""
    section = {name: value for name, value in config[key].items() if name != "digest"}
    text = json.dumps({**config, key: section}, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def check_config(folder: Path, config: Mapping[str, Any], key: str) -> None:
    """Raise CheckpointError where a folder's config.json says anything else than was written."""
    if config[key].get("digest") != config_digest(config, key):
        raise CheckpointError(f"{folder / CONFIG_FILE}: was changed since it was written")


def check_contents(folder: Path, stated: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless the files of a folder are exactly those of name -> sha256."""
    present = {
        file.name for file in folder.iterdir() if file.suffix in _READ and file.name != CONFIG_FILE
    }
    problems = [f"{name}: this file is missing" for name in stated if name not in present]
    problems += [
        f"{name}: not part of the saved model; move it elsewhere"
        for name in sorted(present - set(stated))
    ]
    problems = problems or [
        f"{name}: was changed or damaged since the model was saved (another sha256)"
        for name, digest in stated.items()
        if sha256(folder / name) != digest
    ]
    if problems:
        raise CheckpointError(joined(f"{folder}: is damaged", problems))


def check_folder(folder: Path, key: str) -> None:
    """Raise CheckpointError unless a folder is byte for byte what `write_folder` wrote."""
    config = read_json(folder / CONFIG_FILE)
    check_config(folder, config, key)
    check_contents(folder, config[key]["files"])


def sha256(file: Path) -> str:
    """The hash of a file's bytes, as `sha256:...`."""
    with file.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
