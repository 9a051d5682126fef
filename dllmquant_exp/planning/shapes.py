"""The architecture of a checkpoint, from its config.json alone; no weights are read or fetched."""

from dataclasses import replace
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from dllmquant_exp.making import ModelSettings
from dllmquant_exp.models.checkpoints import load_config, resolve_checkpoint
from dllmquant_exp.models.transformer import TransformerConfig
from dllmquant_exp.schema import ConfigError

_LLADA = TransformerConfig(
    architecture="llada",
    d_model=4096,
    n_layers=32,
    n_heads=32,
    n_kv_heads=32,
    d_ffn=12288,
    vocab_size=126464,
    max_length=4096,
    rope_theta=500000.0,
    norm_eps=1e-5,
    mask_token_id=126336,
    eos_token_id=126081,
    pad_token_id=126081,
)
_DREAM = replace(
    _LLADA,
    architecture="dream",
    d_model=3584,
    n_layers=28,
    n_heads=28,
    n_kv_heads=4,
    d_ffn=18944,
    vocab_size=152064,
    max_length=131072,
    rope_theta=1e6,
    norm_eps=1e-6,
    mask_token_id=151666,
    eos_token_id=151643,
    pad_token_id=151643,
)
# The published repositories' config.json.
KNOWN = {
    "GSAI-ML/LLaDA-8B-Base": _LLADA,
    "GSAI-ML/LLaDA-8B-Instruct": _LLADA,
    "GSAI-ML/LLaDA-1.5": _LLADA,
    "Dream-org/Dream-v0-Base-7B": _DREAM,
    "Dream-org/Dream-v0-Instruct-7B": _DREAM,
}


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
        CheckpointError: a folder without a config.json that is understood.
        ConfigError: a hub id that is neither here nor known.
    """
    folder = local_folder(settings)
    if folder is not None:
        return load_config(folder)
    if settings.checkpoint in KNOWN:
        return KNOWN[settings.checkpoint]
    raise ConfigError(
        f"the shape of {settings.checkpoint} is not known without its config.json; download that "
        "file to a folder and set model.checkpoint to it"
    )


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
