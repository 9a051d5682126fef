"""Tasks from outside: a YAML of the user's, or any task of lm-eval's by its name.

`!function` is followed into the folder of the YAML alone. Tasks that run generated programs are
scored in our sandbox where their rows are like HumanEval's, and refused otherwise; so is rolling
likelihood, which has no right answers.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lm_eval.tasks
import yaml
from lm_eval.tasks._yaml_loader import load_yaml

from dllmquant_exp.errors import ConfigError
from dllmquant_exp.evaluation import programs
from dllmquant_exp.evaluation.settings import SettingsError
from dllmquant_exp.store.outside import fault, imported_files
from dllmquant_exp.store.paths import expanded
from dllmquant_exp.store.yaml_files import read_mapping

PACKAGED = Path(lm_eval.tasks.__file__).parent
TaskConfigDict = dict[str, Any]
OUTPUT_TYPES = ("multiple_choice", "generate_until")
STRUCTURE = ("tag", "group", "task_list", "group_alias", "aggregate_metric_list")
RUNS_PROGRAMS = ("code_eval", "pass@1", "pass_at_k")  # metrics
SCORED_IN_SANDBOX: TaskConfigDict = {
    "process_results": programs.score_program,
    "metric_list": [{"metric": "pass@1", "aggregation": "mean", "higher_is_better": True}],
    "filter_list": [{"name": "program", "filter": [{"function": "take_first"}]}],
}


def find_task(name: str, include_path: str | None = None) -> Path:
    """The YAML of a task: a path, or the file of that name in `include_path`, else in lm-eval.

    Raises:
        SettingsError: there is none.
    """
    if name.endswith((".yaml", ".yml")):
        path = expanded(name)
        if not path.is_file():
            raise SettingsError(f"task file {name} does not exist")
        return path.resolve()
    folder = PACKAGED if include_path is None else expanded(include_path)
    if not folder.is_dir():
        raise SettingsError(f"include_path = {include_path} is not a folder")
    named = re.compile(rf"^(task|group): *[\"']?{re.escape(name)}[\"']? *(#.*)?$", re.MULTILINE)
    files = sorted(folder.rglob("*.yaml"), key=lambda path: (path.stem != name, path))
    for path in files:
        if named.search(path.read_text(encoding="utf-8", errors="replace")):
            return path.resolve()
    place = "lm-eval" if include_path is None else include_path
    raise SettingsError(
        f"unknown task {name!r}: no YAML in {place} says `task: {name}`; give the path of a YAML, "
        "or include_path, the folder that has it"
    )


def outside_configs(path: Path) -> list[TaskConfigDict]:
    """The lm-eval configuration of a task's YAML, or of every member of a group's.

    Raises:
        SettingsError: it cannot be evaluated here; the message says why.
    """
    return [_checked(config, path) for config in _members(path)]


def task_files(path: Path) -> list[Path]:
    """Every local file that defines a task: YAML, includes, functions, rows, members of a group."""
    found = {path}
    content = _read(path)
    for include in _listed(content.get("include")):
        found |= {*task_files((path.parent / include).resolve())}
    for function in _functions(content):
        found |= {*imported_files(_module(function, path))}
    for rows in _data_files(content, path):
        if rows.is_file():
            found.add(rows)
    for member in _listed(content.get("task")) if isinstance(content.get("task"), list) else []:
        found |= {*task_files(_member(member, path))} if isinstance(member, str) else set()
    return sorted(found)


class _Function(str):
    """The name behind `!function`."""


class _Loader(yaml.SafeLoader):
    """Reads a task without importing its functions."""


_Loader.add_constructor("!function", lambda loader, node: _Function(loader.construct_scalar(node)))


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_mapping(path, _Loader)
    except ConfigError as error:
        raise SettingsError(f"task file {error}") from error


def _members(path: Path) -> Iterator[TaskConfigDict]:
    content = _read(path)
    members = content.get("task")
    if not isinstance(members, list):
        yield _loaded(path)
        return
    for member in members:
        if isinstance(member, str):
            yield from _members(_member(member, path))
        else:
            yield _absolute({**_loaded(path), **member}, path)


def _loaded(path: Path) -> TaskConfigDict:
    """A file with its includes and functions; programs are not imported, since they may run."""
    for file in task_files(path):
        if file.suffix in (".yaml", ".yml"):
            for function in _functions(_read(file)):
                _module(function, file)  # refuses what lies elsewhere
    programs = _runs_programs(load_yaml(path, resolve_func=False))
    try:
        config: TaskConfigDict = load_yaml(path, resolve_func=not programs)
    except (Exception, SystemExit) as error:  # whatever the user's functions raise on import
        raise SettingsError(f"task file {path}: its functions: {fault(error)}") from error
    return _absolute(config, path)


def _absolute(config: TaskConfigDict, path: Path) -> TaskConfigDict:
    """The same configuration with data files relative to the YAML, as its writer meant them."""
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if files is None:
        return config

    def absolute(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: absolute(item) for key, item in value.items()}
        if isinstance(value, list):
            return [absolute(item) for item in value]
        return str(path.parent / value) if (path.parent / value).exists() else value

    return {**config, "dataset_kwargs": {**config["dataset_kwargs"], "data_files": absolute(files)}}


def _checked(config: TaskConfigDict, path: Path) -> TaskConfigDict:
    kind = config.get("output_type")
    if kind not in OUTPUT_TYPES:  # loglikelihood scores greedy answers, which no diffusion decodes
        raise SettingsError(
            f"task file {path}: output_type = {kind!r} cannot be evaluated; use one of: "
            f"{', '.join(OUTPUT_TYPES)}"
        )
    if _runs_programs(config):
        config = {**config, **SCORED_IN_SANDBOX}
        config.pop("unsafe_code", None)  # it is not run in this process
    return {key: value for key, value in config.items() if key not in STRUCTURE}


def _runs_programs(config: Mapping[str, Any]) -> bool:
    metrics = [str(entry.get("metric")) for entry in config.get("metric_list") or []]
    return bool(config.get("unsafe_code")) or any(
        word in metric for metric in metrics for word in RUNS_PROGRAMS
    )


def _functions(value: Any) -> Iterator[str]:
    """The names behind `!function` anywhere in a value."""
    if isinstance(value, _Function):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _functions(item)
    elif isinstance(value, list):
        for item in value:
            yield from _functions(item)


def _module(function: str, path: Path) -> Path:
    """The file beside the YAML that a function comes from."""
    module, _, _ = function.rpartition(".")
    file = (path.parent / f"{module.replace('.', '/')}.py").resolve()
    if not module or not file.is_file() or not file.is_relative_to(path.parent.resolve()):
        raise SettingsError(
            f"task file {path}: !function {function} is taken from the folder of the YAML alone, "
            f"and {module.replace('.', '/')}.py is not in it"
        )
    return file


def _member(name: str, path: Path) -> Path:
    beside = path.with_name(f"{name}.yaml")
    folder = None if path.is_relative_to(PACKAGED) else str(path.parent)
    return beside.resolve() if beside.is_file() else find_task(name, folder)


def _data_files(content: Mapping[str, Any], path: Path) -> Iterator[Path]:
    def names(value: Any) -> Iterator[str]:
        if isinstance(value, Mapping):
            for item in value.values():
                yield from names(item)
        else:
            yield from map(str, _listed(value))

    for name in names((content.get("dataset_kwargs") or {}).get("data_files")):
        yield path.parent / name


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
