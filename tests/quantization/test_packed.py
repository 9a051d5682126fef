"""Packed layers against fake-quantized ones, bit for bit, and packed bytes against loops."""

import copy
import pickle

import pytest
import torch
from small_models import VOCABULARY, padded_tokens, small_model
from torch import nn

from dllmquant_exp.quantization import packed as packed_module
from dllmquant_exp.quantization.blockwise import TokenBatch
from dllmquant_exp.quantization.gptq import Gptq
from dllmquant_exp.quantization.hadamard import OnlineHadamard
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.kernels import fast_hadamard
from dllmquant_exp.quantization.kernels.fast_hadamard import rotated
from dllmquant_exp.quantization.kernels.layout import pack, unpack
from dllmquant_exp.quantization.linear import Padding, QuantizedLinear
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.packed import pack_linear, pack_model
from dllmquant_exp.quantization.pipeline import BLOCK_LINEARS, quantize
from dllmquant_exp.quantization.quant_settings import AttentionSettings, QuantSettings
from dllmquant_exp.quantization.quantizers import (
    Parameters,
    QuantizationError,
    QuantizedWeight,
    Quantizer,
    parameters,
    to_integers,
)
from dllmquant_exp.quantization.rotation import Rotation

A4 = Quantizer(4, False, "per_token")
STATIC = Quantizer(8, False, "per_tensor")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def on_grid(outputs, inputs, groups=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(-8, 8, (outputs, inputs), generator=generator)
    scale = 0.01 + 0.01 * torch.rand(outputs, groups, generator=generator)
    return QuantizedWeight(numbers.to(torch.int8), scale)


def layer(outputs=70, inputs=100, activation=A4, bias=True, **options):
    made = random(outputs, seed=1) if bias else None
    return QuantizedLinear(on_grid(outputs, inputs), made, activation, **options)


@pytest.fixture(params=["kernels", "reference"])
def execution(request, monkeypatch):
    if request.param == "reference":
        monkeypatch.setattr(packed_module, "kernels", lambda: None)
        monkeypatch.setattr(fast_hadamard, "kernels", lambda: None)
    elif packed_module.kernels() is None:
        pytest.skip("no C compiler or no AVX2 here")
    return request.param


def test_two_weights_per_byte_in_the_order_of_the_header():
    numbers = on_grid(70, 130).numbers
    found = pack(numbers)
    assert found.shape == (128 // 16, 192 // 4, 32)
    assert found.dtype == torch.uint8
    padded = torch.zeros(128, 192, dtype=torch.int64)
    padded[:70, :130] = numbers
    read, written = found.tolist(), padded.tolist()
    for panel in range(8):
        for n in range(8):
            for k in range(192):
                byte = read[panel][k // 4][4 * n + k % 4]
                assert byte & 15 == written[16 * panel + n][k] + 8
                assert byte >> 4 == written[16 * panel + 8 + n][k] + 8
    assert torch.equal(unpack(found, 70, 130), numbers)


@pytest.mark.parametrize("shape", [(1, 1), (16, 4), (15, 3), (65, 63), (64, 512)])
def test_unpacking_gives_back_the_numbers(shape):
    numbers = on_grid(*shape).numbers
    assert torch.equal(unpack(pack(numbers), *shape), numbers)
    if shape == (64, 512):
        assert pack(numbers).numel() == 64 * 512 / 2  # half a byte per weight


def test_more_than_4_bits_do_not_fit():
    with pytest.raises(QuantizationError, match=r"from -8 to 8 do not fit into 4 bits.*=fake"):
        pack(torch.tensor([[-8, 8]]))


ACTIVATIONS = [
    A4,
    Quantizer(8, False, "per_token"),
    Quantizer(4, True, "per_token"),
    Quantizer(8, True, "per_token", grid="max_over_7"),
    Quantizer(4, False, "per_token", clip_ratio=0.9),
    Quantizer(4, False, "per_token", clip_search=2.0),
    Quantizer(4, False, "per_request"),
    Quantizer(8, True, "per_tensor"),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_a_packed_layer_is_its_fake_quantized_twin(execution, activation):
    x = random(3, 21, 100, seed=2)
    for bias, dtype in ((True, torch.float32), (False, torch.float32), (False, torch.bfloat16)):
        fake = layer(activation=activation, bias=bias, dtype=dtype)
        twin = pack_linear(fake)
        for given in (x, x[0, 0]):  # also without a batch
            assert torch.equal(twin(given.to(dtype)), fake(given.to(dtype)))
        for shape in ((0, 100), (2, 0, 100), (0, 3, 100)):  # nothing gives nothing
            for found in (fake, twin):
                y = found(torch.zeros(shape, dtype=dtype))
                assert y.shape == (*shape[:-1], 70) and y.dtype == dtype


def test_static_ranges(execution):
    measured = Parameters(torch.tensor(0.02), torch.tensor(130.0))
    fake = layer(activation=STATIC, measured=measured)
    twin, x = pack_linear(fake), random(3, 21, 100, seed=2)
    x[0, 0, 0], x[1, 1, 1] = torch.inf, -1e30  # beyond the range, which clamps
    assert torch.equal(twin(x), fake(x))
    assert twin(x[:0]).shape == (0, 21, 70)
    x[2, 2, 2] = torch.nan  # has no number; the token's outputs are NaN as well
    torch.testing.assert_close(twin(x), fake(x), rtol=0, atol=0, equal_nan=True)
    assert twin(x).isnan().any(-1).sum() == 1


def test_padding_does_not_count_for_a_request(execution):
    padding = Padding()
    padding.keep = torch.arange(21)[None, :, None] < torch.tensor([21, 9, 4])[:, None, None]
    fake = layer(activation=Quantizer(4, False, "per_request"), padding=padding)
    x = torch.where(padding.keep, random(3, 21, 100, seed=2), torch.tensor(100.0))
    assert torch.equal(pack_linear(fake)(x), fake(x))


def test_any_memory_layout(execution):
    fake = layer()
    twin, x = pack_linear(fake), random(64, 200, seed=2)
    views = [
        x[:, ::2],
        x[::3, :100],
        x[:, 50:150],
        x.T[:, :50].repeat(1, 2),
        x[:1, :100].expand(9, -1),
    ]
    views.append(x[:50].reshape(100, 100).T)
    for view in views:
        assert torch.equal(twin(view), fake(view))
    assert torch.equal(twin(x[:, :100].requires_grad_()), fake(x[:, :100]))


@pytest.mark.parametrize(("bits", "bias"), [(4, True), (8, False)])
def test_bfloat16_is_rounded_once(execution, bits, bias):
    activation = Quantizer(bits, False, "per_token")
    fake = layer(256, 2048, activation, bias, dtype=torch.bfloat16)
    if bias:
        fake.bias = fake.bias.bfloat16()
    x = random(64, 2048, seed=2).bfloat16()
    y = fake(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(pack_linear(fake)(x), y)
    measured = parameters(x, activation)
    integers = to_integers(x, activation, measured) - measured.zero
    sums = integers.long() @ fake.numbers.long().T
    assert sums.abs().max() > 256  # has no place in bfloat16
    exact = (sums.float() * fake.weight_scale[:, 0] * measured.scale).bfloat16()
    assert torch.equal(y, exact + fake.bias if bias else exact)


def test_narrow_types_are_converted(execution):
    fake = copy.deepcopy(layer()).to(torch.bfloat16)
    fake.activation = Quantizer(8, False, "per_token")
    twin, x = pack_linear(fake), random(30, 100, seed=2).bfloat16()
    y = twin(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, fake(x))
    cast = pack_linear(layer(activation=fake.activation)).to(torch.bfloat16)
    assert torch.equal(cast(x), y)
    assert torch.equal(cast.rounded.numbers, on_grid(70, 100).numbers)


NO_RANGE = [((0, 0), torch.nan), ((17, 99), torch.inf), ((4, 31), -torch.inf), ((3, 0), 3e38)]


@pytest.mark.parametrize(("where", "value"), NO_RANGE)
def test_values_without_a_range_are_refused_as_by_the_twin(execution, where, value):
    fake, x = layer(), random(18, 100, seed=2)
    x[3, 1] = -3e38 if value == 3e38 else 0  # their difference overflows
    x[where] = value
    with pytest.raises(QuantizationError) as expected:
        fake(x)
    with pytest.raises(QuantizationError) as found:
        pack_linear(fake)(x)
    assert str(found.value) == str(expected.value)


def test_inputs_that_a_layer_cannot_take(execution):
    twin = pack_linear(layer())
    with pytest.raises(QuantizationError, match="of 100 inputs cannot take 99"):
        twin(random(4, 99))
    with pytest.raises(QuantizationError, match=r"torch\.float64 on cpu"):
        twin(random(4, 100).double())
    with pytest.raises(QuantizationError, match="on meta"):
        twin(random(4, 100).to("meta"))


@pytest.mark.parametrize(("size", "inner"), [(192, 1), (8, 24)])
def test_a_rotation_comes_before_the_quantizer(execution, size, inner):
    rotation = OnlineHadamard(size, inner)
    fake = layer(inputs=192, rotation=rotation)
    x = random(50, 192, seed=2)
    y = pack_linear(fake)(x)
    assert torch.equal(y, pack_linear(layer(inputs=192))(rotated(x, rotation)))
    assert torch.equal(y, fake(x))
    other = layer(inputs=192, rotation=nn.Identity())  # any module will do
    assert torch.equal(pack_linear(other)(x), other(x))
    # Against products of matrices in float64: where a rotated value lies in the middle between two
    # integers, either may be taken; then that token's outputs differ by a step times a weight.
    turned = rotation(x.double()).float()
    step = (turned.amax(1) - turned.amin(1)) / 15
    difference = (y - layer(inputs=192)(turned)).abs().amax(1)
    assert (difference <= 2 * step * 8 * 0.02).all()
    assert (difference < 1e-5).float().mean() > 0.9


def test_copies_pickles_and_state_dicts(execution):
    measured = Parameters(torch.tensor(0.02), torch.tensor(130.0))
    fake = layer(inputs=192, activation=STATIC, measured=measured, rotation=OnlineHadamard(192))
    twin, x = pack_linear(fake), random(20, 192, seed=2)
    y = twin(x)
    other = pack_linear(
        QuantizedLinear(
            on_grid(70, 192, seed=5),
            torch.zeros(70),
            STATIC,
            measured=Parameters(torch.tensor(1.0), torch.tensor(0.0)),
            rotation=OnlineHadamard(192),
        )
    )
    assert not torch.equal(other(x), y)
    other.load_state_dict(twin.state_dict())
    for found in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin)), other):
        assert torch.equal(found(x), y)
    assert torch.equal(twin.weight, fake.weight)
    assert torch.equal(twin.rounded.numbers, on_grid(70, 192).numbers)
    assert twin.extra_repr().startswith("192, 70, activation=")
    assert {name: (t.dtype, t.numel()) for name, t in twin.state_dict().items()} == {
        "packed": (torch.uint8, 128 * 192 // 2),
        "weight_sums": (torch.int32, 70),
        "weight_scale": (torch.float32, 70),
        "bias": (torch.float32, 70),
        "activation_scale": (torch.float32, 1),
        "activation_zero": (torch.float32, 1),
    }


@pytest.mark.parametrize(
    ("fake", "named"),
    [
        (QuantizedLinear(random(8, 8), None, A4), "weight is not quantized.*weight_bits"),
        (QuantizedLinear(on_grid(8, 8)), "activations are not quantized.*activation_bits"),
        (QuantizedLinear(on_grid(8, 8, 2), None, A4), "weight has a scale per group.*=per_channel"),
        (
            QuantizedLinear(
                on_grid(8, 8), None, Quantizer(4, False, "per_group", group_size=4)
            ),
            "activations have a scale per group.*activation_granularity=per_token",
        ),
        (
            QuantizedLinear(
                QuantizedWeight(torch.full((8, 8), 9, dtype=torch.int8), torch.ones(8, 1)), None, A4
            ),
            "from 9 to 9 do not fit into 4 bits",
        ),
        (QuantizedLinear(on_grid(8, 8), None, A4, dtype=torch.float64), "in float64.*float32"),
    ],
)  # fmt: skip
def test_a_layer_that_cannot_be_packed_is_named_and_nothing_is_changed(fake, named):
    model = nn.Sequential(layer(), nn.Sequential(fake))
    with pytest.raises(QuantizationError, match=rf"1\.0 cannot be packed: .*{named}.*=fake"):
        pack_model(model)
    assert type(model[0]) is QuantizedLinear
    assert model[1][0] is fake


def test_a_model_without_quantized_linears():
    with pytest.raises(QuantizationError, match="no quantized linears to pack"):
        pack_model(nn.Sequential(nn.Linear(3, 3)))


@pytest.fixture(params=["llada", "dream"])
def model(request):
    return small_model(request.param, d_model=48, d_ffn=96)


TOKENS, MASK = padded_tokens()
METHODS = {
    "rtn": Method("rtn", {"round": Nearest()}),
    "rotated": Method("quarot_rtn", {"rotation": Rotation(), "round": Nearest()}),
}


@torch.no_grad()
@pytest.mark.parametrize(
    ("method", "bits", "granularity"),
    [("rtn", 4, "per_token"), ("rtn", 8, "per_tensor"), ("rotated", 4, "per_token")],
)
def test_a_packed_model_gives_the_same_logits(execution, model, method, bits, granularity):
    settings = QuantSettings(
        activation_bits=bits, activation_granularity=granularity, head_bits=8, embedding_bits=bits
    )
    quantize(model, METHODS[method], settings)
    expected = model(TOKENS, MASK)
    names = pack_model(model)
    assert names == [f"blocks.{n}.{name}" for n in range(2) for name in BLOCK_LINEARS]
    assert not any(isinstance(m, QuantizedLinear) for m in model.modules())
    assert torch.equal(model(TOKENS, MASK), expected)
    sizes = [module.numbers.nbytes for module in (model.embedding, model.head)]
    assert sizes == [VOCABULARY * 48] * 2


@torch.no_grad()
@pytest.mark.parametrize("iaaq", [None, Iaaq()])
def test_a_model_of_no_requests(execution, model, iaaq):
    method = Method("quarot_rtn", {"rotation": Rotation(keys=True), "round": Nearest()})
    attention = AttentionSettings(k_bits=4)
    settings = QuantSettings(attention=attention, head_bits=8, embedding_bits=8)
    quantize(model, method, settings, iaaq=iaaq)
    for packed in (False, True):
        if packed:
            pack_model(model)
        assert model(TOKENS[:0], MASK[:0]).shape == (0, 9, VOCABULARY)
        assert model(TOKENS[:0]).shape == (0, 9, VOCABULARY)


@torch.no_grad()
def test_scales_of_gptq_in_float64_are_taken(execution, model):
    calibration = [TokenBatch(TOKENS, MASK, MASK.float())]
    method = Method("gptq", {"gptq": Gptq(dtype="float64")})
    quantize(model, method, QuantSettings(), calibration=calibration)
    expected = model(TOKENS)
    pack_model(model)
    torch.testing.assert_close(model(TOKENS), expected)
