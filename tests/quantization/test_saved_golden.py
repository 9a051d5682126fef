"""Small models that each format version wrote, kept: read by this version, or refused by number.

`saved_vN_CASE` were written once, by `write` at the commit that brought format version N (of
version 1 `everything` was, the others later), and stay as they are. A change that makes them mean
something else raises FORMAT_VERSION and adds folders:

    PYTHONPATH=. python tests/quantization/test_saved_golden.py
"""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from dllmquant_exp.models.checkpoints import CheckpointError, random_model
from dllmquant_exp.models.transformer import Transformer, TransformerConfig
from dllmquant_exp.quantization.blockwise import TokenBatch
from dllmquant_exp.quantization.gptq import Gptq
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.pipeline import needs_calibration, quantize
from dllmquant_exp.quantization.quant_settings import AttentionSettings, QuantSettings
from dllmquant_exp.quantization.quantizers import QuantizationError
from dllmquant_exp.quantization.rotation import Rotation
from dllmquant_exp.quantization.saving import (
    FORMAT_VERSION,
    load_quantized,
    load_saved_tokenizer,
    read_saved,
    save_quantized,
)

HERE = Path(__file__).parent
TOKENS = torch.tensor([[1, 5, 9, 2, 15, 7, 0], [3, 3, 8, 11, 4, 14, 14]])
MASK = torch.tensor([[True] * 7, [True] * 5 + [False] * 2])
GPTQ64 = Method("gptq", {"gptq": Gptq(dtype="float64")})
RTN = Method("rtn", {"round": Nearest()})
IAAQ = Iaaq(mode="static")
CASES: dict[str, tuple[Method, QuantSettings, Iaaq | None, torch.dtype]] = {
    "everything": (
        Method("quarot", {"rotation": Rotation(keys=True), "gptq": Gptq()}),
        QuantSettings(
            activation_granularity="per_tensor", activation_ranges="static",
            attention=AttentionSettings(k_bits=4), head_bits=8, embedding_bits=8,
        ),
        IAAQ,
        torch.float32,
    ),
    "numbers": (  # a byte per weight, in several files
        RTN, QuantSettings(weight_bits=8, activation_bits=8), None, torch.bfloat16
    ),
    "groups": (  # scales in float64
        GPTQ64,
        QuantSettings(
            weight_bits=3, weight_granularity="per_group", group_size=8, activation_bits=16
        ),
        None,
        torch.float32,
    ),
    "activations": (  # plain weights
        RTN, QuantSettings(weight_bits=16), None, torch.float32
    ),
}  # fmt: skip
KEPT = sorted(
    (int(found[1]), found[2])
    for folder in HERE.glob("saved_v*")
    if (found := re.fullmatch(r"saved_v(\d+)_(\w+)", folder.name)) and folder.is_dir()
)


def write(case: str) -> None:
    """Writes a case's folder of the present version, and beside it what it says."""
    method, quant, iaaq, dtype = CASES[case]
    config = TransformerConfig(
        architecture="dream", d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ffn=24,
        vocab_size=16, max_length=32, rope_theta=1e4, norm_eps=1e-6, mask_token_id=15,
        eos_token_id=14, pad_token_id=14,
    )  # fmt: skip
    model = random_model(config, seed=0).to(dtype)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(16, (8, 12), generator=generator)
    batch = TokenBatch(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.ones(8, 12))
    needed = needs_calibration(method, quant, iaaq)
    quantize(model, method, quant, calibration=[batch] if needed else [], iaaq=iaaq)
    words = WordLevel({f"w{n}": n for n in range(16)}, unk_token="w0")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), eos_token="w14")
    save_quantized(
        model, HERE / f"saved_v{FORMAT_VERSION}_{case}", method=method, quant=quant, iaaq=iaaq,
        made={"by": "the test"}, tokenizer=tokenizer,
        max_shard_bytes=2000 if case == "numbers" else 10**6,
    )  # fmt: skip
    write_facts(case, model)


def write_facts(case: str, model: Transformer) -> None:
    facts = {"weights": digest(model), "logits": model(TOKENS, MASK)[MASK].tolist()}
    (HERE / f"saved_v{FORMAT_VERSION}_{case}.json").write_text(json.dumps(facts) + "\n")


def digest(model: Transformer) -> str:
    """Of every value that the model multiplies or adds: weights, biases, norms, ranges, alphas."""
    found = hashlib.sha256()
    for name, module in model.named_modules():
        for leaf in ("weight", "bias", "activation_scale", "activation_zero", "choice"):
            value = getattr(module, leaf, None)
            if isinstance(value, torch.Tensor):
                content = value.detach().double().contiguous().numpy().tobytes()
                found.update(f"{name}.{leaf} {tuple(value.shape)} ".encode() + content)
    return found.hexdigest()


def test_every_case_of_the_present_version_is_kept() -> None:
    assert {case for version, case in KEPT if version == FORMAT_VERSION} == {*CASES}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("version", "case"), KEPT)
def test_a_kept_model_is_read_or_refused_by_its_version(
    version: int, case: str, packed: bool
) -> None:
    folder = HERE / f"saved_v{version}_{case}"
    if version != FORMAT_VERSION:
        with pytest.raises(CheckpointError, match=f"format_version is {version}"):
            read_saved(folder)
        return
    saved = read_saved(folder)
    if packed and case != "everything":
        with pytest.raises(QuantizationError, match="cannot be packed"):
            load_quantized(saved, device=torch.device("cpu"), packed=True)
        return
    model = load_quantized(saved, device=torch.device("cpu"), packed=packed)
    facts = json.loads((HERE / f"saved_v{version}_{case}.json").read_text())
    assert digest(model) == facts["weights"]
    logits = model(TOKENS, MASK)[MASK]
    tolerance = 1e-4 if logits.dtype == torch.float32 else 0.05
    expected = torch.tensor(facts["logits"], dtype=logits.dtype)
    torch.testing.assert_close(logits, expected, rtol=tolerance, atol=tolerance)
    assert load_saved_tokenizer(saved).convert_tokens_to_ids("w7") == 7


if __name__ == "__main__":
    for case in CASES:
        if (FORMAT_VERSION, case) not in KEPT:
            write(case)
