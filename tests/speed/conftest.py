"""Small shapes, and a workload that is measured in no time."""

import pytest

from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.models.transformer import TransformerConfig
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.quant_settings import AttentionSettings, QuantSettings
from dllmquant_exp.quantization.rotation import Rotation
from dllmquant_exp.speed.workload import SpeedSettings, Workload


@pytest.fixture
def config():
    """config(field=value, ...): a shape whose sizes are no multiples of 64."""

    def build(**changes):
        return TransformerConfig(
            **{
                "architecture": "llada", "d_model": 48, "n_layers": 3, "n_heads": 4,
                "n_kv_heads": 4, "d_ffn": 96, "vocab_size": 101, "max_length": 64,
                "rope_theta": 1e4, "norm_eps": 1e-6, "mask_token_id": 1, "eos_token_id": 2,
                "pad_token_id": 2, **changes,
            }
        )  # fmt: skip

    return build


@pytest.fixture
def workload(config):
    """workload(field=value, ...): QuaRot with W4A4, and A8 beside it."""

    def build(**changes):
        return Workload(
            **{
                "config": config(),
                "load": None,
                "method": Method("quarot_rtn", {"rotation": Rotation(), "round": Nearest()}),
                "quant": QuantSettings(attention=AttentionSettings()),
                "iaaq": None,
                "decoding": DecodingSettings(4, 4, 2, "low_confidence", suppress_eos=True),
                "settings": SpeedSettings(6, 2, 2, 8),
                "seed": 0,
                **changes,
            }
        )

    return build
