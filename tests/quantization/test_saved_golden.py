"""Small models that this format version wrote, kept: a change of their meaning is noticed.

Names of stored tensors follow the modules' own, so that a renamed buffer would change the format. A
change on purpose raises FORMAT_VERSION and writes the folders anew; delete the old ones:

    PYTHONPATH=. python tests/quantization/test_saved_golden.py
"""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from small_models import small_model, toy_tokenizer

from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.quantization.blockwise import TokenBatch
from dllmquant_exp.quantization.gptq import Gptq
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.pipeline import needs_calibration, quantize
from dllmquant_exp.quantization.quant_settings import AttentionSettings, QuantSettings
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
CASES: dict[str, tuple[Method, QuantSettings, Iaaq | None, torch.dtype]] = {
    "everything": (
        Method("quarot", {"rotation": Rotation(keys=True), "gptq": Gptq()}),
        QuantSettings(
            activation_granularity="per_tensor", activation_ranges="static",
            attention=AttentionSettings(k_bits=4), head_bits=8, embedding_bits=8,
        ),
        Iaaq(mode="static"),
        torch.float32,
    ),
    "numbers": (  # a byte per weight, in several files
        Method("rtn", {"round": Nearest()}),
        QuantSettings(weight_bits=8, activation_bits=8),
        None,
        torch.bfloat16,
    ),
}  # fmt: skip


def write(case: str) -> None:
    """Writes a case's folder of the present version, and beside it what it says."""
    method, quant, iaaq, dtype = CASES[case]
    model = small_model("dream", dtype, d_model=16, d_ffn=24, vocab_size=16)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(16, (8, 12), generator=generator)
    batch = TokenBatch(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.ones(8, 12))
    needed = needs_calibration(method, quant, iaaq)
    quantize(model, method, quant, calibration=[batch] if needed else [], iaaq=iaaq)
    save_quantized(
        model, HERE / f"saved_v{FORMAT_VERSION}_{case}", method=method, quant=quant, iaaq=iaaq,
        made={"by": "the test"}, tokenizer=toy_tokenizer(16),
        max_shard_bytes=2000 if case == "numbers" else 10**6,
    )  # fmt: skip
    facts = {"weights": digest(model), "logits": model(TOKENS, MASK)[MASK].tolist()}
    (HERE / f"saved_v{FORMAT_VERSION}_{case}.json").write_text(json.dumps(facts) + "\n")


def digest(model: Transformer) -> str:
    """Hash of every value that the model multiplies or adds."""
    found = hashlib.sha256()
    for name, module in model.named_modules():
        for leaf in ("weight", "bias", "activation_scale", "activation_zero", "choice"):
            value = getattr(module, leaf, None)
            if isinstance(value, torch.Tensor):
                content = value.detach().double().contiguous().numpy().tobytes()
                found.update(f"{name}.{leaf} {tuple(value.shape)} ".encode() + content)
    return found.hexdigest()


@pytest.mark.parametrize("case", CASES)
def test_a_kept_model_is_read_as_it_was(case: str) -> None:
    saved = read_saved(HERE / f"saved_v{FORMAT_VERSION}_{case}")
    model = load_quantized(saved, device=torch.device("cpu"), packed=False)
    facts = json.loads((HERE / f"saved_v{FORMAT_VERSION}_{case}.json").read_text())
    assert digest(model) == facts["weights"]
    logits = model(TOKENS, MASK)[MASK]
    tolerance = 1e-4 if logits.dtype == torch.float32 else 0.05
    expected = torch.tensor(facts["logits"], dtype=logits.dtype)
    torch.testing.assert_close(logits, expected, rtol=tolerance, atol=tolerance)
    assert load_saved_tokenizer(saved).convert_tokens_to_ids("w7") == 7


if __name__ == "__main__":
    for case in CASES:
        write(case)
