"""A folder of options as a user brings it, for tests that put files into it."""

import sys
from pathlib import Path

import pytest

HEADER = "# @package _global_\n"  # of rows and tables


def defaults(**choices: str) -> str:
    """The defaults of a row that chooses these options."""
    return "defaults:\n" + "".join(f"  - override /{g}: {o}\n" for g, o in choices.items())


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Users":
    return Users(tmp_path / "users", monkeypatch)


class Users:
    """The folder; called with an option's place and content, it writes the option.

    Attributes:
        words: what the command line says for it.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self.folder, self.patch = folder, patch
        self.words = [f"hydra.searchpath=['file://{folder}']"]

    def __call__(self, name: str, *lines: str) -> Path:
        path = self.folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        header = HEADER if name.startswith(("row/", "table/")) else ""
        path.write_text(header + "\n".join(lines) + "\n")
        return path

    def module(self, name: str, text: str, folder: str = "") -> Path:
        """Write a module, in a folder that Python imports from."""
        path = self.folder / folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.patch.syspath_prepend(path.parent)
        self.patch.delitem(sys.modules, name, raising=False)
        return path
