"""Digests of code from outside: they cover what a class imports and the data that it reads."""

from pathlib import Path

import pytest
from users_folder import Users

from dllmquant_exp.store.outside import imported_files, source_digest
from dllmquant_exp.store.schema import Settings, build

MODULE = """
from dataclasses import dataclass
from dllmquant_exp.store.schema import Settings
@dataclass(frozen=True)
class Mine(Settings):
    size: int = 3
"""
LONE = f'''"""Says nothing with "docs.json", and runs in a folder."""
import importlib
import json
import numpy
import users_plain
from users_space.inner import deep
from users_whole.part import value
from pathlib import Path
other = importlib.import_module("users_dynamic")
HERE = Path(__file__).parent
TABLE = json.loads((HERE / "table.json").read_text())
ROWS = HERE / "tables" / "rows.txt"
ARRAYS = [*HERE.glob("x*.npz"), Path(__file__).with_suffix(".bin")]
{MODULE}'''
FILES = {  # each in a folder of its own on the path, but for what lies beside the module
    "plain/users_plain.py": "import users_further",
    "further/users_further.py": "PARTS = [f'{n}.csv' for n in 'ab']",
    "further/a.csv": "1",
    "dynamic/users_dynamic.py": "",
    "space/users_space/inner/deep.py": "",
    "whole/users_whole/__init__.py": "",
    "whole/users_whole/part.py": "value = 1",
    "whole/users_whole/weights.dat": "",
    "lone/table.json": "[1]",
    "lone/tables/rows.txt": "",
    "lone/tables/more/rows": "",
    "lone/x.npz": "",
    "lone/users_lone.bin": "",
}
UNREAD = ("lone/docs.json", "lone/log.txt", "lone/runs/x", "lone/.hidden.npz", "space/y.npz")


@pytest.fixture
def lone(users: Users) -> Path:
    """The folder of all these files, with a module that stands alone."""
    for name in (*FILES, *UNREAD):
        path = users.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FILES.get(name, ""))
        users.patch.syspath_prepend(users.folder / name.partition("/")[0])
    users.module("users_lone", LONE, "lone")
    return users.folder


def test_all_that_a_lone_module_imports_and_reads_is_in_its_digest(lone: Path) -> None:
    made = build({"_target_": "users_lone.Mine"}, Settings, "method.mine")
    before = source_digest(type(made))
    for name in (*FILES, "lone/users_lone.py"):
        text = (lone / name).read_text()
        (lone / name).write_text(f"{text}\n")
        assert source_digest(type(made)) != before, name
        (lone / name).write_text(text)
    table = lone / "lone/table.json"
    long = "[" + "1, " * 50 + "1]"
    table.write_text(long)
    before_same_size = source_digest(type(made))
    table.write_text(long.replace("1]", "2]"))
    assert source_digest(type(made)) != before_same_size
    table.write_text("[1]")
    for name in UNREAD:
        (lone / name).write_text("other")
    assert source_digest(type(made)) == before
    files = {
        path.relative_to(lone).as_posix() for path in imported_files(lone / "lone/users_lone.py")
    }
    assert files == {*FILES, "lone/users_lone.py"}, "nothing of Python's, installed or ours"


def test_a_digest_covers_the_whole_package(users: Users) -> None:
    users.module("steps", MODULE, "users_package/deep")
    package = users.folder / "users_package"
    (package / "__init__.py").write_text("")
    (package / "table.json").write_text("[1]")
    users.patch.syspath_prepend(users.folder)
    made = build({"_target_": "users_package.deep.steps.Mine"}, Settings, "method.mine")
    before = source_digest(type(made))
    assert source_digest(type(made)) == before
    (package / "table.json").write_text("[2]")
    assert source_digest(type(made)) != before
