"""Quantized models on disk: everything that runs, nothing that has to be calibrated again.

<folder>/
    config.json              the official one, and under `quantization_config` the header: format
                             version, method, settings, how the model was made, the sha256 of
                             every other file, and a digest of all of this
    model.safetensors        or shards with an index; see saved_layout.py
    tokenizer files          as in the checkpoint

A folder is written beside its place and renamed, so that it is there as a whole or not at all.
Everything is checked before it is used: version, digest, the files' hashes, names, shapes, types,
and every value's range. Nothing is pickled, and no class is imported because a folder names it: the
package's own steps are looked up among those that it has, and a method with a step from outside is
the user's own, which must be the one that the folder describes, source included.
"""

import importlib
import json
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from inspect import isabstract
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.errors import Refusal
from dllmquant_exp.models.formats import CheckpointError, config_to_json, parse_config
from dllmquant_exp.models.invariance import blocks_of
from dllmquant_exp.models.storage import read_tensors
from dllmquant_exp.models.tensor_files import check_tensor_files, read_json
from dllmquant_exp.models.tokenizer_files import read_tokenizer
from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.method import Method, Step
from dllmquant_exp.quantization.packed import pack_model
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.saved_files import (
    CONFIG_FILE,
    SHARD_BYTES,
    check_config,
    check_contents,
    write_folder,
)
from dllmquant_exp.quantization.saved_layout import (
    Entry,
    Layout,
    empty_model,
    entries,
    stored_tensors,
)
from dllmquant_exp.store.outside import is_outside
from dllmquant_exp.store.schema import TARGET, describe, read

FORMAT_VERSION = 2  # raised by any change that makes older folders mean something else
QUANT_METHOD = "dllmquant_exp"
HEADER = "quantization_config"  # its key in config.json


@dataclass(frozen=True)
class SavedModel:
    """A saved model's description, read and checked; its tensors are not.

    Attributes:
        made: how it was made, as whoever saved it says.
        files: name -> sha256, of every file but config.json.
        digest: covers everything that config.json says, and so every file.
    """

    folder: Path
    layout: Layout
    made: Mapping[str, Any]
    files: Mapping[str, str]
    digest: str

    @property
    def from_outside(self) -> tuple[str, ...]:
        """The parts that the user's configuration brought: method, iaaq, both or none."""
        steps = any(is_outside(type(step)) for step in self.layout.method.steps.values())
        iaaq = self.layout.iaaq is not None and is_outside(type(self.layout.iaaq))
        return ("method",) * steps + ("iaaq",) * iaaq


@dataclass(frozen=True)
class _SavedMethod:
    """A method as `describe` gives it, and the names of the classes that are the package's own."""

    name: str
    steps: tuple[Mapping[str, Any], ...]
    classes: Mapping[str, Any]


@dataclass(frozen=True)
class _Header:
    """The header as it is stored, without its digest; `iaaq` as `describe` gives it."""

    quant_method: str
    format_version: int
    dtype: Literal["float64", "float32", "bfloat16"]
    method: _SavedMethod
    quant: QuantSettings
    iaaq: Mapping[str, Any] | None
    made: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)


def save_quantized(
    model: Transformer,
    folder: str | Path,
    *,
    method: Method,
    quant: QuantSettings,
    iaaq: Iaaq | None = None,
    made: Mapping[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerBase,
    max_shard_bytes: int = SHARD_BYTES,
) -> SavedModel:
    """Write a quantized model, fake or packed, completely or not at all.

    Args:
        method, quant, iaaq: what `quantize` was given.
        made: anything else worth keeping, as JSON.

    Raises:
        CheckpointError: the folder is taken or cannot be written (a full disk).
        QuantizationError: settings that do not belong to this model.
    """
    folder = Path(folder).expanduser()
    layout = Layout(model.config, method, quant, iaaq, model.final_norm.weight.dtype)
    header = {
        "quant_method": QUANT_METHOD,
        "format_version": FORMAT_VERSION,
        "dtype": str(layout.dtype).removeprefix("torch."),
        "method": _describe(method),
        "quant": asdict(quant),
        "iaaq": None if iaaq is None else describe(iaaq),
        "made": dict(made or {}),
    }
    config = config_to_json(model.config) | {HEADER: header}
    tensors = stored_tensors(model, layout)
    write_folder(folder, tensors, tokenizer, config, HEADER, max_shard_bytes)
    return read_saved(folder, method, iaaq)


def read_saved(
    folder: str | Path, method: Method | None = None, iaaq: Iaaq | None = None
) -> SavedModel:
    """The description of a folder that `save_quantized` wrote.

    Args:
        method, iaaq: of the user's configuration; for folders that were made with a class from
            outside the package, and not looked at for others.

    Raises:
        CheckpointError: it is none, of another version, or changed since; or it was made with a
            class from outside, and `method` or `iaaq` is not exactly what it describes.
    """
    folder = Path(folder).expanduser()
    file = folder / CONFIG_FILE
    raw = read_json(file)
    header = raw.get(HEADER) if isinstance(raw, dict) else None
    header = header if isinstance(header, dict) else {}
    if header.get("quant_method") != QUANT_METHOD:
        raise CheckpointError(
            f"{folder}: not a quantized model that save=... wrote (quant_method: "
            f"{header.get('quant_method')!r}); load a full-precision checkpoint with the model "
            "option that fits it"
        )
    if header.get("format_version") != FORMAT_VERSION:
        made = header.get("made")
        by = made.get("by") if isinstance(made, dict) else None
        raise CheckpointError(
            f"{folder}: its format_version is {header.get('format_version')!r}, and this version "
            f"reads {FORMAT_VERSION}; load it with the version that wrote it ({by or 'unknown'}), "
            "or quantize and save the model again"
        )
    check_config(folder, raw, HEADER)
    plain = {key: value for key, value in header.items() if key != "digest"}
    try:
        where = f"{file}, {HEADER}"
        parts = read(_Header, plain, where)
        method = _method(parts.method, method, where)
        iaaq = _iaaq(parts.iaaq, iaaq, where)
    except Refusal as error:
        raise CheckpointError(str(error)) from error
    config = parse_config({key: raw[key] for key in raw if key != HEADER}, str(file))
    layout = Layout(config, method, parts.quant, iaaq, getattr(torch, parts.dtype))
    return SavedModel(folder, layout, parts.made, parts.files, str(header["digest"]))


def _describe(method: Method) -> dict[str, Any]:
    """A method as a header states it; see `_SavedMethod`."""
    classes = {key: type(step) for key, step in method.steps.items()}
    own = {key: cls.__name__ for key, cls in classes.items() if not is_outside(cls)}
    return describe(method) | {"classes": own}


def _method(stated: _SavedMethod, yours: Method | None, where: str) -> Method:
    """The method that a header describes: the package's own steps, or the user's method."""
    if any(TARGET in step for step in stated.steps):
        _require_equal("method", asdict(stated), None if yours is None else _describe(yours), where)
        assert yours is not None
        return yours
    own, found = _own_steps(), {}
    for step in stated.steps:
        key = str(step.get("step"))
        name = stated.classes.get(key)
        if name not in own:
            raise CheckpointError(f"{where}.method.{key} is of the unknown class {name!r}")
        found[key] = read(own[name], step, f"{where}.method.{key}", ignore=["step"])
    return Method(stated.name, found)


def _iaaq(stated: Mapping[str, Any] | None, yours: Iaaq | None, where: str) -> Iaaq | None:
    """The search for V's scale that a header describes; see `_method`."""
    if stated is None or TARGET not in stated:
        return None if stated is None else read(Iaaq, stated, f"{where}.iaaq")
    _require_equal("iaaq", stated, None if yours is None else describe(yours), where)
    return yours


def _require_equal(name: str, stated: Any, yours: Any, where: str) -> None:
    """Raise CheckpointError unless the user's configuration describes what a folder was made by."""
    wanted, given = (json.dumps(value, sort_keys=True) for value in (stated, yours))
    if wanted != given:
        raise CheckpointError(
            f"{where}: was made with code from outside the package, {name} = {wanted}; choose the "
            f"very same beside model=saved, not {name} = {given}"
        )


def _own_steps() -> dict[str, type[Step]]:
    """The steps that this package brings, by the names of their classes."""
    package = importlib.import_module(__package__ or "")
    found: dict[str, type[Step]] = {}
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, type) and issubclass(value, Step) and not isabstract(value):
                found[name] = value
    return found


def load_quantized(saved: SavedModel, *, device: torch.device, packed: bool) -> Transformer:
    """Load the saved model in eval mode; its logits equal those of the model that was saved.

    Blocks are read and packed one by one, so that 4-bit weights are never all unpacked at once.

    Args:
        packed: integer execution, see packed.py; fake quantization otherwise.

    Raises:
        CheckpointError: files, names, shapes, types or values that are wrong.
        QuantizationError: settings that cannot be packed.
    """
    check_contents(saved.folder, saved.files)
    model = empty_model(saved.layout, device)
    forms = {entry.name: entry.form for entry in entries(model, saved.layout)}
    files = check_tensor_files(
        saved.folder,
        {name: shape for name, (shape, _) in forms.items()},
        {name: dtypes for name, (_, dtypes) in forms.items()},
    )
    where = {name: file for file, names in files.names.items() for name in names}
    others = (e for e in entries(model, saved.layout) if not e.owner.startswith("blocks."))
    _fill(others, where, device)
    for n, block in enumerate(blocks_of(model)):
        _fill(entries(block, saved.layout, f"blocks.{n}"), where, device)
        if packed:
            pack_model(block)
    return model


def _fill(found: Iterable[Entry], where: Mapping[str, Path], device: torch.device) -> None:
    """Read tensors from their files into an empty model."""
    for entry in found:
        for _, stored in read_tensors(where[entry.name], (entry.name,)):
            # Copied, as a tensor of a file may start anywhere within a word of the processor, and
            # some libraries' products then have other last bits.
            entry.fill(stored.to(device, copy=True))


def load_saved_tokenizer(saved: SavedModel) -> PreTrainedTokenizerBase:
    """The tokenizer in a saved model's folder; see `read_tokenizer`."""
    return read_tokenizer(saved.folder, saved.layout.config)
