"""LLaDA-1.5's published generations on a random checkpoint of its layout, against the plain loops.

Every response has its whole length, wherever its end-of-text and end-of-turn are.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from official_algorithms import decoded

from dllmquant_exp.evaluation.harness import DiffusionLM, derive_seed
from dllmquant_exp.evaluation.requests import ask, make_requests
from dllmquant_exp.evaluation.settings import TaskSettings, resolve_settings
from dllmquant_exp.evaluation.task_building import build_tasks
from dllmquant_exp.models.checkpoints import random_checkpoint
from dllmquant_exp.models.storage import load_model, load_tokenizer

CONF = Path(__file__).resolve().parents[2] / "conf"
LENGTH = 24
# where the model wants an end: offsets of end-of-text, of end-of-turn, and their boost
ENDS = {
    "early": ([1], [2], 12.0),
    "late": ([22], [23], 12.0),
    "repeated": ([3, 4, 9, 15, 16], [2, 10, 20], 12.0),
    "everywhere": (list(range(LENGTH)), [], 12.0),
    "never": (list(range(LENGTH)), list(range(LENGTH)), -40.0),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llada") / "checkpoint"
    return random_checkpoint("llada", folder, d_model=32)


def published(task: str, temperature: float) -> TaskSettings:
    """LLaDA-1.5's settings of a task, with shorter responses in as many blocks as have room."""
    spec = yaml.safe_load((CONF / "task" / f"{task}.yaml").read_text())["tasks"][task]
    settings = resolve_settings(task, spec, "llada_1_5")
    assert settings.confidence_eos_eot_inf and not settings.cut_at_end
    block = min(8, settings.block_length or 8)
    return replace(
        settings, gen_length=LENGTH, steps=LENGTH, block_length=block, temperature=temperature
    )


@pytest.mark.parametrize(
    ("ends", "temperature"), [*((ends, 0.0) for ends in ENDS), ("early", 0.7), ("repeated", 0.7)]
)
@pytest.mark.parametrize("task", ["gsm8k", "humaneval"])
def test_a_task_decodes_token_for_token_as_the_loops_do(
    checkpoint: Path, data_root: Path, task: str, ends: str, temperature: float
) -> None:
    model = load_model(str(checkpoint), dtype=torch.float64, device=torch.device("cpu"))
    tokenizer = load_tokenizer(str(checkpoint))
    settings = published(task, temperature)
    lm = DiffusionLM(model, tokenizer, settings, seed=3, batch_size=2)
    built = build_tasks(replace(settings, shots=0), data_root=data_root, limit=2)
    make_requests(built, replace(settings, shots=0), lm)
    prompts = [lm.codec.encode_prompt(r.args[0], LENGTH) for r in built[0].task._instances]
    assert lm.codec.end_of_turn is not None
    _want(model, lm.codec.end_of_turn, *ENDS[ends])
    ask(lm, built)
    answers = list(lm.cache.answers.values())
    decoding = replace(settings.decoding(), end_of_turn=lm.codec.end_of_turn)
    seeds = [derive_seed(lm._seed_of(r), r.idx, 0) for r in built[0].task._instances]
    expected = [
        decoded(model, prompt, decoding, seed)[-1]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    assert sorted(answers) == sorted(expected)
    count = sum(token == model.config.eos_token_id for row in expected for token in row)
    assert (count == 0) == (ends == "never")
    for instance, row in zip(built[0].task._instances, expected, strict=True):
        assert instance.resps == [tokenizer.decode(row, skip_special_tokens=True)]


def _want(model: Any, turn: int, texts: list[int], turns: list[int], boost: float) -> None:
    """Add a boost to the ends' logits at offsets of each row's response."""
    real = model.forward

    def forward(tokens: Any, attention_mask: Any = None, positions: Any = None) -> Any:
        logits = real(tokens, attention_mask).clone()
        for row in range(len(tokens)):
            length = tokens.shape[1] if attention_mask is None else int(attention_mask[row].sum())
            for token, offsets in ((model.config.eos_token_id, texts), (turn, turns)):
                logits[row, [length - LENGTH + offset for offset in offsets], token] += boost
        return logits if positions is None else logits[positions]

    model.forward = forward
