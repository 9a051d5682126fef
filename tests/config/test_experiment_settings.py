"""Configuration: every option composes, and what cannot run is refused with a way out."""

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from dllmquant_exp.config.experiment import GROUPS, resolve, to_mapping
from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.config.identity import CommonSettings, Experiment
from dllmquant_exp.config.overrides import NoUse, Overrides
from dllmquant_exp.config.task_config import check_speed
from dllmquant_exp.diffusion.settings import REMASKING
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.run import machine as surroundings
from dllmquant_exp.run.machine import check_device, check_surroundings, check_writable
from dllmquant_exp.store.tracking import TrackingSettings

CONF = config_folder()
OPTIONS = {group: sorted(p.stem for p in (CONF / group).glob("*.yaml")) for group in GROUPS}


def composed(*overrides: str) -> dict[str, Any]:
    return to_mapping(compose("config", list(overrides)))


@pytest.fixture(scope="module", autouse=True)
def hydra_is_ready() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def default() -> dict[str, Any]:
    return composed()


@pytest.fixture(scope="module")
def sections() -> dict[str, dict[str, Any]]:
    """Every option of every group; Hydra is asked only where a file composes others (slow)."""

    def section(group: str, name: str) -> dict[str, Any]:
        text = (CONF / group / f"{name}.yaml").read_text()
        if "${" in text or "defaults:" in text:
            return composed(f"{group}={name}")[group]
        alone = OmegaConf.create(text)
        assert isinstance(alone, DictConfig)
        return to_mapping(alone)

    return {
        group: {name: section(group, name) for name in names} for group, names in OPTIONS.items()
    }


@pytest.fixture
def config(default: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(default)


def cell_names(experiment: Experiment) -> list[str]:
    return [experiment.cell_name(task) for task in experiment.tasks]


def test_the_defaults_are_the_embedded_model_rtn_and_nine_micro_tasks(
    default: dict[str, Any],
) -> None:
    experiment = resolve(default)
    assert (experiment.model.name, experiment.method.name) == ("micro_llada", "rtn")
    assert experiment.quant is not None
    assert (experiment.quant.weight_bits, experiment.quant.activation_bits) == (4, 4)
    assert [task.label for task in experiment.tasks] == [
        "Truth.", "Arc.", "Hella.", "Wino.", "PIQA", "MMLU", "C-EVAL", "Hum.", "GSM8K",
    ]  # fmt: skip
    assert len(set(cell_names(experiment))) == 9


def test_every_option_of_every_group_composes_and_resolves(
    default: dict[str, Any], sections: dict[str, dict[str, Any]]
) -> None:
    """Models with every suite of their kind; the other groups one by one with the defaults."""
    for group, options in sections.items():
        for name, section in options.items():
            config = {**default, group: section}
            if (group, name) == ("model", "saved"):
                with pytest.raises(ConfigError, match=r"needs model\.checkpoint=FOLDER"):
                    resolve(config)
                continue
            if group == "model" and not section["embedded"]:
                config["task"] = sections["task"]["nine"]
            if group == "decoding" and section["remasking"] in REMASKING["dream"]:
                config |= {"model": sections["model"]["dream_7b"]}
                config["task"] = sections["task"]["nine"]
            if group == "evaluation":
                config["task"] = sections["task"]["nine"]
            if (group, name) == ("task", "speed"):
                config["execution"] = "packed"
            experiment = resolve(config)
            assert experiment.tasks, f"{group}={name}"
            if group != "task":
                assert section.get("name", section.get("mode")) == name


def test_options_compose_with_the_rest_as_they_do_alone(sections: dict[str, Any]) -> None:
    config = composed("model=dream_7b", "task=nine", "decoding=smoke", "quant=w8a8")
    for group, name in (("model", "dream_7b"), ("task", "nine"), ("decoding", "smoke")):
        assert config[group] == sections[group][name]
    assert next(iter(config["task"]["tasks"])) == "truthfulqa_mc2"  # the paper's order


def test_all_models_have_settings_for_the_nine_official_tasks(
    default: dict[str, Any], sections: dict[str, dict[str, Any]]
) -> None:
    for name, model in sections["model"].items():
        if name == "saved":  # has those of the model that was saved
            continue
        nine = resolve({**default, "model": model, "task": sections["task"]["nine"]})
        assert len(nine.tasks) == 9, name
        assert {task.kind for task in nine.tasks} == {"official"}


def test_every_preset_starts_with_its_usage_and_comments_its_keys() -> None:
    for path in sorted(CONF.rglob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith("# "), path
        if path.parent.name in GROUPS:
            assert lines[0].startswith("# python -m dllmquant_exp "), path


def test_a_cells_hash_moves_with_what_can_change_its_result(config: dict[str, Any]) -> None:
    names = cell_names(resolve(config))
    for key, value in {
        "limit": 7, "seed": 1, "batch_size": 8, "dtype": "float64", "device": "cuda", "threads": 2,
    }.items():  # fmt: skip
        assert not set(names) & set(cell_names(resolve({**config, key: value}))), key
    for key, value in {
        "sweep": "other", "runs_dir": "elsewhere", "data_root": "/data", "save": "folder",
    }.items():  # fmt: skip
        assert cell_names(resolve({**config, key: value})) == names, key
    tracking = {**config["tracking"], "mode": "off"}
    assert cell_names(resolve({**config, "tracking": tracking})) == names
    quant = {**config["quant"], "activation_clip_ratio": 0.9}
    assert not set(names) & set(cell_names(resolve({**config, "quant": quant})))


def test_a_cell_does_not_depend_on_the_suite_it_is_part_of(
    sections: dict[str, Any], config: dict[str, Any]
) -> None:
    alone = cell_names(resolve({**config, "task": sections["task"]["micro_piqa"]}))
    assert len(alone) == 1
    assert alone[0] in cell_names(resolve(config))


def test_full_precision_ignores_quant(sections: dict[str, Any], config: dict[str, Any]) -> None:
    config["method"] = sections["method"]["fp"]
    names = {q: cell_names(resolve({**config, "quant": s})) for q, s in sections["quant"].items()}
    assert len({tuple(n) for n in names.values()}) == 1
    assert names["w4a4"][0].startswith("micro_llada-fp-micro_truthfulqa-s0-")


def test_folder_names_say_the_bits_unless_they_are_the_default(
    sections: dict[str, Any], config: dict[str, Any]
) -> None:
    (first, *_) = cell_names(resolve({**config, "quant": sections["quant"]["w8a8"]}))
    assert first.startswith("micro_llada-rtn-w8a8-micro_truthfulqa-s0-")
    assert cell_names(resolve(config))[0].startswith("micro_llada-rtn-micro_truthfulqa-s0-")


def test_decoding_overrides_reach_the_tasks(config: dict[str, Any]) -> None:
    config["decoding"] |= {"gen_length": 16, "steps": 4, "block_length": 8, "mc_num": 2}
    for task in resolve(config).tasks:
        settings = task.settings
        if settings.variant == "likelihood":
            assert settings.mc_num == 2
        else:
            lengths = (settings.gen_length, settings.steps, settings.block_length)
            assert lengths == (16, 4, 8)


def set_in(config: dict[str, Any], path: str, value: Any) -> None:
    *sections, key = path.split(".")
    for section in sections:
        config = config[section]
    config[key] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("limmit", 3, "config.limmit is not a setting .did you mean 'limit'"),
        ("limit", 0, "limit = 0 must be at least 1"),
        ("limit", 2.5, "config.limit = 2.5 is not a whole number .null is possible too"),
        ("batch_size", None, "config.batch_size = None is not a whole number"),
        ("seed", -1, "seed = -1 must be at least 0"),
        ("seed", True, "config.seed = True is not a whole number"),
        ("dtype", "float8", "config.dtype = 'float8' is not one of: float32, float64, bfloat16"),
        ("sweep", "../up", "sweep = '../up' must be a plain folder name"),
        ("sweep", ".hydra", "sweep = '.hydra' must be a plain folder name"),
        *((name, "../../x", f"{name} = '../../x' must be a plain folder name")
          for name in ("model.name", "quant.name", "method.name")),
        ("model.name", "/etc/x", "model.name = '/etc/x' must be a plain folder name"),
        ("model.name", "\x1b[2J", r"model.name = '\\x1b\[2J' must be a plain folder name"),
        ("model.name", "a" * 250, "model.name = aaaa.*: name too long .250 bytes"),
        ("quant.name", "a" * 250, "quant.name = aaaa.*: name too long"),
        ("model", None, "group model is missing"),
        ("model", "llada", "model is 'llada', but a group of settings belongs there"),
        ("model.checkpont", "x", "model.checkpont is not a setting .did you mean 'checkpoint'"),
        ("model.architecture", "gpt", "model.architecture = 'gpt' is not one of: llada, dream"),
        ("model.settings", "llada", "has no settings for models of kind 'llada'"),
        ("quant.weight_bits", 1, "quant.weight_bits = 1 is not one of"),
        ("quant.wieght_bits", 4, "did you mean 'weight_bits'"),
        ("task", {"name": "none", "tasks": {}}, "task.tasks is empty"),
        ("tracking.mode", "on", "tracking.mode = 'on' is not one of"),
        ("decoding.block_length", 7, "block_length = 7 does not divide gen_length"),
        ("decoding.steps", 0, "must be at least 1"),
        ("decoding.remasking", "entropy", "'entropy' does not belong to a llada model"),
        ("decoding.remasking", "best", "remasking 'best' is not known"),
        ("decoding.top_p", 0.9, "top_p = 0.9: LLaDA's decoding has no nucleus"),
        ("decoding.mc_num", 0, "must be at least 1"),
        ("decoding.guidance", -1, "guidance = -1"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused(
    config: dict[str, Any], path: str, value: Any, message: str
) -> None:
    set_in(config, path, value)
    with pytest.raises(ConfigError, match=message):
        resolve(config)


def test_names_that_are_too_long_together_are_refused(config: dict[str, Any]) -> None:
    for name in ("model.name", "quant.name", "method.name"):
        set_in(config, name, "a" * 90)
    with pytest.raises(ConfigError, match=r"model\.name, .*: names too long together"):
        resolve(config)
    set_in(config, "quant.name", "b" * 30)
    experiment = resolve(config)
    assert all(len(experiment.cell_name(task)) <= 255 for task in experiment.tasks)


def test_all_problems_of_a_section_are_in_one_message(config: dict[str, Any]) -> None:
    config["model"] |= {"embedded": "yes", "chekpoint": 1, "name": 7}
    with pytest.raises(ConfigError, match=r"chekpoint.*name = 7.*embedded = 'yes'"):
        resolve(config)


def test_all_problems_of_all_sections_are_in_one_message(config: dict[str, Any]) -> None:
    config |= {"limit": 0, "batch_size": 0}
    config["model"] |= {"chekpoint": 1}
    config["decoding"] |= {"steps": "four"}
    with pytest.raises(ConfigError, match=r"limit = 0.*batch_size = 0.*chekpoint.*steps = 'four'"):
        resolve(config)


@pytest.mark.parametrize("override", ["decoding.mc_num=9", "+decoding.mc_num=9"])
def test_an_override_that_would_change_nothing_is_refused(
    sections: dict[str, Any], config: dict[str, Any], override: str
) -> None:
    config["task"] = sections["task"]["micro_gsm8k"]
    with pytest.raises(ConfigError, match=r"decoding.mc_num=9 would change nothing.*generation"):
        resolve(config, ["limit=1", override])
    resolve(config, ["decoding.gen_length=32", "decoding=smoke"])


def test_a_profile_that_no_task_has_is_refused(
    config: dict[str, Any], sections: dict[str, Any]
) -> None:
    config["evaluation"] = sections["evaluation"]["paper"]
    with pytest.raises(NoUse, match="evaluation=paper would change nothing"):
        resolve(config)
    model, task = sections["model"]["llada_1_5"], sections["task"]["humaneval"]
    config |= {"model": model, "task": task}
    paper, published = (
        resolve({**config, "evaluation": sections["evaluation"][name]}).tasks[0].settings
        for name in ("paper", "published")
    )
    assert (paper.block_length, published.block_length) == (512, 32)


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"device = cuda:1, but .* finds no GPU.*device=cpu"):
        check_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert check_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match=r"finds 2 GPUs.*cuda:0 to cuda:1"):
        check_device("cuda:2")
    with pytest.raises(ConfigError, match="'gpu' is not one of: cpu, cuda, cuda:N"):
        check_device("gpu")


def test_a_folder_that_cannot_be_written_is_found_out_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written \(Not a directory\); set runs_dir"):
        check_writable(tmp_path / "file" / "runs" / "sweep")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_folders_made_on_the_way_are_removed_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(surroundings.tempfile, "TemporaryFile", refuse)
    with pytest.raises(ConfigError, match="No space left on device"):
        check_writable(tmp_path / "runs" / "sweep")
    assert list(tmp_path.iterdir()) == []


def test_surroundings_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(mode: Any = "off", **changes: Any) -> None:
        values = {
            "sweep": "s", "runs_dir": str(tmp_path / "runs"), "data_root": None, "limit": None,
            "seed": 0, "device": "cpu", "dtype": "float32", "batch_size": 1, "threads": None,
            "execution": "fake",
        }  # fmt: skip
        common = CommonSettings(**{**values, **changes})
        job = {"common": common, "tracking": TrackingSettings(mode, "p", None)}
        folder = Path(common.runs_dir) / common.sweep
        check_surroundings([SimpleNamespace(**job, sweep_folder=folder)])  # type: ignore[list-item]

    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="data_root = nowhere is not a folder"):
        check(data_root="nowhere")
    with pytest.raises(ConfigError, match="needs a W&B key"):
        check(mode="online")
    with pytest.raises(ConfigError, match=r"'gpu' is not one of.*nowhere is not.*a W&B key"):
        check(mode="online", data_root="nowhere", device="gpu")
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match="DLLMQUANT_KERNELS=sse"):
        patch.setenv("DLLMQUANT_KERNELS", "sse")
        check()
    assert not (tmp_path / "runs").exists()
    check()
    assert (tmp_path / "runs" / "s").is_dir()


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["device=cuda"], "device = cuda"),
        (["dtype=float64"], "dtype = float64"),
        (["quant=w8a8"], "quant.weight_bits = 8"),
        (["quant=w4a16"], "quant.activation_bits = 16"),
        (
            ["quant.weight_granularity=per_group", "quant.group_size=32", "dtype=float64"],
            "dtype = float64 and a per_group granularity",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused_at_once(words: list[str], fault: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot run with {fault}; use execution=fake"):
        resolve(composed("execution=packed", *words))


def test_execution_makes_other_cells_of_quantized_models_only() -> None:
    for method, differs in (("fp", False), ("rtn", True)):
        fake = resolve(composed(f"method={method}", "task=micro_arc"))
        packed = resolve(composed(f"method={method}", "task=micro_arc", "execution=packed"))
        assert (cell_names(fake) != cell_names(packed)) == differs


def speed(*overrides: str) -> Experiment:
    words = ["task=speed", "execution=packed", *overrides]
    return resolve(composed(*words), words)


def test_every_model_has_settings_for_speed() -> None:
    for model in set(OPTIONS["model"]) - {"saved"}:  # which is of any kind
        (task,) = speed(f"model={model}").tasks
        assert task.speed is not None and task.settings.metric == "tokens/s", model
        assert task.settings.gen_length == task.settings.steps, "a token per step, as published"


def test_a_speed_cells_hash_moves_with_what_is_measured() -> None:
    key = "task.tasks.speed.measure.micro.responses"
    overrides = ("seed=1", "method=quarot", "quant.activation_bits=8", "decoding.steps=16")
    names = {cell_names(speed(*words))[0] for words in ((), *((word,) for word in overrides))}
    names.add(cell_names(speed(f"{key}=3"))[0])
    assert len(names) == 6


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("execution=fake", "execution=packed with task=speed"),
        ("device=cuda", "use device=cpu|on the CPU"),
        ("limit=3", "limit=3 would change nothing"),
        ("dtype=bfloat16", "takes the fastest type of each side"),
        ("+limit=3", "limit=3 would change nothing"),
        ("++dtype=bfloat16", "takes the fastest type of each side"),
        ("shards=4", "shards=4 would change nothing.*one process"),
        ("batch_size=4", "says what it decodes at once"),
        ("decoding.suppress_eos=false", "suppress_eos to true"),
        ("task.tasks.speed.measure.micro.rounds=0", "rounds = 0 must be at least 1"),
        ("model.settings=llada_x", "llada_x"),
        ("~task.tasks.speed.measure.micro", "nothing for models of kind 'micro'"),
    ],
)
def test_what_a_measurement_of_speed_would_ignore_or_cannot_do(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        speed(word)


def test_speed_of_a_saved_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose the model, method and quant that it was made"):
        check_speed(Overrides(), device="cpu", fake=False, saved=True)


def test_full_precision_alone_needs_no_packed_execution() -> None:
    assert speed("method=fp", "execution=fake").quant is None
