"""The architecture of a checkpoint, from its config.json alone; no weights are read or fetched."""

from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from dllmquant_exp.config.quantized_model import ModelSettings
from dllmquant_exp.models.checkpoints import load_config, resolve_checkpoint
from dllmquant_exp.models.published_shapes import published_shape
from dllmquant_exp.models.transformer import TransformerConfig


def local_folder(settings: ModelSettings) -> Path | None:
    """The checkpoint's folder where it is on this disk, else None; nothing is downloaded.

    Raises:
        CheckpointError: an embedded model or a folder that does not exist.
    """
    checkpoint = settings.checkpoint
    if checkpoint.startswith("embedded:") or Path(checkpoint).expanduser().exists():
        return resolve_checkpoint(checkpoint, settings.revision)
    if checkpoint.count("/") != 1:
        return resolve_checkpoint(checkpoint, settings.revision)  # raises
    found = try_to_load_from_cache(checkpoint, "config.json", revision=settings.revision)
    return Path(found).parent if isinstance(found, str) else None


def shape_of(settings: ModelSettings) -> TransformerConfig:
    """The architecture, from this disk or from what was published.

    Raises:
        CheckpointError: a folder without a config.json that is understood, or a hub id that is
            neither here nor known.
    """
    folder = local_folder(settings)
    if folder is not None:
        return load_config(folder)
    return published_shape(settings.checkpoint)


def block_parameters(config: TransformerConfig) -> int:
    """Weights of the seven linears of one block."""
    d, kv = config.d_model, config.n_kv_heads * config.head_dim
    return 2 * d * d + 2 * d * kv + 3 * d * config.d_ffn


def all_parameters(config: TransformerConfig) -> int:
    """Of the whole model, biases and norms included."""
    d, kv = config.d_model, config.n_kv_heads * config.head_dim
    biases = d + 2 * kv if config.qkv_bias else 0
    per_block = block_parameters(config) + biases + 2 * d
    return config.n_layers * per_block + 2 * config.vocab_size * d + d
