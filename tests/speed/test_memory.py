"""Counted bytes against those of real modules, and against the paper's arithmetic by hand."""

import pytest

from dllmquant_exp.models.checkpoints import random_model
from dllmquant_exp.models.formats import CheckpointError
from dllmquant_exp.models.published_shapes import DREAM_7B, LLADA_8B, published_shape
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.packed import pack_model
from dllmquant_exp.quantization.pipeline import quantize
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.speed import memory
from dllmquant_exp.speed.memory import weight_bytes


def test_16_bits_of_the_published_shapes_are_their_parameters_times_two():
    assert weight_bytes(LLADA_8B, 16, 16, 16) == 2 * 8_015_581_184
    assert weight_bytes(DREAM_7B, 16, 16, 16) == 2 * 7_615_616_512


def test_4_bits_of_llada_by_hand():
    linears = 32 * (4 * 4096 * 4096 + 3 * 4096 * 12288)
    outputs = 32 * (5 * 4096 + 2 * 12288)
    norms, table = 65 * 4096, 126464 * 4096
    expected = linears // 2 + 8 * outputs + 2 * norms
    assert weight_bytes(LLADA_8B, 4, 16, 16) == expected + 4 * table
    one_in_bytes = expected + 3 * table + 4 * 126464
    assert weight_bytes(LLADA_8B, 4, 8, 16) == weight_bytes(LLADA_8B, 4, 16, 8) == one_in_bytes
    assert weight_bytes(LLADA_8B, 4, 8, 8) == expected + 2 * table + 8 * 126464


def test_the_savings_that_table_4_is_about():
    whole = weight_bytes(LLADA_8B, 16, 16, 16)
    assert whole / weight_bytes(LLADA_8B, 4, 8, 16) >= 3.15
    assert whole / weight_bytes(LLADA_8B, 4, 8, 8) >= 3.5


@pytest.mark.parametrize("shape", [{}, {"architecture": "dream", "n_kv_heads": 2}])
@pytest.mark.parametrize("bits", [(16, 16), (8, 16), (16, 8), (8, 8)])
def test_counted_bytes_are_those_of_a_packed_model(config, shape, bits):
    config = config(**shape)
    model = random_model(config, seed=0).bfloat16()
    rtn = Method("rtn", {"round": Nearest()})
    quantize(model, rtn, QuantSettings(head_bits=bits[0], embedding_bits=bits[1]))
    pack_model(model)
    assert weight_bytes(config, 4, *bits) == memory.held_bytes(model)


def test_full_precision_counted_and_held(config):
    model = random_model(config(), seed=0).bfloat16()
    assert weight_bytes(config(), 16, 16, 16) == memory.held_bytes(model)


def test_a_shape_that_nobody_wrote_down():
    assert published_shape("GSAI-ML/LLaDA-1.5") == LLADA_8B
    with pytest.raises(CheckpointError, match="some/where: its shape is not known"):
        published_shape("some/where")
