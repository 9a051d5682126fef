"""Code from outside the package: which classes it is, and a digest of all files behind it.

A digest covers the module of a class and every module that it imports, wherever these lie; Python's
own, installed ones and this package are left to their versions. It covers

- of a package, every file in its folder;
- of any other module, its file, and the data beside it that a string in its source mentions: a file
  by its name or its ending ("table.json", "*.npz"), a folder by its name, with all files in it.

Data from other places (a path in an environment variable, a download) is not known. Hidden and
compiled files are left out, and a file above 64 MB counts by its size.
"""

import ast
import hashlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

OWN = __name__.partition(".")[0]
LARGE = 64_000_000  # bytes
_PACKAGE = Path(__file__).resolve().parents[1]
_PYTHONS = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
_INSTALLED = {"site-packages", "dist-packages"}


def is_outside(cls: type) -> bool:
    """Whether a class comes from another package than this one."""
    return cls.__module__.partition(".")[0] != OWN


def full_name(cls: type) -> str:
    """The dotted name of a class, as `_target_` gives it."""
    return f"{cls.__module__}.{cls.__qualname__}"


def source_digest(cls: type) -> str:
    """sha256 of the code behind a class and of its data; see above for what counts."""
    names = {cls.__module__, cls.__module__.partition(".")[0]}
    files = [getattr(sys.modules[name], "__file__", None) for name in names]  # None: only a folder
    modules = [Path(file).resolve() for file in files if file is not None]
    packages = [folder for folder in map(_package, modules) if folder]  # the installed ones, too
    return files_digest([*imported_files(*modules), *(p for f in packages for p in _below(f))])


def files_digest(paths: Iterable[Path]) -> str:
    """sha256 of files and of their names below the folder that they share."""
    files = {path.resolve() for path in paths}
    shared = min((path.parent for path in files), key=lambda folder: (len(folder.parts), folder))
    digest = hashlib.sha256()
    for name, content in sorted((_name(path, shared), _content(path)) for path in files):
        digest.update(name.as_posix().encode() + b"\0" + content)
    return f"sha256:{digest.hexdigest()}"


def imported_files(*modules: Path) -> list[Path]:
    """The files of modules, of what they import, and of their data; see above for what counts."""
    found: set[Path] = set()
    waiting = [module.resolve() for module in modules]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if path.suffix != ".py" or _INSTALLED & set(path.parts):
            continue
        package = _package(path)
        if package is not None:
            waiting += _below(package)
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # of a file that only lies in the package
            continue
        for folder, name in _imports(tree, path):
            waiting += _modules(folder, name)
        if package is None:
            found |= {*_mentioned(tree, path.parent)}
    return sorted(found)


def place_outside(error: BaseException) -> str | None:
    """File and line of a user's own code in which an error arose; None where it passed none."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        path = Path(frame.f_code.co_filename)
        if path.is_file() and _is_users(path.resolve()):
            return f"{path}, line {line}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    return None


def fault(error: BaseException) -> str:
    """Message about an error in a user's own code: what, where, and what to do."""
    place = place_outside(error)
    said = f"{type(error).__name__}: {error}{f' ({place})' if place else ''}"
    return f"{said}; this is code from outside the package, mend it there"


def _is_users(path: Path) -> bool:
    """Whether a file is none of Python's, of an installed package or of this one."""
    ours = path.is_relative_to(_PACKAGE) or any(path.is_relative_to(place) for place in _PYTHONS)
    return not (ours or _INSTALLED & set(path.parts))


def _package(path: Path) -> Path | None:
    """The folder of the outermost package that a module is part of."""
    found = None
    for folder in path.parents:
        if not (folder / "__init__.py").is_file():
            break
        found = folder
    return found


def _imports(tree: ast.AST, path: Path) -> Iterator[tuple[Path, str]]:
    """Imports of a module: where each is looked for first, and its dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((path.parent, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):  # the name behind `import` may be a module, too
            start = f"{node.module}." if node.module else ""
            folder = path.parents[max(0, node.level - 1)]
            yield from ((folder, f"{start}{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            texts = (argument.value for argument in node.args if isinstance(argument, ast.Constant))
            yield from ((path.parent, text) for text in texts if isinstance(text, str))


def _modules(folder: Path, name: str) -> list[Path]:
    """The user's files that an import reads."""
    found: list[Path] = []
    first, *parts = name.lstrip(".").split(".")
    try:
        spec = PathFinder.find_spec(first, [str(folder)]) or find_spec(first)
        while spec is not None:
            if spec.has_location and spec.origin:
                found.append(Path(spec.origin).resolve())
            places = list(spec.submodule_search_locations or ())
            spec = PathFinder.find_spec(parts.pop(0), places) if parts and places else None
    except (ImportError, ValueError):  # no name of a module
        pass
    return [path for path in found if _is_users(path)]


def _mentioned(tree: ast.Module, folder: Path) -> Iterator[Path]:
    """The data in a module's folder that strings in its source mention."""
    described = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if id(node) not in described  # a docstring opens no file
    ]
    words = {part for text in texts for part in re.split(r"[/\\*?]+", text)}
    endings = tuple(word for word in words if "." in word[:-1])
    for path in folder.iterdir():
        if path.name[0] == "." or path.name == "__pycache__":
            continue
        if path.is_dir() and path.name in words:
            yield from _below(path)
        elif path.is_file() and (path.name in words or path.name.endswith(endings)):
            yield path.resolve()


def _below(folder: Path) -> list[Path]:
    """The files below a folder, but for hidden and compiled ones."""
    files = (path for path in folder.rglob("*") if path.is_file())
    parts = ((path, path.relative_to(folder).parts) for path in files)
    return [
        path.resolve()
        for path, names in parts
        if "__pycache__" not in names and not any(name[0] == "." for name in names)
    ]


def _name(path: Path, shared: Path) -> Path:
    return path.relative_to(shared) if path.is_relative_to(shared) else Path(path.name)


def _content(path: Path) -> bytes:
    size = path.stat().st_size
    return hashlib.sha256(str(size).encode() if size > LARGE else path.read_bytes()).digest()
