"""W4A4 on the outlier variant of the shared tiny Llama: relative MSE of the logits, per method.

OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/w4a4_tiny_llama.py
OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/w4a4_tiny_llama.py --rows rtn quarot
"""

import argparse
import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from gptq_tiny_llama import REPOSITORY, load
from torch import Tensor
from transformers import LlamaForCausalLM

from dllmquant_exp.models.invariance import blocks_of, fuse_norms, rotate_residual
from dllmquant_exp.models.transformer import Transformer, TransformerConfig
from dllmquant_exp.quantization.awq import Awq
from dllmquant_exp.quantization.blockwise import TokenBatch, first_block_batches, linear_inputs
from dllmquant_exp.quantization.gptq import Gptq, gptq
from dllmquant_exp.quantization.hessian import Hessian
from dllmquant_exp.quantization.linear import QuantizedLinear
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.pipeline import GROUPS, quantize
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.quantizers import fake_quantize
from dllmquant_exp.quantization.rotation import Rotation, rotate

GPTQ = Gptq()
PLAIN = QuantSettings()  # W4A4 without any clipping
CLIP = replace(PLAIN, weight_clip_search=2.0)
CLIP_90 = replace(CLIP, activation_clip_ratio=0.9)
RENAMED = (
    ("model.embed_tokens", "embedding"),
    ("model.norm", "final_norm"),
    ("lm_head", "head"),
    ("model.layers", "blocks"),
    (".self_attn", ""),
    (".mlp", ""),
    ("post_attention_layernorm", "ffn_norm"),
    ("input_layernorm", "attention_norm"),
)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """In place of `transformer.attention`, which is bidirectional; the bench has no padding."""
    assert mask is None
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def converted(llama: LlamaForCausalLM) -> Transformer:
    """The bench's LlamaForCausalLM as our Transformer, with the same function."""
    c = llama.config
    config = TransformerConfig(
        architecture="llada",
        d_model=c.hidden_size,
        n_layers=c.num_hidden_layers,
        n_heads=c.num_attention_heads,
        n_kv_heads=c.num_key_value_heads,
        d_ffn=c.intermediate_size,
        vocab_size=c.vocab_size,
        max_length=c.max_position_embeddings,
        rope_theta=c.rope_parameters["rope_theta"],
        norm_eps=c.rms_norm_eps,
        mask_token_id=0,
        eos_token_id=c.eos_token_id,
        pad_token_id=c.pad_token_id,
    )
    model = Transformer(config).eval()
    weights = {}
    for name, value in llama.state_dict().items():
        for theirs, ours in RENAMED:
            name = name.replace(theirs, ours)
        weights[name] = value
    model.load_state_dict(weights)
    for block in blocks_of(model):
        block.attention = causal_attention
    return model


@dataclass(frozen=True)
class Row:
    """One line of the table: `dense` rotates the residual stream by a random orthogonal matrix
    first, so that with the Hadamard rotation behind it the whole is random and orthogonal too;
    `compensated` does in place of `quantize` what `compensate` says."""

    method: Method
    settings: QuantSettings = PLAIN
    dense: bool = False
    compensated: bool = False


def quarot(settings: QuantSettings, gptq: Gptq | None = GPTQ, **more: bool) -> Row:
    name = "quarot_rtn" if gptq is None else "quarot"
    rounding = {"round": Nearest()} if gptq is None else {"gptq": gptq}
    return Row(Method(name, {"rotation": Rotation(), **rounding}), settings, **more)


ROWS = {
    "rtn": Row(Method("rtn", {"round": Nearest()})),
    "gptq": Row(Method("gptq", {"gptq": GPTQ})),
    "awq": Row(Method("awq", {"awq": Awq(), "round": Nearest()})),
    "awq_gptq": Row(Method("awq_gptq", {"awq": Awq(), "gptq": GPTQ})),
    "quarot_rtn": quarot(PLAIN, None),
    "quarot": quarot(PLAIN),
    "quarot clip": quarot(CLIP),
    "quarot clip dense": quarot(CLIP, dense=True),
    "quarot clip_2.4": quarot(replace(CLIP, weight_clip_search=2.4)),
    "quarot clip act_order": quarot(CLIP, replace(GPTQ, act_order=True)),
    "quarot clip damp_0.1": quarot(CLIP, replace(GPTQ, damp=0.1)),
    "quarot clip float64": quarot(CLIP, replace(GPTQ, dtype="float64")),
    "quarot clip a_0.95": quarot(replace(CLIP, activation_clip_ratio=0.95)),
    "quarot clip a_0.9": quarot(CLIP_90),
    "quarot clip a_0.8": quarot(replace(CLIP, activation_clip_ratio=0.8)),
    "quarot clip a_0.9 act_order": quarot(CLIP_90, replace(GPTQ, act_order=True)),
    "quarot clip compensated": quarot(CLIP, compensated=True),
    "quarot clip a_0.9 compensated": quarot(CLIP_90, compensated=True),
    "a4 only: quarot_rtn": quarot(replace(PLAIN, weight_bits=16), None),
    "a4 only: quarot_rtn a_0.9": quarot(replace(CLIP_90, weight_bits=16), None),
    "w4 only: quarot clip": quarot(replace(CLIP, activation_bits=16)),
}


def main() -> None:
    arguments = parse()
    bench = load(arguments.bench / "tiny_llama.py")
    llama = bench.build_model("outlier")
    reference = bench.logits(llama, bench.heldout())
    model = converted(llama)
    same = logits(model, bench.heldout())
    assert (same - reference).abs().max() <= 1e-4 * reference.abs().max(), "not the same function"
    calibration = [
        TokenBatch(x, torch.ones_like(x, dtype=torch.bool), torch.ones(x.shape))
        for x in bench.calib().split(8)
    ]
    for name in arguments.rows or ROWS:
        seeds = range(arguments.seeds if "rotation" in ROWS[name].method.steps else 1)
        start = time.process_time()
        quantized = [made(model, ROWS[name], seed, calibration) for seed in seeds]
        cpu = (time.process_time() - start) / len(seeds)
        found = [bench.logit_metrics(reference, logits(q, bench.heldout())) for q in quantized]
        mse = [f["logit_rel_mse"] for f in found]
        result = {"row": name, "relative_mse": round(mean(mse), 3), "cpu_seconds": round(cpu, 1)}
        result |= {"each": [round(m, 3) for m in mse], "kl": round(mean(f["kl"] for f in found), 4)}
        print(json.dumps(result), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bench", type=Path, default=REPOSITORY.parent / "shared" / "bench")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=None, help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="of each rotation")
    return parser.parse_args()


def made(model: Transformer, row: Row, seed: int, calibration: Sequence[TokenBatch]) -> Transformer:
    """A copy of the model, quantized."""
    model, method = copy.deepcopy(model), row.method
    if row.dense:
        fuse_norms(model)
        q = random_orthogonal(model.config.d_model, seed)
        rotate_residual(model, lambda rows: rows @ q)
    if "rotation" in method.steps:
        steps = {**method.steps, "rotation": replace(method.steps["rotation"], seed=seed)}
        method = replace(method, steps=steps)
    if row.compensated:
        compensate(model, seed, row.settings, calibration)
    else:
        quantize(model, method, row.settings, calibration=calibration)
    return model


def compensate(
    model: Transformer, seed: int, settings: QuantSettings, calibration: Sequence[TokenBatch]
) -> None:
    """QuaRot whose GPTQ sees the quantized inputs q = Q(x) and rounds, in place of W,

        W' = argmin sum_t ||W x_t - W' q_t||^2 = W + W (sum (x - q) q^T) (sum q q^T)^-1

    with the same damping. As everywhere, x is what the quantized model before it makes of the
    calibration tokens (the local half of GPTAQ, Li et al. 2025).
    """
    quantizer, activation = settings.weight, settings.activation
    assert quantizer is not None and activation is not None
    rotate(model, seed)
    batches = first_block_batches(model, calibration)
    for block in blocks_of(model):
        for group in GROUPS:
            linears = [block.get_submodule(name) for name in group]
            weights: list[Tensor] = [linear.get_parameter("weight") for linear in linears]
            moments = Hessian(weights[0].shape[1])
            cross = torch.zeros(weights[0].shape[1], weights[0].shape[1])
            for batch in batches:
                x, _ = linear_inputs(block, group[0], batch)
                q = fake_quantize(x, activation)
                moments.add(q)
                cross.addmm_((x - q).T, q)
            H = moments.matrix()
            damped = H + GPTQ.damp * H.diagonal().mean() * torch.eye(len(H))
            change = torch.linalg.solve(damped, cross * 2 / moments.tokens, left=False)
            results = gptq([w + w @ change for w in weights], H, quantizer, GPTQ)
            for name, linear, result in zip(group, linears, results, strict=True):
                rotation = getattr(linear, "rotation", None)
                layer = QuantizedLinear(result.weight, activation=activation, rotation=rotation)
                setattr(block, name, layer)
        batches = [batch.advanced(block) for batch in batches]


def random_orthogonal(size: int, seed: int) -> Tensor:
    """Uniform (Haar) over the orthogonal matrices of that size, float64."""
    normal = torch.randn(
        size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    q, r = torch.linalg.qr(normal)
    return q * r.diagonal().sign()


def logits(model: Transformer, tokens: Tensor) -> Tensor:
    return torch.cat([model(part) for part in tokens.split(4)])


if __name__ == "__main__":
    with torch.no_grad():
        main()
