"""Counted requests against what evaluations and decodes really ask of a model."""

import gzip
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.diffusion.decoding import generate
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.evaluation.evaluate import evaluate_task
from dllmquant_exp.models.checkpoints import load_tokenizer, resolve_checkpoint
from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.run.plan.requests import SAMPLED, asked_per_step, demand, hub_data, known_sizes

Make = Callable[..., Transformer]
Compose = Callable[..., Experiment]


@pytest.mark.parametrize("task", ["micro_piqa", "micro_winogrande", "micro_ceval", "micro_gsm8k"])
def test_the_forwards_of_an_evaluation(task: str, tiny: Make, experiment: Compose) -> None:
    run = experiment(f"task={task}", "limit=6", "method=fp")
    model, (spec,) = tiny(), run.tasks
    tokenizer = load_tokenizer(str(resolve_checkpoint("embedded:micro_llada")))
    asked = demand(spec.settings, model.config, tokenizer, None, 6)
    result = evaluate_task(
        model, tokenizer, spec.name, spec.spec, spec.settings,
        data_root=None, limit=6, seed=0, batch_size=32,
    )  # fmt: skip
    assert asked.counted and asked.items == result.n == 6
    if spec.settings.variant == "likelihood":
        assert asked.requests == sum(len(item.log_likelihoods or ()) for item in result.items)
        assert (asked.rows, asked.tokens) == (result.forwards, result.token_forwards)
    else:  # an answer may end early
        assert asked.requests == 6
        assert asked.rows == 6 * (spec.settings.steps or 0) >= result.forwards
        assert asked.tokens >= result.token_forwards


def test_a_sample_stands_for_all_items(tiny: Make, experiment: Compose) -> None:
    tokenizer = load_tokenizer(str(resolve_checkpoint("embedded:micro_llada")))
    settings = experiment("task=micro_piqa").tasks[0].settings
    few, many = (demand(settings, tiny().config, tokenizer, None, n * SAMPLED) for n in (1, 4))
    assert many.items == 4 * SAMPLED
    assert many.tokens == pytest.approx(4 * few.tokens, rel=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        DecodingSettings(gen_length=8, steps=8, block_length=8, remasking="low_confidence"),
        DecodingSettings(gen_length=8, steps=4, block_length=4, remasking="low_confidence"),
        DecodingSettings(gen_length=8, steps=8, block_length=8, remasking="entropy"),
        DecodingSettings(gen_length=8, steps=3, block_length=8, remasking="maskgit_plus"),
    ],
)
def test_the_steps_of_a_decode(settings: DecodingSettings, tiny: Make) -> None:
    model = tiny(settings.architecture)
    asked: list[int] = []
    plain = model.forward

    def spy(tokens, mask=None, positions=None):  # type: ignore[no-untyped-def]
        asked.append(int(positions.sum()))
        logits = plain(tokens, mask, positions)
        logits[:, [0, 1]] = -50.0  # neither the end nor a mask
        return logits

    model.forward = spy  # type: ignore[method-assign]
    made = generate(model, [[5, 6, 7]], settings, seeds=[0], batch_size=1)
    assert asked_per_step(settings) == asked
    assert made.forwards == len(asked)


@pytest.mark.parametrize("model", ["llada_8b", "llada_8b_instruct", "llada_1_5", "dream_7b",
                                   "dream_7b_instruct"])  # fmt: skip
def test_every_official_task_has_a_known_size(model: str, experiment: Compose) -> None:
    run = experiment(f"model={model}", "task=nine", "method=fp")
    for task in run.tasks:
        assert task.settings.harness_task in known_sizes()


def test_known_sizes_in_closed_form(tiny: Make, experiment: Compose) -> None:
    run = experiment("model=llada_8b", "task=nine", "method=fp", "device=cpu")
    found = {t.name: demand(t.settings, tiny().config, None, None, None) for t in run.tasks}
    mmlu = found["mmlu"]  # one token behind one prompt: one row per question, none by guidance
    assert (mmlu.items, mmlu.requests, mmlu.rows) == (14042, 4 * 14042, 14042)
    prompt = known_sizes()["mmlu"].prompt + 5 * known_sizes()["mmlu"].shot
    assert (mmlu.tokens, mmlu.asked) == (14042 * (prompt + 1), 14042)
    gsm8k = found["gsm8k"]
    assert gsm8k.rows == 1319 * 256 and gsm8k.asked == 1319 * sum(range(1, 257))
    assert not gsm8k.counted
    hellaswag = found["hellaswag"]  # guidance doubles rows, and few masks of 128 are equal
    assert 2 * 4 * 10042 * 100 < hellaswag.rows <= 2 * 4 * 10042 * 128


def test_a_task_of_unknown_size_needs_its_data(tiny: Make, experiment: Compose) -> None:
    run = experiment("task=micro_piqa")
    with pytest.raises(ConfigError, match="the size of micro_piqa is not known"):
        demand(run.tasks[0].settings, tiny().config, None, None, None)


def test_rows_on_the_hub_are_known_as_such(tmp_path: Path, experiment: Compose) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    file = tmp_path / "mine.yaml"
    settings = experiment("task=micro_piqa").tasks[0].settings
    assert hub_data(settings, None) == []
    mine = replace(settings, harness_task=str(file))
    head = "task: mine\noutput_type: multiple_choice\ndoc_to_text: x\n"
    for where, data_root, expected in (
        ("dataset_path: some/set\n", None, ["some/set"]),
        ("dataset_path: openai/gsm8k\n", None, ["openai/gsm8k"]),
        ("dataset_path: openai/gsm8k\n", tmp_path, []),
        ("dataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n", None, []),
        ("dataset_path: json\ndataset_kwargs: {data_files: 'https://a.b/c'}\n", None, ["json"]),
    ):
        file.write_text(head + where)
        assert hub_data(mine, data_root) == expected, where


def test_known_sizes_are_those_of_the_data() -> None:
    beside = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"
    data_root = Path(os.environ.get("DLLMQUANT_DATA_ROOT", beside))
    if not (data_root / "gsm8k_test.jsonl.gz").is_file():
        pytest.skip("no official evaluation data: set DLLMQUANT_DATA_ROOT to a folder of splits")
    files = {"piqa": "piqa_val", "hellaswag": "hellaswag_val", "gsm8k": "gsm8k_test",
             "mmlu": "mmlu_test", "humaneval": "humaneval", "winogrande": "winogrande_xl_val",
             "arc_challenge": "arc_challenge_test", "ceval-valid": "ceval_val",
             "truthfulqa_mc2": "truthfulqa_mc"}  # fmt: skip
    for task, name in files.items():
        with gzip.open(data_root / f"{name}.jsonl.gz", "rt") as lines:
            assert sum(1 for _ in lines) == known_sizes()[task].items
