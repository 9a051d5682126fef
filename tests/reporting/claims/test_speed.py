"""Claims about speed and memory, from made-up times whose answer is known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_results import MEASURED, speed_variant
from scipy import stats

from dllmquant_exp.__main__ import main
from dllmquant_exp.reporting.claims.verdicts import Verdict, verdicts
from dllmquant_exp.reporting.comparable import ModelResults
from dllmquant_exp.reporting.frame import read_result

BEST = "dllmquant_plusplus"
Write = Callable[..., Path]


def measured(full: list[float], low: list[float], sizes: tuple[float, float] = (15, 5)) -> Any:
    variants = [
        speed_variant("full precision", None, full, sizes[0]),
        speed_variant("W4A4", 4, low, sizes[1]),
    ]
    return {**MEASURED, "variants": variants}


def decide(path: Path) -> dict[str, Verdict]:
    evidence = {"speed": [read_result(path)]}
    return {verdict["claim"]: verdict for verdict in verdicts(evidence)}


@pytest.mark.parametrize(
    ("factor", "verdict"), [(2.0, "holds"), (1.6, "undecided"), (1.2, "does not hold")]
)
def test_speed_is_decided_by_the_ratios_of_the_rounds(
    write_speed: Write, factor: float, verdict: str
) -> None:
    noise = np.exp(np.array([-0.03, -0.01, 0.0, 0.01, 0.03]))
    low = [4.0, 5.0, 4.5, 4.1, 4.2]  # rounds differ, ratios within them hardly
    full = [float(x) for x in factor * noise * low]
    found = decide(write_speed(BEST, "llada_8b", measured(full, low)))["speed_up"]
    assert found["verdict"] == verdict and found["n"] == 5 and found["unit"] == "times"
    assert found["seeds"] == 1  # rounds are none
    logs = np.log(np.divide(full, low))
    limits = np.exp(stats.t.interval(0.95, 4, logs.mean(), stats.sem(logs)))
    assert (found["low"], found["high"]) == pytest.approx(tuple(limits))


@pytest.mark.parametrize(("size", "verdict"), [(4.0, "holds"), (5.0, "does not hold")])
def test_memory_is_counted_and_needs_no_test(write_speed: Write, size: float, verdict: str) -> None:
    found = decide(write_speed(BEST, "llada_8b", measured([8.0, 8.1], [4.0, 4.0], (15, size))))
    memory = found["memory_saving"]
    assert memory["verdict"] == verdict and memory["p"] is memory["detectable"] is None
    assert memory["effect"] == pytest.approx(15 / size)


def test_other_rows_one_round_or_nothing_decide_nothing(write_speed: Write) -> None:
    other = decide(write_speed("rtn", "llada_8b"))
    assert {verdict["needs"] for verdict in other.values()} == {f"table=table4 (row={BEST})"}
    single = decide(write_speed(BEST, "llada_8b", measured([8.0], [4.0])))
    assert single["speed_up"]["needs"] == "table=table4 with more rounds"
    nothing = {v["claim"]: v for v in verdicts({"scores": ModelResults("micro", embedded=True)})}
    assert nothing["memory_saving"]["verdict"] == "not measured"


def test_the_command_decides_them_for_shapes_and_beside_scores(
    write_speed: Write, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in ("llada_8b", "micro"):
        write_speed(BEST, model, measured([8.0, 8.1, 8.2], [4.0, 4.0, 4.1]))
    made("rtn", "gsm8k", [1, 0])
    monkeypatch.chdir(tmp_path)
    assert main(["report", "claims"]) == 1  # the table's cells are missing
    frame = pd.read_csv(tmp_path / "runs" / "tables" / "report" / "claims.csv")
    shape = frame[frame["model"] == "llada_8b (its shape, random weights)"]
    assert list(shape["claim"]) == ["speed_up", "memory_saving"]
    scored = frame[frame["model"].str.startswith("micro")].set_index("claim")
    assert scored.loc["speed_up", "effect"] == pytest.approx(2.0, rel=0.02)
    assert len(scored) > 30
