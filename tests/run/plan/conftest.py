"""A tiny model over the embedded tokenizer's vocabulary, and experiments from command lines."""

from collections.abc import Callable

import pytest
import torch
from hydra import compose, initialize_config_dir

from dllmquant_exp.config.experiment import Experiment, resolve, to_mapping
from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.models.transformer import Architecture, Transformer, TransformerConfig


def _tiny(architecture: Architecture = "llada", n_layers: int = 1) -> Transformer:
    config = TransformerConfig(
        architecture=architecture,
        d_model=16,
        n_layers=n_layers,
        n_heads=2,
        n_kv_heads=2,
        d_ffn=16,
        vocab_size=1592,
        max_length=512,
        rope_theta=1e4,
        norm_eps=1e-5,
        mask_token_id=1,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    return Transformer(config).eval().requires_grad_(False)


def _experiment(*words: str) -> Experiment:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return resolve(to_mapping(compose("config", list(words))), list(words))


@pytest.fixture
def tiny() -> Callable[..., Transformer]:
    return _tiny


@pytest.fixture
def experiment() -> Callable[..., Experiment]:
    return _experiment
