"""Settings per (model, task): against the published values, and against nonsense."""

from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dllmquant_exp.evaluation.settings import OVERRIDES, SettingsError, resolve_settings
from dllmquant_exp.evaluation.tasks import task_configs, task_source

CONF = Path(__file__).resolve().parents[2] / "conf"
NINE = {
    "truthfulqa_mc2": "Truth.",
    "arc_challenge": "Arc.",
    "hellaswag": "Hella.",
    "winogrande": "Wino.",
    "piqa": "PIQA",
    "mmlu": "MMLU",
    "ceval": "C-EVAL",
    "humaneval": "Hum.",
    "gsm8k": "GSM8K",
}
MODELS = ("llada_base", "llada_instruct", "llada_1_5", "dream_base", "dream_instruct", "micro")


def spec_of(task: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / "task" / f"{task}.yaml").read_text())["tasks"][task]


def decoding(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / "decoding" / f"{name}.yaml").read_text())


def resolve(task: str, model: str, **overrides: Any) -> Any:
    return resolve_settings(task, spec_of(task), model, overrides)


# task: (shots, mc_num, guidance) of LLaDA-8B-Base's published likelihood evaluations
LLADA_BASE = {
    "truthfulqa_mc2": (0, 128, 2.0),
    "arc_challenge": (0, 128, 0.5),
    "hellaswag": (0, 128, 0.5),
    "winogrande": (5, 128, 0.0),
    "piqa": (0, 128, 0.5),
    "mmlu": (5, 1, 0.0),
    "ceval": (5, 1, 0.0),
}


@pytest.mark.parametrize("task", LLADA_BASE)
def test_llada_base_likelihoods_are_the_published_ones(task: str) -> None:
    settings = resolve(task, "llada_base")
    assert (settings.shots, settings.mc_num, settings.guidance) == LLADA_BASE[task]
    assert (settings.variant, settings.estimator) == ("likelihood", "llada")
    assert not settings.chat_template


# (gen_length, block_length) that are published for the models that generate
GENERATED = {
    ("gsm8k", "llada_base"): (256, 256),
    ("gsm8k", "llada_instruct"): (256, 8),
    ("gsm8k", "llada_1_5"): (256, 16),
    ("gsm8k", "dream_base"): (256, 256),
    ("humaneval", "llada_base"): (256, 256),
    ("humaneval", "llada_instruct"): (512, 512),
    ("humaneval", "llada_1_5"): (512, 32),
    ("humaneval", "dream_base"): (512, 512),
    ("arc_challenge", "llada_instruct"): (512, 512),
    ("hellaswag", "llada_instruct"): (3, 3),
    ("mmlu", "llada_instruct"): (3, 3),
}


@pytest.mark.parametrize(("task", "model"), GENERATED)
def test_lengths_are_the_published_ones(task: str, model: str) -> None:
    settings = resolve(task, model)
    assert (settings.gen_length, settings.block_length) == GENERATED[task, model]
    assert settings.steps == settings.gen_length
    assert settings.chat_template == (model in ("llada_instruct", "llada_1_5"))


# (logits_eos_inf, confidence_eos_eot_inf) of LLaDA's published generations
ENDS = {
    ("gsm8k", "llada_base"): (False, False),
    ("gsm8k", "llada_instruct"): (False, False),
    ("gsm8k", "llada_1_5"): (False, True),
    ("humaneval", "llada_base"): (False, False),
    ("humaneval", "llada_instruct"): (True, False),
    ("humaneval", "llada_1_5"): (False, True),
    ("arc_challenge", "llada_instruct"): (False, False),
    ("mmlu", "llada_instruct"): (False, False),
}


@pytest.mark.parametrize(("task", "model"), ENDS)
def test_ends_are_treated_as_published(task: str, model: str) -> None:
    settings = resolve(task, model)
    assert (settings.suppress_eos, settings.confidence_eos_eot_inf) == ENDS[task, model]
    assert not settings.cut_at_end


def test_dream_base_decodes_as_published() -> None:
    code, words = resolve("humaneval", "dream_base"), resolve("gsm8k", "dream_base")
    assert (code.temperature, code.top_p, code.remasking) == (0.2, 0.95, "entropy")
    assert (words.temperature, words.top_p, words.shots) == (0.0, 0.95, 8)
    assert (code.harness_task, words.harness_task) == ("humaneval_dream", "gsm8k_cot")
    for task in NINE:
        settings = resolve(task, "dream_base")
        assert (settings.add_bos, settings.max_length, settings.cut_at_end) == (True, 2048, True)
        if settings.variant == "likelihood":
            assert (settings.mc_num, settings.mc_batch_size, settings.guidance) == (128, 32, 0.0)
            assert settings.shots == (5 if task in ("mmlu", "winogrande", "ceval") else 0)


def test_chat_models_are_asked_as_published() -> None:
    mmlu, dream = resolve("mmlu", "llada_instruct"), resolve("mmlu", "dream_instruct")
    assert (mmlu.shots, mmlu.multiturn, mmlu.average) == (5, True, "members")
    assert (dream.shots, dream.multiturn, dream.max_prompt_length) == (4, False, 1024)
    assert resolve("gsm8k", "llada_instruct").shots == 4


def test_the_papers_profile_is_the_mixture_that_its_row_prints() -> None:
    def paper(task: str, model: str) -> Any:
        return resolve_settings(task, spec_of(task), model, profile="paper")

    code, published = paper("humaneval", "llada_1_5"), resolve("humaneval", "llada_1_5")
    instruct = resolve("humaneval", "llada_instruct")
    assert code.describe() == instruct.describe() != published.describe()
    assert paper("mmlu", "llada_1_5").describe() == resolve("mmlu", "llada_base").describe()
    for task, model in product(NINE, MODELS):
        mixed = (task, model) in (("humaneval", "llada_1_5"), ("mmlu", "llada_1_5"))
        assert mixed or paper(task, model) == resolve(task, model)


def test_settings_that_older_results_do_not_know_are_described_where_they_are_set() -> None:
    plain, new = resolve("micro_gsm8k", "micro"), resolve("mmlu", "llada_instruct")
    names = [field.name for field in fields(plain)]
    older = names[: names.index("include_path")]
    assert list(plain.describe()) == [name for name in older if name != "source"]
    assert set(new.describe()) == set(plain.describe()) | {"cut_at_end", "average"}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("task", NINE)
def test_every_model_has_settings_with_a_source(task: str, model: str) -> None:
    spec = spec_of(task)
    assert (spec["label"], spec["kind"]) == (NINE[task], "official")
    settings = resolve(task, model)
    settings.validate("dream" if model.startswith("dream") else "llada")
    published = ("LLaDA: ", "Dream: ", "house choice: ")
    assert settings.source.startswith(published)
    assert task_source(settings.harness_task) is None  # one of ours
    assert task_configs(settings.harness_task)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("task", NINE)
def test_smoke_shortens_every_task(task: str, model: str) -> None:
    settings = resolve_settings(task, spec_of(task), model, decoding("smoke"))
    if settings.variant == "likelihood":
        assert settings.mc_num == 2
    else:
        assert (settings.gen_length, settings.steps, settings.block_length) == (32, 8, 32)


@pytest.mark.parametrize("path", sorted((CONF / "decoding").glob("*.yaml")), ids=lambda p: p.stem)
def test_decoding_options_have_every_key_and_their_own_name(path: Path) -> None:
    option = yaml.safe_load(path.read_text())
    assert option.pop("name") == path.stem
    assert set(option) == set(OVERRIDES)
    if path.stem not in ("published", "smoke"):
        assert {k: v for k, v in option.items() if v is not None} == {"remasking": path.stem}


@pytest.mark.parametrize("option", ["nine", "micro_nine", "mmlu"])
def test_suites_and_single_tasks_compose_alike(option: str) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("config", overrides=[f"task={option}"])
    task = OmegaConf.to_container(config.task)
    assert task["name"] == option
    labels = [spec["label"] for spec in task["tasks"].values()]
    assert labels == (["MMLU"] if option == "mmlu" else list(NINE.values()))


@pytest.mark.parametrize("path", sorted((CONF / "task").glob("*.yaml")), ids=lambda p: p.stem)
def test_task_files_are_named_after_their_task(path: Path) -> None:
    option = yaml.safe_load(path.read_text())
    assert option["name"] == path.stem
    assert list(option.get("tasks", {path.stem: {}})) == [path.stem]
    members = [member for member in option.get("defaults", []) if member != "_self_"]
    assert all((CONF / "task" / f"{member}.yaml").is_file() for member in members)


def test_overrides_replace_what_matters_to_the_variant_only() -> None:
    likelihood = resolve("piqa", "llada_base", mc_num=40, gen_length=64, guidance=1.0)
    assert (likelihood.mc_num, likelihood.mc_batch_size, likelihood.guidance) == (40, 8, 1.0)
    assert likelihood.gen_length is None
    generated = resolve("gsm8k", "llada_base", mc_num=40, remasking="random")
    assert (generated.mc_num, generated.remasking) == (None, "random")


@pytest.mark.parametrize(
    ("task", "model", "overrides", "message"),
    [
        ("gsm8k", "llada_base", {"block_length": 100}, "block_length = 100 does not divide"),
        ("gsm8k", "llada_base", {"block_length": 64, "steps": 6}, "steps = 6 must be a multiple"),
        ("gsm8k", "llada_base", {"gen_length": 0}, "gen_length = 0 must be at least 1"),
        ("gsm8k", "llada_base", {"remasking": "lucky"}, "remasking 'lucky' is not known"),
        ("piqa", "llada_base", {"mc_num": 0}, "mc_num = 0 must be at least 1"),
        ("piqa", "dream_base", {"guidance": 1.0}, "Dream's published settings use no guidance"),
        ("piqa", "gpt", {}, "no settings for models of kind 'gpt'; it has them for: llada_base"),
        ("piqa", "llada_base", {"mc_nun": 4}, "mc_nun is not a setting .did you mean 'mc_num'"),
    ],
)
def test_impossible_settings_say_why(
    task: str, model: str, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        resolve(task, model, **overrides)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": ""}, "source is empty"),
        ({"metric": "exact_match"}, "metric exact_match does not go with variant likelihood"),
        ({"variant": "magic"}, "variant = 'magic' is not one of: likelihood, generation"),
        ({"mc_num": None}, "variant likelihood needs mc_num"),
        ({"shots": -1}, "shots = -1 must be at least 0"),
        ({"colour": 1}, "colour is not a setting"),
    ],
)
def test_impossible_task_files_say_why(change: dict[str, Any], message: str) -> None:
    spec = spec_of("piqa")
    spec["settings"]["llada_base"] |= change
    with pytest.raises(SettingsError, match=message):
        resolve_settings("piqa", spec, "llada_base")


def test_a_missing_key_is_named() -> None:
    spec = spec_of("piqa")
    del spec["settings"]["llada_base"]["metric"]
    with pytest.raises(SettingsError, match="metric"):
        resolve_settings("piqa", spec, "llada_base")


def test_remasking_of_the_other_architecture_is_refused() -> None:
    with pytest.raises(SettingsError, match="does not belong to a dream model"):
        resolve("gsm8k", "llada_base").validate("dream")


def test_an_unknown_harness_task_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"unknown task 'gsm9k': no YAML in lm-eval says"):
        task_configs("gsm9k")


def test_groups_have_all_their_subjects() -> None:
    for name in ("mmlu", "mmlu_llada", "mmlu_dream"):
        assert len({config["dataset_name"] for config in task_configs(name)}) == 57
    assert len(task_configs("ceval-valid")) == 52
