"""Text to tokens and back: what settings ask of a tokenizer, what fits, where a response ends."""

import copy
from dataclasses import replace

import pytest
from made_experiments import GENERATION
from transformers import PreTrainedTokenizerFast

from dllmquant_exp.evaluation.codec import END_OF_TURN, Codec
from dllmquant_exp.evaluation.settings import SettingsError, TaskSettings
from dllmquant_exp.models.transformer import Transformer

DREAM = TaskSettings(
    harness_task="test",
    variant="likelihood",
    metric="acc",
    source="test",
    estimator="dream",
    mc_num=4,
    mc_batch_size=4,
    add_bos=True,
)
END, BEGIN = 256, 258


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return [int(token) for token in tokenizer.encode(text)]


def test_a_response_is_cut_at_its_end_or_not_as_the_settings_say(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    response = [*ids(tokenizer, "ab"), END, *ids(tokenizer, "c\nd"), END]
    cut = Codec(tokenizer, GENERATION, llada.config, 64)
    whole = Codec(tokenizer, replace(GENERATION, cut_at_end=False), llada.config, 64)
    assert (cut.response_text(response, ()), whole.response_text(response, ())) == ("ab", "abc\nd")
    assert whole.response_text(response, ["\n"]) == "abc"
    assert cut.is_finished(response[:3], ()) and not whole.is_finished(response[:3], ())
    assert whole.is_finished(response, ["c"]), "a stop string decides"
    assert cut.has_ended(response, ()) and whole.has_ended(response, ())
    assert not whole.has_ended(ids(tokenizer, "going on"), ["stop"])
    assert whole.has_ended(ids(tokenizer, "going on"), [" on"])


def test_begin_of_text_is_refused_where_the_tokenizer_has_none(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Never replaced by end-of-text, which another tokenizer might offer instead."""
    codec = Codec(tokenizer, DREAM, llada.config, 64)
    assert codec.encode_pair("a", "b")[0][:1] == [BEGIN]
    without = copy.deepcopy(tokenizer)
    without.bos_token = None
    with pytest.raises(SettingsError, match="the tokenizer has none"):
        Codec(without, DREAM, llada.config, 64)


def test_end_of_turn_is_the_tokenizers(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(SettingsError, match=r"needs the end-of-turn token <\|eot_id\|>"):
        asked = replace(GENERATION, confidence_eos_eot_inf=True)
        Codec(tokenizer, asked, llada.config, 64)
    assert Codec(tokenizer, GENERATION, llada.config, 64).end_of_turn is None
    assert END_OF_TURN == "<|eot_id|>"


def test_requests_are_cut_on_the_left_at_the_settings_limits(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    limited = Codec(tokenizer, replace(DREAM, max_length=20), llada.config, 64)
    context, target = limited.encode_pair("0123456789" * 3, "abc")
    assert tokenizer.decode(target) == "abc" and len(context) + len(target) == 19  # and its end
    assert tokenizer.decode(context) == ("0123456789" * 3)[-16:]
    prompt = Codec(tokenizer, replace(GENERATION, max_prompt_length=8), llada.config, 64)
    assert tokenizer.decode(prompt.encode_prompt("0123456789", 12)) == "23456789"
    assert (limited.truncated, prompt.truncated) == (1, 1)
