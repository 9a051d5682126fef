"""The messages that chat models get, against the published templates filled by hand."""

from pathlib import Path
from typing import Any

import yaml

from dllmquant_exp.evaluation.local_data import local_rows
from dllmquant_exp.evaluation.requests import prompt_of
from dllmquant_exp.evaluation.settings import resolve_settings
from dllmquant_exp.evaluation.task_building import build_tasks

CONF = Path(__file__).resolve().parents[2] / "conf"
Messages = list[tuple[str, str]]


def messages(task: str, model: str, data_root: Path) -> tuple[Messages, bool]:
    """Role and text of each turn of the first item, and whether the model's own turn is begun."""
    spec = yaml.safe_load((CONF / "task" / f"{task}.yaml").read_text())["tasks"][task]
    settings = resolve_settings(task, spec, model)
    seen: list[Any] = []

    def chat(turns: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        seen.append(([(t["role"], t["content"]) for t in turns], add_generation_prompt))
        return ""

    (first, *_) = build_tasks(settings, data_root=data_root, limit=1)
    prompt_of(first, first.doc_ids[0], settings, chat)
    return seen[-1][0], not seen[-1][1]


def lettered(options: list[str]) -> str:
    return "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", options, strict=True))


def test_gsm8k_has_four_turns_of_train_rows(data_root: Path) -> None:
    rows = local_rows(data_root, "openai/gsm8k", "main")
    form = "Question: {}\nLet's think step by step\nAnswer:".format
    found, begun = messages("gsm8k", "llada_instruct", data_root)
    assert found[-1] == ("user", form(rows["test"][0]["question"])) and not begun
    assert [role for role, _ in found] == ["user", "assistant"] * 4 + ["user"]
    questions = {form(row["question"]): row["answer"] for row in rows["train"]}
    for (_, asked), (_, answered) in zip(found[:-1:2], found[1::2], strict=True):
        number = questions[asked].split("#### ")[1]
        assert answered.strip().endswith(f"The answer is {number}") and "<<" not in answered
    assert found == messages("gsm8k", "llada_1_5", data_root)[0]


def test_mmlu_has_a_hint_in_every_turn_and_no_system(data_root: Path) -> None:
    rows = local_rows(data_root, "cais/mmlu", "abstract_algebra")
    hint = (
        "There is a single choice question about abstract algebra. Answer the question by replying "
        "A, B, C or D.\n"
    )
    expected: Messages = []
    for row in rows["dev"][:5]:
        asked = f"{hint}Question: {row['question']}\n{lettered(row['choices'])}\nAnswer: "
        expected += [("user", asked), ("assistant", "ABCD"[row["answer"]])]
    row = rows["test"][0]
    expected.append(("user", f"{hint}Q: {row['question']}\n{lettered(row['choices'])}\nA: "))
    found, _ = messages("mmlu", "llada_instruct", data_root)
    assert [(role, text.removesuffix("\n")) for role, text in found] == expected


def test_dreams_mmlu_examples_stand_in_the_questions_turn(data_root: Path) -> None:
    rows = local_rows(data_root, "cais/mmlu", "abstract_algebra")
    (system, _), (user, text) = messages("mmlu", "dream_instruct", data_root)[0]
    assert (system, user) == ("system", "user")
    assert all(row["question"].strip() in text for row in rows["dev"][:4])
    assert rows["dev"][4]["question"].strip() not in text
    assert text.endswith(f"{lettered(rows['test'][0]['choices'])}\nAnswer:")


def test_arc_asks_the_four_option_questions_of_the_validation_split(data_root: Path) -> None:
    rows = local_rows(data_root, "allenai/ai2_arc", "ARC-Challenge")["validation"]
    four = [row for row in rows if len(row["choices"]["text"]) == 4]
    assert len(four) == 295
    row = four[0]
    expected = f"Question: {row['question']}\n{lettered(row['choices']['text'])}\nAnswer:"
    assert messages("arc_challenge", "llada_instruct", data_root)[0] == [("user", expected)]


def test_hellaswag_leaves_out_the_activity(data_root: Path) -> None:
    row = local_rows(data_root, "Rowan/hellaswag", None)["validation"][0]
    ((_, text),) = messages("hellaswag", "llada_instruct", data_root)[0]
    assert text.startswith(row["ctx_a"]) and row["activity_label"] not in text
    assert text.endswith(
        f"\nQuestion: Which ending makes the most sense?\n{lettered(row['endings'])}\n"
        "You may choose from 'A', 'B', 'C', 'D'.\nAnswer:"
    )


def test_humaneval_is_one_line_and_the_prompt(data_root: Path) -> None:
    prompt = local_rows(data_root, "openai/openai_humaneval", None)["test"][0]["prompt"]
    found, begun = messages("humaneval", "llada_1_5", data_root)
    assert found == [("user", f"Complete the following python code:\n{prompt}")] and not begun
    (_, asked), (role, started) = messages("humaneval", "dream_instruct", data_root)[0]
    assert asked.rstrip().endswith(f"passes the tests:\n```{prompt.rstrip()}")
    assert asked.count("```") == 1, "the fence stays open"
    assert role == "assistant" and started.startswith("Here is the completed function:\n```python")
