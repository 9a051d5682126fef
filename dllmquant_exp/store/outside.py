"""Classes from outside the package: which they are, and a digest of the code behind them."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

OWN = __name__.partition(".")[0]
COMPILED = ("__pycache__", ".pyc")


def is_outside(cls: type) -> bool:
    """Whether a class comes from another package than this one."""
    return _top(cls) != OWN


def source_digest(cls: type) -> str:
    """sha256 of the module that a class comes from, or of every file of its top-level package.

    A class may call anything beside it, so the whole folder counts, data files included.
    """
    digest = hashlib.sha256()
    for name, path in _files(_top(cls)):
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return f"sha256:{digest.hexdigest()}"


def _top(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _files(top: str) -> Iterator[tuple[str, Path]]:
    """The files of a module or package with their names in it, in one order on every machine."""
    module = sys.modules[top]
    folders = sorted(map(Path, getattr(module, "__path__", ())))
    if not folders and module.__file__:
        path = Path(module.__file__)
        yield path.name, path
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not any(word in name for word in COMPILED):
                yield name, path
