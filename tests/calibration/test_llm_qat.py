"""LLM-QAT: texts that the model writes, up to their end of text."""

from collections.abc import Callable
from typing import Any

from dllmquant_exp.calibration.llm_qat import LlmQat

EOS = 37


def test_texts_end_with_their_end_of_text(tiny_model: Callable[..., Any], inputs: Any) -> None:
    model = tiny_model(eos_logit=2.0)
    sampler = LlmQat(name="llm_qat", samples=12, gen_length=12, steps=12, blocks=1)
    made, again, other = (sampler.sample(inputs(model, seed=seed, size=5)) for seed in (0, 0, 1))
    assert made.digest == again.digest != other.digest
    ended = 0
    for state in made.states:
        tokens = state.tokens.tolist()
        assert tokens[0] < EOS and state.prompt_length == 1 and not state.masked.any()
        assert EOS not in tokens[:-1]
        assert len(tokens) == 13 or tokens[-1] == EOS
        ended += tokens[-1] == EOS
        assert state.is_scored
    assert ended > 0
    assert len({state.tokens[0].item() for state in made.states}) > 3


def test_texts_are_sampled_and_not_greedy(tiny_model: Callable[..., Any], inputs: Any) -> None:
    sampler = LlmQat(name="llm_qat", samples=60, gen_length=8, steps=8, blocks=2)
    made = sampler.sample(inputs(tiny_model(), size=16))
    texts = {tuple(state.tokens.tolist()) for state in made.states}
    starts = {text[0] for text in texts}
    assert len(starts) < len(texts), "two texts of one first token differ"
