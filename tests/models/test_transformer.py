"""The transformer against the loop-and-einsum reference of conftest.py, in float64."""

import os
import subprocess
import sys

import pytest
import torch

from dllmquant_exp.models.checkpoints import random_model
from dllmquant_exp.models.transformer import LANES, Transformer, TransformerConfig, whole_lanes

ARCHITECTURES = ("llada", "dream")
REAL = {
    "llada": TransformerConfig(
        architecture="llada",
        d_model=4096,
        n_layers=32,
        n_heads=32,
        n_kv_heads=32,
        d_ffn=12288,
        vocab_size=126464,
        max_length=4096,
        rope_theta=500_000.0,
        norm_eps=1e-5,
        mask_token_id=126336,
        eos_token_id=126081,
        pad_token_id=126081,
    ),
    "dream": TransformerConfig(
        architecture="dream",
        d_model=3584,
        n_layers=28,
        n_heads=28,
        n_kv_heads=4,
        d_ffn=18944,
        vocab_size=152064,
        max_length=131072,
        rope_theta=1_000_000.0,
        norm_eps=1e-6,
        mask_token_id=151666,
        eos_token_id=151643,
        pad_token_id=151643,
    ),
}


def rows_of(config, lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(config.vocab_size, (n,), generator=generator).tolist() for n in lengths]


def padded(rows, pad):
    length = max(map(len, rows))
    tokens = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
    return tokens, mask


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_matches_the_reference(
    architecture, kv_heads, small_shape, official_tensors, reference_logits
):
    config = small_shape(architecture, n_kv_heads=kv_heads)
    model = random_model(config, seed=kv_heads).double()
    (row,) = rows_of(config, [9])
    expected = reference_logits(official_tensors(model), config, row)
    actual = model(torch.tensor([row]))[0]
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padded_batch_matches_the_reference_row_by_row(
    architecture, small_shape, official_tensors, reference_logits
):
    config = small_shape(architecture)
    model = random_model(config).double()
    rows = rows_of(config, [7, 1, 4, 10])
    tokens, mask = padded(rows, config.pad_token_id)
    logits = model(tokens, mask)
    for i, row in enumerate(rows):
        expected = reference_logits(official_tensors(model), config, row)
        torch.testing.assert_close(logits[i, : len(row)], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_stands_in_the_padding_changes_no_bit(architecture, dtype, small_shape):
    config = small_shape(architecture)
    model = random_model(config).to(dtype)
    tokens, mask = padded(rows_of(config, [7, 3, 5]), config.pad_token_id)
    other = torch.where(mask, tokens, (tokens + 17) % config.vocab_size)
    assert torch.equal(model(tokens, mask, mask), model(other, mask, mask))


def products_are_steady(model):
    """Whether a row's products have the same bits among few rows and among many.

    With MKL in strict mode they do, from AVX2 on; which other libraries do is theirs to say.
    """
    for linear in filter(lambda m: isinstance(m, torch.nn.Linear), model.modules()):
        generator = torch.Generator().manual_seed(linear.in_features)
        x = torch.randn(92, linear.in_features, generator=generator, dtype=linear.weight.dtype)
        for rows in (1, 2, 3, 5, 7, 11, 16, 23, 37):
            if not torch.equal(linear(x[:rows]), linear(x)[:rows]):
                return False
    return True


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_row_has_the_same_bits_alone_and_in_any_batch(architecture, dtype, small_shape):
    config = small_shape(architecture, d_ffn=64)  # whole vectors, as in every published shape
    model = random_model(config).to(dtype)
    rows = rows_of(config, [23, 1, 37, 16, 15])
    alone = [model(torch.tensor([row]))[0] for row in rows]
    tolerance = 0 if products_are_steady(model) else 1e-5
    for batch in (rows, rows[:2], rows[3:], rows[::-2]):
        tokens, mask = padded(batch, config.pad_token_id)
        for row, found in zip(batch, model(tokens, mask), strict=True):
            expected = alone[rows.index(row)]
            torch.testing.assert_close(found[: len(row)], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("length", [1, 15, 16, 17])
def test_keys_are_masked_up_to_whole_lanes_on_the_cpu_alone(length):
    k, v = torch.randn(2, 3, 2, length, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(length) < torch.tensor([length, 1, 0])[:, None, None, None]
    for given in (None, mask):
        keys, values, there = whole_lanes(k, v, given)
        assert keys.shape == values.shape == (3, 2, -(-length // LANES) * LANES, 4)
        assert torch.equal(keys[:, :, :length], k) and not keys[:, :, length:].any()
        assert torch.equal(values[:, :, :length], v) and not values[:, :, length:].any()
        if length == LANES:
            assert there is given
        else:
            expected = torch.ones_like(mask[:1]) if given is None else given
            assert torch.equal(there[..., :length], expected) and not there[..., length:].any()
    elsewhere = k.to("meta"), v.to("meta"), None
    assert all(a is b for a, b in zip(whole_lanes(*elsewhere), elsewhere, strict=True))


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "AUTO,STRICT"), ({"MKL_CBWR": "COMPATIBLE"}, "COMPATIBLE")]
)
def test_mkl_is_told_to_keep_the_order_of_its_sums_unless_it_was_told_before(given, expected):
    script = "import os, dllmquant_exp; print(os.environ['MKL_CBWR'])"
    environment = {k: v for k, v in os.environ.items() if k != "MKL_CBWR"} | given
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
    assert done.stdout.decode().strip() == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_positions_select_rows_of_the_full_logits_in_row_major_order(architecture, small_shape):
    config = small_shape(architecture)
    model = random_model(config).double()
    tokens, mask = padded(rows_of(config, [6, 4]), config.pad_token_id)
    positions = torch.tensor([[1, 0, 0, 1, 0, 1], [1, 1, 0, 1, 0, 0]], dtype=torch.bool)
    full = model(tokens, mask)
    asked = model(tokens, mask, positions)
    by_hand = [full[0, 0], full[0, 3], full[0, 5], full[1, 0], full[1, 1], full[1, 3]]
    torch.testing.assert_close(asked, torch.stack(by_hand), rtol=0, atol=1e-12)
    assert model(tokens, mask, torch.zeros_like(mask)).shape == (0, config.vocab_size)


def test_dream_predicts_a_position_from_the_one_before(small_shape):
    config = small_shape("dream")
    model = random_model(config).double()
    tokens = torch.tensor(rows_of(config, [5]))
    unshifted = model.head(model.final_norm(model.hidden(tokens)))[0]
    aligned = model(tokens)[0]
    torch.testing.assert_close(aligned[1:], unshifted[:-1], rtol=0, atol=1e-12)
    torch.testing.assert_close(aligned[0], unshifted[0], rtol=0, atol=1e-12)


def test_llada_predicts_a_position_at_itself(small_shape):
    config = small_shape("llada")
    model = random_model(config).double()
    tokens = torch.tensor(rows_of(config, [5]))
    unshifted = model.head(model.final_norm(model.hidden(tokens)))
    torch.testing.assert_close(model(tokens), unshifted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attention_looks_both_ways(architecture, small_shape):
    config = small_shape(architecture)
    model = random_model(config).double()
    (row,) = rows_of(config, [8])
    for changed in (0, 7):
        other = list(row)
        other[changed] = (row[changed] + 1) % config.vocab_size
        difference = (model(torch.tensor([row])) - model(torch.tensor([other])))[0].abs().amax(-1)
        assert bool((difference > 1e-6).all())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_types_on_the_cpu_stay_close_to_float64(architecture, dtype, small_shape):
    config = small_shape(architecture)
    model = random_model(config)
    tokens, mask = padded(rows_of(config, [12, 5]), config.pad_token_id)
    model = model.to(dtype)  # the rounded weights, so that only the arithmetic differs
    logits = model(tokens, mask, mask)
    expected = model.double()(tokens, mask, mask)
    assert logits.dtype == dtype
    error = (logits.double() - expected).norm() / expected.norm()
    assert float(error) < {torch.bfloat16: 0.02, torch.float16: 0.003, torch.float32: 1e-6}[dtype]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cuda_matches_the_cpu(architecture, small_shape):
    config = small_shape(architecture)
    model = random_model(config).double()
    tokens, mask = padded(rows_of(config, [12, 5]), config.pad_token_id)
    expected = model(tokens, mask, mask)
    actual = model.cuda()(tokens.cuda(), mask.cuda(), mask.cuda()).cpu()
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("architecture", "parameters"), [("llada", 8_015_581_184), ("dream", 7_615_616_512)]
)
def test_real_shapes_on_the_meta_device(architecture, parameters):
    config = REAL[architecture]
    with torch.device("meta"):
        model = Transformer(config).bfloat16()
        logits = model(torch.zeros(2, 16, dtype=torch.long))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert logits.shape == (2, 16, config.vocab_size)
    assert logits.dtype == torch.bfloat16
    assert config.head_dim == 128


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"d_model": 30}, "d_model = 30"),
        ({"d_model": 12, "n_heads": 4}, "even head_dim"),
        ({"n_kv_heads": 3}, "n_kv_heads = 3"),
        ({"n_layers": 0}, "n_layers = 0"),
        ({"mask_token_id": 61}, "mask_token_id = 61"),
        ({"eos_token_id": -1}, "eos_token_id = -1"),
    ],
)
def test_impossible_shapes_are_named(change, named, small_shape):
    with pytest.raises(ValueError, match=named):
        small_shape("llada", **change)
