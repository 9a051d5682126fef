"""Embedding and head in bytes: their arithmetic, in every type, in pieces, and inside a model."""

import copy

import numpy as np
import pytest
import torch
from small_models import small_model

from dllmquant_exp.quantization import embeddings
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.packed import PackedLinear, pack_model
from dllmquant_exp.quantization.pipeline import quantize
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.quantizers import QuantizedWeight
from dllmquant_exp.quantization.rotation import Rotation

RTN = Method("rtn", {"round": Nearest()})
ROTATED = Method("quarot_rtn", {"rotation": Rotation(), "round": Nearest()})


def weight(vocabulary=50, d=24):
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(-128, 128, (vocabulary, d), generator=generator, dtype=torch.int8)
    return QuantizedWeight(numbers, 0.01 + torch.rand(vocabulary, 1, generator=generator) / 100)


@pytest.mark.parametrize("at_once", [1, 24 * 7, 2**22])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_head_is_the_product_with_its_values(dtype, at_once, monkeypatch):
    monkeypatch.setattr(embeddings, "_AT_ONCE", at_once)
    made = weight()
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1)).to(dtype)
    y = embeddings.QuantizedHead(made, dtype)(x)
    values = made.numbers.numpy().astype(np.float64) * made.scale.numpy().astype(np.float64)
    expected = torch.from_numpy(x.double().numpy() @ values.T)
    assert (y.shape, y.dtype) == ((2, 5, 50), dtype)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)


def test_a_row_of_the_embedding_is_its_numbers_times_its_scale():
    made = weight()
    tokens = torch.tensor([[3, 3, 49], [0, 7, 12]])
    found = embeddings.QuantizedEmbedding(made, torch.float32)(tokens)
    for (b, t), token in np.ndenumerate(tokens.numpy()):
        expected = made.numbers[token].float() * made.scale[token]
        assert torch.equal(found[b, t], expected)


@pytest.mark.parametrize("method", [RTN, ROTATED], ids=["rtn", "rotated"])
@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_packed_execution_has_the_same_ends(architecture, method):
    fake = small_model(architecture)
    quantize(fake, method, QuantSettings(head_bits=8, embedding_bits=8))
    packed = copy.deepcopy(fake)
    pack_model(packed)
    assert any(isinstance(module, PackedLinear) for module in packed.modules())
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    tokens = torch.arange(61)[None]
    assert torch.equal(packed.embedding(tokens), fake.embedding(tokens))
    assert torch.equal(packed.head(x), fake.head(x))
    if method is RTN:  # an online rotation rounds elsewhere, see packed.py
        assert torch.equal(packed(tokens), fake(tokens))
    sizes = [module.numbers.nbytes for module in (packed.embedding, packed.head)]
    assert sizes == [61 * 32, 61 * 32]


@pytest.mark.parametrize("method", [RTN, ROTATED], ids=["rtn", "rotated"])
def test_eight_bits_move_the_logits_by_little(method):
    settings = QuantSettings(weight_bits=16, activation_bits=16, head_bits=8, embedding_bits=8)
    model = small_model("dream", torch.float64)
    tokens = torch.arange(61)[None]
    exact = model(tokens)
    quantize(model, method, settings)
    change = float((model(tokens) - exact).norm() / exact.norm())
    assert 1e-4 < change < 0.02
