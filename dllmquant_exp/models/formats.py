"""Checkpoint layouts: `config.json` keys and tensor names, the two official ones and a user's own.

LLaDA (`model_type: llada`) follows OLMo's names, Dream (`model_type: Dream`) follows Qwen2's. Both
describe the same `Transformer`; only names, biases and the internal shift differ.

In LLaDA the name `ff_out` occurs twice: `model.transformer.blocks.N.ff_out` is a block's down
projection, `model.transformer.ff_out` is the language-model head. Names are therefore mapped one
by one, never by substring.

Source: configuration and index files of GSAI-ML/LLaDA-8B-Base and Dream-org/Dream-v0-Base-7B.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from dllmquant_exp.errors import Refusal
from dllmquant_exp.models.transformer import Architecture, TransformerConfig
from dllmquant_exp.store.schema import Settings

Shape = tuple[int, ...]


class CheckpointError(Refusal):
    """A checkpoint that cannot be used; the message says what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Layout(Settings):
    """Names that a family of checkpoints gives to the shape and the tensors of our `Transformer`.

    A model option may state one of its own under `layout:`; LLaDA's and Dream's are below.

    Attributes:
        architecture: the computation: llada, or dream (biases on q, k and v; predictions shifted).
        keys: field of `TransformerConfig` -> key of config.json.
        tensors: embedding, blocks (the prefix before a block's number), final_norm, head -> name.
        block: module of a `Block` -> name of the module inside a block.
        model_types, classes: `model_type` and `architectures` by which config.json is recognized.
        required: key of config.json -> values that this transformer computes. A key may be absent;
            the first value is the official default, and any other value is refused.
        constants: fields of `TransformerConfig` that config.json does not hold.
    """

    architecture: Architecture
    keys: Mapping[str, str]
    tensors: Mapping[str, str]
    block: Mapping[str, str]
    model_types: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    required: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        stated = (
            ("keys and constants", {*self.keys, *self.constants}, _FIELDS),
            ("tensors", {*self.tensors}, {"embedding", "blocks", "final_norm", "head"}),
            ("block", {*self.block}, _MODULES),
        )
        problems = [
            f"{name} {word} {', '.join(sorted(names))}"
            for name, given, wanted in stated
            for word, names in (("lacks", wanted - given), ("has the unknown", given - wanted))
            if names
        ]
        if problems:
            raise CheckpointError(f"layout: {'; '.join(problems)}")


_FIELDS = {f.name for f in fields(TransformerConfig)} - {"architecture"}
_MODULES = {"attention_norm", "q_proj", "k_proj", "v_proj", "o_proj"} | {
    "ffn_norm", "gate_proj", "up_proj", "down_proj",
}  # fmt: skip
_FLOATS = ("rope_theta", "norm_eps")
_TOKENS = {key: key for key in ("mask_token_id", "eos_token_id", "pad_token_id")}
LLADA = Layout(
    architecture="llada",
    keys={
        "d_model": "d_model",
        "n_layers": "n_layers",
        "n_heads": "n_heads",
        "n_kv_heads": "n_kv_heads",
        "d_ffn": "mlp_hidden_size",
        "vocab_size": "embedding_size",
        "max_length": "max_sequence_length",
        "rope_theta": "rope_theta",
        "norm_eps": "rms_norm_eps",
        **_TOKENS,
    },
    tensors={
        "embedding": "model.transformer.wte.weight",
        "blocks": "model.transformer.blocks",
        "final_norm": "model.transformer.ln_f.weight",
        "head": "model.transformer.ff_out.weight",
    },
    block={
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
    model_types=("llada",),
    classes=("LLaDAModelLM",),
    required={
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
)
DREAM = Layout(
    architecture="dream",
    keys={
        "d_model": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads",
        "d_ffn": "intermediate_size",
        "vocab_size": "vocab_size",
        "max_length": "max_position_embeddings",
        "rope_theta": "rope_theta",
        "norm_eps": "rms_norm_eps",
        **_TOKENS,
    },
    tensors={
        "embedding": "model.embed_tokens.weight",
        "blocks": "model.layers",
        "final_norm": "model.norm.weight",
        "head": "lm_head.weight",
    },
    block={
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
    model_types=("Dream",),
    classes=("DreamModel",),
    required={
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
)
_OFFICIAL = {layout.architecture: layout for layout in (LLADA, DREAM)}
# Keys whose absence means the official default, and which config.json is written without.
_UNWRITTEN = ("attention_bias", "clip_qkv", "mlp_bias", "quantization_config")


def parse_config(
    raw: Mapping[str, Any], where: str = "config.json", layout: Layout | None = None
) -> TransformerConfig:
    """The shape described by an official `config.json`.

    Args:
        raw: the parsed JSON object. Keys that do not change the model are tolerated.
        where: the file, for messages.
        layout: None to recognize LLaDA's or Dream's.

    Raises:
        CheckpointError: one message that names every missing key, every value of the wrong type
            and every value that asks for something this project's transformer does not do.
    """
    if not isinstance(raw, Mapping):
        raise CheckpointError(f"{where}: expected a JSON object, found {type(raw).__name__}")
    layout = layout or _recognized(raw, where)
    problems = [
        f"{key} = {raw[key]!r} is not supported (supported: {_listed(allowed)})"
        for key, allowed in layout.required.items()
        if key in raw and not any(_same(raw[key], value) for value in allowed)
    ]
    numbers = _with_derived(raw, layout, problems)
    values: dict[str, Any] = {}
    for name in sorted(_FIELDS):
        key = layout.keys.get(name, name)
        value = numbers.get(key) if name in layout.keys else layout.constants[name]
        problem = _number_problem(key, value, floating=name in _FLOATS)
        if problem is not None:
            problems.append(problem)
        values[name] = value
    if problems:
        kind = layout.architecture
        raise CheckpointError(joined(f"{where}: not a usable {kind} model", problems))
    values |= {name: float(values[name]) for name in _FLOATS}
    try:
        config = TransformerConfig(architecture=layout.architecture, **values)
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
    layout = _OFFICIAL[config.architecture]
    written: dict[str, Any] = {key: getattr(config, name) for name, key in layout.keys.items()}
    written |= {"architectures": [layout.classes[0]], "model_type": layout.model_types[0]}
    if config.architecture == "llada":
        written |= {"vocab_size": config.vocab_size, "mlp_ratio": 4}
    else:
        written |= {"bos_token_id": config.eos_token_id}
    required = layout.required.items()
    written |= {key: allowed[0] for key, allowed in required if key not in _UNWRITTEN}
    return dict(sorted(written.items()))


def tensor_names(
    config: TransformerConfig, layout: Layout | None = None
) -> dict[str, tuple[str, Shape]]:
    """Tensor name in a checkpoint -> (parameter name in `Transformer`, shape), for every parameter.

    layout: None for the official one of the architecture.
    """
    layout = layout or _OFFICIAL[config.architecture]
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
    top = layout.tensors
    names: dict[str, tuple[str, Shape]] = {top["embedding"]: ("embedding.weight", (v, d))}
    for n in range(config.n_layers):
        for ours, shape in shapes.items():
            module, kind = ours.split(".")
            name = f"{top['blocks']}.{n}.{layout.block[module]}.{kind}"
            names[name] = (f"blocks.{n}.{ours}", shape)
    names[top["final_norm"]] = ("final_norm.weight", (d,))
    names[top["head"]] = ("head.weight", (v, d))
    return names


def _recognized(raw: Mapping[str, Any], where: str) -> Layout:
    """LLaDA's or Dream's layout, by the model type or, where that is absent, the class."""
    model_type, classes = raw.get("model_type"), raw.get("architectures") or []
    for layout in _OFFICIAL.values():
        if model_type in layout.model_types:
            return layout
        if (
            model_type is None
            and isinstance(classes, list)
            and {*layout.classes} & {*map(str, classes)}
        ):
            return layout
    known = tuple(name for layout in _OFFICIAL.values() for name in layout.model_types)
    raise CheckpointError(
        f"{where}: model_type = {model_type!r}, architectures = {classes!r} is not supported "
        f"(supported model_type: {_listed(known)}; state model.layout for another)"
    )


def _with_derived(raw: Mapping[str, Any], layout: Layout, problems: list[str]) -> dict[str, Any]:
    """`raw` with the values that the official configuration classes derive when a key is null."""
    numbers = dict(raw)
    if layout is not LLADA:
        rope = raw.get("rope_parameters")  # where transformers 5 puts rope_theta when it saves
        if isinstance(rope, Mapping):
            if rope.get("rope_type", "default") != "default":
                problems.append(
                    f"rope_parameters.rope_type = {rope['rope_type']!r} is not supported "
                    "(supported: 'default')"
                )
            numbers.setdefault("rope_theta", rope.get("rope_theta"))
        heads = layout.keys.get("n_heads", "")
        _default(numbers, layout.keys.get("n_kv_heads", ""), lambda n: n[heads])
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


def _listed(values: Sequence[Any]) -> str:
    return " or ".join(repr(value) for value in values)


def joined(summary: str, problems: Sequence[str], at_most: int = 40) -> str:
    """One message: the summary and one indented line per problem, cut after `at_most` lines."""
    lines = [f"{summary}:", *(f"  - {problem}" for problem in problems[:at_most])]
    if len(problems) > at_most:
        lines.append(f"  ... and {len(problems) - at_most} more")
    return "\n".join(lines)
