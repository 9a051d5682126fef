"""A rotated model computes what the original does, in a basis that is really rotated."""

import copy

import pytest
import torch
from small_models import small_model

from dllmquant_exp.models.transformer import attention
from dllmquant_exp.quantization.hadamard import OnlineHadamard, hadamard_matrix
from dllmquant_exp.quantization.quantizers import QuantizationError
from dllmquant_exp.quantization.rotation import (
    RotatedAttention,
    RotatedLinear,
    rotate,
)

ARCHITECTURES = ("llada", "dream")
# n_heads, n_kv_heads, head_dim, d_ffn: powers of two, Paley I (not symmetric) and II in each place
SHAPES = [
    (4, 2, 8, 48),
    (1, 1, 12, 28),
    (2, 1, 4, 296),
    (12, 4, 4, 20),
    (28, 4, 2, 64),
]


def make(architecture="dream", heads=4, kv_heads=2, head_dim=8, d_ffn=48, dtype=torch.float64):
    model = small_model(
        architecture, d_model=heads * head_dim, n_heads=heads, n_kv_heads=kv_heads, d_ffn=d_ffn
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 1, generator=generator)
            if "norm" in name:
                parameter.add_(2)  # far from 1
            elif parameter.dim() == 2 and "embedding" not in name:
                parameter.mul_(parameter.shape[1] ** -0.5)  # outputs of the size of inputs
    return model.to(dtype)


@torch.no_grad()
def logits(model):
    tokens = torch.randint(2, 50, (3, 9), generator=torch.Generator().manual_seed(5))
    keep = torch.arange(9) < torch.tensor([9, 6, 4])[:, None]
    return model(tokens, keep)[keep].double()


FUNCTIONS = [*(("dream", shape, True, torch.float64) for shape in SHAPES),
             *(("llada", shape, False, torch.float64) for shape in SHAPES),
             ("dream", SHAPES[0], True, torch.float32), ("llada", SHAPES[3], True, torch.float32),
             ]  # fmt: skip


@pytest.mark.parametrize(("architecture", "shape", "keys", "dtype"), FUNCTIONS)
def test_same_function(architecture, shape, keys, dtype):
    model = make(architecture, *shape, dtype=dtype)
    before = logits(model)
    assert before.std() > 0.1
    rotate(model, seed=1, keys=keys)
    assert all(parameter.dtype == dtype for parameter in model.parameters())
    error = float((logits(model) - before).norm() / before.norm())
    assert error < (1e-9 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_residual_stream_is_rotated(architecture):
    """Every block's input is x diag(s) H for one vector of signs s, which the seed decides."""
    model = make(architecture)
    tokens = torch.arange(2, 14)[None]

    def streams(m):
        found = []
        hooks = [b.register_forward_pre_hook(lambda _, x: found.append(x[0])) for b in m.blocks]
        found.append(m.hidden(tokens).detach())
        for hook in hooks:
            hook.remove()
        return torch.cat(found).detach()

    before = streams(model)
    rotate(model, seed=4)
    signs = streams(model) @ hadamard_matrix(32).T / before
    torch.testing.assert_close(signs, signs[0, 0].round().expand_as(signs), rtol=0, atol=1e-9)
    assert set(signs[0, 0].round().tolist()) == {-1.0, 1.0}


def test_rotated_weights_by_formula():
    """As the module's table says, with dense matrices written out."""
    d, heads, kv_heads = 4, 12, 4
    model = make("dream", heads, kv_heads, d, 48)
    before = copy.deepcopy(model)
    rotate(model, seed=6)
    q = torch.linalg.lstsq(before.embedding.weight, model.embedding.weight).solution.detach()
    torch.testing.assert_close(q @ q.T, torch.eye(48, dtype=q.dtype))
    block, rotated = before.blocks[1], model.blocks[1]
    attention_norm, ffn_norm = block.attention_norm.weight, block.ffn_norm.weight
    in_heads = torch.block_diag(*[hadamard_matrix(d)] * kv_heads)
    across = torch.kron(hadamard_matrix(heads), hadamard_matrix(d))
    expected = {
        "q_proj.weight": block.q_proj.weight * attention_norm @ q,
        "k_proj.weight": block.k_proj.weight * attention_norm @ q,
        "v_proj.weight": in_heads.T @ (block.v_proj.weight * attention_norm) @ q,
        "o_proj.weight": q.T @ block.o_proj.weight @ across,
        "gate_proj.weight": block.gate_proj.weight * ffn_norm @ q,
        "up_proj.weight": block.up_proj.weight * ffn_norm @ q,
        "down_proj.weight": q.T @ block.down_proj.weight @ hadamard_matrix(48),
        "q_proj.bias": block.q_proj.bias,
        "k_proj.bias": block.k_proj.bias,
        "v_proj.bias": block.v_proj.bias @ in_heads,
    }
    for name, value in expected.items():
        torch.testing.assert_close(rotated.get_parameter(name).data, value.data, atol=1e-9, rtol=0)
    head = before.head.weight * before.final_norm.weight @ q
    torch.testing.assert_close(model.head.weight.data, head.data, atol=1e-9, rtol=0)


def test_outliers_are_spread():
    """A channel 100 times larger, and a constant row, which H without signs turns into a spike."""
    model = make("llada", 4, 4, 16, 64)
    with torch.no_grad():
        model.embedding.weight[:, 3] *= 100
        model.embedding.weight[7] = 1
    rotate(model, seed=0)
    rows = model.embedding.weight.detach()
    peak = rows.abs().amax(1) / rows.square().mean(1).sqrt()  # 8 for a single spike in 64 channels
    assert float(peak.max()) < 4


def test_same_seed_same_bytes():
    first, again, other = make(), make(), make()
    for model, seed in ((first, 3), (again, 3), (other, 4)):
        rotate(model, seed=seed)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_report_and_structure():
    model = make("dream", 12, 4, 4, 28, torch.float32)
    names = list(model.state_dict())
    report = rotate(model, seed=9)
    assert report.seed == 9 and report.keys is False and report.weight_dtype == "float32"
    assert report.sizes == {
        "d_model": (4, 12), "n_heads": (1, 12), "head_dim": (4, 1), "d_ffn": (1, 28),
    }  # fmt: skip
    expected = [f"blocks.{n}.{name}_proj" for n in (0, 1) for name in ("o", "down")]
    assert sorted(report.online) == sorted(expected)
    assert sorted(model.state_dict()) == sorted(names)
    for block in model.blocks:
        assert block.attention is attention
        assert (block.o_proj.rotation.size, block.o_proj.rotation.inner) == (12, 4)
        assert (block.down_proj.rotation.size, block.down_proj.rotation.inner) == (28, 1)
        assert (block.down_proj.in_features, block.down_proj.out_features) == (28, 48)
        for norm in (block.attention_norm, block.ffn_norm, model.final_norm):
            assert torch.equal(norm.weight, torch.ones(48))


def test_rotated_linear():
    generator = torch.Generator().manual_seed(1)
    weight, bias, x = (torch.randn(s, generator=generator) for s in ((5, 12), (5,), (2, 3, 12)))
    linear = RotatedLinear(weight, bias, OnlineHadamard(12))
    expected = (x @ hadamard_matrix(12).float()) @ weight.T + bias
    torch.testing.assert_close(linear(x), expected)
    assert not isinstance(linear, torch.nn.Linear)


def test_rotated_keys_reach_the_inner_attention():
    seen = []

    def inner(q, k, v, mask):
        seen.extend((q, k, v, mask))
        return attention(q, k, v, mask)

    q, k, v = (torch.randn(2, heads, 5, 12, dtype=torch.float64) for heads in (4, 2, 2))
    mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    y = RotatedAttention(inner, head_dim=12)(q, k, v, mask)
    for actual, original in zip(seen, (q, k), strict=False):
        torch.testing.assert_close(actual, original @ hadamard_matrix(12))
    assert seen[2] is v and seen[3] is mask
    torch.testing.assert_close(y, attention(q, k, v, mask))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((6, 3, 8, 48), "n_heads = 6 has no"),
        ((4, 2, 8, 46), "d_ffn = 46 has no.*44 and 48"),
        ((4, 2, 6, 48), "head_dim = 6 has no"),
        ((23, 1, 4, 48), "d_model = 92 has no"),
    ],
)
def test_missing_sizes(shape, message):
    model = make("llada", *shape)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(QuantizationError, match=message):
        rotate(model, seed=0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_rotating_twice():
    model = make()
    rotate(model, seed=0)
    with pytest.raises(QuantizationError, match=r"blocks\.0\.o_proj is a RotatedLinear"):
        rotate(model, seed=0)


def test_rows_at_a_time(monkeypatch):
    whole, parts = make(), make()
    rotate(whole, seed=1)
    monkeypatch.setattr("dllmquant_exp.models.invariance._CHUNK", 70)
    rotate(parts, seed=1)
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(parts.get_parameter(name), parameter, rtol=0, atol=1e-12)
