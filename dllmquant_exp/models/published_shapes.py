"""Shapes of the published checkpoints, for what needs no weights: counting bytes, measuring speed.

Source: config.json of each repository.
"""

from dllmquant_exp.models.formats import CheckpointError
from dllmquant_exp.models.transformer import TransformerConfig

LLADA_8B = TransformerConfig(
    architecture="llada",
    d_model=4096,
    n_layers=32,
    n_heads=32,
    n_kv_heads=32,
    d_ffn=12288,
    vocab_size=126464,
    max_length=4096,
    rope_theta=5e5,
    norm_eps=1e-5,
    mask_token_id=126336,
    eos_token_id=126081,
    pad_token_id=126081,
)
DREAM_7B = TransformerConfig(
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
SHAPES = {
    "GSAI-ML/LLaDA-8B-Base": LLADA_8B,
    "GSAI-ML/LLaDA-8B-Instruct": LLADA_8B,
    "GSAI-ML/LLaDA-1.5": LLADA_8B,
    "Dream-org/Dream-v0-Base-7B": DREAM_7B,
    "Dream-org/Dream-v0-Instruct-7B": DREAM_7B,
}


def published_shape(checkpoint: str) -> TransformerConfig:
    """The shape of a hub id.

    Raises:
        CheckpointError: a hub id whose shape is not written down here.
    """
    if checkpoint not in SHAPES:
        raise CheckpointError(
            f"{checkpoint}: its shape is not known without a download (known: "
            f"{', '.join(SHAPES)}); give a local folder with its config.json"
        )
    return SHAPES[checkpoint]
