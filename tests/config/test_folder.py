"""Folders of options: ours, and those that a user brings."""

from pathlib import Path

import pytest

from dllmquant_exp.config.folder import Folders, config_folder, split_folders
from dllmquant_exp.errors import ConfigError


def test_folders_are_taken_out_of_a_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for words in (
        ["--config-dir", "mine"],
        ["--config-dir=mine"],
        ["-cd", "mine"],
        ["hydra.searchpath=[mine]"],
        [f"hydra.searchpath=['file://{tmp_path}/mine']"],
    ):
        folders, rest = split_folders(["a=1", *words, "-m", "b=2"])
        assert (folders, rest) == (Folders((tmp_path / "mine",)), ["a=1", "-m", "b=2"])
        assert split_folders(folders.words) == (folders, [])
    folders, _ = split_folders(["--config-dir", "mine", "hydra.searchpath=[pkg://package]"])
    assert folders.theirs == (tmp_path / "mine", tmp_path / "package")


def test_options_of_a_user_stand_behind_ours(tmp_path: Path) -> None:
    (tmp_path / "row").mkdir()
    (tmp_path / "row" / "a_row.yaml").write_text("")
    options = Folders((tmp_path,)).options("row")
    assert [*options] == [*Folders().options("row"), "a_row"]
    assert options["a_row"].parent.parent == tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config-dir", "nowhere"], "nowhere is not a folder of options"),
        (["hydra.searchpath=[pkg://no.such.package]"], "pkg://no.such.package is not a folder"),
        (["a=1", "--config-dir"], "needs a folder"),
        (["--config-dir", str(config_folder())], "give yours another name"),
    ],
)
def test_folders_that_cannot_be_used(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split_folders(words)
