"""The command `figures`, from words to pictures."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_probes import GIVEN, LENGTH, PROMPTS, STEPS, with_settings

from dllmquant_exp.__main__ import main
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.probes import block_outputs
from dllmquant_exp.probes import command as figures
from dllmquant_exp.probes.arguments import ProbeError
from dllmquant_exp.probes.block_outputs import ffn_channels
from dllmquant_exp.probes.command import record, wanted
from dllmquant_exp.probes.decodes import Subject
from dllmquant_exp.probes.measurement import Measurement
from dllmquant_exp.probes.probe import read_probe
from dllmquant_exp.reporting.figures.catalog import catalog


def test_a_recorded_figure_is_read_and_says_how_it_was_made(
    words: Callable[..., list[str]], subject: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    probe = read_probe(GIVEN, words(name="recorded"))
    made = record(probe, "figure1", lambda: replace(subject, probe=probe))

    def refuse() -> Subject:
        raise AssertionError("measured again")

    again = record(probe, "figure1", refuse)
    assert np.array_equal(again.arrays["quantiles"], made.arrays["quantiles"])
    info = json.loads((made.folder / "figure.json").read_text())
    assert info["config"]["decoding"]["gen_length"] == LENGTH
    assert info["config"]["prompts"] == PROMPTS
    assert made.folder.name.endswith(info["config_hash"][:8])
    assert info["versions"]["torch"] == torch.__version__ and "commit" in info["source"]
    with pytest.raises(AssertionError, match="measured again"):
        record(with_settings(probe, prompts=2), "figure1", refuse)
    # A setting that a figure does not read does not make another one of it.
    assert record(with_settings(probe, noise=0.25), "figure1", refuse).folder == made.folder
    # One that was measured with other threads is taken where none are asked for, and said.
    own = [word for word in words(name="recorded") if word != "threads=1"]
    assert record(read_probe(GIVEN, own), "figure1", refuse).folder == made.folder
    assert "measured with threads=1; threads=N measures it anew" in caplog.text
    with pytest.raises(AssertionError, match="measured again"):
        record(read_probe(GIVEN, [*own, "threads=2"]), "figure1", refuse)
    small = {"gen_length": LENGTH, "steps": STEPS, "blocks": 2}
    assert small.items() <= info["changed"].items() and "model.checkpoint" not in info["changed"]


def test_the_command_measures_and_draws(
    words: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    own, runs_dir = words(name="cli"), words(name="cli")[-1:]
    line = ["figures", "figure=9,1", *(f"{k}={v}" for k, v in GIVEN.items()), *own]
    assert main(line) == 0
    paths = [Path(text) for text in capsys.readouterr().out.split()]
    assert [p.name for p in paths] == [
        f"figure{n}.{kind}" for n in (9, 1) for kind in ("png", "pdf")
    ]
    assert all(path.stat().st_size > 1000 for path in paths)
    assert main(["figures", "figure=12"]) == 2
    assert "is not all or some of" in capsys.readouterr().err
    assert main(["figures", "figure=7", *runs_dir]) == 1
    assert "run table=table2 first" in capsys.readouterr().out
    assert main(["figures", "figure=7", "noise=2", *runs_dir]) == 2
    assert "noise: figure 7 would not change with it" in capsys.readouterr().err


def test_each_seed_is_recorded_where_one_is_read(
    words: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = []

    def measure(one: Subject) -> Measurement:
        measured.append(one.probe.seed)
        return ffn_channels(one)

    monkeypatch.setattr(block_outputs, "ffn_channels", measure)
    own = [*words(name="seeds"), "seed=0,2"]
    given = [f"{k}={v}" for k, v in GIVEN.items() if k != "states"]
    assert main(["figures", "figure=1,6", *given, *own]) == 0
    paths = [Path(text) for text in capsys.readouterr().out.split() if text.endswith(".png")]
    infos = [json.loads((path.parent / "figure.json").read_text()) for path in paths]
    assert [(info["figure"], info["seed"]) for info in infos] == [
        ("figure1", 0), ("figure6", 0), ("figure6", 2),
    ]  # fmt: skip
    assert measured == [0, 2] and len({path.parent for path in paths}) == 3
    assert not any("runs_dir" in word for info in infos for word in info["words"])
    for words_given in (["seed=1,1"], ["seed=1, 1"], ["seed=1", "seed=1"], ["seed=1", "seed=2"]):
        assert main(["figures", "figure=6", *words_given]) == 2
        assert "give each seed once, as in seed=0,1,2" in capsys.readouterr().err
    assert main(["figures", "figure=6", "seed=1,x"]) == 2
    assert main(["figures", "figure=1", "seed=0,1"]) == 2
    assert "seed=0,1: figure 1 would not change with it" in capsys.readouterr().err


def test_figures_are_chosen_by_number() -> None:
    assert wanted("2,figure9") == ["figure2", "figure9"]
    assert wanted("all") == list(catalog())
    with pytest.raises(ProbeError, match="99"):
        wanted("99")


@pytest.mark.parametrize(
    "word",
    ["row=rtn", "quant.weight_bits=3", "limit=3", "execution=packed", "save=kept",
     "+launcher.processes=2", "tracking=off"],
)  # fmt: skip
def test_what_figures_choose_themselves_is_refused(word: str) -> None:
    name = word.lstrip("+~").partition("=")[0].partition(".")[0]
    with pytest.raises(ConfigError, match=f"no figure reads .*{name}.*; leave it out"):
        figures.figures({"figure": "2"}, [word])
