"""The files of a folder that holds a quantized model, and their hashes in its config.json.

    config.json: {..., key: {..., "files": {name: sha256}, "digest": sha256 of all of this}}

A folder that was changed or damaged in any byte is noticed before it is used.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dllmquant_exp.models.tokenizer_files import write_json

CONFIG_FILE = "config.json"
_READ = (".safetensors", ".json", ".txt", ".jinja")  # what a loader may read


def write_signed(folder: Path, config: dict[str, Any], key: str) -> None:
    """Write config.json, when all other files are there, with their hashes under `key`."""
    section = config[key]
    section["files"] = {file.name: sha256(file) for file in sorted(folder.iterdir())}
    section["digest"] = config_digest(config, key)
    write_json(folder / CONFIG_FILE, config)


def config_digest(config: Mapping[str, Any], key: str) -> str:
    """sha256 of a config.json of ours, without the digest that it holds under `key`."""
    section = {name: value for name, value in config[key].items() if name != "digest"}
    text = json.dumps({**config, key: section}, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def misplaced(folder: Path, stated: Mapping[str, Any]) -> list[str]:
    """Files that are missing or too many, compared with name -> sha256."""
    present = {
        file.name for file in folder.iterdir() if file.suffix in _READ and file.name != CONFIG_FILE
    }
    return [f"{name}: this file is missing" for name in stated if name not in present] + [
        f"{name}: not part of the saved model; move it elsewhere"
        for name in sorted(present - set(stated))
    ]


def changed(folder: Path, stated: Mapping[str, Any]) -> list[str]:
    """Files, all of which are there, that are not byte for byte the ones that were written."""
    return [
        f"{name}: was changed or damaged since the model was saved (another sha256)"
        for name, digest in stated.items()
        if sha256(folder / name) != digest
    ]


def sha256(file: Path) -> str:
    """The hash of a file's bytes, as `sha256:...`."""
    with file.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
