"""Loading and saving: the official layouts at small size, and every way a folder can be wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dllmquant_exp.models import folders, storage, tensor_files
from dllmquant_exp.models.checkpoints import (
    CheckpointError,
    checkpoint_digest,
    config_to_json,
    load_model,
    random_checkpoint,
    random_model,
    resolve_checkpoint,
    save_checkpoint,
)
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.pipeline import quantize
from dllmquant_exp.quantization.quant_settings import QuantSettings

CPU = torch.device("cpu")
ARCHITECTURES = ("llada", "dream")
NORM = {
    "llada": "model.transformer.blocks.1.attn_norm.weight",
    "dream": "model.layers.1.input_layernorm.weight",
}
DOWN = {
    "llada": "model.transformer.blocks.0.ff_out.weight",
    "dream": "model.layers.0.mlp.down_proj.weight",
}


def load(folder, dtype=torch.float32):
    return load_model(str(folder), dtype=dtype, device=CPU)


def write_official(folder, config, tensors, shards=1):
    """What the hub holds, written without the package: files, index and config.json."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_to_json(config)))
    names = sorted(tensors)
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    files = files if shards > 1 else ["model.safetensors"]
    weight_map = {name: files[i % shards] for i, name in enumerate(names)}
    for file in files:
        held = {name: tensors[name] for name in names if weight_map[name] == file}
        save_file(held, folder / file, metadata={"format": "pt"})
    if shards > 1:
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return request.param


@pytest.fixture
def tensors(architecture, small_shape, official_tensors):
    model = random_model(small_shape(architecture), seed=3)
    return {name: tensor.clone() for name, tensor in official_tensors(model).items()}


@pytest.fixture
def single(tmp_path, architecture, small_shape, tensors):
    return write_official(tmp_path / "single", small_shape(architecture), tensors)


@pytest.fixture
def sharded(tmp_path, architecture, small_shape, tensors):
    return write_official(tmp_path / "sharded", small_shape(architecture), tensors, shards=3)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shards", [1, 3])
def test_official_layout_computes_what_the_reference_computes(
    tmp_path, architecture, small_shape, tensors, reference_logits, stored, shards
):
    config = small_shape(architecture)
    held = {name: tensor.to(stored) for name, tensor in tensors.items()}
    model = load(write_official(tmp_path / "m", config, held, shards), dtype=torch.float64)
    row = [3, 60, 17, 60, 5, 41]
    expected = reference_logits(held, config, row)
    torch.testing.assert_close(model(torch.tensor([row]))[0], expected, rtol=0, atol=1e-11)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_values_are_cast_to_the_requested_type(single, tensors, official_tensors, dtype):
    loaded = official_tensors(load(single, dtype))
    assert all(torch.equal(loaded[name], tensors[name].to(dtype)) for name in tensors)


def test_a_loaded_model_does_not_depend_on_its_files(single):
    model = load(single)
    before = model(torch.tensor([[1, 2, 3]]))
    file = single / "model.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    assert torch.equal(model(torch.tensor([[1, 2, 3]])), before)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("max_shard_bytes", [1, 10_000, 10**9])
def test_round_trip(tmp_path, single, tensors, official_tensors, stored, max_shard_bytes):
    model = load(single)
    target = tmp_path / "deep" / "copy"
    save_checkpoint(model, target, dtype=stored, max_shard_bytes=max_shard_bytes)
    again = load(target, stored)
    assert again.config == model.config
    loaded = official_tensors(again)
    assert all(torch.equal(loaded[name], tensors[name].to(stored)) for name in tensors)
    assert json.loads((target / "config.json").read_text())["torch_dtype"] in str(stored)
    assert [p.name for p in target.parent.iterdir()] == ["copy"]
    index = target / "model.safetensors.index.json"
    assert index.is_file() == (max_shard_bytes < 10**9)
    if index.is_file():
        content = json.loads(index.read_text())
        size = sum(t.numel() * stored.itemsize for t in tensors.values())
        assert content["metadata"]["total_size"] == size
        on_disk = {name: file.name for file in target.glob("model-*") for name in load_file(file)}
        assert content["weight_map"] == on_disk
        largest = max(t.numel() for t in tensors.values()) * stored.itemsize
        for file in target.glob("model-*"):
            held = sum(t.numel() * t.dtype.itemsize for t in load_file(file).values())
            assert held <= max(max_shard_bytes, largest)


# Every way to spoil a folder: (name, spoil(folder, norm name, down name), what the message says).


def rewrite(folder, change):
    file = next(iter(sorted(folder.glob("*.safetensors"))))
    held = load_file(file)
    change(held)
    save_file(held, file)


def with_tensors(change):
    return lambda folder, norm, down: rewrite(folder, lambda held: change(held, norm, down))


def put(name, value):
    def change(held, norm, down):
        held[{"norm": norm, "down": down}.get(name, name)] = value

    return with_tensors(change)


def poke(value):
    def change(held, norm, down):
        held[norm][5] = value

    return with_tensors(change)


def truncate(by):
    def spoil(folder, norm, down):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-by])

    return spoil


def raw_header(header, data=b"", length=None):
    def spoil(folder, norm, down):
        encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
        size = (len(encoded) if length is None else length).to_bytes(8, "little")
        (folder / "model.safetensors").write_bytes(size + encoded + data)

    return spoil


def overlapping(folder, norm, down):
    raw_header({norm: {"dtype": "F32", "shape": [32], "data_offsets": [4, 132]}}, bytes(132))(
        folder, norm, down
    )


def write(name, content):
    return lambda folder, norm, down: (folder / name).write_bytes(content)


def remove(name):
    return lambda folder, norm, down: (folder / name).unlink()


def pickled(folder, norm, down):
    torch.save({"weight": torch.ones(2)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


SINGLE = {
    "missing": (with_tensors(lambda h, n, d: h.pop(d)), ["{down}: missing", "[32, 48]"]),
    "extra": (put("model.surprise.weight", torch.ones(2)), ["model.surprise.weight: not part of"]),
    "misshapen": (put("down", torch.ones(32, 47)), ["{down}: shape [32, 47] instead of [32, 48]"]),
    "transposed": (put("down", torch.ones(48, 32)), ["shape [48, 32] instead of [32, 48]"]),
    "nan": (poke(float("nan")), ["{norm}: 1 of 32 values are NaN or infinite"]),
    "infinite": (poke(float("-inf")), ["{norm}: 1 of 32 values are NaN or infinite"]),
    "int8": (put("norm", torch.ones(32, dtype=torch.int8)), ["{norm}: dtype I8 is not supported"]),
    "float64": (put("norm", torch.ones(32).double()), ["{norm}: dtype F64 is not supported"]),
    "truncated": (truncate(1000), ["model.safetensors: damaged", "not fully covered"]),
    "cut by one byte": (truncate(1), ["model.safetensors: damaged", "not fully covered"]),
    "empty file": (write("model.safetensors", b""), ["model.safetensors: damaged"]),
    "not safetensors": (write("model.safetensors", b"PK\x03\x04" * 99), ["or not safetensors"]),
    "header no json": (raw_header(b"{nonsense"), ["damaged", "invalid JSON in header"]),
    "header list": (raw_header([1]), ["damaged", "invalid JSON in header"]),
    "header no dtype": (raw_header({"x": {"shape": [1]}}), ["damaged", "missing field `dtype`"]),
    "header too long": (raw_header({}, length=10**6), ["damaged", "invalid header length"]),
    "gap in bytes": (overlapping, ["damaged", "invalid offset for tensor `{norm}`"]),
    "pickled only": (pickled, ["only pickled weights (pytorch_model.bin)", "safetensors"]),
    "nothing": (remove("model.safetensors"), ["holds neither model.safetensors nor"]),
    "both": (write("model.safetensors.index.json", b"{}"), ["holds both"]),
    "no config": (remove("config.json"), ["config.json: this file is missing"]),
    "config no json": (write("config.json", b"{'d'"), ["config.json: cannot be read as JSON"]),
    "config no text": (write("config.json", b"\xff\xfe\x00"), ["config.json: cannot be read"]),
}


@pytest.mark.parametrize("kind", SINGLE)
def test_a_bad_single_file_is_named_in_one_error(kind, single, architecture):
    spoil, said = SINGLE[kind]
    names = {"norm": NORM[architecture], "down": DOWN[architecture]}
    spoil(single, **names)
    with pytest.raises(CheckpointError) as caught:
        load(single)
    for part in said:
        assert part.replace("{norm}", names["norm"]).replace("{down}", names["down"]) in str(
            caught.value
        )
    assert "single" in str(caught.value)


def edit_index(change):
    def spoil(folder):
        file = folder / "model.safetensors.index.json"
        content = json.loads(file.read_text())
        content = change(content) or content
        file.write_text(json.dumps(content))

    return spoil


def store_twice(folder):
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    name, tensor = next(iter(load_file(first).items()))
    save_file(load_file(second) | {name: tensor}, second)


def remove_shard(folder):
    (folder / "model-00002-of-00003.safetensors").unlink()


def truncate_shard(folder):
    file = folder / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def garble_index(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {')


def point_outside(content):
    first = next(iter(content["weight_map"]))
    content["weight_map"][first] = "../elsewhere.safetensors"


def point_at_pickle(content):
    first = next(iter(content["weight_map"]))
    content["weight_map"][first] = "pytorch_model.bin"


def point_wrong(content):
    first = next(iter(content["weight_map"]))
    other = set(content["weight_map"].values()) - {content["weight_map"][first]}
    content["weight_map"][first] = min(other)


def add_entry(content):
    content["weight_map"]["model.ghost.weight"] = min(content["weight_map"].values())


def drop_entry(content):
    content["weight_map"].popitem()


SHARDED = {
    "missing shard": (remove_shard, ["model-00002-of-00003.safetensors: this file is missing"]),
    "truncated shard": (truncate_shard, ["model-00002-of-00003.safetensors: damaged"]),
    "corrupt index": (garble_index, ["index.json: cannot be read as JSON"]),
    "index without map": (edit_index(lambda c: c.pop("weight_map") and None), ["no weight_map"]),
    "index of a list": (edit_index(lambda c: [c]), ["no weight_map"]),
    "index names a path": (edit_index(point_outside), ["of the same folder"]),
    "index names a pickle": (edit_index(point_at_pickle), ["of the same folder"]),
    "index disagrees": (edit_index(point_wrong), ["the index says"]),
    "index of a ghost": (edit_index(add_entry), ["model.ghost.weight: in the index, but"]),
    "index incomplete": (edit_index(drop_entry), ["but not in the index"]),
    "stored twice": (store_twice, ["stored twice"]),
}


@pytest.mark.parametrize("kind", SHARDED)
def test_a_bad_sharded_checkpoint_is_named_in_one_error(kind, sharded):
    spoil, said = SHARDED[kind]
    spoil(sharded)
    with pytest.raises(CheckpointError) as caught:
        load(sharded)
    assert all(part in str(caught.value) for part in said)


def test_all_problems_come_in_one_error_before_a_model_is_built(single, architecture, monkeypatch):
    def change(held):
        held.pop(DOWN[architecture])
        held["a.b"] = torch.ones(3)
        held[NORM[architecture]] = torch.ones(31, dtype=torch.float64)

    def never(config):
        raise AssertionError("a model was built")

    rewrite(single, change)
    monkeypatch.setattr(storage, "Transformer", never)
    with pytest.raises(CheckpointError) as caught:
        load(single)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert sum("missing" in line for line in lines) == 1
    assert sum("not part of this model" in line for line in lines) == 1
    assert sum("shape [31] instead of [32]" in line for line in lines) == 1
    assert sum("dtype F64" in line for line in lines) == 1


@pytest.mark.parametrize("shards", [1, 3])
def test_stored_rotary_tables_are_ignored_and_the_log_says_so(
    tmp_path, architecture, small_shape, tensors, shards, caplog
):
    tables = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(4) for n in (0, 1)}
    config = small_shape(architecture)
    folder = write_official(tmp_path / "m", config, tensors | tables, shards)
    with caplog.at_level("INFO"):
        model = load(folder)
    plain = load(write_official(tmp_path / "plain", config, tensors))
    assert all(map(torch.equal, model.parameters(), plain.parameters()))
    assert "2 stored tables of rotary angles (model.layers.0." in caplog.text


def test_a_truncated_shard_is_not_drowned_in_missing_names(sharded):
    remove_shard(sharded)
    with pytest.raises(CheckpointError) as caught:
        load(sharded)
    assert len(str(caught.value).splitlines()) == 2


def test_a_very_long_list_is_cut(single):
    rewrite(single, lambda held: held.update({f"x{i}": torch.ones(1) for i in range(100)}))
    with pytest.raises(CheckpointError, match="and 60 more"):
        load(single)


def test_values_too_large_for_the_requested_type(single, architecture):
    rewrite(single, lambda held: held[NORM[architecture]].fill_(1e5))
    load(single, torch.bfloat16)
    with pytest.raises(CheckpointError, match=f"{NORM[architecture]}: .*too large for .*float16"):
        load(single, torch.float16)


def test_integer_types_cannot_be_asked_for(single):
    with pytest.raises(CheckpointError, match=r"torch\.int8 is not one of"):
        load(single, torch.int8)


# Saving


@pytest.fixture
def model(small_shape):
    return random_model(small_shape("llada"))


def left_in(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("value", [float("nan"), 1e39])
def test_non_finite_values_are_not_written(tmp_path, model, value):
    model = model.double()
    model.blocks[1].down_proj.weight[2, 3] = value
    with pytest.raises(CheckpointError, match=r"blocks\.1\.ff_out\.weight"):
        save_checkpoint(model, tmp_path / "m", dtype=torch.float32)
    assert left_in(tmp_path) == []


def test_a_quantized_model_is_not_written_as_a_full_one(tmp_path, model):
    quantize(model, Method("rtn", {"round": Nearest()}), QuantSettings())
    with pytest.raises(CheckpointError, match=r"(?s)before quantizing.*blocks\.0\.q_proj\.weight"):
        save_checkpoint(model, tmp_path / "m", dtype=torch.float32)
    assert left_in(tmp_path) == []


def test_an_existing_checkpoint_is_replaced_only_when_asked(tmp_path, model):
    folder = save_checkpoint(model, tmp_path / "m", dtype=torch.float32, max_shard_bytes=9000)
    before = checkpoint_digest(folder)
    model.head.weight.mul_(2)
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        save_checkpoint(model, folder, dtype=torch.float32)
    assert checkpoint_digest(folder) == before
    save_checkpoint(model, folder, dtype=torch.float32, overwrite=True)
    assert left_in(folder) == ["config.json", "model.safetensors"]
    assert left_in(tmp_path) == ["m"]
    assert torch.equal(load(folder).head.weight, model.head.weight)


def test_of_two_writers_the_second_one_fails(tmp_path):
    folder = tmp_path / "m"
    refused = pytest.raises(CheckpointError, match="already holds a checkpoint")
    with refused, folders.replacing(folder) as second:
        (second / "config.json").write_text("second")
        with folders.replacing(folder) as first:
            (first / "config.json").write_text("first")
    assert (folder / "config.json").read_text() == "first"
    assert left_in(tmp_path) == ["m"]


def test_a_folder_of_other_things_is_never_replaced(tmp_path, model):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.txt").write_text("ten years")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        save_checkpoint(model, tmp_path / "m", dtype=torch.float32, overwrite=True)
    assert left_in(tmp_path / "m") == ["thesis.txt"]


def test_a_failing_write_leaves_the_old_checkpoint_alone(tmp_path, model, monkeypatch):
    folder = save_checkpoint(model, tmp_path / "m", dtype=torch.float32)
    before = checkpoint_digest(folder)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(model, folder, dtype=torch.bfloat16, overwrite=True)
    assert checkpoint_digest(folder) == before
    assert left_in(tmp_path) == ["m"]


def test_a_target_under_a_file_is_an_error(tmp_path, model):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(model, tmp_path / "file" / "m", dtype=torch.float32)


@pytest.mark.parametrize(
    ("argument", "named"),
    [({"dtype": torch.float64}, "float64"), ({"max_shard_bytes": 0}, "max_shard_bytes = 0")],
)
def test_impossible_save_arguments(tmp_path, model, argument, named):
    with pytest.raises(CheckpointError, match=named):
        save_checkpoint(model, tmp_path / "m", **({"dtype": torch.float32} | argument))


def test_equal_models_give_equal_bytes(tmp_path, architecture):
    folders = [
        random_checkpoint(architecture, tmp_path / str(i), seed=seed, max_shard_bytes=20_000)
        for i, seed in enumerate([5, 5, 6])
    ]
    files = [{f.name: f.read_bytes() for f in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]
    assert files[0] != files[2]


# Fingerprints


@pytest.mark.parametrize("whole", [True, False])
def test_digest_follows_the_content(tmp_path, monkeypatch, whole):
    if not whole:
        monkeypatch.setattr(tensor_files, "_WHOLE_DIGEST_BYTES", 1)
    folder = random_checkpoint("dream", tmp_path / "m", seed=1)
    digest = checkpoint_digest(folder)
    assert digest.startswith("sha256:" if whole else "sampled-sha256:")
    shutil.copytree(folder, tmp_path / "copy")
    assert checkpoint_digest(tmp_path / "copy") == digest
    other = random_checkpoint("dream", tmp_path / "other", seed=2)
    digests = {digest, checkpoint_digest(other)}
    for name in ("config.json", "vocab.json", "model.safetensors"):
        file = tmp_path / "copy" / name
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
        digests.add(checkpoint_digest(tmp_path / "copy"))
    assert len(digests) == 5


def test_digest_of_an_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint files"):
        checkpoint_digest(tmp_path)


# Where checkpoints come from


def test_local_folders_are_used_as_they_are(single, monkeypatch):
    monkeypatch.chdir(single.parent)
    assert resolve_checkpoint("single") == Path("single")
    assert resolve_checkpoint(str(single)) == single
    with pytest.raises(CheckpointError, match="revision = 'main' applies to hub ids only"):
        resolve_checkpoint("single", "main")


@pytest.mark.parametrize("name", ["no_such_model", "", "../embedded"])
def test_an_unknown_embedded_model(name):
    with pytest.raises(CheckpointError, match="no such embedded model"):
        resolve_checkpoint(f"embedded:{name}")


@pytest.mark.parametrize("name", ["/no/such/folder", "./missing", "a/b/c", "plain", "~/x"])
def test_neither_a_folder_nor_a_hub_id(name):
    with pytest.raises(CheckpointError, match="neither a folder that exists nor a hub id"):
        resolve_checkpoint(name)


def test_an_unreachable_hub_is_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"some-org/some-model: .*at revision abc.*folder"):
        resolve_checkpoint("some-org/some-model", "abc")


def test_only_data_files_are_downloaded(monkeypatch, single):
    asked = {}

    def download(repository, **options):
        asked.update(options, repository=repository)
        return str(single)

    monkeypatch.setattr(storage, "snapshot_download", download)
    assert resolve_checkpoint("org/model", "v1") == single
    assert asked["repository"] == "org/model"
    assert asked["revision"] == "v1"
    assert not any(p.endswith((".py", ".bin", ".pt", "*")) for p in asked["allow_patterns"])
