"""`ls`: every option and setting, with types and what comes from outside; and `cite`."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from dllmquant_exp.config.citation import bibtex
from dllmquant_exp.config.folder import Folders, config_folder
from dllmquant_exp.config.help import group_texts
from dllmquant_exp.config.listing import list_group, list_options, settings
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.quantization.quant_settings import AttentionSettings, QuantSettings


def test_every_option_has_a_line_of_its_own() -> None:
    lines = list(list_options(Folders()))
    for group, text in group_texts().items():
        place = lines.index(f"{group}: {text}")
        options = Folders().options(group)
        shown = [line.split(maxsplit=1) for line in lines[place + 1 : place + 1 + len(options)]]
        assert [name for name, _ in shown] == list(options)
        assert all(len(said) > 3 and not said.endswith(" Eq") for _, said in shown)
    assert not any("yours" in line for line in lines)


def test_options_from_outside_are_marked(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    own = tmp_path / "method" / "mine.yaml"
    own.write_text("# Rounds as I like.\nname: mine\nstep: {_target_: not_there.Mine, bits: 2}\n")
    folders = Folders((tmp_path,))
    (line,) = [line for line in list_options(folders) if "mine" in line]
    assert "Rounds as I like" in line and f"[yours: {own}]" in line
    assert any("mine" in line and "yours" in line for line in list_group(folders, "method"))


def test_settings_have_default_type_and_comment() -> None:
    lines = list(list_group(Folders(), "quant"))
    for field in fields(QuantSettings):
        nested = field.name == "attention"
        names = [f"attention.{own.name}" for own in fields(AttentionSettings)] if nested else [
            field.name
        ]  # fmt: skip
        for name in names:
            assert len([line for line in lines if line.startswith(f"  quant.{name}=")]) == 1
    place = lines.index("  quant.weight_bits=4  (2 | 3 | 4 | 5 | 6 | 7 | 8 | 16)")
    assert "seven linears" in lines[place + 1]
    assert "  quant.group_size=null  (whole number at least 1 or null)" in lines
    assert any("w4a4 " in line and "(the default)" in line for line in lines)


@pytest.mark.parametrize("group", group_texts())
def test_every_setting_of_every_option_is_listed(group: str) -> None:
    lines = list(list_group(Folders(), group))
    options = Folders().options(group)
    assert all(any(line.startswith(f"  {name} ") for line in lines) for name in options)
    for path in options.values():
        for key, _, _ in settings(path):
            first = key.partition(".")[0]
            unread = first in ("name", "defaults", "hydra", "report", "row", "leaves")
            assert unread or any(f"{key}=" in line for line in lines), (path, key)


def test_reading_settings_by_line_agrees_with_yaml() -> None:
    for path in (config_folder() / "quant").glob("*.yaml"):
        content = yaml.safe_load(path.read_text("utf-8"))
        for key, value, _ in settings(path):
            found = content
            for part in key.split("."):
                found = found[part]
            assert found == yaml.safe_load(value)


def test_the_files_of_data_root_are_listed() -> None:
    text = "\n".join(list_group(Folders(), "task"))
    for file in ("truthfulqa_mc", "mmlu_validation", "gsm8k_train", "winogrande_xl_train"):
        assert file in text


def test_a_group_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no group 'metod'"):
        list(list_group(Folders(), "metod"))


def test_citations_are_bibtex() -> None:
    paper, software = bibtex().split("\n\n")
    assert paper.startswith("@article{xu2025dllmquant,") and "eprint = {2508.14090}" in paper
    assert "author = {Xu, Chen and Yang, Dawei}" in paper
    assert software.startswith("@software{dllmquant_exp,") and "version = {0.1.0}" in software
    assert all(entry.count("{") == entry.count("}") for entry in (paper, software))
