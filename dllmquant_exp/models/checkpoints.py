"""Checkpoints: everything that other rooms use, in one place.

formats.py            layouts (config.json and tensor names): LLaDA's, Dream's, a user's own
tensor_files.py       safetensors headers, the check of a folder, its fingerprint
tokenizer_files.py    tokenizers without remote code
storage.py            find, load, save
random_checkpoint.py  small random checkpoints in the official layouts
"""

from dllmquant_exp.models.formats import (
    CheckpointError,
    Layout,
    config_to_json,
    parse_config,
    tensor_names,
)
from dllmquant_exp.models.random_checkpoint import random_checkpoint, random_model
from dllmquant_exp.models.storage import (
    load_config,
    load_model,
    load_tokenizer,
    resolve_checkpoint,
    save_checkpoint,
)
from dllmquant_exp.models.tensor_files import checkpoint_digest

__all__ = [
    "CheckpointError",
    "Layout",
    "checkpoint_digest",
    "config_to_json",
    "load_config",
    "load_model",
    "load_tokenizer",
    "parse_config",
    "random_checkpoint",
    "random_model",
    "resolve_checkpoint",
    "save_checkpoint",
    "tensor_names",
]
