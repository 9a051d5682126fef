"""YAML files that a user brings: plain values, read without running or multiplying anything."""

from pathlib import Path
from typing import Any

import yaml

from dllmquant_exp.errors import ConfigError

MOST = 100_000  # values in a file, with those that its aliases repeat


def read_yaml(path: Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """The content of a YAML file; None of an empty one.

    Args:
        loader: knows the tags that the file may hold.

    Raises:
        ConfigError: a file that cannot be read, holds tags such as `!!python/object`, or aliases
            that refer to themselves or multiply.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=loader)
        if node is not None and _size(node, {}) > MOST:
            raise ValueError(f"more than {MOST} values, with those that aliases repeat")
        return yaml.load(text, Loader=loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        said = " ".join(str(error).replace('"<unicode string>"', "it").split())
        raise ConfigError(f"{path} cannot be read as YAML of plain values ({said})") from error


def read_mapping(path: Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> dict[str, Any]:
    """The settings in a YAML file; see `read_yaml`."""
    content = read_yaml(path, loader) or {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {content!r:.40}, but settings belong there")
    return content


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Number of values below a node, each as often as aliases repeat it."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST + 1  # until its own content is counted: an alias of itself never ends
    below = 1
    if isinstance(node, yaml.MappingNode):
        below += sum(_size(part, known) for pair in node.value for part in pair)
    elif isinstance(node, yaml.SequenceNode):
        below += sum(_size(part, known) for part in node.value)
    known[id(node)] = below
    return below
