"""Contradictions in the paper: the findings of contradictions.yaml, to print and to write.

The findings rest on the paper's tables, words and formulas; nothing of our own is measured. The
YAML writes their numbers out, each with the expression that gives it, and
tests/reporting/test_audit.py works every one out from tables.yaml. Bold marks are not audited: the
transcribed text has none.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pandas as pd

from dllmquant_exp.reporting.paper import paper_quotes, read_paper
from dllmquant_exp.reporting.render import Document, Grid, Section

HEADINGS = {  # by severity, the most severe first
    "error": "Contradictions",
    "doubt": "Doubtful",
    "note": "To be known when reading",
    "agrees": "Recomputed and right",
}
SOURCES = (
    "From the paper's tables, words and formulas. Only three things come from elsewhere: the sizes "
    "of the evaluation splits, the checkpoints' shapes, and the two published scores where "
    "LLADA-1.5's row is doubted. Nothing here was measured by us."
)


@dataclass(frozen=True)
class Finding:
    """One finding: where it stands, what is printed there, what stands against it, and why."""

    severity: str  # a key of HEADINGS
    where: str
    sentence: str
    printed: str = ""  # as it stands in print; quotations in quotation marks
    expected: str = ""  # what stands against it; "" where there is no one such thing
    gap: str = ""  # printed less expected, or the size of what the sentence says, with its unit
    arithmetic: Mapping[str, str] = field(default_factory=dict)  # expressions and their values


def audit() -> list[Finding]:
    """Every finding, the most severe first."""
    return [
        _finding(severity, entry, case)
        for severity in HEADINGS
        for entry in read_paper("contradictions.yaml")[severity]
        for case in entry.get("cases", [{}])
    ]


def _finding(severity: str, entry: Mapping[str, Any], case: Mapping[str, str]) -> Finding:
    """A finding of one entry; of an entry with cases, with one case in its places in braces."""

    def text(words: str) -> str:
        return words.format_map(case) if case else words

    texts = {key: text(words) for key, words in entry.items() if isinstance(words, str)}
    for key, place in (("says", "printed"), ("elsewhere", "expected")):
        if key in texts:
            texts[place] = f'"{paper_quotes()[texts.pop(key)]}"'
    numbers = {text(key): text(value) for key, value in entry.get("arithmetic", {}).items()}
    return Finding(severity, **texts, arithmetic=numbers)


def audit_frame() -> pd.DataFrame:
    """One line per finding: severity, where, sentence, printed, expected, gap."""
    columns = [each.name for each in fields(Finding) if each.name != "arithmetic"]
    return pd.DataFrame([asdict(finding) for finding in audit()], columns=columns)


def audit_document() -> Document:
    """The findings with a section per severity and a row per finding."""
    findings = audit_frame()
    columns = {"printed": "Printed", "expected": "Against it", "gap": "Off by", "sentence": "What"}
    sections = []
    for severity, heading in HEADINGS.items():
        found = findings[findings["severity"] == severity]
        texts = found.set_index("where")[list(columns)].rename(columns=columns)
        title = f"{heading} ({len(found)})"
        sections.append(
            Section(
                title,
                {severity: Grid("what is printed, and what stands against it", texts)},
                (),
                found,
            )
        )
    return Document("audit", "What does not add up in the paper", SOURCES, tuple(sections), True)
