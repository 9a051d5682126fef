"""What in the paper does not add up, from its own tables, words and formulas.

Nothing of our own is measured here. Findings on numbers are recomputed from the cells given, so
corrected tables lose them; those of audit_text are on words, formulas and Algorithm 1, and stay
whatever the cells. Sources beyond the print: sizes of the evaluation splits (audit_scores.SPLITS),
the checkpoints' shapes (audit_sizes.SHAPES), and two published scores named in the finding on
LLADA-1.5. Bold marks are not audited: the text that was transcribed has none.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, fields

import pandas as pd

from dllmquant_exp.reporting import (
    audit_claims,
    audit_copies,
    audit_numbers,
    audit_scores,
    audit_setup,
    audit_sizes,
    audit_text,
)
from dllmquant_exp.reporting.audit_finding import SEVERITIES, Finding, Sheet, sheet_of
from dllmquant_exp.reporting.paper import PaperCell, paper_cells

CHECKS: tuple[Callable[[Sheet], list[Finding]], ...] = (
    audit_numbers.averages,
    audit_numbers.ratios,
    audit_copies.shared_cells,
    audit_copies.renamed_row,
    audit_copies.repeated_cells,
    audit_copies.repeated_rows,
    audit_scores.granularity,
    audit_scores.out_of_order,
    audit_scores.one_decimal,
    audit_scores.mixed_protocol,
    audit_sizes.memory,
    audit_sizes.memory_differences,
    audit_claims.awq_drop,
    audit_claims.speed,
    audit_claims.saving,
    audit_claims.best_cells,
    audit_claims.gains,
    audit_claims.generation,
    audit_claims.degradation,
    audit_claims.calibration_restores,
    audit_claims.components,
    audit_claims.interaction,
    audit_setup.small_gains,
    audit_setup.undecidable_gains,
    audit_setup.captions,
    audit_setup.calibrated_rtn,
    audit_setup.masked_on_plain_text,
    audit_copies.repeated_in_table_6,
    audit_text.contradictions,
    audit_text.algorithm,
    audit_text.formulas,
    audit_text.sample_quotas,
    audit_text.certainty_weights,
)
BAR = r"\|"  # in a cell of a Markdown table
SOURCES = (
    "From the paper's tables, words and formulas; from elsewhere are only the sizes of the "
    "evaluation splits, the checkpoints' shapes, and the two published scores where LLADA-1.5's "
    "row is doubted."
)
HEADINGS = {
    "error": "Contradictions",
    "doubt": "Doubtful",
    "note": "To be known when reading",
    "agrees": "Recomputed and right",
}


def audit(cells: Iterable[PaperCell] | None = None) -> list[Finding]:
    """Every finding, the most severe first; by default of the paper as printed.

    Args:
        cells: all cells of Tables 1-6, to audit corrected tables.
    """
    sheet = sheet_of(paper_cells() if cells is None else cells)
    findings = [finding for check in CHECKS for finding in check(sheet)]
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def audit_frame(findings: Iterable[Finding]) -> pd.DataFrame:
    """One line per finding: check, where, printed, expected, gap, unit, severity, sentence."""
    columns = [field.name for field in fields(Finding)]
    return pd.DataFrame([asdict(finding) for finding in findings], columns=columns)


def audit_markdown(findings: Iterable[Finding]) -> str:
    """The findings as Markdown: one section per severity, one table row per finding."""
    findings = list(findings)
    lines = ["# What does not add up in the paper", ""]
    lines += [f"{SOURCES} Nothing here was measured by us.", ""]
    for severity, heading in HEADINGS.items():
        found = [finding for finding in findings if finding.severity == severity]
        if not found:
            continue
        lines += [f"## {heading} ({len(found)})", ""]
        lines += ["| Where | Printed | Against it | Off by | What |", "|---|---|---|---:|---|"]
        lines += [_line(finding) for finding in found]
        lines.append("")
    return "\n".join(lines)


def _line(finding: Finding) -> str:
    gap = "" if not finding.gap else f"{finding.gap:+.2f} {finding.unit}"
    if finding.gap and finding.gap == int(finding.gap):
        gap = f"{int(finding.gap)} {finding.unit}"
    texts = (finding.where, finding.printed, finding.expected, gap, finding.sentence)
    return f"| {' | '.join(text.replace('|', BAR) for text in texts)} |"
