"""Small files that ask for much or say odd things: each is refused by name, in little memory."""

import json
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dllmquant_exp.models.checkpoints import (
    CheckpointError,
    checkpoint_digest,
    load_config,
    load_model,
    load_tokenizer,
    random_checkpoint,
)
from dllmquant_exp.store import process_memory

CPU = torch.device("cpu")
GIB = 1 << 30


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("odd")
    return {name: random_checkpoint(name, root / name, d_model=32) for name in ("llada", "dream")}


@pytest.fixture
def llada(folders: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(folders["llada"], tmp_path / "llada")


@pytest.fixture
def dream(folders: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(folders["dream"], tmp_path / "dream")


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Two GiB of address space more than there are: what asks for more ends in a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = process_memory._kilobytes("/proc/self/status", "VmSize:") or 0
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * GIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def load(folder: Path) -> None:
    load_model(str(folder), dtype=torch.float32, device=CPU)
    load_tokenizer(str(folder))


def edited(file: Path, **changes: Any) -> str:
    return json.dumps(json.loads(file.read_text()) | changes)


CONFIGS: dict[str, dict[str, Any]] = {
    "many layers": {"n_layers": 10**9},
    "more layers than numbers": {"n_layers": 10**400},
    "wide": {"d_model": 1 << 40, "mlp_hidden_size": 64},
    "a list as a ratio": {"mlp_hidden_size": None, "mlp_ratio": [0] * 99, "d_model": 10**9},
    "a text as a width": {"mlp_hidden_size": None, "mlp_ratio": 10**9, "d_model": "9" * 99},
    "many tokens": {"vocab_size": 10**15, "embedding_size": 10**15},
    "no layers": {"n_layers": -1},
    "infinite": {"rope_theta": float("inf")},
    "not a number": {"rms_norm_eps": float("nan")},
    "no float": {"rope_theta": 10**400},
    "fraction of a layer": {"n_layers": 1.5},
    "layers as text": {"n_layers": "2"},
    "nested width": {"d_model": {"a": [1]}},
    "list of kinds": {"model_type": ["llada"]},
    "null": {"d_model": None},
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_odd_shape_is_refused(llada: Path, kind: str) -> None:
    file = llada / "config.json"
    file.write_text(edited(file, **CONFIGS[kind]))
    for read in (load_config, load):
        with pytest.raises(CheckpointError, match=r"config\.json"):
            read(llada)


DEEP = "[" * 100_000
TEXTS = {
    "deep": DEEP,
    "deep and whole": '{"a":' * 500 + "1" + "}" * 500,
    "deep beside a model": '"deep":' + "[" * 300 + "]" * 300 + ",",
    "repeated": '"d_model": 32, "d_model": 64,',
    "a list": "[1]",
    "a number": "1",
    "nothing": "",
    "a number of 5000 digits": "9" * 5000,
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "vocab.json"])
def test_odd_json_is_refused(dream: Path, name: str, kind: str) -> None:
    file, text = dream / name, TEXTS[kind]
    file.write_text(f"{{{text}{file.read_text()[1:]}" if text.endswith(",") else text)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load(dream)


TOKENS: dict[str, Any] = {
    "an id of a milliard": {"1000000000": {"content": "<|x|>"}},
    "an id without end": {"9" * 4000: {"content": "<|x|>"}},
    "a negative id": {"-1": {"content": "<|x|>"}},
    "no id": {"first": {"content": "<|x|>"}},
    "a list": [{"content": "<|x|>"}],
    "a text": "<|x|>",
    "a token that is a number": {"3": 7},
    "a token without content": {"3": {"special": True}},
    "a token of a list": {"3": {"content": ["<|x|>"]}},
}


@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.parametrize("name", ["llada", "dream"])
def test_odd_added_tokens_are_refused(llada: Path, dream: Path, name: str, kind: str) -> None:
    folder = {"llada": llada, "dream": dream}[name]
    file = folder / "tokenizer_config.json"
    file.write_text(edited(file, added_tokens_decoder=TOKENS[kind]))
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("content", ['{"<|x|>": 1000000000}', '{"<|x|>": "y"}', "[3]", DEEP])
def test_odd_older_added_tokens_are_refused(dream: Path, content: str) -> None:
    (dream / "added_tokens.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"added_tokens\.json"):
        load_tokenizer(str(dream))


@pytest.mark.parametrize(
    "content",
    [
        DEEP, "[]", "7", '{"model": 3}', '{"version": "1.0", "added_tokens": [{"id": -1}]}',
        '{"model": {"type": "BPE", "vocab": {"a": 1e9}, "merges": []}}',
        '{"model": {"type": "BPE", "vocab": {"a": 1000000000}, "merges": []}}',
        '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["b", "c"]]}}',
        '{"model": {"type": "Unigram", "unk_id": 9, "vocab": [["a", 0.5]]}}',
    ],
)  # fmt: skip
def test_an_odd_tokenizer_is_refused(llada: Path, content: str) -> None:
    (llada / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=str(llada)):
        load_tokenizer(str(llada))


@pytest.mark.parametrize(
    "content",
    [
        '{"<|x|>": 1000000000}', '{"a": "b"}', '{"a": -1}', '{"a": 1.5}',
        '{"a": {}}',
    ],
)  # fmt: skip
def test_an_odd_vocabulary_is_refused(dream: Path, content: str) -> None:
    (dream / "vocab.json").write_text(content)
    with pytest.raises(CheckpointError, match=str(dream)):
        load_tokenizer(str(dream))


HEADERS: dict[str, bytes] = {
    "deep": DEEP.encode(),
    "deep and whole": b'{"__metadata__":' + b'{"a":' * 500 + b"1" + b"}" * 501,
    "an infinite shape": b'{"x":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,4]}}',
    "a large shape": b'{"x":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}',
    "a shape without end": b'{"x":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % (b"9" * 99),
    "a product that overflows": b'{"x":{"dtype":"F32","shape":[%d,%d],"data_offsets":[0,4]}}'
    % (1 << 62, 1 << 62),
    "a shape of text": b'{"x":{"dtype":"F32","shape":"1","data_offsets":[0,4]}}',
    "a negative shape": b'{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
    "an unknown type": b'{"x":{"dtype":"F999","shape":[1],"data_offsets":[0,4]}}',
    "a list": b"[]",
    "no text": b"\xff\xfe",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_odd_headers_are_refused(llada: Path, kind: str) -> None:
    header = HEADERS[kind]
    file = llada / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(llada)
    assert checkpoint_digest(llada).startswith("sha256:")


@pytest.mark.parametrize(
    "weight_map", [{"a": 5}, {"a": "../b.safetensors"}, {"a": "/etc/b"}, [], 3]
)
def test_an_odd_index_is_refused(llada: Path, weight_map: Any) -> None:
    (llada / "model.safetensors").unlink()
    (llada / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"index\.json"):
        load(llada)


def test_names_of_a_file_do_not_steer_a_terminal(llada: Path) -> None:
    header = json.dumps({"\x1b]0;x\x07": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    file = llada / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(4))
    with pytest.raises(CheckpointError) as caught:
        load(llada)
    assert r"\x1b]0;x\x07: not part of this model" in str(caught.value)


@pytest.mark.skipif(os.getuid() == 0, reason="NOT TESTED: root may read everything")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_that_may_not_be_read_is_called_that(llada: Path, name: str) -> None:
    (llada / name).chmod(0)
    with pytest.raises(CheckpointError, match=f"{name}: cannot be read .*Permission denied"):
        checkpoint_digest(llada)
