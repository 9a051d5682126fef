"""Folders of options: ours, and those that a user brings."""

from pathlib import Path

import pytest
from users_folder import Users

from dllmquant_exp.config.folder import Folders, config_folder, split_folders
from dllmquant_exp.config.overrides import Overrides
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
        (["--config-dir", "~no_such_user/x"], "is not a folder of options"),
        (["hydra.searchpath=[pkg://no.such.package]"], "pkg://no.such.package is not a folder"),
        (["hydra.searchpath=[pkg://..]"], "is not a folder of options"),
        (["hydra.searchpath=["], r"hydra.searchpath=\[ is not a list of folders"),
        (["hydra.searchpath={a: b}"], "is not a list of folders"),
        (["+hydra.searchpath=[1]"], "is not a list of folders"),
        (["hydra.searchpath="], "is not a list of folders"),
        (["a=1", "--config-dir"], "needs a folder"),
        (["--config-dir", str(config_folder())], "give yours another name"),
    ],
)
def test_folders_that_cannot_be_used(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split_folders(words)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("method/rtn", "name: rtn", "there is a .*rtn.yaml already"),
        ("method/mine", "name: rtn", "it is named 'rtn' in results; write `name: mine`"),
        ("method/mine", "defaults: [rtn]", "it is named None in results; write `name: mine`"),
        ("cgq/mine", "name: cgq", "write `name: mine`"),
        ("tmas/mine", "name: tmas", "write `name: mine`"),
        ("calibration/mine", "samples: 4", "write `name: mine`"),
        ("model/mine", "name: dream_7b", "write `name: mine`"),
        ("quant/mine", "defaults: [w4a4]\nweight_bits: 3", "write `name: mine`"),
        ("decoding/mine", "name: published", "write `name: mine`"),
        ("method/quarot_tmas", "name: quarot_tmas", "something of ours quarot_tmas already"),
        ("calibration/tmas", "name: tmas", "something of ours tmas already"),
        ("tmas/random", "name: random", "something of ours random already"),
        ("row/mine", "row: {name: mine, label: ' '}", "its label ' ' is no line of text"),
        ("method/a b", "name: a b", "give the file a plain name"),
        ("method/deep/mine", "name: mine", "there is no group method/deep"),
        ("row/mine", "row: {name: rtn, label: Mine}", "its row is named 'rtn'; write `name: mine`"),
        ("row/mine", "row: {name: mine, label: ' Rtn'}", "/row/rtn.yaml has the same label"),
        ("row/mine", "row: two", "mine.yaml: row is 'two', but a group of settings belongs there"),
        ("row/mine", "row: {name: mine, lable: x}", "did you mean 'label'"),
        ("row/mine", "row: {name: mine, label: 3}", "label = 3 is not text"),
        ("row/mine", "defaults: [{override /method: [quarot, gptq]}]", "choose one option"),
        ("table/mine", "defaults: {row: awq}", "defaults is no list"),
        ("row/mine", "row: [", "cannot be read as YAML"),
        ("row/mine", "- a", "but settings belong there"),
        ("row/mine", "x: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("row/mine", "x: !mine 3", "could not determine a constructor"),
        ("quant/mine", BOMB, "more than 100000 values"),
        ("quant/mine", "a: &a [*a]", "more than 100000 values"),
        ("quant/mine", f"a: {'[' * 2000}", "cannot be read as YAML"),
        ("task/mine", "tasks: {gsm8k: {label: Mine}}", "would stand in the column of gsm8k"),
        ("task/mine", "tasks: {mine: {label: ' gsm8K'}}", "in the column of (micro_)?gsm8k"),
        ("task/mine", "tasks: {mine: {label: Avg.}}", "in the column of the average"),
        ("task/mine", "tasks: {mine: {label: X}, other: {label: x}}", "in the column of mine"),
        ("task/mine", "tasks: {mine: {label: ' '}}", "label ' ' of mine is no line of text"),
        ("calibration/static", "name: static", "something of ours static already"),
        ("calibration/tmas-x", "name: tmas-x", "something of ours tmas-x already"),
        ("row/mine", "defaults: [mine]", "its defaults choose it again"),
        ("row/mine", "defaults: [{/row: mine}]", "its defaults choose it again"),
    ],
)
def test_options_that_cannot_be_told_from_others(
    users: Users, name: str, text: str, message: str
) -> None:
    users(name, text)
    with pytest.raises(ConfigError, match=message):
        split_folders(users.words)


def test_a_row_without_its_header_is_refused(users: Users) -> None:
    users("row/mine", "limit: 3").write_text("limit: 3\n")
    with pytest.raises(ConfigError, match="write `# @package _global_` on top"):
        split_folders(users.words)


def test_options_of_two_folders_and_labels_of_two_rows_differ(users: Users, tmp_path: Path) -> None:
    first = users("row/first", "row: {name: first, label: Same}")
    second = users("row/second", "row: {name: second, label: same}")
    with pytest.raises(ConfigError, match=f"{second}: {first} has the same label"):
        split_folders(users.words)
    second.unlink()
    (tmp_path / "more" / "row").mkdir(parents=True)
    (tmp_path / "more" / "row" / "first.yaml").write_text(first.read_text())
    with pytest.raises(ConfigError, match=r"there is a .*first.yaml already"):
        split_folders([*users.words, "--config-dir", str(tmp_path / "more")])


def test_files_of_no_group_are_left_alone_until_one_is_chosen(users: Users) -> None:
    users("deploy/all", "{{ template }}: [")
    split_folders(users.words)
    with pytest.raises(ConfigError, match=r"all.yaml cannot be read as YAML"):
        Overrides.read([*users.words, "+deploy=all"]).check_names()
