"""Verdicts against scipy, against direct calls of the statistics, and on cases with one answer."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from made_results import TASKS

from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.reporting.claims import claims_data
from dllmquant_exp.reporting.claims.figures import figure_claims
from dllmquant_exp.reporting.claims.scores import score_claims
from dllmquant_exp.reporting.claims.speed import speed_claims
from dllmquant_exp.reporting.claims.verdicts import Verdict, claims_section, verdicts
from dllmquant_exp.reporting.comparable import model_results
from dllmquant_exp.reporting.frame import Cell, to_frame
from dllmquant_exp.reporting.render import Section
from dllmquant_exp.reporting.statistics import Estimate, average_over_seeds, holm
from dllmquant_exp.reporting.tables import PAPER_COLUMNS

Made = Callable[..., Cell]
N = 40
CHAIN = ("awq", "awq_tmas", "awq_tmas_cgq", "dllmquant_plus")
GENERATED = ("humaneval", "gsm8k")


def right(count: int) -> list[int]:
    return [1] * count + [0] * (N - count)


def decide(cells: Sequence[Cell]) -> dict[str, Verdict]:
    (results,) = model_results(to_frame(cells))
    return {verdict["claim"]: verdict for verdict in verdicts({"scores": results})}


def page(cells: Sequence[Cell]) -> Section:
    (results,) = model_results(to_frame(cells))
    return claims_section("micro", {"scores": results}, ["a note"])


def percent(estimate: Estimate) -> tuple[float, float, float]:
    return 100 * estimate.value, 100 * estimate.low, 100 * estimate.high


def numbers(verdict: Verdict) -> tuple[float, float, float]:
    return verdict["effect"], verdict["low"], verdict["high"]


def cells_of(made: Made, counts: dict[str, int], tasks: Sequence[str] = TASKS) -> list[Cell]:
    return [made(row, task, right(count)) for row, count in counts.items() for task in tasks]


def test_every_claim_is_about_rows_and_tasks_that_exist() -> None:
    rows = {row for claim in score_claims() for row in (*claim.better, *claim.worse)}
    best = claims_data()["best"]
    rows |= {best["row"], *best["rivals"]}
    assert rows <= {path.stem for path in (config_folder() / "row").glob("*.yaml")}
    assert len({claim.name for claim in score_claims()}) == len(score_claims())
    tasks = {label: tuple(labels) for label, labels in claims_data()["tasks"].items()}
    assert tasks["nine"] == PAPER_COLUMNS and tasks["generation"] == ("Hum.", "GSM8K")
    assert {*tasks["others"], *tasks["generation"]} == set(PAPER_COLUMNS)


def test_a_step_is_the_paired_average_of_nine_tasks(made: Made) -> None:
    found = decide(cells_of(made, {"awq": 10, "awq_tmas": 30}))["tmas_on_awq"]
    expected = average_over_seeds([np.array([right(30)])] * 9, [np.array([right(10)])] * 9)
    assert numbers(found) == percent(expected.estimate) and found["effect"] == pytest.approx(50)
    assert (found["verdict"], found["n"], found["seeds"]) == ("holds", 9 * N, 1)
    assert found["detectable"] == 100 * expected.detectable()
    family = sum(not claim.equal_size for claim in score_claims())
    assert found["detectable_holm"] == 100 * expected.detectable(0.05 / family)
    assert found["comparison"] == "awq_tmas - awq" and "the one seed" in found["covers"]


def test_holm_counts_every_claim_about_scores_measured_or_not(made: Made) -> None:
    found = decide(cells_of(made, dict(zip(CHAIN, (10, 14, 15, 15), strict=True))))
    names = [claim.name for claim in score_claims() if not claim.equal_size]
    p_values = [1.0 if (p := found[name]["p"]) is None else p for name in names]
    assert sum(p < 1 for p in p_values) == 3 and len(names) > 15
    for name, adjusted in zip(names, holm(p_values), strict=True):
        assert found[name]["p_holm"] is None or found[name]["p_holm"] == pytest.approx(adjusted)


def test_rows_of_other_settings_are_not_compared(made: Made) -> None:
    def gridded(grid: str) -> Callable[[dict[str, Any]], None]:
        return lambda config: config["quant"].update(weight_grid=grid)

    cells = [made("awq", task, right(10), change=gridded("restricted")) for task in TASKS]
    cells += [made("awq_tmas", task, right(30), change=gridded("full_range")) for task in TASKS]
    found = decide(cells)["tmas_on_awq"]
    assert found["verdict"] == "not measured"
    assert found["needs"] == "rows with equal settings of weight_grid"


def test_rows_at_chance_decide_nothing(made: Made) -> None:
    found = decide(cells_of(made, {"awq": 10, "awq_tmas": 9}))["tmas_on_awq"]  # chance is 1 in 4
    assert found["verdict"] == "at chance"
    assert found["needs"] == "rows above chance: these score 22.5%, 25.0%"
    assert decide(cells_of(made, {"awq": 10, "awq_tmas": 11}))["tmas_on_awq"]["effect"] is not None


def test_components_add_up_where_each_one_helps(made: Made) -> None:
    def sum_of(counts: Sequence[int]) -> Verdict:
        return decide(cells_of(made, dict(zip(CHAIN, counts, strict=False))))["adds_up_on_awq"]

    assert sum_of((5, 15, 25, 35))["verdict"] == "holds"
    assert sum_of((5, 15, 15, 35))["verdict"] == "undecided"
    for counts in ((5, 15, 25, 35), (5, 15, 15, 35), (5, 17, 18, 35)):
        made_of = decide(cells_of(made, dict(zip(CHAIN, counts, strict=True))))
        steps = [made_of[f"{part}_on_awq"] for part in ("tmas", "cgq", "iaaq")]
        whole = made_of["adds_up_on_awq"]
        weakest = max(steps, key=lambda step: (step["p_holm"], step["p"]))  # p of "all hold"
        assert (whole["p"], whole["p_holm"], numbers(whole)) == (
            weakest["p"], weakest["p_holm"], numbers(weakest),
        )  # fmt: skip
        assert whole["detectable"] == max(step["detectable"] for step in steps)
        assert whole["detectable_holm"] == max(step["detectable_holm"] for step in steps)
    found = sum_of((5, 30, 10, 35))
    assert found["verdict"] == "does not hold" and found["comparison"] == "awq_tmas_cgq - awq_tmas"
    assert sum_of((5, 15))["verdict"] == "not measured"
    assert sum_of((30, 5))["verdict"] == "does not hold", "one part that fails is enough"


def test_ten_points_on_the_arithmetic_task(made: Made) -> None:
    def gain(better: int) -> Verdict:
        cells = [
            made("quarot", "gsm8k", right(12)),
            made("dllmquant_plusplus", "gsm8k", right(better)),
        ]
        return decide(cells)["arithmetic_gain"]

    assert gain(36)["verdict"] == "holds"
    assert gain(16)["verdict"] == "undecided", "ten points more, but not surely"
    assert gain(0)["verdict"] == "does not hold"
    assert gain(36)["threshold"] == 10 and gain(36)["n"] == N


def test_generation_suffers_where_it_loses_more_than_the_rest(made: Made) -> None:
    def under_awq(generation: int, others: int) -> Verdict:
        cells = cells_of(made, {"fp": 36})
        cells += [
            made("awq", task, right(generation if task in GENERATED else others)) for task in TASKS
        ]
        return decide(cells)["generation_suffers_under_awq"]

    found = under_awq(10, 32)
    # It loses 26 of 40 and the other tasks 4 of 40: 55 points more.
    assert found["effect"] == pytest.approx(55)
    assert found["verdict"] == "holds"
    assert under_awq(32, 10)["verdict"] == "does not hold"
    lost = [np.array([right(36)]) * 1.0, np.array([right(10)]) * 1.0, np.array([right(32)]) * 1.0]
    generation = average_over_seeds([lost[1]] * 2, [lost[0]] * 2).estimate
    others = average_over_seeds([lost[2]] * 7, [lost[0]] * 7).estimate
    below = np.hypot(others.value - others.low, generation.high - generation.value)
    assert found["low"] == pytest.approx(found["effect"] - 100 * below)
    assert found["n"] == 9 * N and "these 9 tasks" in found["covers"]


def test_comparable_to_full_precision_has_a_margin(made: Made) -> None:
    def verdict(ours: int) -> str:
        counts = {"fp": 36, "dllmquant_plusplus": ours}
        return decide(cells_of(made, counts, GENERATED))["generation_comparable"]["verdict"]

    assert verdict(10) == "does not hold"
    assert verdict(35) == "undecided", "within the margin, but not surely"
    assert verdict(40) == "holds"


def test_the_average_gain_is_over_both_pairs(made: Made) -> None:
    counts = {"awq": 10, "quarot": 20, "dllmquant_plus": 14, "dllmquant_plusplus": 36}
    found = decide(cells_of(made, counts))["average_gain"]
    assert found["effect"] == pytest.approx(100 * (4 + 16) / 2 / N)
    assert found["comparison"] == "mean(dllmquant_plus, dllmquant_plusplus) - mean(awq, quarot)"


def test_best_on_nearly_all_tasks_counts_sure_wins_and_sure_losses(made: Made) -> None:
    rivals = ("rtn", "awq", "dllmquant_plus", "quarot")

    def best(lost: int, tied: int) -> Verdict:
        """Surely behind on some tasks, level on others, surely ahead on the rest."""
        cells = cells_of(made, dict.fromkeys(rivals, 20))
        counts = [0] * lost + [20] * tied + [40] * (9 - lost - tied)
        cells += [
            made("dllmquant_plusplus", task, right(count))
            for task, count in zip(TASKS, counts, strict=True)
        ]
        return decide(cells)["best_on_nearly_all"]

    assert numbers(best(0, 0)) == (9, 9, 9) and best(0, 1)["verdict"] == "holds"
    assert numbers(best(1, 1)) == (7, 7, 8) and best(1, 1)["verdict"] == "undecided"
    assert best(2, 0)["verdict"] == "does not hold"


def test_a_count_of_tasks_could_have_missed_what_its_widest_comparison_could(made: Made) -> None:
    """RTN differs from ++ on many items of one task, all else is alike."""
    rivals = ("rtn", "awq", "dllmquant_plus", "quarot")
    cells = cells_of(made, dict.fromkeys((*rivals, "dllmquant_plusplus"), 20))
    cells = [c for c in cells if (c.method, c.task) != ("rtn", "piqa")]
    other = [0] * 10 + [1] * 20 + [0] * 10
    cells.append(made("rtn", "piqa", other))
    found = decide(cells)["best_on_nearly_all"]
    wide = average_over_seeds([np.array([right(20)])], [np.array([other])])
    assert found["detectable"] == pytest.approx(100 * wide.detectable())
    assert found["detectable_holm"] == pytest.approx(100 * wide.detectable(0.05 / 36))
    assert found["threshold"] == 8 and found["unit"] == "tasks"
    texts = page(cells).grids["decided"].texts.set_index("effect")["detectable"]
    assert texts["0 tasks (0 to 9)"].startswith(f"{100 * wide.detectable():.1f} (")


def controlled(samples: int) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        config["calibration"]["samples"] = samples

    return change


def test_equal_sizes_need_a_control_row(made: Made) -> None:
    counts = {"static_tmas": 30, "static_random": 20, "static_uniform_time": 10}
    cells = cells_of(made, counts, GENERATED)
    without = decide(cells)
    assert without["static_tmas_beats_static_random"]["verdict"] == "holds"
    lacking = without["static_tmas_beats_static_random_at_equal_size"]
    assert lacking["verdict"] == "not measured" and "(a control)" in lacking["needs"]
    assert without["static_tmas_beats_static_uniform_time_at_equal_size"]["verdict"] == "holds"

    cells += [made("static_random", task, right(40), change=controlled(512)) for task in GENERATED]
    found = decide(cells)["static_tmas_beats_static_random_at_equal_size"]
    assert found["verdict"] == "does not hold"
    assert found["comparison"] == (
        "static_tmas on 520 states, 32,240 tokens - "
        "static_random (calibration.samples=512) on 512 states, 31,744 tokens"
    )


def test_of_equal_sizes_the_largest_counts_and_sizes_are_nearly_equal(made: Made) -> None:
    few = [made("static_tmas", t, right(10), change=controlled(120)) for t in GENERATED]
    cells = cells_of(made, {"static_tmas": 30, "static_random": 20}, GENERATED) + few
    name = "static_tmas_beats_static_random_at_equal_size"
    assert decide(cells)[name]["verdict"] == "does not hold", "128 of each"
    cells += [made("static_random", t, right(15), change=controlled(512)) for t in GENERATED]
    assert decide(cells)[name]["verdict"] == "holds", "512 of each"
    other = [made("static_random", t, right(15), change=controlled(480)) for t in GENERATED]
    apart = decide([*cells_of(made, {"static_tmas": 30}, GENERATED), *other])[name]
    assert apart["verdict"] == "not measured"


def test_only_what_differs_by_calibration_is_of_equal_size(made: Made) -> None:
    def other_grid(config: dict[str, Any]) -> None:
        controlled(512)(config)
        config["quant"]["weight_grid"] = "restricted"

    cells = cells_of(made, {"static_tmas": 30}, GENERATED)
    cells += [made("static_random", task, right(40), change=other_grid) for task in GENERATED]
    found = decide(cells)["static_tmas_beats_static_random_at_equal_size"]
    assert found["verdict"] == "not measured"


def test_what_is_missing_is_named_and_nothing_is_guessed(made: Made) -> None:
    found = decide(cells_of(made, {"awq": 10, "awq_tmas": 30}, TASKS[:-1]))
    assert found["tmas_on_awq"]["needs"] == "row=awq_tmas (GSM8K); row=awq (GSM8K)"
    assert (
        found["tmas_on_quarot"]["needs"] == "row=quarot_tmas (nine tasks); row=quarot (nine tasks)"
    )
    assert all(v["effect"] is None and v["p"] is None for v in found.values())
    others = [
        v["sentence"] for v in found.values() if "row=" not in v["needs"].replace("(row=", "")
    ]
    assert others == [claim.sentence for claim in (*figure_claims(), *speed_claims())]
    other_items = [made("awq", t, right(15)) for t in TASKS]
    other_items += [made("awq_tmas", t, right(15), first=7) for t in TASKS]
    assert "same items" in decide(other_items)["tmas_on_awq"]["needs"]


def test_several_seeds_widen_what_one_seed_hides(made: Made) -> None:
    """Seeds that disagree about the sign leave open what one of them seems to settle."""
    cells = [
        made(row, task, right(20 + gain * (row == "awq_tmas")), seed=seed)
        for row in ("awq", "awq_tmas")
        for task in TASKS
        for seed, gain in enumerate((15, -12, 9))
    ]
    one = decide([cell for cell in cells if cell.seed == 0])["tmas_on_awq"]
    three = decide(cells)["tmas_on_awq"]
    assert one["verdict"] == "holds" and three["verdict"] == "undecided"
    assert three["seeds"] == 3 and "other seeds" in three["covers"]


def test_one_tasks_detectable_effect_is_near_connors(made: Made) -> None:
    """Connor (1987) for McNemar's test: n = (z_a sqrt(psi) + z_b sqrt(psi - d^2))^2 / d^2."""
    scores = [1, 0] * 100, [1, 0] * 90 + [0, 1] * 10
    cells = [made("dllmquant_plusplus", "gsm8k", scores[0]), made("quarot", "gsm8k", scores[1])]
    d = decide(cells)["arithmetic_gain"]["detectable"] / 100
    needed = ((1.96 * np.sqrt(0.1) + 0.8416 * np.sqrt(0.1 - d**2)) / d) ** 2
    assert needed == pytest.approx(200, rel=0.25)


def test_pages_say_every_claim_once(made: Made) -> None:
    found = page(cells_of(made, {"awq": 10, "awq_tmas": 30}))
    lines = found.lines.set_index("claim")
    assert lines.index.is_unique and set(lines["model"]) == {"micro"}
    line = lines.loc["tmas_on_awq"]
    assert (line["verdict"], line["effect"], line["n"]) == ("holds", pytest.approx(50), 9 * N)
    decided, others = found.grids["decided"].texts, found.grids["others"].texts
    assert len(decided) + len(others) == len(lines)
    assert decided.index[0] == score_claims()[0].sentence and decided["verdict"].iloc[0] == "holds"
    (fault,) = found.faults
    assert found.notes == ("a note",) and fault.startswith("not measured: micro: ")
