"""An independent implementation of both models, and small shapes to compare with it.

The reference works on tensors by their official names, spelled out here once more, in float64,
one row without padding at a time, with loops and einsum.
"""

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from dllmquant_exp.models.transformer import Architecture, TransformerConfig

NAMES = {
    "llada": {
        "embedding": "model.transformer.wte.weight",
        "final_norm": "model.transformer.ln_f.weight",
        "head": "model.transformer.ff_out.weight",
        "block": "model.transformer.blocks.{}.",
        "attention_norm": "attn_norm",
        "q": "q_proj",
        "k": "k_proj",
        "v": "v_proj",
        "o": "attn_out",
        "ffn_norm": "ff_norm",
        "gate": "ff_proj",
        "up": "up_proj",
        "down": "ff_out",
    },
    "dream": {
        "embedding": "model.embed_tokens.weight",
        "final_norm": "model.norm.weight",
        "head": "lm_head.weight",
        "block": "model.layers.{}.",
        "attention_norm": "input_layernorm",
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    },
}
OURS = {
    "attention_norm": "attention_norm",
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "o_proj",
    "ffn_norm": "ffn_norm",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
}


def shape_of(architecture: Architecture, **changes: int) -> TransformerConfig:
    values = dict(
        d_model=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=4 if architecture == "llada" else 2,
        d_ffn=48,
        vocab_size=61,
        max_length=64,
        mask_token_id=60,
        eos_token_id=58,
        pad_token_id=58,
    )
    return TransformerConfig(
        architecture=architecture,
        rope_theta=500_000.0 if architecture == "llada" else 1_000_000.0,
        norm_eps=1e-5 if architecture == "llada" else 1e-6,
        **(values | changes),
    )


def official(model: torch.nn.Module) -> dict[str, Tensor]:
    """The model's parameters by official names, through the table above."""
    table = NAMES[model.config.architecture]
    found = {table[k]: model.get_parameter(f"{k}.weight") for k in ("embedding", "final_norm")}
    found[table["head"]] = model.get_parameter("head.weight")
    for n in range(model.config.n_layers):
        for role, ours in OURS.items():
            for name, parameter in model.blocks[n].get_submodule(ours).named_parameters():
                found[f"{table['block'].format(n)}{table[role]}.{name}"] = parameter
    return {name: tensor.detach() for name, tensor in found.items()}


def reference(
    weights: Mapping[str, Tensor], config: TransformerConfig, tokens: list[int]
) -> Tensor:
    """Aligned logits [T, V] of one row, in float64."""
    names = NAMES[config.architecture]
    heads, kv_heads, size = config.n_heads, config.n_kv_heads, config.d_model // config.n_heads
    time = len(tokens)

    def get(name: str) -> Tensor:
        return weights[name].double()

    def norm(x: Tensor, name: str) -> Tensor:
        rms = torch.sqrt((x * x).sum(-1) / x.shape[-1] + config.norm_eps)
        return x / rms[:, None] * get(name)

    def project(x: Tensor, prefix: str) -> Tensor:
        y = torch.einsum("ti,oi->to", x, get(f"{prefix}.weight"))
        return y + get(f"{prefix}.bias") if f"{prefix}.bias" in weights else y

    def rotate(vector: Tensor, position: int) -> Tensor:
        half = size // 2
        pairs = torch.complex(vector[:half], vector[half:])
        angles = [position * config.rope_theta ** (-2 * j / size) for j in range(half)]
        turned = pairs * torch.exp(1j * torch.tensor(angles, dtype=torch.float64))
        return torch.cat((turned.real, turned.imag))

    x = torch.stack([get(names["embedding"])[token] for token in tokens])
    for n in range(config.n_layers):
        block = names["block"].format(n)
        h = norm(x, f"{block}{names['attention_norm']}.weight")
        q = project(h, block + names["q"]).reshape(time, heads, size)
        k = project(h, block + names["k"]).reshape(time, kv_heads, size)
        v = project(h, block + names["v"]).reshape(time, kv_heads, size)
        mixed = torch.zeros(time, heads, size, dtype=torch.float64)
        for head in range(heads):
            shared = head // (heads // kv_heads)
            rotated = [rotate(k[s, shared], s) for s in range(time)]
            for t in range(time):
                query = rotate(q[t, head], t)
                scores = torch.stack([query @ key for key in rotated]) / math.sqrt(size)
                weight = torch.exp(scores - scores.max())
                mixed[t, head] = torch.einsum("s,sd->d", weight / weight.sum(), v[:, shared])
        x = x + project(mixed.reshape(time, -1), block + names["o"])
        h = norm(x, f"{block}{names['ffn_norm']}.weight")
        gate = project(h, block + names["gate"])
        up = project(h, block + names["up"])
        x = x + project(gate / (1 + torch.exp(-gate)) * up, block + names["down"])
    logits = torch.einsum("td,vd->tv", norm(x, names["final_norm"]), get(names["head"]))
    if config.architecture == "dream":
        logits = torch.cat((logits[:1], logits[:-1]))
    return logits


@pytest.fixture
def small_shape() -> Callable[..., TransformerConfig]:
    return shape_of


@pytest.fixture
def official_tensors() -> Callable[[torch.nn.Module], dict[str, Tensor]]:
    return official


@pytest.fixture
def reference_logits() -> Callable[..., Tensor]:
    return reference
