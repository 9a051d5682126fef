"""The lm-eval model: what it asks of diffusion, that batches change nothing, and resuming."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from made_experiments import GENERATION
from transformers import PreTrainedTokenizerFast

from dllmquant_exp.diffusion import LikelihoodRequest, generate, log_likelihoods
from dllmquant_exp.evaluation import harness
from dllmquant_exp.evaluation.harness import DiffusionLM, derive_seed
from dllmquant_exp.evaluation.settings import SettingsError, TaskSettings
from dllmquant_exp.models.transformer import Transformer

LIKELIHOOD = TaskSettings(
    harness_task="test",
    variant="likelihood",
    metric="acc",
    source="test",
    estimator="llada",
    mc_num=4,
    mc_batch_size=4,
)
BEGIN = 258


def asked(kind: str, *arguments: Any, doc_id: int | None = 0, idx: int = 0) -> Instance:
    metadata = (None if doc_id is None else "task", doc_id, 1)
    doc = {"text": arguments[0]}
    return Instance(request_type=kind, doc=doc, arguments=arguments, idx=idx, metadata=metadata)


def pair(context: str, target: str, doc_id: int | None = 0, idx: int = 0) -> Instance:
    return asked("loglikelihood", context, target, doc_id=doc_id, idx=idx)


def prompt(text: str, until: Any = (), doc_id: int | None = 0) -> Instance:
    return asked("generate_until", text, {"until": until}, doc_id=doc_id)


def make(
    model: Transformer, tokenizer: PreTrainedTokenizerFast, settings: TaskSettings, **options: Any
) -> DiffusionLM:
    return DiffusionLM(model, tokenizer, settings, **({"seed": 7, "batch_size": 4} | options))


@pytest.fixture(scope="module")
def double(llada: Transformer) -> Transformer:
    copy = Transformer(llada.config).to(torch.float64).eval().requires_grad_(False)
    copy.load_state_dict({k: v.double() for k, v in llada.state_dict().items()})
    return copy


QUESTIONS = [
    pair("Question: " + "why? " * (doc_id % 3), f" {answer}", doc_id, idx)
    for doc_id in range(6)
    for idx, answer in enumerate(["yes", "no", "perhaps so"])
]


def test_it_is_registered_with_lm_eval() -> None:
    assert get_model("dllmquant") is DiffusionLM


def test_likelihoods_are_those_of_diffusion(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    answers = make(llada, tokenizer, LIKELIHOOD).loglikelihood([pair("2 + 2 =", " 4", 3)])
    seed = derive_seed(7, "task", 3)
    request = LikelihoodRequest(
        tuple(tokenizer.encode("2 + 2 =")), tuple(tokenizer.encode(" 4")), seed
    )
    expected = log_likelihoods(llada, [request], LIKELIHOOD.likelihood(), batch_size=1)
    assert answers == [(pytest.approx(expected.values[0]), False)]


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batches_change_nothing(
    double: Transformer, tokenizer: PreTrainedTokenizerFast, batch_size: int
) -> None:
    many = make(double, tokenizer, LIKELIHOOD, batch_size=batch_size).loglikelihood(QUESTIONS)
    single = make(double, tokenizer, LIKELIHOOD, batch_size=1)
    alone = [single.loglikelihood([question])[0] for question in QUESTIONS]
    for (value, _), (expected, _) in zip(many, alone, strict=True):
        assert value == pytest.approx(expected, abs=1e-10)


def test_seeds_matter_and_items_differ(
    double: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    def values(seed: int, doc_id: int | None) -> float:
        lm = make(double, tokenizer, LIKELIHOOD, seed=seed)
        return lm.loglikelihood([pair("a long context", " and its continuation", doc_id)])[0][0]

    assert values(0, 1) == values(0, 1)
    assert len({values(0, 1), values(1, 1), values(0, 2), values(0, None)}) == 4


def test_a_request_without_an_item_is_seeded_by_its_content(
    double: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    lm = make(double, tokenizer, LIKELIHOOD)
    first, second = lm.loglikelihood([pair("one", " target", None), pair("two", " target", None)])
    swapped = make(double, tokenizer, LIKELIHOOD).loglikelihood([pair("two", " target", None)])
    assert swapped == [second]
    assert first != second


def test_options_of_a_lettered_question_are_one_forward(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    lm = make(llada, tokenizer, LIKELIHOOD)
    # the space stays in the context's own token here, so that a letter is a one-token target
    lm.loglikelihood([pair("Answer:", letter, idx=i) for i, letter in enumerate("ABCD")])
    assert lm.forwards == 1
    assert lm.token_forwards == len("Answer:") + 1


def test_trailing_spaces_belong_to_the_target(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    codec = make(llada, tokenizer, LIKELIHOOD).codec
    expected = (tokenizer.encode("Answer:"), tokenizer.encode(" \nyes"))
    assert codec.encode_pair("Answer: \n", "yes") == expected
    assert codec.encode_pair("", "yes") == ([BEGIN], tokenizer.encode("yes"))
    assert codec.encode_pair("  ", "yes") == ([BEGIN], tokenizer.encode("  yes"))


def test_begin_of_text_is_added_once_and_only_when_asked(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    with_bos = make(llada, tokenizer, replace(LIKELIHOOD, add_bos=True)).codec
    assert with_bos.encode_pair("a", "b")[0] == [BEGIN, *tokenizer.encode("a")]
    assert with_bos.encode_pair("", "b")[0] == [BEGIN]
    without = make(llada, tokenizer, LIKELIHOOD).codec
    assert without.encode_pair("a", "b")[0] == tokenizer.encode("a")


@pytest.mark.parametrize(("estimator", "room"), [("llada", 20), ("dream", 19)])
def test_long_contexts_lose_their_beginning_and_are_counted(
    llada: Transformer,
    dream: Transformer,
    tokenizer: PreTrainedTokenizerFast,
    estimator: Any,
    room: int,
) -> None:
    settings = replace(LIKELIHOOD, estimator=estimator)
    model = llada if estimator == "llada" else dream
    lm = make(model, tokenizer, settings, max_length=20)
    context, target = lm.codec.encode_pair("0123456789" * 5, " target")
    assert tokenizer.decode(context) == ("0123456789" * 5)[-(room - 7) :]
    assert target == tokenizer.encode(" target")
    context, target = lm.codec.encode_pair("context", "t" * 30)
    assert (len(context), len(target)) == (1, room - 1)
    assert lm.truncated == 2
    (value, _), *_ = lm.loglikelihood([pair("x" * 100, " y" * 30)])
    assert value < 0
    lm.codec.encode_pair("short", "one")
    assert lm.truncated == 3


def test_rolling_likelihood_is_refused(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(SettingsError, match="rolling likelihood"):
        make(llada, tokenizer, LIKELIHOOD).loglikelihood_rolling([asked("", "text")])


# generation


def test_a_response_is_that_of_diffusion_up_to_its_stop(
    double: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    text = "Once upon a time"
    (whole,) = make(double, tokenizer, GENERATION).generate_until([prompt(text)])
    ids = generate(
        double, [tokenizer.encode(text)], GENERATION.decoding(), seeds=[0], batch_size=1
    ).tokens[0]
    end = ids.index(256) if 256 in ids else len(ids)
    assert whole == tokenizer.decode(ids[:end], skip_special_tokens=True)
    assert len(whole) >= 4
    stop = whole[2:4]
    lm = make(double, tokenizer, GENERATION)
    assert lm.generate_until([prompt(text, [stop])]) == [whole[: whole.index(stop)]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generations_do_not_depend_on_their_batch(
    double: Transformer, tokenizer: PreTrainedTokenizerFast, temperature: float
) -> None:
    settings = replace(GENERATION, temperature=temperature)
    stops = itertools.cycle([[], ["e"], ["\n", "x"]])
    asks = [prompt("tell me " * (1 + i % 4), next(stops), i) for i in range(9)]
    many = make(double, tokenizer, settings, batch_size=8).generate_until(asks)
    alone = [make(double, tokenizer, settings, batch_size=1).generate_until([a])[0] for a in asks]
    assert many == alone


def test_repeats_of_an_item_are_different_samples(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    lm = make(llada, tokenizer, replace(GENERATION, temperature=1.0))
    request = prompt("say something", doc_id=4)
    first, second = lm.generate_until([request, request])
    assert first != second
    again = make(llada, tokenizer, replace(GENERATION, temperature=1.0))
    assert again.generate_until([request, request]) == [first, second]


def test_a_prompt_that_cannot_fit_is_cut_or_refused(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    lm = make(llada, tokenizer, GENERATION, max_length=20)
    lm.generate_until([prompt("p" * 50)])
    assert lm.truncated == 1
    tight = make(llada, tokenizer, GENERATION, max_length=12)
    with pytest.raises(SettingsError, match="gen_length = 12 leaves no room for a prompt"):
        tight.generate_until([prompt("p")])


# chat


def test_chat_messages_are_rendered(llada: Transformer, tokenizer: PreTrainedTokenizerFast) -> None:
    lm = make(llada, tokenizer, replace(GENERATION, chat_template=True))
    user = {"role": "user", "content": "hi"}
    assert lm.apply_chat_template([user]) == "<user>hi\n<assistant>"
    begun = [user, {"role": "assistant", "content": "So"}]
    assert lm.apply_chat_template(begun, add_generation_prompt=False) == "<user>hi\n<assistant>So"


def test_a_begun_answer_is_continued_where_the_template_trims_and_closes_it(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}<end>{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", template)
    lm = make(llada, tokenizer, replace(GENERATION, chat_template=True))
    begun = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "```python\ndef f():\n"},
    ]
    rendered = lm.apply_chat_template(begun, add_generation_prompt=False)
    assert rendered == "<user>hi<end><assistant>```python\ndef f():"


def test_a_template_without_a_system_role_gets_it_as_the_user(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}"
    template = refusing + "{% endif %}" + str(tokenizer.chat_template)
    monkeypatch.setattr(tokenizer, "chat_template", template)
    lm = make(llada, tokenizer, replace(GENERATION, chat_template=True))
    messages = [
        {"role": "system", "content": "Be brief. "},
        {"role": "user", "content": "hi"},
    ]
    assert lm.apply_chat_template(messages) == "<user>Be brief. hi\n<assistant>"


def test_a_tokenizer_without_a_template_is_refused(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    lm = make(llada, tokenizer, replace(GENERATION, chat_template=True))
    with pytest.raises(SettingsError, match="the tokenizer has none: use a chat model"):
        lm.apply_chat_template([{"role": "user", "content": "hi"}])


# resuming


def interrupt_after(calls: int, real: Callable[..., Any]) -> Callable[..., Any]:
    remaining = itertools.count(calls, -1)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if next(remaining) == 0:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    return interrupted


@pytest.mark.parametrize("kind", ["likelihood", "generation"])
def test_a_killed_evaluation_goes_on_where_it_stopped(
    double: Transformer,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    name = "log_likelihoods" if kind == "likelihood" else "generate"
    settings = LIKELIHOOD if kind == "likelihood" else GENERATION
    method = "loglikelihood" if kind == "likelihood" else "generate_until"
    asks = QUESTIONS if kind == "likelihood" else [prompt(f"say {i}", (), i) for i in range(9)]
    monkeypatch.setattr(harness, "BATCHES_PER_SAVE", 1)

    def fresh(path: Path | None) -> DiffusionLM:
        return make(double, tokenizer, settings, batch_size=2, cache_path=path)

    reference = fresh(None)
    expected = getattr(reference, method)(asks)
    path = tmp_path / "requests.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(harness, name, interrupt_after(1, getattr(harness, name)))
        with pytest.raises(KeyboardInterrupt):
            getattr(fresh(path), method)(asks)
    resumed = fresh(path)
    spent = sum(cost.forwards for _, cost in resumed.cache._kept.values())
    assert 0 < spent < reference.forwards
    assert getattr(resumed, method)(asks) == expected
    assert (resumed.forwards, resumed.token_forwards) == (
        reference.forwards,
        reference.token_forwards,
    )
    done = fresh(path)
    assert getattr(done, method)(asks) == expected
    assert done.forwards == reference.forwards


def test_other_settings_do_not_get_cached_answers(
    double: Transformer, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "requests.jsonl"
    make(double, tokenizer, LIKELIHOOD, cache_path=path).loglikelihood(QUESTIONS[:1])
    other = make(double, tokenizer, replace(LIKELIHOOD, mc_num=8), cache_path=path)
    before = other.forwards
    other.loglikelihood(QUESTIONS[:1])
    assert other.forwards > before


# lm-eval's own evaluator


def test_lm_evals_own_evaluator_can_drive_it(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [{"q": f"number {i}?", "a": i % 2} for i in range(4)]
    config = {
        "task": "toy",
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{q}}",
        "doc_to_target": "a",
        "doc_to_choice": ["even", "odd"],
        "num_fewshot": 0,
    }
    tasks = TaskManager(include_defaults=False).load([config])
    lm = make(llada, tokenizer, LIKELIHOOD)
    results = evaluate(lm, tasks, bootstrap_iters=0)
    ours = lm.loglikelihood(
        [
            Instance("loglikelihood", row, (row["q"], f" {c}"), j, ("toy", i, 1))
            for i, row in enumerate(rows)
            for j, c in enumerate(["even", "odd"])
        ]
    )
    picks = [int(odd[0] > even[0]) for even, odd in zip(ours[::2], ours[1::2], strict=True)]
    accuracy = sum(pick == row["a"] for pick, row in zip(picks, rows, strict=True)) / len(rows)
    assert results["results"]["toy"]["acc,none"] == accuracy
