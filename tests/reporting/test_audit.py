"""The audit finds what is known to be wrong with the paper, and nothing of it once corrected.

Expected numbers were worked out by hand or by other code than the audit's.
"""

import pytest
import torch
from audited import corrected, found, one
from scipy import stats

from dllmquant_exp.quantization.gptq import gptq
from dllmquant_exp.quantization.quantizers import Quantizer
from dllmquant_exp.reporting.audit import audit, audit_frame, audit_markdown
from dllmquant_exp.reporting.audit_finding import SEVERITIES, Finding
from dllmquant_exp.reporting.audit_setup import best_p, standard_error
from dllmquant_exp.reporting.audit_sizes import DREAM, GIB, LLADA, weight_bytes
from dllmquant_exp.reporting.paper import paper_cells, paper_frame
from dllmquant_exp.reporting.tables import PAPER_COLUMNS

# --- averages and ratios ---------------------------------------------------------------------


def test_the_average_that_is_off() -> None:
    finding = one("average", "Avg.")
    assert (finding.where, finding.printed, finding.expected) == (
        "Table 1, LLADA, FP, Avg.", "59.87", "58.99",
    )  # fmt: skip
    assert finding.gap == pytest.approx(0.88, abs=0.002)
    assert finding.severity == "error"
    assert "no single wrong digit" in finding.sentence
    assert not found("average", "Avg.", corrected((1, "llada_8b", "fp", "Avg.", "58.99")))


def test_every_average_by_other_code() -> None:
    frame = paper_frame().query("table in (1, 5)")
    wide = frame.pivot(index=["table", "model", "row"], columns="column", values="value")
    means = wide[list(PAPER_COLUMNS)].mean(axis=1)
    off = wide.index[(wide["Avg."] - means).abs() > 0.011].tolist()
    assert off == [(1, "llada_8b", "fp")]
    below = (wide["Avg."] < means.round(2) - 0.005).sum()
    assert f" {below} are a hundredth below and 0 above" in one("average", "Tables 1").sentence


def test_a_hundredth_is_rounding_and_more_is_not() -> None:
    """The nine scores average 44.2378; each is known to 0.005, and so is the average."""
    for printed, wrong in (("44.23", 0), ("44.24", 0), ("44.22", 1), ("44.25", 1)):
        assert (
            len(found("average", "RTN", corrected((1, "llada_8b", "rtn", "Avg.", printed))))
            == wrong
        )


def test_a_digit_that_would_explain_an_average_is_named() -> None:
    finding = one("average", "Avg.", corrected(
        (1, "llada_8b", "fp", "Avg.", "58.99"), (1, "llada_8b", "awq", "GSM8K", "46.88"),
        (5, "llada_8b", "awq", "GSM8K", "46.88"), (5, "llada_8b", "awq", "Avg.", "49.20"),
        (2, "llada_8b", "awq", "Avg.", "49.20"),
    ))  # fmt: skip
    assert finding.where == "Table 1, LLADA, AWQ, Avg."
    assert "46.88 for 36.88" in finding.sentence


def test_the_speed_up_that_is_off_and_its_digit() -> None:
    finding = one("ratio")
    assert (finding.where, finding.printed, finding.expected) == (
        "Table 4, LLADA, Speed Up", "1.71", "1.45",
    )  # fmt: skip
    assert finding.sentence.endswith("a single wrong digit would explain it: 50.14 for 59.14.")
    right = corrected((4, "llada_8b", "quantized", "Speed Quant", "59.14"))
    assert not found("ratio", cells=right)


def test_the_mean_speed_up_is_not_over_1_6() -> None:
    claims = [f for f in found("claim") if "speedup" in f.printed]
    assert [f.expected for f in claims] == ["1.56x"]  # (1.4496 + 1.6999 + 1.5402) / 3
    right = corrected((4, "llada_8b", "quantized", "Speed Quant", "59.14"))
    assert not [f for f in found("claim", cells=right) if "speedup" in f.printed]


# --- copies, grids, protocols ----------------------------------------------------------------


def test_shared_cells_agree_and_a_slip_is_seen() -> None:
    assert not found("shared cell")
    slip = one("shared cell", cells=corrected((5, "llada_8b", "quarot", "PIQA", "70.57")))
    assert (slip.printed, slip.expected) == ("70.57", "70.75")
    assert slip.gap == pytest.approx(-0.18)


def test_gptq_is_quarot() -> None:
    finding = one("name")
    assert finding.gap == 1 + 2 + 10  # Tables 2, 3 and 5
    assert finding.where == "Tables 2, 3, 5, GPTQ"
    assert finding.sentence.startswith("13 of 13 numbers")
    other = corrected((2, "llada_8b", "quarot", "Avg.", "50.00"))
    assert one("name", cells=other).sentence.startswith("12 of 13 numbers")


def test_dreams_mmlu_is_three_times_the_same() -> None:
    finding = one("repeated cell", "Table 1")
    assert finding.where == "Table 1, DREAM, FP, QuaRot, DLLMQuant++, MMLU"
    assert (finding.printed, finding.gap) == ("69.5", 3)
    right = corrected(
        (1, "dream_7b", "quarot", "MMLU", "60.12"),
        (1, "dream_7b", "dllmquant_plusplus", "MMLU", "62.34"),
    )
    assert not found("repeated cell", "Table 1", right)


def test_a_copied_row_is_seen() -> None:
    assert not found("repeated row")
    rtn = {c.column: c.printed for c in paper_cells(1) if (c.model, c.row) == ("llada_8b", "rtn")}
    copied = corrected(
        *((1, "llada_1_5", "rtn", task, rtn[task]) for task in ("Wino.", "MMLU", "Hum."))
    )
    finding = one("repeated row", cells=copied)
    assert finding.where == "Table 1, LLADA RTN = LLADA-1.5 RTN"


# --- memory ----------------------------------------------------------------------------------


def test_shapes_have_the_published_parameter_counts() -> None:
    assert LLADA.parameters == 8_015_581_184
    assert DREAM.parameters == 7_615_616_512


def test_bytes_of_weights_by_hand() -> None:
    """LLaDA: 32 blocks of 4 * 4096^2 + 3 * 4096 * 12288 weights at half a byte."""
    linear = 32 * (4 * 4096**2 + 3 * 4096 * 12288)
    tables, norms = 126464 * 4096, 65 * 4096
    assert weight_bytes(LLADA, 4, 16) == linear / 2 + 4 * tables + 2 * norms
    assert weight_bytes(LLADA, 4, 16) / GIB == pytest.approx(5.18, abs=0.005)
    assert weight_bytes(DREAM, 16, 16) == 2 * DREAM.parameters


def test_memory_below_the_weights() -> None:
    findings = {f.where: f for f in found("memory")}
    full = findings["Table 4, DREAM, Memory FP"]
    assert full.severity == "error"
    assert full.gap == pytest.approx(13.95 - 7_615_616_512 * 2 / 2**30)
    quantized = {w for w, f in findings.items() if "Quant" in w and f.severity == "doubt"}
    assert quantized == {f"Table 4, {m}, Memory Quant" for m in ("LLADA", "LLADA-1.5", "DREAM")}
    possible = findings["Table 4, LLADA, Memory FP"]  # 14.93 GiB, but 16.03 GB
    assert (possible.severity, possible.expected) == ("note", "at least 16.03 GB")
    assert possible.gap == pytest.approx(15.89 - 8_015_581_184 * 2 / 1e9)
    right = corrected((4, "dream_7b", "quantized", "Memory FP", "15.40"))
    assert not found("memory", "DREAM, Memory FP", right)
    assert not found("memory", "LLADA - DREAM", right)


# --- claims ----------------------------------------------------------------------------------


def test_the_16_percent() -> None:
    finding = next(f for f in found("claim") if "16%" in f.printed)
    assert finding.expected == "11.8 points or 19.7%"  # 59.87 - 48.09, and that of 59.87
    assert "relative drop of LLADA-1.5" in finding.sentence  # 1 - 58.49 / 69.86 = 16.3%
    right = corrected((1, "llada_8b", "awq", "Avg.", "43.87"))  # 16.0 points
    assert not [f for f in found("claim", cells=right) if "16%" in f.printed]


def test_best_on_nearly_all_tasks() -> None:
    finding = next(f for f in found("claim") if "highest accuracy" in f.printed)
    assert finding.gap == 5
    assert "loses to QuaRot on LLADA Arc. by 0.02, LLADA-1.5 Arc. by 0.05." in finding.sentence


def test_claims_about_gains() -> None:
    ten = next(f for f in found("claim") if "over 10-point" in f.printed)
    assert (ten.expected, ten.severity) == ("3.78 and 11.68", "note")
    two = next(f for f in audit() if "average of 2%" in f.printed)
    assert (two.expected, two.severity) == ("2.25 points", "agrees")
    raised = corrected(
        *((1, m, "dllmquant_plusplus", "Avg.", "80.00") for m in ("llada_8b", "dream_7b"))
    )
    assert next(f for f in audit(raised) if "average of 2%" in f.printed).severity == "error"


def test_generation_and_degradation() -> None:
    generation = next(f for f in found("claim") if "comparable" in f.printed)
    assert generation.gap == pytest.approx(57.9 - 44.50)
    assert "8.9 points on average against 4.0" in generation.sentence
    average = next(f for f in found("claim") if "significant accuracy" in f.printed)
    assert average.gap == pytest.approx(59.87 - 54.29)


def test_calibration_restores_little() -> None:
    finding = next(f for f in found("claim") if "restore most" in f.printed)
    # (48.63 - 48.09) / (58.99 - 48.09), (52.36 - 51.03) / (58.99 - 51.03), 1.56 / (67.48 - 16.56)
    assert "5% (AWQ), 17% (GPTQ), 3% (RTN (GSM8K))" in finding.sentence


def test_components_on_single_tasks() -> None:
    finding = next(f for f in found("claim") if "individual method" in f.printed)
    assert (finding.gap, finding.expected) == (5, "49 of 54 steps up")


# --- set-up ----------------------------------------------------------------------------------


def test_gains_of_tables_3_and_6_against_noise() -> None:
    assert standard_error(25.33, 164) == pytest.approx(3.4, abs=0.05)
    assert standard_error(44.57, 1319) == pytest.approx(1.4, abs=0.05)
    finding = one("noise", "Table 3")
    assert finding.gap == pytest.approx(1.52)
    assert "GSM8K +1.01 at most, one standard error 1.4 (n = 1319)" in finding.sentence
    assert "Hum. +1.52 at most, one standard error 3.4 (n = 164)" in finding.sentence
    assert one("noise", "Table 6").gap == pytest.approx(2.54)
    clear = [(3, "llada_8b", "quarot_cgq", task, "95.0") for task in ("GSM8K", "Hum.")]
    assert not found("noise", "Table 3", corrected(*clear)) and found(
        "noise", "Table 3", corrected(clear[0])
    )


def test_the_best_p_of_a_gain() -> None:
    """1.52 points of 164 items are 2.49: three items gained and none lost at the very best."""
    assert best_p(1.52, 164) == pytest.approx(stats.binomtest(3, 3).pvalue)
    assert best_p(1.01, 1319) == pytest.approx(stats.binomtest(14, 14).pvalue)
    assert best_p(-3.0, 164) == 1


def test_gains_of_table_1_that_nothing_could_support() -> None:
    frame = paper_frame(1).pivot(index=["model", "row"], columns="column", values="value")
    sizes = {"Arc.": 1172, "Wino.": 1267, "PIQA": 1838, "C-EVAL": 1346, "Hum.": 164, "GSM8K": 1319}
    hopeless = 0
    for model in ("llada_8b", "llada_1_5", "dream_7b"):
        for new, old in (("dllmquant_plus", "awq"), ("dllmquant_plusplus", "quarot")):
            change = (frame.loc[(model, new)] - frame.loc[(model, old)]).abs()
            hopeless += sum(change[task] * n / 100 <= 5 for task, n in sizes.items())
    assert f" {hopeless} could not reach p = 0.05" in one("noise", "Table 1").sentence


def test_the_caption_of_table_5() -> None:
    finding = one("caption")
    assert (finding.where, finding.printed) == ("Table 5", "LLADA-1.5, DREAM, RTN")


def test_table_6_against_table_1() -> None:
    finding = one("calibration", "Table 6")
    assert (finding.printed, finding.severity) == ("16.56 / 14.02", "error")
    assert finding.gap == pytest.approx(16.56 - 13.34)
    right = corrected((6, "llada_8b", "rtn_random", "GSM8K", "16.91"))
    assert not found("calibration", "Table 6", right)


def test_the_mask_of_table_3_on_text_without_masks() -> None:
    """Table 1's QuaRot is 44.57 / 25.33, Table 5's GPTQ + TMAS 48.63 / 27.87."""
    finding = one("calibration", "Table 3")
    assert (finding.printed, finding.expected) == ("45.07 / 25.76", "44.57 / 25.33")
    assert finding.gap == pytest.approx(0.50) and "Table 5's 48.63 / 27.87" in finding.sentence
    equal, base = (
        corrected((3, "llada_8b", row, "GSM8K", gsm), (3, "llada_8b", row, "Hum.", hum))
        for row, gsm, hum in (
            ("quarot_cgq_mask", "44.57", "25.33"),  # as on plain text
            ("quarot", "48.63", "27.87"),  # the base on TMAS' states
        )
    )
    assert not found("calibration", "Table 3", equal)
    assert not found("calibration", "Table 3", base)


def test_weights_by_mask_on_text_without_masks_give_plain_gptq() -> None:
    """What the finding rests on: H times a constant leaves GPTQ's result as it was."""
    generator = torch.Generator().manual_seed(0)
    w, x = (torch.randn(shape, generator=generator) for shape in ((8, 16), (16, 64)))
    quantizer = Quantizer(4, True, "per_channel")
    plain, weighted = (gptq(w, c * x @ x.T, quantizer).weight for c in (1.0, 0.7**2))
    assert torch.equal(plain, weighted)


def test_cgq_alone_and_after_tmas() -> None:
    assert one("interaction").gap == pytest.approx(1.52 / 0.17)
    for printed in ("25.33", "24.00"):  # CGQ alone gains nothing, or loses
        cells = corrected((3, "llada_8b", "quarot_cgq", "Hum.", printed))
        assert one("interaction", cells=cells).gap is None


# --- rendering -------------------------------------------------------------------------------


def test_the_most_severe_come_first_and_all_are_rendered() -> None:
    findings = audit()
    ranks = [SEVERITIES.index(finding.severity) for finding in findings]
    assert ranks == sorted(ranks)
    text = audit_markdown(findings)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == len(findings) + len(set(ranks))  # one head per section
    assert all(line.replace(r"\|", "").count("|") == 6 for line in rows)
    assert r"rt ← \|yt\|unmasked/\|yt\|total" in text
    frame = audit_frame(findings)
    assert len(frame) == len(findings)
    assert frame.loc[0, "where"] == findings[0].where


def test_a_pair_is_stated_only_where_there_is_one() -> None:
    def stated(printed: str, expected: str) -> str:
        return Finding("", "", printed, expected, None, "", "note", "").stated

    assert stated("1.71", "1.45") == "printed 1.71, expected 1.45"
    assert stated('"over 1.6"', "1.56") == 'says "over 1.6"; the numbers give 1.56'
    assert stated('"a"', '"b"') == 'says "a", elsewhere "b"'
    assert stated('"a"', "") == 'says "a"'
    assert stated("69.5", "") == stated("", "") == ""


def test_no_finding_says_its_pair_again() -> None:
    for finding in audit():
        assert finding.printed or not finding.expected
        assert finding.printed != finding.expected or not finding.printed
        if finding.severity == "agrees" and finding.check != "claim":
            assert finding.stated == ""


def test_nothing_found_is_an_empty_report() -> None:
    assert "|" not in audit_markdown([])
    assert audit_frame([]).columns.tolist()[:3] == ["check", "where", "printed"]
