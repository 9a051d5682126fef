"""Factorizations on one thread, so that their bits do not depend on how many there are."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from dllmquant_exp.models.checkpoints import load_model, load_tokenizer
from dllmquant_exp.models.embedded.outliers import principal_components
from dllmquant_exp.models.one_thread import one_thread
from dllmquant_exp.quantization.gptq import Gptq, gptq
from dllmquant_exp.quantization.quantizers import Quantizer


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_threads_are_as_before_also_after_an_error() -> None:
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 2


def components() -> None:
    name, cpu = "embedded:micro_llada", torch.device("cpu")
    model = load_model(name, dtype=torch.float32, device=cpu)
    with torch.no_grad():
        principal_components(model, load_tokenizer(name))


def rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 8, generator=generator)
    weight = torch.randn(4, 8, generator=generator)
    gptq([weight], x.T @ x, Quantizer(4, True, "per_channel"), Gptq())


@pytest.mark.parametrize(("name", "work"), [("eigh", components), ("cholesky_ex", rounding)])
def test_factors_are_made_by_one(
    name: str, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, function = [], getattr(torch.linalg, name)

    def counted(*args: Any, **named: Any) -> Any:
        threads.append(torch.get_num_threads())
        return function(*args, **named)

    monkeypatch.setattr(torch.linalg, name, counted)
    work()
    assert threads and set(threads) == {1}
