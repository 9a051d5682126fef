"""The audit of words, formulas and Algorithm 1, by running them as they stand."""

from dataclasses import replace

from audited import found, one

from dllmquant_exp.reporting.audit import audit
from dllmquant_exp.reporting.paper import paper_cells, paper_quotes


def test_samples_of_algorithm_1() -> None:
    finding = one("algorithm", "line 14")
    assert "520 for B = 4" in finding.sentence  # 4 * (39 + 26 + 26 + 39)
    assert "528 for B = 8" in finding.sentence  # 8 * (20 + 13 + 13 + 20)
    assert one("confound").gap == 128 - 512


def test_certainty_weights() -> None:
    finding = one("formula", "Eq. 10")
    assert "2.8 for a decoded token" in finding.sentence  # (.7 + .975)^2
    assert "2.1 for a masked one" in finding.sentence  # (1 + .447)^2


def test_statements_that_exclude_each_other() -> None:
    pairs = [(f.printed, f.expected) for f in found("text")]
    for (first, second), words in zip(
        pairs,
        [("per-tensor", "per-token"), ("on the unmasked regions", "confidence masked tokens"),
         ("do not affect subsequent iterations", "remain non-negligible")],
        strict=True,
    ):  # fmt: skip
        assert words[0] in first and words[1] in second


def test_every_quotation_of_the_audit_is_one_that_is_checked_against_the_paper() -> None:
    quotes = {f'"{quote}"' for quote in paper_quotes().values()}
    for finding in audit():
        for text in (finding.printed, finding.expected):
            assert text in quotes or '"' not in text


def test_the_zero_point_of_eq_3_by_loop() -> None:
    """With z = Xmin / s in (X - z) / s every value of [-1, 1] is clamped to the highest level."""
    s = 2 / 15
    levels = [round((i / 50 - 1 - -1 / s) / s) for i in range(101)]
    assert f"{min(levels)} to {max(levels)}," in one("formula", "Eq. 3").sentence
    assert min(levels) > 15  # of 0 ... 15, all the more of -8 ... 7
    usual = [round((i / 50 - 1) / s - -1 / s) for i in range(101)]
    assert (min(usual), max(usual)) == (0, 15)


def test_algorithm_1_by_running_its_loop() -> None:
    """Steps beyond the blocks, and what naming r the other way round changes."""
    steps, blocks = 100, 8
    beyond = {t: t // (steps // blocks) for t in range(steps) if t // (steps // blocks) >= blocks}
    finding = one("algorithm", "line 13")
    assert max(beyond) == 99 and f"t = 99 index {beyond[99]} of 0 to 7" in finding.sentence

    def interval(percent: int) -> int:
        return (percent >= 20) + (percent >= 50) + (percent >= 80)

    moved = [r for r in range(101) if interval(100 - r) != 3 - interval(r)]
    assert moved == [20, 50, 80]  # quotas .3, .2, .2, .3 read the same backwards
    assert "stand on a threshold" in one("algorithm", "line 11").sentence


def test_words_and_formulas_stay_whatever_the_cells() -> None:
    words = [f for f in audit() if f.check in ("text", "algorithm", "formula", "confound")]
    others = [replace(c, printed=f"{0.9 * float(c.value):.2f}") for c in paper_cells()]
    assert [f for f in audit(others) if f in words] == words
