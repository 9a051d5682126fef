"""Quantized models on disk: everything that runs, nothing that has to be calibrated again.

<folder>/
    config.json              the official one, and under `quantization_config` what is here called
                             the header: format version, settings, how the model was made, the
                             sha256 of every other file, and a digest of all of this
    model.safetensors        or shards with an index; see saved_layout.py
    tokenizer files          as in the checkpoint

A folder is written beside its place and renamed, so that it is there as a whole or not at all. What
is read is checked before it is used: version, digest, names, shapes, types, the files' hashes, and
every value's range. Nothing is pickled.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.folders import replacing, write_shards
from dllmquant_exp.models.formats import CheckpointError, config_to_json, joined, parse_config
from dllmquant_exp.models.invariance import blocks_of
from dllmquant_exp.models.storage import read_tensors
from dllmquant_exp.models.tensor_files import check_tensor_files, read_json
from dllmquant_exp.models.tokenizer_files import read_tokenizer, write_tokenizer
from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.quantization.attention_settings import IaaqSettings
from dllmquant_exp.quantization.saved_files import (
    CONFIG_FILE,
    changed,
    config_digest,
    misplaced,
    write_signed,
)
from dllmquant_exp.quantization.saved_layout import (
    Layout,
    empty_model,
    expected_tensors,
    fill_block,
    fill_ends,
    model_tensors,
    value_problems,
)
from dllmquant_exp.quantization.settings import MethodSettings, QuantSettings
from dllmquant_exp.store.schema import read

FORMAT_VERSION = 1  # raised by any change that makes older folders mean something else
QUANT_METHOD = "dllmquant_exp"
HEADER = "quantization_config"  # its key in config.json
_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class SavedModel:
    """A saved model's description, read and checked; its tensors are not.

    Attributes:
        made: how it was made, in the words of whoever saved it.
        files: name -> sha256, of every file but config.json.
        digest: of everything that config.json says, and so of every file.
    """

    folder: Path
    layout: Layout
    made: Mapping[str, Any]
    files: Mapping[str, str]
    digest: str


@dataclass(frozen=True)
class _Header:
    """As it is stored; `digest` aside, which covers it."""

    quant_method: str
    format_version: int
    dtype: str
    method: MethodSettings
    quant: QuantSettings
    iaaq: IaaqSettings | None
    made: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)


def save_quantized(
    model: Transformer,
    folder: str | Path,
    *,
    method: MethodSettings,
    quant: QuantSettings,
    iaaq: IaaqSettings | None = None,
    made: Mapping[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerBase,
    max_shard_bytes: int = 5_000_000_000,
) -> SavedModel:
    """Write a quantized model, fake or packed, completely or not at all.

    Args:
        method, quant, iaaq: what `quantize` was given.
        made: anything else worth keeping, as JSON.
        max_shard_bytes: of tensors in a file; one tensor is never split.

    Raises:
        CheckpointError: the folder is taken or cannot be written (a full disk).
        QuantizationError: settings that are not those of this model.
    """
    folder = Path(folder).expanduser()
    dtype = model.final_norm.weight.dtype
    layout = Layout(model.config, method, quant, iaaq, dtype)
    with replacing(folder) as temporary:
        write_shards(model_tensors(model, layout), temporary, max_shard_bytes)
        write_tokenizer(tokenizer, temporary)
        header = {
            "quant_method": QUANT_METHOD,
            "format_version": FORMAT_VERSION,
            "dtype": str(dtype).removeprefix("torch."),
            "method": asdict(method),
            "quant": asdict(quant),
            "iaaq": None if iaaq is None else asdict(iaaq),
            "made": dict(made or {}),
        }
        write_signed(temporary, config_to_json(model.config) | {HEADER: header}, HEADER)
    return read_saved(folder)


def read_saved(folder: str | Path) -> SavedModel:
    """What a folder that `save_quantized` wrote says it is.

    Raises:
        CheckpointError: it is none, of another version, or changed since.
    """
    folder = Path(folder).expanduser()
    file = folder / CONFIG_FILE
    raw = read_json(file)
    header = raw.get(HEADER) if isinstance(raw, dict) else None
    if not isinstance(header, dict) or header.get("quant_method") != QUANT_METHOD:
        found = header.get("quant_method") if isinstance(header, dict) else None
        raise CheckpointError(
            f"{folder}: not a quantized model that save=... wrote (quant_method: {found!r}); load "
            "a full-precision checkpoint with the model option that fits it"
        )
    version = header.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        by = header.get("made", {}) if isinstance(header.get("made"), dict) else {}
        raise CheckpointError(
            f"{folder}: its format_version is {version!r}, and this version reads "
            f"{FORMAT_VERSION}; load it with the version that wrote it ({by.get('by', 'unknown')}),"
            " or quantize and save the model again"
        )
    digest = header.get("digest")
    if digest != config_digest(raw, HEADER):
        raise CheckpointError(f"{file}: was changed since the model was saved; save it again")
    plain = {key: value for key, value in header.items() if key != "digest"}
    try:
        parts = read(_Header, plain, f"{file}, {HEADER}")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if parts.dtype not in _DTYPES:
        raise CheckpointError(f"{file}: dtype {parts.dtype!r} is not one of {', '.join(_DTYPES)}")
    config = parse_config({key: raw[key] for key in raw if key != HEADER}, str(file))
    layout = Layout(config, parts.method, parts.quant, parts.iaaq, _DTYPES[parts.dtype])
    return SavedModel(folder, layout, parts.made, parts.files, str(digest))


def load_quantized(saved: SavedModel, *, device: torch.device, packed: bool) -> Transformer:
    """The saved model in eval mode, as it was: its logits are those of the model that was saved.

    Blocks are read and packed one by one, so that 4-bit weights are never all unpacked at once.

    Args:
        packed: integer execution, see packed.py; fake quantization otherwise.

    Raises:
        CheckpointError: one message with every file, name, shape, type and value that is wrong.
        QuantizationError: settings that cannot be packed.
    """
    expected = expected_tensors(saved.layout)
    where = check_files(saved)
    problems: list[str] = []

    def fetch(prefix: str, names: list[str]) -> dict[str, Tensor]:
        found = {}
        for file in dict.fromkeys(where[name] for name in names):
            held = tuple(name for name in names if where[name] == file)
            for name, tensor in read_tensors(file, held):
                problems.extend(value_problems(name, tensor, expected[name]))
                # Copied, as a tensor of a file may start anywhere within a word of the processor,
                # and some libraries' products then have other last bits.
                found[name.removeprefix(prefix)] = tensor.to(device, copy=True)
        if problems:
            raise CheckpointError(joined(f"{saved.folder}: impossible values", problems))
        return found

    model = empty_model(saved.layout)
    for n, block in enumerate(blocks_of(model)):
        prefix = f"blocks.{n}."
        tensors = fetch(prefix, [name for name in expected if name.startswith(prefix)])
        fill_block(block, saved.layout, tensors, device, packed)
    fill_ends(model, fetch("", [name for name in expected if not name.startswith("blocks.")]))
    return model


def load_saved_tokenizer(saved: SavedModel) -> PreTrainedTokenizerBase:
    """The tokenizer in a saved model's folder; see `read_tokenizer`."""
    return read_tokenizer(saved.folder, saved.layout.config)


def check_files(saved: SavedModel) -> dict[str, Path]:
    """The file of each tensor, in a folder whose files are byte for byte the ones that were saved.

    Names, shapes and lengths come first: they say more about a damaged file than its hash does.

    Raises:
        CheckpointError: one message with everything that is wrong.
    """
    problems = misplaced(saved.folder, saved.files)
    if not problems:
        expected = expected_tensors(saved.layout)
        found = check_tensor_files(
            saved.folder,
            {name: tensor.shape for name, tensor in expected.items()},
            {name: tensor.dtypes for name, tensor in expected.items()},
        )
        problems = changed(saved.folder, saved.files)
    if problems:
        raise CheckpointError(joined(f"{saved.folder}: cannot be loaded", problems))
    return {name: file for file, names in found.names.items() for name in names}
