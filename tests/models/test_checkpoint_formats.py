"""config.json and tensor names of the two official layouts."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.checkpoints import (
    CheckpointError,
    Layout,
    config_to_json,
    load_model,
    parse_config,
    random_model,
    tensor_names,
)
from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.store.schema import read

LLADA = {
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
    "block_type": "llama",
    "d_model": 4096,
    "embedding_size": 126464,
    "eos_token_id": 126081,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_device": "meta",
    "layer_norm_type": "rms",
    "mask_token_id": 126336,
    "max_sequence_length": 4096,
    "mlp_hidden_size": 12288,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "pad_token_id": 126081,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "transformers_version": "4.46.3",
    "vocab_size": 126464,
    "weight_tying": False,
}
DREAM = {
    "architectures": ["DreamModel"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoModel": "modeling_dream.DreamModel"},
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "mask_token_id": 151666,
    "max_position_embeddings": 131072,
    "model_type": "Dream",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "pad_token_id": 151643,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 152064,
}
OFFICIAL = {"llada": LLADA, "dream": DREAM}


@pytest.mark.parametrize(
    ("architecture", "parameters", "tensors"),
    [("llada", 8_015_581_184, 32 * 9 + 3), ("dream", 7_615_616_512, 28 * 12 + 3)],
)
def test_official_configurations(architecture, parameters, tensors):
    config = parse_config(OFFICIAL[architecture])
    names = tensor_names(config)
    assert len(names) == tensors
    assert sum(torch.Size(shape).numel() for _, shape in names.values()) == parameters
    with torch.device("meta"):
        model = Transformer(config)
    ours = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert {name: shape for name, shape in names.values()} == ours


def test_block_and_head_ff_out_are_told_apart():
    names = tensor_names(parse_config(LLADA))
    assert names["model.transformer.ff_out.weight"] == ("head.weight", (126464, 4096))
    down = names["model.transformer.blocks.31.ff_out.weight"]
    assert down == ("blocks.31.down_proj.weight", (4096, 12288))


@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_names_agree_with_the_reference_table(architecture, small_shape, official_tensors):
    model = random_model(small_shape(architecture))
    by_table = {name: t.data_ptr() for name, t in official_tensors(model).items()}
    by_package = {
        name: model.get_parameter(ours).data_ptr()
        for name, (ours, _) in tensor_names(model.config).items()
    }
    assert by_package == by_table


@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_written_configurations_are_read_back(architecture, small_shape):
    for config in (parse_config(OFFICIAL[architecture]), small_shape(architecture)):
        written = config_to_json(config)
        assert parse_config(written) == config
        assert "auto_map" not in written


@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_written_official_configuration_has_the_official_values(architecture):
    raw = OFFICIAL[architecture]
    written = config_to_json(parse_config(raw))
    shared = written.keys() & raw.keys()
    assert {key: written[key] for key in shared} == {key: raw[key] for key in shared}
    assert len(shared) > 15


@pytest.mark.parametrize(
    ("architecture", "key", "value"),
    [
        ("llada", "alibi", True),
        ("llada", "include_bias", True),
        ("llada", "include_qkv_bias", True),
        ("llada", "weight_tying", True),
        ("llada", "block_type", "sequential"),
        ("llada", "block_group_size", 2),
        ("llada", "layer_norm_type", "default"),
        ("llada", "activation_type", "swiglu"),
        ("llada", "attention_layer_norm", True),
        ("llada", "rope", False),
        ("llada", "rope_full_precision", False),
        ("llada", "multi_query_attention", True),
        ("llada", "scale_logits", True),
        ("llada", "input_emb_norm", True),
        ("llada", "clip_qkv", 8.0),
        ("dream", "rope_scaling", {"type": "yarn"}),
        ("dream", "tie_word_embeddings", True),
        ("dream", "hidden_act", "gelu"),
        ("dream", "use_sliding_window", True),
        ("dream", "attention_bias", False),
        ("dream", "head_dim", 64),
        ("dream", "quantization_config", {"bits": 4}),
    ],
)
def test_unsupported_values_are_refused_by_name(architecture, key, value):
    with pytest.raises(CheckpointError, match=rf"{key} = .*not supported"):
        parse_config(OFFICIAL[architecture] | {key: value})


@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_every_needed_key_is_named_when_missing_and_all_at_once(architecture):
    raw = {"model_type": OFFICIAL[architecture]["model_type"]}
    with pytest.raises(CheckpointError) as caught:
        parse_config(raw, where="here/config.json")
    keys = [
        key
        for key in config_to_json(parse_config(OFFICIAL[architecture]))
        if isinstance(OFFICIAL[architecture].get(key), int | float)
        and not isinstance(OFFICIAL[architecture][key], bool)
        and key not in ("mlp_ratio", "bos_token_id")
    ]
    assert len(keys) >= 11
    missing = [key for key in keys if f"{key} is missing" not in str(caught.value)]
    # LLaDA's embedding_size stands for vocab_size, which alone does not have to be there
    assert missing in ([], ["vocab_size"])
    assert str(caught.value).startswith("here/config.json")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"d_model": "4096"}, "d_model = '4096' must be a whole number"),
        ({"n_layers": True}, "n_layers = True must be a whole number"),
        ({"n_heads": 32.0}, "n_heads = 32.0 must be a whole number"),
        ({"rope_theta": "big"}, "rope_theta = 'big' must be a number"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps = 0.0 must be a positive number"),
        ({"n_heads": 24}, "n_heads = 24"),
        ({"mask_token_id": 126464}, "mask_token_id = 126464"),
        ({"vocab_size": 130000}, "embedding_size = 126464 must be at least vocab_size = 130000"),
    ],
)
def test_impossible_values_are_named(change, named):
    with pytest.raises(CheckpointError, match=named):
        parse_config(LLADA | change)


@pytest.mark.parametrize(
    "raw",
    [{}, {"model_type": "llama"}, {"architectures": "LLaDAModelLM"}, LLADA | {"model_type": 3}],
)
def test_other_architectures_are_refused(raw):
    with pytest.raises(CheckpointError, match="model_type"):
        parse_config(raw)


def test_a_configuration_must_be_an_object():
    with pytest.raises(CheckpointError, match="expected a JSON object"):
        parse_config([1, 2])


def test_values_that_the_official_classes_derive():
    derived = {k: v for k, v in LLADA.items() if k not in ("n_kv_heads", "embedding_size")}
    config = parse_config(derived | {"mlp_hidden_size": None, "mlp_ratio": 3})
    assert (config.n_kv_heads, config.vocab_size, config.d_ffn) == (32, 126464, 12288)
    nested = {k: v for k, v in DREAM.items() if k != "rope_theta"}
    assert parse_config(nested | {"rope_parameters": {"rope_theta": 7.0}}).rope_theta == 7.0
    scaled = {"rope_type": "yarn", "rope_theta": 7.0}
    with pytest.raises(CheckpointError, match="rope_type = 'yarn'"):
        parse_config(nested | {"rope_parameters": scaled})


LLAMA = {  # a user's own: Llama's names, the mask's id not in config.json
    "architecture": "llada",
    "keys": {
        "d_model": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads", "d_ffn": "intermediate_size",
        "vocab_size": "vocab_size", "max_length": "max_position_embeddings",
        "rope_theta": "rope_theta", "norm_eps": "rms_norm_eps", "eos_token_id": "eos_token_id",
    },
    "constants": {"mask_token_id": 7, "pad_token_id": 0},
    "required": {"hidden_act": ["silu"]},
    "tensors": {
        "embedding": "model.embed_tokens.weight", "blocks": "model.layers",
        "final_norm": "model.norm.weight", "head": "lm_head.weight",
    },
    "block": {
        "attention_norm": "input_layernorm", "q_proj": "self_attn.q_proj",
        "k_proj": "self_attn.k_proj", "v_proj": "self_attn.v_proj", "o_proj": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm", "gate_proj": "mlp.gate_proj",
        "up_proj": "mlp.up_proj", "down_proj": "mlp.down_proj",
    },
}  # fmt: skip


def write_llama(folder, model):
    """A checkpoint in Llama's names, written without the package."""
    block, top = LLAMA["block"], LLAMA["tensors"]
    tensors = {}
    for name, value in model.state_dict().items():
        if name.startswith("blocks."):
            _, n, module, kind = name.split(".")
            tensors[f"model.layers.{n}.{block[module]}.{kind}"] = value.clone()
        else:
            tensors[top[name.removesuffix(".weight")]] = value.clone()
    shape = {theirs: getattr(model.config, ours) for ours, theirs in LLAMA["keys"].items()}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shape | {"hidden_act": "silu"}))
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_layout_of_a_users_own_is_data(tmp_path, small_shape):
    config = replace(small_shape("llada"), mask_token_id=7, pad_token_id=0)
    model = random_model(config, seed=1)
    folder = write_llama(tmp_path / "llama", model)
    layout = read(Layout, LLAMA, "model.layout")
    loaded = load_model(str(folder), dtype=torch.float32, device=torch.device("cpu"), layout=layout)
    assert loaded.config == config
    row = torch.tensor([[1, 2, 3, 7]])
    assert torch.equal(loaded(row), model(row))
    with pytest.raises(CheckpointError, match=r"state model\.layout for another"):
        load_model(str(folder), dtype=torch.float32, device=torch.device("cpu"))


def test_a_layout_that_lacks_names_or_meets_other_arithmetic_is_refused(tmp_path, small_shape):
    block = {name: value for name, value in LLAMA["block"].items() if name != "o_proj"}
    with pytest.raises(ConfigError, match=r"model\.layout: layout: block lacks o_proj"):
        read(Layout, LLAMA | {"block": block}, "model.layout")
    with pytest.raises(ConfigError, match="keys and constants lacks mask_token_id"):
        read(Layout, LLAMA | {"constants": {"pad_token_id": 0}}, "model.layout")
    with pytest.raises(ConfigError, match="keys and constants has the unknown d_modell"):
        read(Layout, LLAMA | {"keys": LLAMA["keys"] | {"d_modell": "x"}}, "model.layout")
    for wrong in ("silu", 3, None):
        with pytest.raises(ConfigError, match=r"model\.layout\.required = .*which is not a list"):
            read(Layout, LLAMA | {"required": {"hidden_act": wrong}}, "model.layout")
    layout = read(Layout, LLAMA, "model.layout")
    with pytest.raises(CheckpointError, match="hidden_act = 'gelu' is not supported"):
        parse_config({"hidden_act": "gelu"}, layout=layout)
