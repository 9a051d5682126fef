"""The two official checkpoint layouts: `config.json` keys and tensor names.

LLaDA (`model_type: llada`) follows OLMo's names, Dream (`model_type: Dream`) follows Qwen2's. Both
describe the same `Transformer`; only names, biases and the internal shift differ.

In LLaDA the name `ff_out` occurs twice: `model.transformer.blocks.N.ff_out` is a block's down
projection, `model.transformer.ff_out` is the language-model head. Names are therefore mapped one
by one, never by substring.

Source: configuration and index files of GSAI-ML/LLaDA-8B-Base and Dream-org/Dream-v0-Base-7B.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dllmquant_exp.errors import Refusal
from dllmquant_exp.models.transformer import Architecture, TransformerConfig

Shape = tuple[int, ...]


class CheckpointError(Refusal):
    """A checkpoint that cannot be used; the message says what is wrong, where, and what to do."""


# Values that would change the shape or the arithmetic of the model. A key may be absent (the
# official default is the first value listed); any other value than those listed is refused.
_REQUIRED_VALUES: dict[str, dict[str, tuple[Any, ...]]] = {
    "llada": {
        "activation_type": ("silu",),
        "alibi": (False, None),
        "attention_layer_norm": (False, None),
        "bias_for_layer_norm": (False, None),
        "block_group_size": (1,),
        "block_type": ("llama",),
        "clip_qkv": (None,),
        "include_bias": (False,),
        "include_qkv_bias": (False, None),
        "input_emb_norm": (False, None),
        "layer_norm_type": ("rms",),
        "layer_norm_with_affine": (True,),
        "multi_query_attention": (None, False),
        "quantization_config": (None,),
        "rope": (True,),
        "rope_full_precision": (True,),
        "scale_logits": (False, None),
        "weight_tying": (False,),
    },
    "dream": {
        "attention_bias": (True, None),
        "hidden_act": ("silu",),
        "mlp_bias": (False, None),
        "quantization_config": (None,),
        "rope_scaling": (None,),
        "sliding_window": (None,),
        "tie_word_embeddings": (False,),
        "use_mrope": (False, None),
        "use_sliding_window": (False, None),
    },
}

# Our field <- their key, for the fields that are one plain number in both layouts.
_SAME_NAME = {key: key for key in ("mask_token_id", "eos_token_id", "pad_token_id")}
_NUMBERS: dict[str, dict[str, str]] = {
    "llada": {
        "d_model": "d_model",
        "n_layers": "n_layers",
        "n_heads": "n_heads",
        "n_kv_heads": "n_kv_heads",
        "d_ffn": "mlp_hidden_size",
        "vocab_size": "embedding_size",
        "max_length": "max_sequence_length",
        "rope_theta": "rope_theta",
        "norm_eps": "rms_norm_eps",
        **_SAME_NAME,
    },
    "dream": {
        "d_model": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads",
        "d_ffn": "intermediate_size",
        "vocab_size": "vocab_size",
        "max_length": "max_position_embeddings",
        "rope_theta": "rope_theta",
        "norm_eps": "rms_norm_eps",
        **_SAME_NAME,
    },
}
_FLOATS = ("rope_theta", "norm_eps")
_MODEL_TYPES: dict[str, Architecture] = {"llada": "llada", "Dream": "dream"}
_CLASSES: dict[str, Architecture] = {"LLaDAModelLM": "llada", "DreamModel": "dream"}


def parse_config(raw: Mapping[str, Any], where: str = "config.json") -> TransformerConfig:
    """The shape described by an official `config.json`.

    Args:
        raw: the parsed JSON object. Keys that do not change the model are tolerated.
        where: the file, for messages.

    Raises:
        CheckpointError: one message that names every missing key, every value of the wrong type
            and every value that asks for something this project's transformer does not do.
    """
    if not isinstance(raw, Mapping):
        raise CheckpointError(f"{where}: expected a JSON object, found {type(raw).__name__}")
    architecture = _detect_architecture(raw, where)
    problems = [
        f"{key} = {raw[key]!r} is not supported (supported: {_listed(allowed)})"
        for key, allowed in _REQUIRED_VALUES[architecture].items()
        if key in raw and not any(_same(raw[key], value) for value in allowed)
    ]
    numbers = _with_derived(raw, architecture, problems)
    values: dict[str, Any] = {}
    for field, key in _NUMBERS[architecture].items():
        value = numbers.get(key)
        problem = _number_problem(key, value, floating=field in _FLOATS)
        if problem is not None:
            problems.append(problem)
        values[field] = value
    if problems:
        raise CheckpointError(joined(f"{where}: not a usable {architecture} model", problems))
    values |= {field: float(values[field]) for field in _FLOATS}
    try:
        config = TransformerConfig(architecture=architecture, **values)
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from error
    head_dim = raw.get("head_dim")
    if head_dim is not None and head_dim != config.head_dim:
        raise CheckpointError(
            f"{where}: head_dim = {head_dim!r} is not supported (supported: {config.head_dim}, "
            "the hidden size divided by the number of heads)"
        )
    return config


def config_to_json(config: TransformerConfig) -> dict[str, Any]:
    """The official `config.json` of a shape; `parse_config` reads it back unchanged.

    It names no `auto_map`: the project neither ships nor runs remote code.
    """
    names = _NUMBERS[config.architecture]
    written: dict[str, Any] = {key: getattr(config, field) for field, key in names.items()}
    if config.architecture == "llada":
        written |= {
            "architectures": ["LLaDAModelLM"],
            "model_type": "llada",
            "vocab_size": config.vocab_size,
            "mlp_ratio": 4,
        }
    else:
        written |= {
            "architectures": ["DreamModel"],
            "model_type": "Dream",
            "bos_token_id": config.eos_token_id,
        }
    optional = ("attention_bias", "clip_qkv", "mlp_bias", "quantization_config")
    for key, allowed in _REQUIRED_VALUES[config.architecture].items():
        if key not in optional:
            written[key] = allowed[0]
    return dict(sorted(written.items()))


def tensor_names(config: TransformerConfig) -> dict[str, tuple[str, Shape]]:
    """Official tensor name -> (parameter name in `Transformer`, shape), for every parameter."""
    d, f, v = config.d_model, config.d_ffn, config.vocab_size
    kv = config.n_kv_heads * config.head_dim
    shapes: dict[str, Shape] = {
        "attention_norm.weight": (d,),
        "q_proj.weight": (d, d),
        "k_proj.weight": (kv, d),
        "v_proj.weight": (kv, d),
        "o_proj.weight": (d, d),
        "ffn_norm.weight": (d,),
        "gate_proj.weight": (f, d),
        "up_proj.weight": (f, d),
        "down_proj.weight": (d, f),
    }
    if config.qkv_bias:
        shapes |= {"q_proj.bias": (d,), "k_proj.bias": (kv,), "v_proj.bias": (kv,)}
    official, top = _OFFICIAL_BLOCK[config.architecture], _OFFICIAL_TOP[config.architecture]
    names: dict[str, tuple[str, Shape]] = {top["embedding"]: ("embedding.weight", (v, d))}
    for n in range(config.n_layers):
        for ours, shape in shapes.items():
            module, kind = ours.split(".")
            names[f"{top['blocks']}.{n}.{official[module]}.{kind}"] = (f"blocks.{n}.{ours}", shape)
    names[top["final_norm"]] = ("final_norm.weight", (d,))
    names[top["head"]] = ("head.weight", (v, d))
    return names


_OFFICIAL_TOP: dict[str, dict[str, str]] = {
    "llada": {
        "embedding": "model.transformer.wte.weight",
        "blocks": "model.transformer.blocks",
        "final_norm": "model.transformer.ln_f.weight",
        "head": "model.transformer.ff_out.weight",
    },
    "dream": {
        "embedding": "model.embed_tokens.weight",
        "blocks": "model.layers",
        "final_norm": "model.norm.weight",
        "head": "lm_head.weight",
    },
}
_OFFICIAL_BLOCK: dict[str, dict[str, str]] = {
    "llada": {
        "attention_norm": "attn_norm",
        "q_proj": "q_proj",
        "k_proj": "k_proj",
        "v_proj": "v_proj",
        "o_proj": "attn_out",
        "ffn_norm": "ff_norm",
        "gate_proj": "ff_proj",
        "up_proj": "up_proj",
        "down_proj": "ff_out",
    },
    "dream": {
        "attention_norm": "input_layernorm",
        "q_proj": "self_attn.q_proj",
        "k_proj": "self_attn.k_proj",
        "v_proj": "self_attn.v_proj",
        "o_proj": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "gate_proj": "mlp.gate_proj",
        "up_proj": "mlp.up_proj",
        "down_proj": "mlp.down_proj",
    },
}


def _detect_architecture(raw: Mapping[str, Any], where: str) -> Architecture:
    model_type, classes = raw.get("model_type"), raw.get("architectures") or []
    if isinstance(model_type, str) and model_type in _MODEL_TYPES:
        return _MODEL_TYPES[model_type]
    if model_type is None and isinstance(classes, list):
        for name in classes:
            if isinstance(name, str) and name in _CLASSES:
                return _CLASSES[name]
    raise CheckpointError(
        f"{where}: model_type = {model_type!r}, architectures = {classes!r} is not supported "
        f"(supported model_type: {_listed(tuple(_MODEL_TYPES))})"
    )


def _with_derived(
    raw: Mapping[str, Any], architecture: Architecture, problems: list[str]
) -> dict[str, Any]:
    """`raw` with the values that the official configuration classes derive when a key is null."""
    numbers = dict(raw)
    if architecture == "dream":
        rope = raw.get("rope_parameters")  # where transformers 5 puts rope_theta when it saves
        if isinstance(rope, Mapping):
            if rope.get("rope_type", "default") != "default":
                problems.append(
                    f"rope_parameters.rope_type = {rope['rope_type']!r} is not supported "
                    "(supported: 'default')"
                )
            numbers.setdefault("rope_theta", rope.get("rope_theta"))
        _default(numbers, "num_key_value_heads", lambda n: n["num_attention_heads"])
        return numbers
    _default(numbers, "n_kv_heads", lambda n: n["n_heads"])
    _default(numbers, "mlp_hidden_size", lambda n: n["mlp_ratio"] * n["d_model"])
    _default(numbers, "embedding_size", lambda n: n["vocab_size"])
    rows, vocabulary = numbers.get("embedding_size"), raw.get("vocab_size")
    if isinstance(rows, int) and isinstance(vocabulary, int) and rows < vocabulary:
        problems.append(f"embedding_size = {rows} must be at least vocab_size = {vocabulary}")
    return numbers


def _default(numbers: dict[str, Any], key: str, derive: Callable[[dict[str, Any]], Any]) -> None:
    if numbers.get(key) is None:
        try:
            numbers[key] = derive(numbers)
        except (KeyError, TypeError):  # what it derives from is missing too, and is reported
            numbers.pop(key, None)


def _number_problem(key: str, value: Any, *, floating: bool) -> str | None:
    if value is None:
        return f"{key} is missing"
    if isinstance(value, bool) or not isinstance(value, (int, float) if floating else int):
        return f"{key} = {value!r} must be {'a number' if floating else 'a whole number'}"
    if floating and not 0 < value < float("inf"):
        return f"{key} = {value!r} must be a positive number"
    return None


def _same(value: Any, allowed: Any) -> bool:
    return type(value) is type(allowed) and bool(value == allowed)


def _listed(values: tuple[Any, ...]) -> str:
    return " or ".join(repr(value) for value in values)


def joined(summary: str, problems: Sequence[str], at_most: int = 40) -> str:
    """One message: the summary and one indented line per problem, cut after `at_most` lines."""
    lines = [f"{summary}:", *(f"  - {problem}" for problem in problems[:at_most])]
    if len(problems) > at_most:
        lines.append(f"  ... and {len(problems) - at_most} more")
    return "\n".join(lines)
