"""The C kernels against integers in numpy, on every instruction set that this machine has."""

import ctypes
import multiprocessing
import os
import platform
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from dllmquant_exp.quantization.hadamard import OnlineHadamard
from dllmquant_exp.quantization.kernels import build, execution, kernels, library
from dllmquant_exp.quantization.kernels.fast_hadamard import rotated
from dllmquant_exp.quantization.packed import PackedLinear
from dllmquant_exp.quantization.quantizers import (
    QuantizationError,
    QuantizedWeight,
    Quantizer,
    fake_quantize,
)

LEVELS = kernels().levels if kernels() is not None else ()
A4, A8 = Quantizer(4, False, "per_token"), Quantizer(8, False, "per_token")
needs_kernels = pytest.mark.skipif(not LEVELS, reason="no C compiler or no AVX2 here")


@pytest.fixture(params=library.LEVELS)
def level(request, monkeypatch):
    """Layers run on this instruction set, though a better one may be there."""
    if request.param not in LEVELS:
        pytest.skip(f"{request.param} is not tested: this machine or its compiler does not have it")
    upto = LEVELS[: LEVELS.index(request.param) + 1]
    monkeypatch.setattr(kernels(), "levels", upto)
    assert execution() == request.param
    return request.param


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.delenv(library.LIMIT, raising=False)
    kernels.cache_clear()
    yield
    kernels.cache_clear()


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def linear(numbers, scale, activation, bias=None):
    weight = QuantizedWeight(torch.from_numpy(numbers), torch.from_numpy(scale)[:, None])
    return PackedLinear(weight, None if bias is None else torch.from_numpy(bias), activation)


def rounded(x, activation):
    """Integers, scale and zero point of each row by the formulas of quantizers.py, in numpy."""
    low, high = np.minimum(x.min(1), 0), np.maximum(x.max(1), 0)
    if activation.symmetric:
        steps = 2**activation.bits - 1
        scale = np.maximum(high, -low) / np.float32(steps / 2)
        zero = np.zeros_like(scale)
        ends = -(2 ** (activation.bits - 1)), 2 ** (activation.bits - 1) - 1
    else:
        ends = 0, 2**activation.bits - 1
        scale = (high - low) / np.float32(ends[1])
        zero = np.rint(-low / scale)
    integers = np.clip(np.rint(x / scale[:, None]) + zero[:, None], *ends)
    return integers.astype(np.int64), scale, zero.astype(np.int64)


def expected(x, numbers, weight_scale, activation, bias):
    integers, scale, zero = rounded(x, activation)
    sums = (integers - zero[:, None]) @ numbers.astype(np.int64).T
    y = sums.astype(np.float32) * weight_scale * scale[:, None]
    return y if bias is None else y + bias


# rows, inputs, outputs: one of each, one less and one more than what is handled together (rows 4,
# 16, 32, 256; inputs 4, 32, 64, 512; outputs 8, 16, 64), and products large enough for threads
SHAPES = [
    (1, 1, 1), (2, 3, 5), (3, 4, 7), (4, 31, 8), (5, 32, 9), (15, 33, 15), (16, 63, 16),
    (17, 64, 17), (31, 65, 63), (32, 128, 64), (33, 192, 65), (1, 512, 192), (40, 511, 20),
    (7, 513, 33), (255, 100, 70), (256, 64, 128), (257, 65, 129), (600, 192, 96), (130, 1100, 200),
    (70, 2049, 65), (300, 4500, 70),  # more inputs than AMX takes at once: 2048
]  # fmt: skip


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_every_shape_equals_integers(level, generator, bits, symmetric):
    activation = Quantizer(bits, symmetric, "per_token")
    for rows, inputs, outputs in SHAPES:
        numbers = generator.integers(-8, 8, (outputs, inputs), dtype=np.int8)
        scale = generator.uniform(0.01, 0.02, outputs).astype(np.float32)
        bias = generator.normal(size=outputs).astype(np.float32) if outputs % 2 else None
        x = generator.normal(size=(rows, inputs)).astype(np.float32)
        y = linear(numbers, scale, activation, bias)(torch.from_numpy(x)).numpy()
        np.testing.assert_array_equal(y, expected(x, numbers, scale, activation, bias))


@pytest.mark.parametrize("activation", [A4, A8, Quantizer(8, True, "per_token")])
@pytest.mark.parametrize("weight", [-8, 7])
@pytest.mark.parametrize("inputs", [1024, 2049])
def test_the_largest_products_do_not_saturate(level, activation, weight, inputs):
    numbers, scale = np.full((64, inputs), weight, np.int8), np.ones(64, np.float32)
    x = np.full((32, inputs), 3.0, np.float32)  # every integer is the grid's largest
    x[1] = -3  # or its smallest
    integers, _, zero = rounded(x, activation)
    assert np.abs(integers - zero[:, None]).min() >= 2 ** (activation.bits - 1) - 1
    y = linear(numbers, scale, activation)(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(y, expected(x, numbers, scale, activation, None))
    np.testing.assert_allclose(y[:, 0], x[:, 0] * inputs * weight, rtol=0.01)


def identity(activation):
    """A layer whose outputs are its rounded inputs."""
    return linear(np.eye(96, dtype=np.int8), np.ones(96, np.float32), activation)


QUANTIZERS = [
    A4, A8, Quantizer(4, True, "per_token"), Quantizer(8, True, "per_token", grid="restricted"),
    Quantizer(2, False, "per_token"), Quantizer(3, True, "per_token", grid="max_over_7"),
    Quantizer(5, False, "per_token", clip_ratio=0.7),
    Quantizer(8, True, "per_token", clip_ratio=0.9),
]  # fmt: skip


@needs_kernels
@pytest.mark.parametrize("activation", QUANTIZERS, ids=str)
def test_rounding_is_that_of_the_quantizer(activation, generator):
    x = generator.normal(size=(4000, 96))
    x *= 10.0 ** generator.integers(-37, 37, (4000, 1))  # also where an inverse has few digits
    x[::7] = np.abs(x[::7])  # ranges on one side
    x[::11] = 0
    x[5], x[16] = 1e-45, 3e-40  # ranges too small to divide by
    x = torch.from_numpy(x.astype(np.float32))
    assert torch.equal(identity(activation)(x), fake_quantize(x, activation))


@needs_kernels
@pytest.mark.parametrize("activation", [A4, A8, Quantizer(4, True, "per_token")], ids=str)
def test_values_in_the_middle_between_two_integers(activation, generator):
    ends = generator.uniform(0.001, 100, (4000, 1)).astype(np.float32)
    highest = 2 ** (activation.bits - activation.symmetric) - 1
    step = ends / np.float32(highest + activation.symmetric / 2)
    halves = generator.integers(-1, highest, (4000, 96)) + 0.5
    x = (halves * step).astype(np.float32)
    for _ in range(2):  # none, one or two floating-point numbers beside the middle
        x = np.nextafter(x, x + generator.integers(-1, 2, x.shape).astype(np.float32))
    x[:, :1] = ends
    x = torch.from_numpy(np.minimum(x, ends))
    quantized = fake_quantize(x, activation)
    near = (x[:, 1:] / torch.from_numpy(step) % 1 - 0.5).abs() < 1e-4
    assert near.float().mean() > 0.9
    assert torch.equal(identity(activation)(x), quantized)


SIZES = [
    (1, 5), (2, 1), (2, 3), (4, 1), (4, 16), (8, 1), (8, 24), (12, 1), (12, 32), (16, 1), (20, 3),
    (28, 1), (32, 1), (40, 9), (48, 1), (64, 1), (128, 1), (192, 1), (512, 1), (148, 1), (768, 1),
    # the published models'
    (4096, 1), (12288, 1), (32, 128), (3584, 1), (18944, 1), (28, 128),
]  # fmt: skip


@needs_kernels
@pytest.mark.parametrize(("size", "inner"), SIZES)
def test_the_fast_rotation_is_that_by_products_of_matrices(size, inner):
    rotation = OnlineHadamard(size, inner)
    x = torch.randn(3, 5, size * inner, generator=torch.Generator().manual_seed(size))
    y = rotated(x, rotation)
    assert y.shape == x.shape
    tolerance = 1e-6 * float(x.norm(dim=-1).max())
    torch.testing.assert_close(y.double(), rotation(x.double()), rtol=0, atol=tolerance)


@needs_kernels
def test_rotations_of_any_input():
    rotation = OnlineHadamard(48)
    x = torch.randn(96, 48, generator=torch.Generator().manual_seed(0))
    y = rotated(x, rotation)
    assert torch.equal(rotated(x.T.contiguous().T, rotation), y)
    assert torch.equal(rotated(torch.cat((x, x), 1)[:, :48], rotation), y)
    assert rotated(x[:0], rotation).shape == (0, 48)
    assert torch.equal(rotated(x.double(), rotation), rotation(x.double()))  # not by the kernel
    plain = torch.nn.Linear(48, 3)
    assert torch.equal(rotated(x, plain), plain(x))
    assert torch.equal(rotated(x[:1], rotation), y[:1])
    half = x.bfloat16()
    assert torch.equal(rotated(half, rotation), rotated(half.float(), rotation).bfloat16())
    with pytest.raises(QuantizationError, match="47 features cannot be rotated by 48 x 1"):
        rotated(x[:, :47], rotation)


WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
TEAM = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)


def test_work_is_shared_by_the_threads_that_torch_has(level, generator, monkeypatch):
    numbers = generator.integers(-8, 8, (300, 400), dtype=np.int8)
    layer, rotation = linear(numbers, np.ones(300, np.float32), A4), OnlineHadamard(400)
    x = torch.from_numpy(generator.normal(size=(700, 400)).astype(np.float32))
    expected = layer(x), rotated(x, rotation)
    asked = []

    @TEAM
    def team(work, job, threads, flags):  # in the place of GOMP_parallel
        asked.append(threads)
        workers = [threading.Thread(target=WORK(work), args=(job,)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    monkeypatch.setattr(kernels(), "_team", ctypes.cast(team, ctypes.c_void_p).value)
    before = torch.get_num_threads()
    try:
        for threads in (3, 1):
            torch.set_num_threads(threads)
            assert torch.equal(layer(x), expected[0])
            assert torch.equal(rotated(x, rotation), expected[1])
        torch.set_num_threads(2)
        layer(x[:1])  # too little to wake a thread for
    finally:
        torch.set_num_threads(before)
    assert asked == [3, 3, 3]  # rows are rounded, then multiplied; then rotated


@pytest.fixture
def fake_compiler(tmp_path, monkeypatch):
    """A compiler that writes its arguments where it should write its output, and counts calls."""
    script, calls = tmp_path / "compiler", tmp_path / "calls"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {calls}\n'
        'while [ "$1" != "-o" ]; do shift; done\necho made > "$2"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setenv(build.CACHE_VARIABLE, str(tmp_path / "cache"))
    return calls


def test_a_library_is_compiled_once_and_moved_into_place(tmp_path, fake_compiler):
    path = build.library_path()
    assert path.parent == tmp_path / "cache"
    assert path.read_bytes()[:-32] == b"made\n"
    calls = fake_compiler.read_text().splitlines()
    assert len(calls) == len(build.INSTRUCTION_SETS) + len(build.OPTIONAL) + 1
    assert [line for line in calls if "-mavx512" in line] == [
        line for line in calls if "multiply_avx512.c" in line and "-shared" not in line
    ]
    assert build.library_path() == path
    assert len(fake_compiler.read_text().splitlines()) == len(calls)
    assert os.listdir(path.parent) == [path.name]  # nothing is left behind


def test_other_sources_are_another_library(tmp_path, fake_compiler, monkeypatch):
    paths = [build.library_path()]
    sources = Path(shutil.copytree(build._FOLDER, tmp_path / "sources"))
    monkeypatch.setattr(build, "_FOLDER", sources)
    assert build.library_path() == paths[0]
    files = sorted([*sources.glob("*.c"), *sources.glob("*.h")])
    assert len(files) == 10
    for file in files:
        file.write_bytes(file.read_bytes() + b"\n")
        paths.append(build.library_path())
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    paths.append(build.library_path())
    assert len(set(paths)) == len(files) + 2 == len(os.listdir(paths[0].parent))


@pytest.mark.parametrize("left", [0, 3, 36])
def test_a_damaged_library_is_made_again(fake_compiler, left):
    path = build.library_path()
    content, calls = path.read_bytes(), len(fake_compiler.read_text().splitlines())
    path.write_bytes(content[:left])
    assert build.library_path() == path
    assert path.read_bytes() == content
    assert len(fake_compiler.read_text().splitlines()) == 2 * calls


def _path_when_all_are_there(barrier, queue):
    barrier.wait(60)
    queue.put(build.library_path())


def test_two_processes_build_at_once(tmp_path, fake_compiler):
    script = tmp_path / "compiler"
    script.write_text(script.read_text().replace("while", "sleep 0.1\nwhile", 1))
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_path_when_all_are_there, args=(barrier, queue)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    paths = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    calls = fake_compiler.read_text().splitlines()
    assert len(calls) == 2 * (len(build.INSTRUCTION_SETS) + len(build.OPTIONAL) + 1)
    assert paths[0] == paths[1] == build.library_path()  # intact: nobody compiles again
    assert fake_compiler.read_text().splitlines() == calls
    assert os.listdir(tmp_path / "cache") == [paths[0].name]


@needs_kernels
def test_a_compiler_without_the_latest_instructions(
    tmp_path, fake_compiler, fresh, generator, monkeypatch, caplog
):
    real = next(filter(shutil.which, build.COMPILERS))
    script = tmp_path / "compiler"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *-mamx*|*-mavx512*) echo unknown option >&2; exit 1;; esac\n'
        f'exec {real} "$@"\n'
    )
    assert kernels().levels == LEVELS[:1]
    for named in ("avx512f avx512vnni", "amx-tile amx-int8"):
        assert f"do without {named} here" in caplog.text
    numbers = generator.integers(-8, 8, (70, 100), dtype=np.int8)
    x = generator.normal(size=(40, 100)).astype(np.float32)
    y = linear(numbers, np.ones(70, np.float32), A4)(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(y, expected(x, numbers, np.ones(70, np.float32), A4, None))


def test_where_libraries_are_kept(tmp_path, monkeypatch):
    monkeypatch.delenv(build.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.cache_folder() == tmp_path / "dllmquant_exp"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build.cache_folder() == tmp_path / ".cache" / "dllmquant_exp"


def test_reasons_why_no_library_is_made(tmp_path, fake_compiler, monkeypatch):
    def refused(match):
        with pytest.raises(build.BuildError, match=match):
            build.library_path()

    monkeypatch.setenv("CC", "false -O1")
    refused(r"false -O1 .* failed: .*gcc 8")
    assert os.listdir(tmp_path / "cache") == []
    monkeypatch.setenv("CC", str(tmp_path / "nowhere"))
    refused("does not run")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    refused("no C compiler; install gcc 11")
    monkeypatch.setenv(build.CACHE_VARIABLE, str(fake_compiler.parent / "compiler" / "inside"))
    refused(r"cannot be written .* set DLLMQUANT_CACHE")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    refused("not aarch64")


NO_KERNELS = {
    "failed": (lambda patch: patch.setenv("CC", "false"), "false .* failed"),
    "no library": (lambda patch: None, "packed_linear-"),  # the fake compiler makes none
    "asked for": (lambda patch: patch.setenv(library.LIMIT, "reference"), "KERNELS=reference"),
}


@pytest.mark.parametrize("case", NO_KERNELS)
def test_one_notice_where_the_kernels_cannot_run(case, fresh, fake_compiler, monkeypatch, caplog):
    prepare, reason = NO_KERNELS[case]
    prepare(monkeypatch)
    assert kernels() is None
    assert kernels() is None
    assert execution() == "reference"
    (record,) = caplog.records
    assert "reference execution" in record.message
    assert re.search(reason, record.message)


@needs_kernels
def test_a_processor_without_avx2_is_noticed(fresh, monkeypatch, caplog):
    monkeypatch.setattr(library, "LEVELS", ())
    assert kernels() is None
    assert "no AVX2" in caplog.text


@needs_kernels
@pytest.mark.parametrize("limit", LEVELS)
def test_the_environment_limits_what_is_used(fresh, monkeypatch, limit):
    monkeypatch.setenv(library.LIMIT, limit)
    assert execution() == limit
    monkeypatch.setenv(library.LIMIT, "sse")
    with pytest.raises(ValueError, match="DLLMQUANT_KERNELS=sse is not one of: reference, avx2"):
        library.allowed_levels()
