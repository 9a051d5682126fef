"""Shares of outputs that may have gone wrong, and warnings where there are many."""

from collections.abc import Mapping, Sequence

from dllmquant_exp.evaluation.harness import DiffusionLM
from dllmquant_exp.evaluation.scoring import NO_ANSWER

UNPARSED = (NO_ANSWER, "[invalid]", "")  # by our filters, by lm-eval's, by either
WARNING_SHARE = 0.1  # of requests or responses
DIAGNOSES = {
    "cut_prompts": "prompts lost their beginning, because they were too long",
    "empty": "responses are empty",
    "truncated": "responses were still going on at their last token",
    "unparsed": "responses hold nothing that the answer filter finds",
}


def diagnostic_warnings(diagnostics: Mapping[str, float]) -> list[str]:
    """The shares that are beyond the limit, in words."""
    return [
        f"{diagnostics[name]:.0%} of {text}"
        for name, text in DIAGNOSES.items()
        if diagnostics.get(name, 0.0) > WARNING_SHARE
    ]


def diagnose(
    requests: int, responses: Sequence[tuple[str, str]], lm: DiffusionLM
) -> dict[str, float]:
    """Shares of requests whose prompt was cut and, of responses, that are empty, that were still
    going on at their last token, and that the answer filter found nothing in.

    Args:
        requests: number of them.
        responses: their texts, each with what the answer filter kept; none of a likelihood task.
        lm: has counted what was cut and what did not end.
    """
    found = {"cut_prompts": lm.truncated / requests}
    if responses:
        found |= {
            "empty": sum(not text.strip() for text, _ in responses) / len(responses),
            "truncated": lm.endless / requests,
            "unparsed": sum(answer in UNPARSED for _, answer in responses) / len(responses),
        }
    return found
