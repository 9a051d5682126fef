"""A small model that each format version wrote, kept: read by this version, or refused by number.

`saved_vN` was written once, by `write` at the commit that brought format version N, and stays as it
is. A change that makes it mean something else raises FORMAT_VERSION and adds a folder:

    PYTHONPATH=. python tests/quantization/test_saved_golden.py
"""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from dllmquant_exp.models.checkpoints import CheckpointError, random_model
from dllmquant_exp.models.transformer import TransformerConfig
from dllmquant_exp.quantization.attention_settings import AttentionSettings, IaaqSettings
from dllmquant_exp.quantization.blockwise import TokenBatch
from dllmquant_exp.quantization.gptq import GptqSettings
from dllmquant_exp.quantization.pipeline import quantize
from dllmquant_exp.quantization.saving import (
    FORMAT_VERSION,
    load_quantized,
    load_saved_tokenizer,
    read_saved,
    save_quantized,
)
from dllmquant_exp.quantization.settings import MethodSettings, QuantSettings, RotationSettings

HERE = Path(__file__).parent
VERSIONS = sorted(int(folder.name[7:]) for folder in HERE.glob("saved_v*") if folder.is_dir())
TOKENS = torch.tensor([[1, 5, 9, 2, 15, 7, 0], [3, 3, 8, 11, 4, 14, 14]])
MASK = torch.tensor([[True] * 7, [True] * 5 + [False] * 2])


def write() -> None:
    """Writes the folder of the present version: everything that a saved model can hold."""
    config = TransformerConfig(
        architecture="dream", d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ffn=24,
        vocab_size=16, max_length=32, rope_theta=1e4, norm_eps=1e-6, mask_token_id=15,
        eos_token_id=14, pad_token_id=14,
    )  # fmt: skip
    model = random_model(config, seed=0)
    method = MethodSettings("quarot", rotation=RotationSettings(keys=True), gptq=GptqSettings())
    quant = QuantSettings(
        activation_granularity="per_tensor", activation_ranges="static",
        attention=AttentionSettings(k_bits=4), head_bits=8, embedding_bits=8,
    )  # fmt: skip
    iaaq = IaaqSettings(mode="static")
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(16, (8, 12), generator=generator)
    batch = TokenBatch(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.ones(8, 12))
    quantize(model, method, quant, calibration=[batch], iaaq=iaaq)
    words = WordLevel({f"w{n}": n for n in range(16)}, unk_token="w0")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), eos_token="w14")
    folder = HERE / f"saved_v{FORMAT_VERSION}"
    save_quantized(
        model, folder, method=method, quant=quant, iaaq=iaaq, made={"by": "the test"},
        tokenizer=tokenizer,
    )  # fmt: skip
    logits = model(TOKENS, MASK)[MASK].tolist()
    (HERE / f"saved_v{FORMAT_VERSION}_logits.json").write_text(json.dumps(logits) + "\n")


def test_the_present_version_is_kept() -> None:
    assert VERSIONS[-1] == FORMAT_VERSION


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_kept_model_is_read_or_refused_by_its_version(version: int, packed: bool) -> None:
    folder = HERE / f"saved_v{version}"
    if version != FORMAT_VERSION:
        with pytest.raises(CheckpointError, match=f"format_version is {version}"):
            read_saved(folder)
        return
    saved = read_saved(folder)
    model = load_quantized(saved, device=torch.device("cpu"), packed=packed)
    expected = torch.tensor(json.loads((HERE / f"saved_v{version}_logits.json").read_text()))
    torch.testing.assert_close(model(TOKENS, MASK)[MASK], expected, rtol=1e-4, atol=1e-4)
    assert load_saved_tokenizer(saved).convert_tokens_to_ids("w7") == 7


if __name__ == "__main__":
    write()
