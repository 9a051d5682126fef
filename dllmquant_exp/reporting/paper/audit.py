"""Contradictions in the paper: the findings of contradictions.yaml, to print and to write.

The findings rest on the paper's tables, words and formulas; nothing of our own is measured. The
YAML writes their numbers out, each with the expression that gives it, and
tests/reporting/test_audit.py works every one out from tables.yaml. Bold marks are not audited: the
transcribed text has none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pandas as pd

from dllmquant_exp.reporting.paper import paper_quotes, read_paper

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

    @property
    def stated(self) -> str:
        """The printed number and the one against it; "" where the sentence alone says it."""
        if not self.printed.startswith('"'):
            return f"printed {self.printed}, expected {self.expected}" if self.expected else ""
        if not self.expected:
            return f"says {self.printed}"
        link = ", elsewhere" if self.expected.startswith('"') else "; the numbers give"
        return f"says {self.printed}{link} {self.expected}"


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


def audit_frame(findings: Iterable[Finding]) -> pd.DataFrame:
    """One line per finding: severity, where, sentence, printed, expected, gap."""
    columns = [each.name for each in fields(Finding) if each.name != "arithmetic"]
    return pd.DataFrame([asdict(finding) for finding in findings], columns=columns)


def audit_markdown(findings: Iterable[Finding]) -> str:
    """The findings as Markdown: one section per severity, one table row per finding."""
    findings = list(findings)
    lines = ["# What does not add up in the paper", "", SOURCES, ""]
    for severity, heading in HEADINGS.items():
        found = [finding for finding in findings if finding.severity == severity]
        lines += [f"## {heading} ({len(found)})", ""]
        lines += ["| Where | Printed | Against it | Off by | What |", "|---|---|---|---:|---|"]
        for one in found:
            texts = (one.where, one.printed, one.expected, one.gap, one.sentence)
            lines.append(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |")
        lines.append("")
    return "\n".join(lines)
