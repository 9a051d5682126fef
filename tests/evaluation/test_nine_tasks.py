"""All nine official tasks on real rows, with tiny models; HumanEval's own solutions must pass."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import PreTrainedTokenizerFast

from dllmquant_exp.evaluation.diagnostics import diagnostic_warnings
from dllmquant_exp.evaluation.evaluate import ItemRecord, TaskResult, average_score, evaluate_task
from dllmquant_exp.evaluation.harness import DiffusionLM
from dllmquant_exp.evaluation.local_data import local_rows
from dllmquant_exp.evaluation.sandbox import active_guards
from dllmquant_exp.evaluation.scoring import NO_ANSWER
from dllmquant_exp.evaluation.settings import resolve_settings
from dllmquant_exp.models.transformer import Transformer

CONF = Path(__file__).resolve().parents[2] / "conf"
NINE = yaml.safe_load((CONF / "task" / "nine.yaml").read_text())["defaults"][:-1]


def evaluate(
    model: Transformer,
    tokenizer: PreTrainedTokenizerFast,
    task: str,
    kind: str,
    data_root: Path,
    **options: Any,
) -> TaskResult:
    spec = yaml.safe_load((CONF / "task" / f"{task}.yaml").read_text())["tasks"][task]
    smoke = yaml.safe_load((CONF / "decoding" / "smoke.yaml").read_text())
    settings = resolve_settings(task, spec, kind, smoke)
    settings = replace(settings, guidance=0.0)
    given = {"limit": 2, "seed": 0, "batch_size": 16} | options
    return evaluate_task(model, tokenizer, task, spec, settings, data_root=data_root, **given)


CHAT = [
    *((task, "dream_instruct") for task in ("arc_challenge", "hellaswag", "mmlu", "humaneval")),
    *((task, "llada_instruct") for task in ("arc_challenge", "hellaswag", "mmlu", "gsm8k")),
]


@pytest.mark.parametrize(
    ("task", "kind"),
    [(task, kind) for task in NINE for kind in ("llada_base", "dream_base")] + CHAT,
)
def test_a_task_runs_on_real_rows(
    llada: Transformer,
    dream: Transformer,
    tokenizer: PreTrainedTokenizerFast,
    data_root: Path,
    task: str,
    kind: str,
) -> None:
    model = dream if kind.startswith("dream") else llada
    result = evaluate(model, tokenizer, task, kind, data_root)
    assert (result.task, result.n) == (task, 2)
    assert len({(item.subtask, item.doc_id) for item in result.items}) == 2
    assert result.score == pytest.approx(sum(item.score for item in result.items) / 2)
    assert result.token_forwards > 0
    assert result.forwards > 0
    assert result.chance is not None
    for item in result.items:
        assert 0 <= item.score <= 1
        assert item.target
        if item.log_likelihoods is None:
            assert item.response is not None
        else:
            assert all(math.isfinite(v) and v < 0 for v in item.log_likelihoods)
            assert len(item.log_likelihoods) >= 2


def test_acc_and_acc_norm_are_both_kept(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast, data_root: Path
) -> None:
    """By the option of the highest log-likelihood, and of the highest per character."""
    result = evaluate(llada, tokenizer, "piqa", "llada_base", data_root, limit=6)
    rows = local_rows(data_root, "baber/piqa", None)["validation"][:6]
    assert result.metric == "acc_norm" and list(result.other_scores) == ["acc"]
    for item, row, acc in zip(result.items, rows, result.other_scores["acc"], strict=True):
        values, texts = item.log_likelihoods or (), (row["sol1"], row["sol2"])
        per_character = [v / len(text) for v, text in zip(values, texts, strict=True)]
        assert item.score == float(per_character.index(max(per_character)) == row["label"])
        assert acc == float(values.index(max(values)) == row["label"])
    assert result.diagnostics == {"cut_prompts": result.truncated / 12}


def test_members_of_a_group_count_alike_where_the_settings_say() -> None:
    def item(subtask: str, score: float) -> ItemRecord:
        return ItemRecord(subtask, 0, "", score, "", "")

    items = [item("large", 1.0)] * 6 + [item("small", 0.0)] * 2
    assert average_score(items, "items") == 0.75
    assert average_score(items, "members") == 0.5


def test_outputs_that_went_wrong_are_counted_and_warned_of(
    llada: Transformer,
    tokenizer: PreTrainedTokenizerFast,
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    responses = ["The answer is 18.", "  ", "no number", "#### 3"]
    monkeypatch.setattr(DiffusionLM, "generate_until", lambda self, requests, **_: responses)
    result = evaluate(llada, tokenizer, "gsm8k", "llada_base", data_root, limit=4)
    shares = result.diagnostics
    assert (shares["empty"], shares["unparsed"], shares["truncated"]) == (0.25, 0.5, 0.0)
    assert shares["cut_prompts"] == 0.0  # nothing was encoded
    warnings = diagnostic_warnings(shares)
    assert [warning.partition(" of ")[0] for warning in warnings] == ["25%", "50%"]
    assert not diagnostic_warnings(dict.fromkeys(shares, 0.1))


def test_responses_that_were_still_going_on_are_counted(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast, data_root: Path
) -> None:
    result = evaluate(llada, tokenizer, "humaneval", "llada_instruct", data_root)
    ended = [tokenizer.eos_token in (item.response or "") for item in result.items]
    assert not any(ended), "special tokens are no text"
    assert result.diagnostics["truncated"] == 1.0, "suppress_eos leaves no end"


def right_answers(data_root: Path) -> dict[str, list[str]]:
    """The right options of each task's first two items, read from the files by hand."""
    piqa = local_rows(data_root, "baber/piqa", None)["validation"]
    arc = local_rows(data_root, "allenai/ai2_arc", None)["test"]
    law = local_rows(data_root, "cais/mmlu", "abstract_algebra")["test"]
    return {
        "piqa": [row[("sol1", "sol2")[row["label"]]] for row in piqa[:2]],
        "arc_challenge": [
            row["choices"]["text"]["ABCDE".index(row["answerKey"])] for row in arc[:2]
        ],
        "mmlu": ["ABCD"[law[0]["answer"]]],
    }


@pytest.mark.parametrize("task", ["piqa", "arc_challenge", "mmlu"])
def test_scores_follow_the_likelihoods(
    llada: Transformer,
    tokenizer: PreTrainedTokenizerFast,
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
) -> None:
    """A model that finds exactly the right answers likely gets them all; its opposite none."""
    right = right_answers(data_root)[task]

    def oracle(sign: float) -> Any:
        def answer(self: DiffusionLM, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
            known = [r.args[1].removeprefix(" ") in right for r in requests]
            return [(-10.0 + sign * (5.0 if k else 0.0), False) for k in known]

        return answer

    scores = []
    for sign in (1.0, -1.0):
        monkeypatch.setattr(DiffusionLM, "loglikelihood", oracle(sign))
        result = evaluate(llada, tokenizer, task, "llada_base", data_root, limit=len(right))
        scores.append(result.score)
        assert [item.target for item in result.items] == right
    assert scores == [1.0, 0.0]


def answered(response: str) -> Any:
    return lambda self, requests, **_: [response] * len(requests)


@pytest.mark.parametrize(
    ("kind", "response", "score"),
    [
        ("llada_base", " She makes 9 * 2 = $18 every day.\n#### 18", 1.0),
        ("llada_base", " She makes 17.", 0.0),
        ("llada_instruct", "She sells 9 eggs at $2. The answer is $18.", 1.0),
        ("dream_base", "The answer is 18.", 1.0),
        ("dream_instruct", "I do not know.", 0.0),
    ],
)
def test_gsm8k_reads_the_last_number(
    llada: Transformer,
    dream: Transformer,
    tokenizer: PreTrainedTokenizerFast,
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    response: str,
    score: float,
) -> None:
    model = dream if kind.startswith("dream") else llada
    monkeypatch.setattr(DiffusionLM, "generate_until", answered(response))
    result = evaluate(model, tokenizer, "gsm8k", kind, data_root, limit=1)
    assert result.score == score
    assert result.items[0].response == response


@pytest.mark.parametrize(
    ("task", "letter"), [("arc_challenge", "D"), ("hellaswag", "D"), ("mmlu", "B")]
)
def test_chat_models_are_scored_by_their_letter(
    llada: Transformer,
    tokenizer: PreTrainedTokenizerFast,
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    letter: str,
) -> None:
    for answer, score in ((letter, 1.0), (NO_ANSWER, 0.0)):
        text = f"({answer}) it is".lower() if score == 0 else f"({answer}) it is"
        monkeypatch.setattr(DiffusionLM, "generate_until", answered(text))
        result = evaluate(llada, tokenizer, task, "llada_instruct", data_root, limit=1)
        assert (result.items[0].answer, result.items[0].target) == (answer, letter)
        assert result.score == score


@pytest.mark.parametrize("kind", ["llada_base", "llada_instruct"])
def test_humaneval_scores_a_solution(
    llada: Transformer,
    tokenizer: PreTrainedTokenizerFast,
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    row = local_rows(data_root, "openai/openai_humaneval", None)["test"][0]
    solution = row["canonical_solution"]
    if kind == "llada_instruct":
        solution = f"Here:\n```python\n{solution}```\nDone."
    monkeypatch.setattr(DiffusionLM, "generate_until", answered(solution))
    result = evaluate(llada, tokenizer, "humaneval", kind, data_root, limit=2)
    assert [item.score for item in result.items] == [1.0, 0.0]  # the second item is another one
    assert result.items[0].note == "passed"
    assert str(result.items[1].note).startswith("failed: ")
    assert result.notes[-1] == f"programs ran behind: {', '.join(active_guards())}"


def test_the_same_seed_gives_the_same_result_and_limit_changes_no_item(
    llada: Transformer, tokenizer: PreTrainedTokenizerFast, data_root: Path, tmp_path: Path
) -> None:
    def items(limit: int, folder: str) -> Any:
        return evaluate(
            llada, tokenizer, "winogrande", "llada_base", data_root, limit=limit,
            batch_size=1, cache_dir=tmp_path / folder,
        )  # fmt: skip

    two, again, three = items(2, "a"), items(2, "b"), items(3, "c")
    same = {"seconds": 0.0, "seconds_before": 0.0}
    assert replace(two, **same) == replace(again, **same)
    assert three.items[:2] == two.items
    cached = items(2, "a")
    assert replace(cached, **same) == replace(two, **same)
    assert "left out" in two.notes[0]
