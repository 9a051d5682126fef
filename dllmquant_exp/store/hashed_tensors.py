"""Tensors and a description of them in files that are named by their bytes.

    <folder>/<name>-<sha256 of the file>.safetensors

A file whose bytes do not match its name is damaged. It counts as absent, and is made again.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from dllmquant_exp.store.whole_files import whole_file

logger = logging.getLogger(__name__)
_DESCRIPTION = "description"


def intact_file(folder: Path, name: str) -> Path | None:
    """The file of that name, as it was written; None where there is none, or a damaged one."""
    for path in sorted(folder.glob(f"{escape(name)}-*.safetensors")):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if path.stem == f"{name}-{digest}":
            return path
        logger.warning("%s in %s is damaged; it is made again", name, folder)
    return None


def write(folder: Path, name: str, tensors: Mapping[str, Tensor], description: Any) -> None:
    """Write tensors and a description, which is JSON, as one file that appears whole."""
    contiguous = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
    content = save(contiguous, {_DESCRIPTION: json.dumps(description, ensure_ascii=False)})
    digest = hashlib.sha256(content).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / f"{name}-{digest}.safetensors") as partial:
        partial.write_bytes(content)


def read(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], Any]:
    """The tensors and the description in an intact file."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()[_DESCRIPTION])
