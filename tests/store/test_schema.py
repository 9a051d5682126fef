"""Settings from plain mappings: bounds, classes named by `_target_`, and outside source digests."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from users_folder import Users

from dllmquant_exp.errors import ConfigError
from dllmquant_exp.store.outside import is_outside, source_digest
from dllmquant_exp.store.schema import Above, AtLeast, AtMost, Settings, build, describe, read

MODULE = """
from dataclasses import dataclass
from dllmquant_exp.store.schema import Settings
@dataclass(frozen=True)
class Mine(Settings):
    size: int = 3
class Plain(Settings):
    pass
"""


@dataclass(frozen=True)
class Ranges(Settings):
    ratio: Annotated[float, Above(0), AtMost(1)] = 0.5
    count: Annotated[int, AtLeast(1)] | None = None
    bits: Literal[2, 4, 16] = 4
    alphas: tuple[Annotated[float, AtMost(1)], ...] = (1.0,)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with a module of a user's."""
    (tmp_path / "users_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "users_module", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ratio": 0.0}, "ratio = 0.0 must be above 0 and at most 1"),
        ({"ratio": float("nan")}, "ratio = nan must be above 0"),
        ({"count": 0}, "count = 0 must be at least 1"),
        ({"bits": 3}, "bits = 3 is not one of: 2, 4, 16"),
        ({"bits": True}, "bits = True is not one of"),
        ({"alphas": (0.5, 1.5)}, "alphas = .* must be at most 1"),
        ({"ratio": "much"}, "ratio = 'much' is not a number"),
    ],
)
def test_fields_are_checked_when_read_and_when_constructed(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Ranges(**values)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message.replace(" =", " =", 1)):
        read(Ranges, values, "quant")


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"quant\.ratio = 2.*quant\.bits = 5") as error:
        read(Ranges, {"ratio": 2, "bits": 5, "cuont": 1}, "quant")
    assert "quant.cuont is not a setting (did you mean 'count'?)" in str(error.value)


def test_a_section_names_its_class(outside: Path) -> None:
    made = build({"_target_": "users_module.Mine", "size": 5}, Settings, "method.mine")
    assert type(made).__name__ == "Mine"
    described = describe(made)
    assert described["size"] == 5
    assert described["_target_"] == "users_module.Mine"
    assert described["source"] == source_digest(type(made))
    assert not is_outside(Settings)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "is not the dotted name of a class"),
        ("os", "is not the dotted name"),
        ("no_such_module.Mine", "cannot be imported"),
        ("users_module.Yours", "users_module has no Yours"),
        ("os.system", "is not a dataclass derived from"),
        ("users_module.Plain", "is not a dataclass derived from"),
    ],
)
def test_what_is_no_class_of_the_kind_is_refused(
    outside: Path, target: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"_target_": target}, Ranges, "method.mine")


BROKEN = """
from abc import ABC, abstractmethod
from dataclasses import dataclass, make_dataclass
from dllmquant_exp.store.schema import Settings
@dataclass(frozen=True)
class Abstract(Settings, ABC):
    @abstractmethod
    def work(self): ...
@dataclass(frozen=True)
class Failing(Settings):
    size: int = 3
    def __post_init__(self):
        return {}[self.size]
@dataclass(frozen=True)
class Unknown(Settings):
    size: "Nowhere" = 3
@dataclass(frozen=True)
class Nowhere_(Settings):
    pass
Nowhere_.__module__ = "builtins"
Made = make_dataclass("Made", [], bases=(Settings,), frozen=True)
@dataclass(frozen=True)
class Ours(Settings):
    pass
Ours.__module__ = "dllmquant_exp.store.schema"
@dataclass(frozen=True)
class Leaving(Settings):
    def __post_init__(self):
        raise SystemExit(3)
def __getattr__(name):
    raise RuntimeError(name)
"""


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("users_broken.Abstract", r"lacks work, which every .*\.Settings defines"),
        ("users_broken.Failing", r"users_broken.Failing: KeyError: 3 \(.*users_broken.py, line 13"),
        ("users_broken.Unknown", "NameError: name 'Nowhere' is not defined"),
        ("users_broken.Made", "is of no file"),
        ("users_broken.Ours", "is of no file"),
        ("users_broken.Leaving", "SystemExit: 3"),
        ("users_broken.Nowhere_", "is of no file; define it by `class` at the top of a module"),
        ("users_broken.Lazy", "RuntimeError: Lazy .*users_broken.py"),
        ("users_syntax.Mine", r"SyntaxError: .*users_syntax.py, line 1.*mend it there"),
        ("users_raising.Mine", r"ValueError: no \(.*users_raising.py, line 2\)"),
        ("users_leaving.Mine", "SystemExit: 3"),
        ("users_needing.Mine", "No module named 'no_such_module'.*PYTHONPATH"),
    ],
)
def test_faults_of_a_users_module_are_said_with_their_place(
    users: Users, target: str, message: str
) -> None:
    users.module("users_broken", BROKEN)
    users.module("users_syntax", "def (:")
    users.module("users_raising", "\nraise ValueError('no')")
    users.module("users_leaving", "raise SystemExit(3)")
    users.module("users_needing", "import no_such_module")
    with pytest.raises(ConfigError, match=message):
        build({"_target_": target}, Settings, "method.mine")


def test_values_of_a_mapping_have_a_type() -> None:
    @dataclass(frozen=True)
    class Lists(Settings):
        supported: Mapping[str, tuple[int, ...]]

    assert read(Lists, {"supported": {"a": [1, 2]}}, "x").supported == {"a": (1, 2)}
    for wrong in ("text", 3):
        with pytest.raises(ConfigError, match=f"holds a = {wrong!r}, which is not a list"):
            read(Lists, {"supported": {"a": wrong}}, "x")
