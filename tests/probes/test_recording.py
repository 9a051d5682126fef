"""A figure is measured once and says how."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_probes import GIVEN, LENGTH, PROMPTS, STEPS, with_settings

from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.probes.decodes import Subject
from dllmquant_exp.probes.probe import read_probe
from dllmquant_exp.probes.recording import record


def test_a_recorded_figure_is_read_and_says_how_it_was_made(
    words: Callable[..., list[str]], subject: Subject
) -> None:
    probe = read_probe(GIVEN, words(name="recorded"), config_folder())
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
    # What a figure does not depend on does not make another one of it.
    assert record(with_settings(probe, noise=0.25), "figure1", refuse).folder == made.folder
    small = {"gen_length": LENGTH, "steps": STEPS, "blocks": 2}
    assert small.items() <= info["changed"].items() and "model.checkpoint" not in info["changed"]
