"""Tokenizers of both layouts: read without remote code, ids checked against the model."""

import json
import unicodedata

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dllmquant_exp.models.checkpoints import (
    CheckpointError,
    load_config,
    load_model,
    load_tokenizer,
    random_checkpoint,
    save_checkpoint,
)

ARCHITECTURES = ("llada", "dream")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    return {a: random_checkpoint(a, root / a) for a in ARCHITECTURES}


@pytest.fixture(scope="module")
def tokenizers(folders):
    return {a: load_tokenizer(str(folder)) for a, folder in folders.items()}


@pytest.fixture(params=ARCHITECTURES)
def copied(request, tmp_path):
    return random_checkpoint(request.param, tmp_path / request.param)


def edit(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def test_files_are_those_of_the_official_repositories(folders):
    held = {a: {f.name for f in folder.iterdir()} for a, folder in folders.items()}
    assert "tokenizer.json" in held["llada"]
    assert {"vocab.json", "merges.txt"} <= held["dream"]
    assert "tokenizer.json" not in held["dream"]
    assert all("tokenizer_config.json" in names for names in held.values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_special_tokens_are_the_models(architecture, folders, tokenizers):
    config, tokenizer = load_config(folders[architecture]), tokenizers[architecture]
    mask = {"llada": "<|mdm_mask|>", "dream": "<|mask|>"}[architecture]
    assert tokenizer(f"is{mask}is").input_ids.count(config.mask_token_id) == 1
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == config.eos_token_id
    assert tokenizer("of").input_ids == tokenizer("of", add_special_tokens=False).input_ids
    assert len(tokenizer) <= config.vocab_size
    assert len(tokenizer(" the question is the answer").input_ids) == 5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chat_template_is_honoured(architecture, tokenizers):
    text = tokenizers[architecture].apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
    )
    expected = {
        "llada": "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "dream": "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    }
    assert text == expected[architecture]


@settings(deadline=None, derandomize=True)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_comes_back(tokenizers, text):
    assert tokenizers["llada"].decode(tokenizers["llada"](text).input_ids) == text
    composed = unicodedata.normalize("NFC", text)  # Qwen2 normalizes
    assert tokenizers["dream"].decode(tokenizers["dream"](text).input_ids) == composed


def test_both_layouts_cut_words_alike(tokenizers):
    text = " the people thought about these questions"
    assert tokenizers["llada"](text).input_ids == tokenizers["dream"](text).input_ids


def test_a_template_in_tokenizer_config_is_honoured(copied):
    (copied / "chat_template.jinja").unlink()
    template = {"chat_template": "<{{ messages[0].role }}>"}
    edit(copied, "tokenizer_config.json", lambda c: c.update(template))
    messages = [{"role": "user", "content": "x"}]
    assert load_tokenizer(str(copied)).apply_chat_template(messages, tokenize=False) == "<user>"


def test_remote_code_is_not_run(copied):
    proof = copied / "proof"
    code = f"open({str(proof)!r}, 'w')\nclass DreamTokenizer: pass\nclass DreamModel: pass\n"
    (copied / "tokenization_dream.py").write_text(code)
    (copied / "modeling_dream.py").write_text(code)
    remote = {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]}
    edit(
        copied,
        "tokenizer_config.json",
        lambda c: c.update(auto_map=remote, tokenizer_class="DreamTokenizer"),
    )
    model_class = {"AutoModel": "modeling_dream.DreamModel"}
    edit(copied, "config.json", lambda c: c.update(auto_map=model_class))
    assert load_tokenizer(str(copied))("of").input_ids
    load_model(str(copied), dtype=torch.float32, device=torch.device("cpu"))
    assert not proof.exists()


def test_a_hole_before_dreams_mask_does_not_move_it(tmp_path):
    folder = random_checkpoint("dream", tmp_path / "m")
    mask = load_config(folder).mask_token_id

    def without_begin_of_text(content):
        del content["added_tokens_decoder"][str(mask - 1)]

    edit(folder, "tokenizer_config.json", without_begin_of_text)
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer("<|mask|>").input_ids == [mask]
    assert tokenizer.mask_token_id == mask


def test_dream_tokens_may_come_from_added_tokens_json(tmp_path):
    folder = random_checkpoint("dream", tmp_path / "m")
    stated = {}

    def move(content):
        for index, token in content.pop("added_tokens_decoder").items():
            stated[token["content"]] = int(index)

    edit(folder, "tokenizer_config.json", move)
    (folder / "added_tokens.json").write_text(json.dumps(stated))
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer("<|mask|>").input_ids == [load_config(folder).mask_token_id]


def test_a_moved_added_token_is_named(tmp_path):
    folder = random_checkpoint("llada", tmp_path / "m")
    edit(
        folder,
        "tokenizer_config.json",
        lambda c: c.update(added_tokens_decoder={"3": {"content": "<|eot_id|>", "special": True}}),
    )
    with pytest.raises(CheckpointError, match=r"'<\|eot_id\|>' got id \d+ instead of 3"):
        load_tokenizer(str(folder))


def test_ids_outside_the_model_are_named(copied):
    key = {"llada": "embedding_size", "dream": "vocab_size"}[copied.name]
    ids = dict.fromkeys(("mask_token_id", "eos_token_id", "pad_token_id"), 5)
    edit(copied, "config.json", lambda c: c.update({"vocab_size": 300, key: 300} | ids))
    with pytest.raises(CheckpointError, match="outside the model's 300 embeddings"):
        load_tokenizer(str(copied))


def test_a_mask_that_the_tokenizer_does_not_know_is_named(copied):
    edit(copied, "config.json", lambda c: c.update(mask_token_id=700))
    with pytest.raises(CheckpointError, match="mask_token_id = 700 is not in the tokenizer"):
        load_tokenizer(str(copied))


def test_missing_and_corrupt_tokenizer_files(copied):
    name = {"llada": "tokenizer.json", "dream": "vocab.json"}[copied.name]
    (copied / name).write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tokenizer(str(copied))
    (copied / name).unlink()
    with pytest.raises(CheckpointError, match="no tokenizer files"):
        load_tokenizer(str(copied))


def test_saving_keeps_the_tokenizer(copied, tmp_path):
    model = load_model(str(copied), dtype=torch.float32, device=torch.device("cpu"))
    before = load_tokenizer(str(copied))
    target = save_checkpoint(model, tmp_path / "new", dtype=torch.bfloat16, tokenizer=before)
    after = load_tokenizer(str(target))
    assert after.get_vocab() == before.get_vocab()
    assert after.chat_template == before.chat_template
    assert {f.name for f in target.iterdir()} == {f.name for f in copied.iterdir()}


def test_a_random_checkpoint_can_take_another_ones_tokenizer(folders, tmp_path):
    source = str(folders["llada"])
    folder = random_checkpoint("dream", tmp_path / "m", tokenizer_from=source)
    config, wanted = load_config(folder), load_config(folders["llada"])
    assert config.architecture == "dream"
    assert config.mask_token_id == wanted.mask_token_id
    assert config.vocab_size == wanted.vocab_size
    assert load_tokenizer(str(folder)).get_vocab() == load_tokenizer(source).get_vocab()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"architecture": "gpt"}, "llada, dream"), ({"d_model": 30}, "d_model = 30")],
)
def test_impossible_random_checkpoints(tmp_path, arguments, named):
    with pytest.raises(CheckpointError, match=named):
        random_checkpoint(**({"architecture": "llada", "folder": tmp_path / "m"} | arguments))
    assert list(tmp_path.iterdir()) == []


def test_random_checkpoints_hold_bfloat16_as_on_the_hub(folders):
    for folder in folders.values():
        header = (folder / "model.safetensors").read_bytes()[8:]
        assert b'"BF16"' in header
        assert b'"F32"' not in header
        assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "bfloat16"
