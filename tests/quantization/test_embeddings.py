"""Embedding and head in bytes: their arithmetic, in every type and in pieces."""

import numpy as np
import pytest
import torch

from dllmquant_exp.quantization import embeddings
from dllmquant_exp.quantization.quantizers import QuantizedWeight


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
