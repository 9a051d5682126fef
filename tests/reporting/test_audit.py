"""The findings on the paper against arithmetic: every number that they state is worked out here.

contradictions.yaml writes the numbers out, each with its expression. The names in these expressions
are paper_arithmetic's.
"""

import re
from dataclasses import replace
from decimal import Decimal
from typing import Any

import paper_arithmetic
import pytest
import torch

from dllmquant_exp.quantization.gptq import Gptq, gptq
from dllmquant_exp.quantization.quantizers import Quantizer
from dllmquant_exp.reporting.paper import paper_quotes
from dllmquant_exp.reporting.paper.audit import (
    HEADINGS,
    Finding,
    audit,
    audit_document,
    audit_frame,
)
from dllmquant_exp.reporting.render import to_markdown

QUOTED = {f'"{quote}"' for quote in paper_quotes().values()}
# Digits that count nothing in the tables: places, names, widths, the letters of a formula.
NO_NUMBERS = re.compile(
    r"Tables? \d(?:(?:, | and )\d)*|Eq\. \d+|lines? \d+(?:, \d+)*|LL[aA]DA-(?:1\.5|\w+)|"
    r"\b\d+[- ]bits?\b|1\[\.\]|\^2"
)


def numbers(*texts: str) -> set[str]:
    """The numbers in texts, without a plus sign."""
    plain = NO_NUMBERS.sub("", " ".join(texts))
    found = re.findall(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?:e-\d+)?", plain)
    return {number.rstrip(",").lstrip("+") for number in found}


def as_stated(value: Any, stated: str) -> str:
    """A value as text; a number with the sign, the commas and the digits of `stated`."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return str(value)
    sign, comma = "+" * stated.startswith("+"), "," * ("," in stated)
    mantissa, exponent, _ = stated.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return f"{float(value):{sign}{comma}.{decimals}{exponent or 'f'}}"


def mistakes(finding: Finding) -> list[str]:
    """Where arithmetic gives something else, and numbers that stand in no arithmetic."""
    names, values = vars(paper_arithmetic), {}
    for expression, stated in finding.arithmetic.items():
        values[expression] = as_stated(eval(expression, names), stated)
    wrong = [
        f"{expression} is {value}, not {finding.arithmetic[expression]}"
        for expression, value in values.items()
        if value != finding.arithmetic[expression]
    ]
    texts = (finding.printed, finding.expected, finding.gap, finding.sentence)
    used = numbers(*(text for text in texts if text not in QUOTED))
    return wrong + [f"nothing gives {n}" for n in used - numbers(*values, *values.values())]


@pytest.mark.parametrize("finding", audit(), ids=lambda finding: finding.where)
def test_every_number_of_a_finding_is_what_arithmetic_gives(finding: Finding) -> None:
    assert mistakes(finding) == []


def test_a_wrong_number_and_one_without_arithmetic_are_seen() -> None:
    finding = audit()[0]
    assert finding.arithmetic["t1.llada_8b.fp['Avg.']"] == "59.87"
    other = replace(finding, arithmetic=finding.arithmetic | {"t1.llada_8b.fp['Avg.']": "59.78"})
    assert mistakes(other) == ["t1.llada_8b.fp['Avg.'] is 59.87, not 59.78"]
    assert mistakes(replace(finding, gap="+0.89 points")) == ["nothing gives 0.89"]


def test_parameter_counts_are_the_published_ones() -> None:
    counts = map(paper_arithmetic.parameters, paper_arithmetic.MODELS)
    assert list(counts) == [8_015_581_184, 8_015_581_184, 7_615_616_512]


def test_weights_by_mask_on_text_without_masks_give_plain_gptq() -> None:
    """The finding on Table 3 rests on this: GPTQ of a multiple of H is GPTQ of H."""
    generator = torch.Generator().manual_seed(0)
    w, x = (torch.randn(shape, generator=generator) for shape in ((8, 16), (16, 64)))
    quantizer = Quantizer(4, True, "per_channel")
    (plain,), (weighted,) = (gptq([w], c * x @ x.T, quantizer, Gptq()) for c in (1.0, 0.7**2))
    assert torch.equal(*(of.weight.values(w.dtype) for of in (plain, weighted)))


# --- rendering -------------------------------------------------------------------------------


def test_the_most_severe_come_first_and_all_are_rendered() -> None:
    findings = audit()
    ranks = [list(HEADINGS).index(finding.severity) for finding in findings]
    assert ranks == sorted(ranks)
    text = to_markdown(audit_document())
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == len(findings) + len(HEADINGS)  # one head per section
    assert all(line.replace(r"\|", "").count("|") == 6 for line in rows)
    assert r"rt ← \|yt\|unmasked/\|yt\|total" in text
    frame = audit_frame()
    assert frame.columns.tolist() == ["severity", "where", "sentence", "printed", "expected", "gap"]
    assert frame["where"].tolist() == [finding.where for finding in findings]


def test_quotations_and_cases_are_filled_in() -> None:
    for finding in audit():
        for text in (finding.printed, finding.expected):
            assert text in QUOTED or '"' not in text
        assert finding.where and finding.sentence
        assert not re.search(r"\{\w+\}", finding.where + finding.sentence)
