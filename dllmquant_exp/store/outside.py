"""Code from outside the package: which classes it is, and a digest of all files behind it."""

import ast
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

OWN = __name__.partition(".")[0]


def is_outside(cls: type) -> bool:
    """Whether a class comes from another package than this one."""
    return _top(cls) != OWN


def source_digest(cls: type) -> str:
    """sha256 of the code behind a class: its whole top-level package, or its module.

    A class may call anything beside it. Every file of a package counts, data included; a module
    that stands alone counts with the modules beside it that it imports.
    """
    module = sys.modules[_top(cls)]
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    if folders:
        return files_digest(path for folder in folders for path in _content(folder))
    return files_digest(imported_files(Path(str(module.__file__))))


def files_digest(paths: Iterable[Path]) -> str:
    """sha256 of files and of their names below the folder that they share."""
    files = sorted(path.resolve() for path in paths)
    shared = min((path.parent for path in files), key=lambda folder: len(folder.parts))
    digest = hashlib.sha256()
    for path in files:
        name = path.relative_to(shared) if path.is_relative_to(shared) else Path(path.name)
        content = hashlib.sha256(path.read_bytes()).digest()
        digest.update(name.as_posix().encode() + b"\0" + content)
    return f"sha256:{digest.hexdigest()}"


def imported_files(module: Path) -> list[Path]:
    """A module's file and, one after the other, what it imports from the same folder."""
    found: dict[Path, None] = {}
    waiting = [module.resolve()]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = None
        if {"site-packages", "dist-packages"} & set(path.parts):
            continue  # other packages stand beside it, by their own versions
        for name in _imports(path):
            beside = module.parent.resolve() / name
            waiting += [beside.with_suffix(".py")] if beside.with_suffix(".py").is_file() else []
            waiting += [p for p in _content(beside) if p.suffix == ".py"] if beside.is_dir() else []
    return sorted(found)


def _top(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _content(folder: Path) -> list[Path]:
    """The files below a folder, but for compiled ones."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if "__pycache__" not in path.parts]


def _imports(path: Path) -> set[str]:
    """First words of what a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {(node.module or alias.name).partition(".")[0] for alias in node.names}
    return names
