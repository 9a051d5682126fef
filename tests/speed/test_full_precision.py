"""Forms of full precision: the same results, and none that is emulated."""

import pytest
import torch

from dllmquant_exp.speed import full_precision
from dllmquant_exp.speed.full_precision import PrepackedLinear, candidates, prepack


@pytest.mark.parametrize("form", candidates())
def test_prepacked_linears_compute_the_same(form):
    torch.manual_seed(0)
    block = torch.nn.Sequential(torch.nn.Linear(48, 96), torch.nn.SiLU(), torch.nn.Linear(96, 7))
    block = block.to(full_precision.dtype_of(form))
    x = torch.randn(5, 48).to(full_precision.dtype_of(form))
    expected = block(x)
    torch.testing.assert_close(prepack(block, form, 5)(x), expected, rtol=2e-2, atol=2e-2)
    packed = [m for m in block.modules() if isinstance(m, PrepackedLinear)]
    assert len(packed) == (2 if form.endswith("packed") else 0)


@pytest.mark.skipif("float32 MKL packed" not in candidates(), reason="torch without MKL")
def test_a_weight_that_mkl_packed_is_for_one_number_of_rows():
    layer = PrepackedLinear(torch.nn.Linear(48, 31), 6, by_mkl=True)
    assert layer(torch.randn(2, 3, 48)).shape == (2, 3, 31)
    with pytest.raises(ValueError, match="for 6 rows"):
        layer(torch.randn(5, 48))


def test_emulated_types_are_no_yardstick(monkeypatch):
    monkeypatch.setattr(full_precision, "native_bfloat16", lambda: False)
    assert set(candidates()) <= {"float32", "float32 packed", "float32 MKL packed"}
    monkeypatch.setattr(full_precision, "native_bfloat16", lambda: True)
    assert "bfloat16" in candidates()
