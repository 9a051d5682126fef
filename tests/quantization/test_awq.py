"""AWQ on one block against a copy that is scaled, rounded and run by hand."""

import copy
import json
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from small_models import small_model

from dllmquant_exp.models.transformer import apply_rotary, rotary_angles
from dllmquant_exp.quantization.awq import RATIOS, as_clipped, awq_block, scale_of
from dllmquant_exp.quantization.awq_clip import CLIP_RATIOS, clipped
from dllmquant_exp.quantization.blockwise import BlockBatch
from dllmquant_exp.quantization.quantizers import (
    QuantizationError,
    Quantizer,
    fake_quantize,
    parameters,
)

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GROUPS = (LINEARS[:3], ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
# The default grid puts the largest weight half-way between two integers, so that the last bit of a
# product decides; comparisons with a second computation use the others.
WEIGHT = Quantizer(3, True, "per_channel", grid="restricted")
TOKEN = Quantizer(4, False, "per_token")
PAIRS = (
    (WEIGHT, TOKEN),
    (WEIGHT, None),
    (Quantizer(4, True, "per_tensor", grid="max_over_7"), Quantizer(4, False, "per_request")),
    (
        Quantizer(3, False, "per_group", group_size=8),
        Quantizer(8, True, "per_tensor", grid="restricted"),
    ),
)
HEADS, HEAD_DIM = 4, 8


def make(kv_heads=HEADS, dtype=torch.float64):
    """A block with biases, norm weights other than 1, and inputs with outlier channels."""
    d = HEADS * HEAD_DIM
    model = small_model("dream", dtype, n_layers=1, n_kv_heads=kv_heads, seed=3)
    generator = torch.Generator().manual_seed(0)
    batches = []
    for lengths in ((7, 4), (3, 6)):
        mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
        hidden = torch.randn(*mask.shape, d, generator=generator, dtype=dtype)
        hidden[..., ::7] *= 8
        weights = (torch.rand(mask.shape, generator=generator) + 0.2) * mask
        cos, sin = rotary_angles(mask.shape[1], HEAD_DIM, 1e4, hidden)
        batches.append(BlockBatch(hidden, cos, sin, mask[:, None, None], weights.to(dtype)))
    block = model.blocks[0]
    with torch.no_grad():
        for norm in (block.attention_norm, block.ffn_norm):
            norm.weight.copy_(torch.rand(d, generator=generator) + 0.5)
            norm.weight[3] *= 20
    return block, batches


def attend(weights, biases, x, batch, heads, round_input):
    """One request and head at a time; `round_input` is Q for the inputs of q, k and v."""
    x = round_input(x)
    projected = [F.linear(x, w, b) for w, b in zip(weights, biases, strict=True)]
    result = torch.zeros(*x.shape[:2], HEADS * HEAD_DIM, dtype=x.dtype)
    for r in range(len(x)):
        length = int(batch.mask[r].sum())
        for h in range(HEADS):
            mine, shared = (
                slice(i * HEAD_DIM, (i + 1) * HEAD_DIM) for i in (h, h // (HEADS // heads))
            )
            q = apply_rotary(projected[0][r : r + 1, None, :, mine], batch.cos, batch.sin)[0, 0]
            k = apply_rotary(projected[1][r : r + 1, None, :, shared], batch.cos, batch.sin)[0, 0]
            scores = (q @ k[:length].T / HEAD_DIM**0.5).softmax(-1)
            result[r, :, mine] = scores @ projected[2][r, :length, shared]
    return result


def stages(block, batch, kv_heads):
    """The full-precision input of each group, and its inspected module by hand."""
    w = {name: block.get_submodule(name).weight for name in LINEARS}
    biases = [block.get_submodule(name).bias for name in LINEARS[:3]]
    qkv = block.attention_norm(batch.hidden)

    def attention(weights, x, quantize):
        return F.linear(attend(weights, biases, x, batch, kv_heads, quantize), w["o_proj"])

    def plain(weights, x, quantize):
        return F.linear(quantize(x), weights[0])

    def feed_forward(weights, x, quantize):
        x = quantize(x)
        return F.linear(F.silu(x @ weights[0].T) * (x @ weights[1].T), w["down_proj"])

    mixed = attend([w[n] for n in LINEARS[:3]], biases, qkv, batch, kv_heads, lambda x: x)
    ffn = block.ffn_norm(batch.hidden + mixed @ w["o_proj"].T)
    inner = F.silu(ffn @ w["gate_proj"].T) * (ffn @ w["up_proj"].T)
    return zip((qkv, mixed, ffn, inner), (attention, plain, feed_forward, plain), strict=True)


def rounded(x, quantizer, keep=None):
    return x if quantizer is None else fake_quantize(x, quantizer, keep)


def brute_losses(block, batches, group, kv_heads, weight, activation):
    """The weighted mean squared error of the group's inspected output, for every ratio."""
    names = GROUPS[group]
    weights = [block.get_submodule(name).weight for name in names]
    seen = [list(stages(block, batch, kv_heads))[group] for batch in batches]
    tokens = [
        x[r, t].abs()
        for (x, _), batch in zip(seen, batches, strict=True)
        for r in range(len(x))
        for t in range(x.shape[1])
        if batch.weights[r, t] > 0
    ]
    magnitude = sum(tokens) / len(tokens)
    losses = []
    for ratio in RATIOS:
        s = magnitude**ratio
        s = s / (s.max() * s.min()) ** 0.5
        total = count = 0.0
        for (x, run), batch in zip(seen, batches, strict=True):
            keep = batch.mask[:, 0, 0, :, None]
            expected = run(weights, x, lambda y: y)
            actual = run(
                [rounded(w * s, weight) for w in weights],
                x / s,
                lambda y, keep=keep: rounded(y, activation, keep),
            )
            error = (actual - expected).square().mean(-1)
            total += float((error * batch.weights).sum())
            count += float(batch.weights.sum())
        losses.append(total / count)
    return losses


def scale_by_hand(block, batches, found, kv_heads=HEADS):
    """Apply one scale of a report; no clipping."""
    g = GROUPS.index(found.layers)
    inputs = [list(stages(block, batch, kv_heads))[g][0] for batch in batches]
    counted = [x[b.weights > 0] for x, b in zip(inputs, batches, strict=True)]
    s = scale_of(torch.cat(counted).abs().mean(0), found.ratio)
    source = (block.attention_norm, block.v_proj, block.ffn_norm, block.up_proj)[g]
    source.weight.div_(s if g in (0, 2) else s[:, None])
    if g == 1:
        source.bias.div_(s)
    for name in GROUPS[g]:
        block.get_submodule(name).weight.mul_(s)


def close(actual, expected, **tolerance):
    torch.testing.assert_close(actual, expected, **tolerance)


@pytest.mark.parametrize(("pair", "kv_heads"), [*((pair, 4) for pair in PAIRS), (PAIRS[0], 2)])
@torch.no_grad()
def test_the_chosen_ratio_is_the_brute_force_argmin_of_each_group_in_turn(pair, kv_heads):
    block, batches = make(kv_heads)
    by_hand = copy.deepcopy(block)
    report = awq_block(block, batches, *pair)
    searched = [g for g in range(4) if g != 1 or kv_heads == HEADS]
    assert [found.layers for found in report.scales] == [GROUPS[g] for g in searched]
    expected_skips = () if kv_heads == HEADS else ("v_proj -> o_proj: 16 outputs for 32 inputs",)
    assert report.skipped == expected_skips
    for g, found in zip(searched, report.scales, strict=True):
        losses = brute_losses(by_hand, batches, g, kv_heads, *pair)
        assert found.losses == pytest.approx(losses, rel=1e-6)
        assert found.ratio == RATIOS[losses.index(min(losses))]
        scale_by_hand(by_hand, batches, found, kv_heads)
    assert any(found.ratio > 0 for found in report.scales)
    for name in LINEARS[:2]:  # the others are clipped besides
        close(block.get_submodule(name).weight, by_hand.get_submodule(name).weight)


@pytest.mark.parametrize(
    ("kv_heads", "dtype"), [(4, torch.float32), (2, torch.float64), (1, torch.float64)]
)
@torch.no_grad()
def test_scaling_keeps_the_function(kv_heads, dtype, monkeypatch):
    block, batches = make(kv_heads, dtype)
    originals = [batch.run(block) for batch in batches]
    weights = copy.deepcopy(block.state_dict())
    monkeypatch.setattr("dllmquant_exp.quantization.awq._CLIPPED", ())  # scaled only
    awq_block(block, batches, WEIGHT, TOKEN)
    assert not torch.equal(block.q_proj.weight, weights["q_proj.weight"])
    for batch, original in zip(batches, originals, strict=True):
        keep = batch.weights > 0
        difference = (batch.run(block) - original)[keep].norm() / original[keep].norm()
        assert float(difference) < (1e-5 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("pair", PAIRS)
@torch.no_grad()
def test_clipping_is_the_brute_force_argmin_of_each_channel(pair):
    weight, activation = pair
    block, batches = make()
    scaled = copy.deepcopy(block)
    report = awq_block(block, batches, *pair)
    for found in report.scales:
        scale_by_hand(scaled, batches, found)
    assert [clip.layer for clip in report.clips] == list(LINEARS[2:])
    for clip in report.clips:
        w = scaled.get_submodule(clip.layer).weight
        group = next(g for g in range(4) if clip.layer in GROUPS[g])
        losses = torch.zeros(len(CLIP_RATIOS), len(w), dtype=w.dtype)
        tokens = 0
        for batch in batches:
            x = list(stages(scaled, batch, HEADS))[group][0]
            x_rounded = rounded(x, activation, batch.mask[:, 0, 0, :, None])
            for i, ratio in enumerate(CLIP_RATIOS):
                wq = fake_quantize(clipped(w, weight, ratio), weight)
                error = (x_rounded @ wq.T - x @ w.T).square()
                losses[i] += (error * batch.weights[..., None]).sum((0, 1))
            tokens += int((batch.weights > 0).sum())
        losses /= tokens
        if weight.granularity == "per_tensor":
            best = losses.sum(1).argmin().expand(len(w))
        else:
            best = losses.argmin(0)
        expected = torch.stack(
            [clipped(w, weight, CLIP_RATIOS[i])[row] for row, i in enumerate(best.tolist())]
        )
        close(block.get_submodule(clip.layer).weight, expected, rtol=1e-9, atol=1e-12)
        after = losses[best, torch.arange(len(w))].sum()
        assert clip.loss_before == pytest.approx(float(losses[0].sum()), rel=1e-6)
        assert clip.loss_after == pytest.approx(float(after), rel=1e-6)
        assert clip.loss_after <= clip.loss_before
        assert clip.clipped_channels == pytest.approx(float((best > 0).double().mean()))
    assert any(clip.clipped_channels > 0 for clip in report.clips)


@torch.no_grad()
def test_clipping_keeps_rounding_consistent():
    """Rounding a clipped weight anew is rounding the weight on the clipped range."""
    w = torch.randn(6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for granularity in ("per_channel", "per_tensor"):
        for grid in ("full_range", "restricted", "max_over_7"):
            quantizer = Quantizer(4, True, granularity, grid=grid)
            for ratio in CLIP_RATIOS:
                direct = fake_quantize(w, replace(quantizer, clip_ratio=ratio))
                anew = fake_quantize(clipped(w, quantizer, ratio), quantizer)
                # A clipped weight has no values beyond its range to put on -8, except by a tie
                # on the full_range grid.
                lowest = direct <= -8 * parameters(w, quantizer).scale * ratio * (1 - 1e-9)
                close(anew[~lowest], direct[~lowest])
                assert not bool(lowest.any()) or grid != "restricted"
    assert torch.equal(clipped(w, WEIGHT, 1.0), w)


@torch.no_grad()
def test_padding_and_splitting_into_batches_have_no_influence():
    block, batches = make()
    dirty, single = copy.deepcopy(block), copy.deepcopy(block)
    report = awq_block(block, batches, *PAIRS[2])
    filled = [
        replace(b, hidden=torch.where(b.weights[..., None] > 0, b.hidden, 50 + b.hidden))
        for b in batches
    ]
    other = awq_block(dirty, filled, *PAIRS[2])
    rows = []
    for b in batches:
        for r in range(2):
            n = int(b.mask[r].sum())
            hidden, weights = b.hidden[r, None, :n], b.weights[r, None, :n]
            rows.append(BlockBatch(hidden, b.cos[:n], b.sin[:n], None, weights))
    alone = awq_block(single, rows, *PAIRS[2])
    for changed, found in ((dirty, other), (single, alone)):
        assert [s.ratio for s in found.scales] == [s.ratio for s in report.scales]
        for a, b in zip(found.scales, report.scales, strict=True):
            assert a.losses == pytest.approx(b.losses, rel=1e-6)
        for name in LINEARS:
            close(changed.get_submodule(name).weight, block.get_submodule(name).weight)


@torch.no_grad()
def test_only_the_proportions_of_the_token_weights_matter_and_they_do_matter():
    block, batches = make()
    tripled, uniform = copy.deepcopy(block), copy.deepcopy(block)
    report = awq_block(block, batches, *PAIRS[0])
    same = awq_block(tripled, [replace(b, weights=3 * b.weights) for b in batches], *PAIRS[0])
    ones = [replace(b, weights=(b.weights > 0).to(b.weights)) for b in batches]
    other = awq_block(uniform, ones, *PAIRS[0])
    for a, b, c in zip(report.scales, same.scales, other.scales, strict=True):
        assert a.losses == pytest.approx(b.losses, rel=1e-9)
        assert a.losses != pytest.approx(c.losses, rel=1e-3)


@torch.no_grad()
def test_an_input_that_is_always_zero_keeps_scale_one():
    s = scale_of(torch.tensor([0.0, 4.0, 1.0]), 0.5)
    close(s, torch.tensor([1.0, 2**0.5, 0.5**0.5]))
    assert scale_of(torch.zeros(3), 0.5).tolist() == [1, 1, 1]
    assert scale_of(torch.tensor([0.0, 4.0, 1.0]), 0.0).tolist() == [1, 1, 1]


@torch.no_grad()
def test_the_report_fits_a_result_file_and_the_block_is_plain():
    block, batches = make(dtype=torch.bfloat16)
    report = awq_block(block, batches, *PAIRS[0])
    assert json.loads(json.dumps(asdict(report)))["clips"][0]["layer"] == "v_proj"
    for name in LINEARS:
        linear = block.get_submodule(name)
        assert type(linear) is torch.nn.Linear
        assert linear.weight.dtype == torch.bfloat16
        assert not linear._forward_pre_hooks


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor", "per_group"])
@torch.no_grad()
def test_plain_rounding_afterwards_finds_the_ranges_of_the_clip_search(granularity):
    """q and k, which AWQ does not clip; everything else as if there were no clip search."""
    size = 8 if granularity == "per_group" else None
    plain = replace(WEIGHT, granularity=granularity, group_size=size)
    searching = replace(plain, clip_search=2.4)
    (with_search, batches), (without, _) = make(), make()
    report = awq_block(with_search, batches, searching, TOKEN)
    assert report == awq_block(without, batches, plain, TOKEN)
    for name in LINEARS:
        weight, unlimited = (b.get_submodule(name).weight for b in (with_search, without))
        if name in ("q_proj", "k_proj"):
            assert float(weight.abs().sum()) < float(unlimited.abs().sum())
            expected = fake_quantize(unlimited, searching)
            torch.testing.assert_close(fake_quantize(weight, as_clipped(searching)), expected)
        else:
            assert torch.equal(weight, unlimited)


@torch.no_grad()
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_input_is_an_error(value):
    block, batches = make()
    bad = batches[1].hidden.clone()
    bad[0, 0, 0] = value
    with pytest.raises(QuantizationError, match="gives q_proj inputs that are NaN or infinite"):
        awq_block(block, [batches[0], replace(batches[1], hidden=bad)], *PAIRS[0])
    block.o_proj = torch.nn.Identity()
    with pytest.raises(QuantizationError, match="o_proj is a Identity"):
        awq_block(block, batches, *PAIRS[0])
