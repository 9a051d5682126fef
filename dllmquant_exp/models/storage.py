"""Find, load and save checkpoints in the official layouts.

- from a local folder, a hub id or `embedded:NAME` (a model that ships with the package)
- safetensors only, single file or sharded with an index, in float32, bfloat16 or float16 (the
  official hub files hold bfloat16); pickled weights are refused, remote code is never run
- every name, shape, dtype and file size is checked before a model is built, and all problems are
  reported in one `CheckpointError`
- tensors are read one at a time into a model built on the meta device, so the peak memory is the
  model in the requested dtype plus one tensor
"""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.models.folders import replacing, write_shards
from dllmquant_exp.models.formats import (
    CheckpointError,
    Layout,
    config_to_json,
    joined,
    parse_config,
    tensor_names,
)
from dllmquant_exp.models.tensor_files import check_tensor_files, opened_tensors, read_json
from dllmquant_exp.models.tokenizer_files import read_tokenizer, write_json, write_tokenizer
from dllmquant_exp.models.transformer import Transformer, TransformerConfig
from dllmquant_exp.store.paths import expanded

EMBEDDED = Path(__file__).parent / "embedded"
MODEL_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_FILE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.jinja"]


def resolve_checkpoint(checkpoint: str, revision: str | None = None) -> Path:
    """The local folder of a checkpoint, downloading it when it is a hub id.

    Args:
        checkpoint: `embedded:NAME`, a local folder, or a hub id such as `GSAI-ML/LLaDA-8B-Base`.
            A folder that exists wins over a hub id of the same spelling.
        revision: branch, tag or commit of a hub repository; None for its default branch.

    Raises:
        CheckpointError: nothing there, no way to download it, or a revision of a local folder.
    """
    kind, _, name = checkpoint.partition(":")
    folder = EMBEDDED / name if kind == "embedded" else expanded(checkpoint)
    if kind == "embedded":
        shipped = sorted(file.parent.name for file in EMBEDDED.glob("*/config.json"))
        if name not in shipped:
            raise CheckpointError(
                f"{checkpoint}: no such embedded model (there are: {', '.join(shipped) or 'none'})"
            )
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"{checkpoint}: revision = {revision!r} applies to hub ids only; leave it null"
            )
        return folder
    if not _HUB_ID.fullmatch(checkpoint):
        raise CheckpointError(
            f"{checkpoint}: neither a folder that exists nor a hub id (organisation/name)"
        )
    try:
        return Path(snapshot_download(checkpoint, revision=revision, allow_patterns=_HUB_FILES))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise CheckpointError(
            f"{checkpoint}: not a local folder, and the hub did not give it"
            f"{f' at revision {revision}' if revision else ''} ({type(error).__name__}: {reason}). "
            "Check the name and the connection, or download the repository elsewhere and set "
            "model.checkpoint to its folder"
        ) from error


def load_config(folder: Path, layout: Layout | None = None) -> TransformerConfig:
    """The shape described by `folder/config.json`; see `parse_config` for what is refused."""
    file = folder / "config.json"
    return parse_config(read_json(file), str(file), layout)


def load_model(
    checkpoint: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
    revision: str | None = None,
    layout: Layout | None = None,
) -> Transformer:
    """Load a full-precision model in eval mode, without gradients.

    Args:
        checkpoint, revision: see `resolve_checkpoint`.
        dtype: float64, float32, bfloat16 or float16; stored values are cast to it.
        device: where the model goes.
        layout: how the checkpoint names things; None to recognize LLaDA's or Dream's.

    Raises:
        CheckpointError: one message with every problem of configuration, names, shapes, dtypes and
            file sizes; or, after reading, with every tensor that holds non-finite values.
    """
    if dtype not in MODEL_DTYPES:
        raise CheckpointError(f"dtype {dtype} is not one of: {', '.join(map(str, MODEL_DTYPES))}")
    folder = resolve_checkpoint(checkpoint, revision)
    config = load_config(folder, layout)
    names = tensor_names(config, layout)
    files = check_tensor_files(folder, {name: shape for name, (_, shape) in names.items()})
    with torch.device("meta"):
        model = Transformer(config)
    problems: list[str] = []
    for file, held in files.names.items():
        for name, tensor in read_tensors(file, held):
            cast = tensor.to(device=device, dtype=dtype, copy=True)
            problems += _non_finite(name, tensor, cast)
            _assign(model, names[name][0], cast)
    if problems:
        raise CheckpointError(joined(f"{folder}: non-finite values", problems))
    return model.eval()


def load_tokenizer(
    checkpoint: str, revision: str | None = None, layout: Layout | None = None
) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, with its special tokens and chat template; no remote code."""
    folder = resolve_checkpoint(checkpoint, revision)
    return read_tokenizer(folder, load_config(folder, layout))


def save_checkpoint(
    model: Transformer,
    folder: str | Path,
    *,
    dtype: torch.dtype,
    max_shard_bytes: int = 5_000_000_000,
    tokenizer: PreTrainedTokenizerBase | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a full-precision model under the official names, completely or not at all.

    Everything is written to a temporary folder beside `folder`, which is then renamed. Up to
    `max_shard_bytes` of tensors make a single file, more are split into shards with an index; one
    tensor is never split. The same model gives the same bytes.

    Args:
        dtype: float32, bfloat16 or float16; values are cast to it.
        tokenizer: written beside the model in the architecture's layout.
        overwrite: replace `folder` when it already holds a checkpoint (and nothing else's).

    Raises:
        CheckpointError: `folder` is taken, a parameter is not there in full precision (a quantized
            model), or values are not finite in `dtype`. Nothing is left behind.
    """
    folder = expanded(folder)
    if dtype not in _FILE_DTYPES:
        raise CheckpointError(f"dtype {dtype} is not one of: {', '.join(map(str, _FILE_DTYPES))}")
    if max_shard_bytes < 1:
        raise CheckpointError(f"max_shard_bytes = {max_shard_bytes} must be at least 1")
    tensors = _official_tensors(model)
    with replacing(folder, overwrite=overwrite) as temporary:
        problems: list[str] = []
        write_shards(_cast(tensors, dtype, problems), temporary, max_shard_bytes)
        if problems:
            raise CheckpointError(joined("cannot save: non-finite values", problems))
        stored = config_to_json(model.config) | {"torch_dtype": str(dtype).removeprefix("torch.")}
        write_json(temporary / "config.json", stored)
        if tokenizer is not None:
            write_tokenizer(tokenizer, temporary)
    return folder


def read_tensors(file: Path, names: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a safetensors file, one at a time; CheckpointError names a damaged file."""
    try:
        with opened_tensors(file) as opened:
            for name in names:
                yield name, opened.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from error


def _non_finite(name: str, stored: Tensor, cast: Tensor) -> list[str]:
    if not all_finite(stored):
        bad = stored.numel() - int(torch.isfinite(stored).sum())
        return [f"{name}: {bad} of {stored.numel()} values are NaN or infinite"]
    if cast.dtype != stored.dtype and not all_finite(cast):
        return [f"{name}: has values too large for {cast.dtype}; choose another dtype"]
    return []


def all_finite(x: Tensor) -> bool:
    """Extremes instead of `isfinite` of everything: NaN propagates, and nothing is allocated."""
    if x.numel() == 0:
        return True
    low, high = torch.aminmax(x)
    return bool(torch.isfinite(low) and torch.isfinite(high))


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    """Put `value` in the place of the meta parameter `name`."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))


def _official_tensors(model: Transformer) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    tensors, absent = {}, []
    for name, (ours, _) in tensor_names(model.config).items():
        if ours in parameters and not parameters[ours].is_meta:
            tensors[name] = parameters[ours].detach()
        else:
            absent.append(ours)
    if absent:
        raise CheckpointError(
            joined("cannot save: not in full precision (save before quantizing)", absent, 10)
        )
    return tensors


def _cast(
    tensors: dict[str, Tensor], dtype: torch.dtype, problems: list[str]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors in `dtype`; what is not finite then is added to `problems`."""
    for name, tensor in tensors.items():
        cast = tensor.to("cpu", dtype)
        problems += _non_finite(name, tensor, cast)
        yield name, cast
