"""Task definitions: lm-eval's packaged YAML for the official tasks, our own for the micro-world.

Only the files that are asked for are parsed (lm-eval's own index takes 16 seconds). A task's
prompts, filters and few-shot rules come from its YAML. The source of the data is replaced
(`data_root`), and so is the scoring of programs and of mc2, which lm-eval's code would do in our
process or lose to underflow.

Any other task is one from outside, see outside.py: a path of a YAML, a name in a user's folder
(`include_path`), or any name of lm-eval's.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

from lm_eval.tasks._yaml_loader import load_yaml

from dllmquant_exp.evaluation import programs, scoring
from dllmquant_exp.evaluation.settings import SettingsError
from dllmquant_exp.evaluation.tasks.outside import (
    PACKAGED,
    SCORED_IN_SANDBOX,
    TaskConfigDict,
    find_task,
    outside_configs,
    task_files,
)
from dllmquant_exp.store.outside import files_digest

OWN = Path(__file__).parent

# name of a task or group -> its file, or the pattern of its members' files, in lm-eval's package
OFFICIAL = {
    "truthfulqa_mc2": "truthfulqa/truthfulqa_mc2.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "winogrande": "winogrande/default.yaml",
    "piqa": "piqa/piqa.yaml",
    "mmlu": "mmlu/default/mmlu_*.yaml",
    "ceval-valid": "ceval/ceval-valid_*.yaml",
    "humaneval": "humaneval/humaneval.yaml",
    "gsm8k": "gsm8k/gsm8k.yaml",
    "gsm8k_cot": "gsm8k/gsm8k-cot.yaml",
}


def task_configs(name: str, include_path: str | None = None) -> list[TaskConfigDict]:
    """The lm-eval configurations of a task, or of every member of a group, in the group's order.

    Args:
        name: an official task, one of ours, or one from outside: a path that ends with .yaml, or a
            name in `include_path`, else in lm-eval.
        include_path: a folder of the user's.

    Raises:
        SettingsError: no such task, or one that cannot be evaluated here.
    """
    if _is_known(name, include_path):
        return [dict(config) for config in _known_configs(name)]
    return outside_configs(find_task(name, include_path))


def task_source(name: str, include_path: str | None = None) -> str | None:
    """A digest of every file that defines a task from outside; None for tasks of this package.

    Raises:
        SettingsError: see `task_configs`.
    """
    if _is_known(name, include_path):
        return None
    return files_digest(task_files(find_task(name, include_path)))


def _is_known(name: str, include_path: str | None) -> bool:
    ours = (path.stem for path in _own_files())
    return include_path is None and (name in OFFICIAL or name in ours)


@lru_cache(maxsize=64)  # 57 subjects of MMLU take a second to parse
def _known_configs(name: str) -> tuple[TaskConfigDict, ...]:
    if name in OFFICIAL:
        paths = sorted(PACKAGED.glob(OFFICIAL[name]))
        if not paths:
            raise SettingsError(f"lm-eval has no {OFFICIAL[name]}: install lm-eval 0.4.13 or later")
        return tuple(_official(name, path) for path in paths)
    (path,) = (path for path in _own_files() if path.stem == name)
    return tuple(_own(path))


def _own_files() -> list[Path]:
    """Our task and group files; a name that begins with _ is only there to be included."""
    return sorted([*OWN.glob("official/[!_]*.yaml"), *OWN.glob("micro/[!_]*.yaml")])


def _official(name: str, path: Path) -> TaskConfigDict:
    # these YAML files' functions are replaced below; importing humaneval's would load a metric from
    # the network, importing truthfulqa's takes seconds
    config = load_yaml(path, resolve_func=name not in ("humaneval", "truthfulqa_mc2"))
    if name == "humaneval":
        config |= SCORED_IN_SANDBOX
        config.pop("unsafe_code", None)  # it is not run in this process
    if name == "truthfulqa_mc2":
        entry = {"metric": "mc2", "aggregation": "mean", "higher_is_better": True}
        config |= {"process_results": scoring.score_mc2, "metric_list": [entry]}
    return _without_structure(config)


def _own(path: Path) -> Iterator[TaskConfigDict]:
    """A task file, or the members of a group file: names of files beside it, or inline tasks.

    `packaged` names lm-eval's file that it changes, or a pattern of files, each a member. `program`
    says how programs.py scores responses.
    """
    config = load_yaml(path)
    if isinstance(members := config.get("task"), list):
        shared = {k: v for k, v in config.items() if k not in ("group", "task", "group_alias")}
        shared.pop("aggregate_metric_list", None)
        for member in members:
            own = load_yaml(path.with_name(f"{member}.yaml")) if isinstance(member, str) else member
            yield _without_structure({**shared, **own})
        return
    packaged, program = config.pop("packaged", None), config.pop("program", None)
    if program is not None:
        score = partial(programs.score_program, **program)
        config = {**SCORED_IN_SANDBOX, "unsafe_code": False, "process_results": score, **config}
    if packaged is None:
        yield _without_structure(config)
        return
    for file in sorted(PACKAGED.glob(packaged)):
        base = load_yaml(file, resolve_func=program is None)
        task = base["task"] if "*" in packaged else config["task"]
        yield _without_structure({**base, **config, "task": task})


def _without_structure(config: TaskConfigDict) -> TaskConfigDict:
    return {k: v for k, v in config.items() if k not in ("tag", "group", "task_list")}
