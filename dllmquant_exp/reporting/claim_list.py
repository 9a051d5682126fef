"""What the paper claims, as comparisons of rows that result files can decide."""

from collections.abc import Iterable
from dataclasses import dataclass

from dllmquant_exp.reporting.tables import PAPER_COLUMNS

GENERATION = ("Hum.", "GSM8K")
OTHERS = tuple(label for label in PAPER_COLUMNS if label not in GENERATION)
COMPARABLE = 0.05  # our reading of "comparable to full precision": at most 5 points below it
NEARLY_ALL = 8  # our reading of "the highest accuracy on nearly all tasks": of nine
RIVALS = ("rtn", "awq", "dllmquant_plus", "quarot")  # what DLLMQuant++ is to be best of


@dataclass(frozen=True)
class Claim:
    """The mean of `better` less the mean of `worse`, averaged over tasks, exceeds `threshold`.

    With `beside`, the same average over those tasks is taken off.
    """

    name: str
    sentence: str
    better: tuple[str, ...]  # rows of conf/row
    worse: tuple[str, ...]
    tasks: tuple[str, ...] = PAPER_COLUMNS
    threshold: float = 0.0  # a fraction: 0.1 is 10 points
    beside: tuple[str, ...] = ()
    equal_size: bool = False  # compared where both have as many calibration states


@dataclass(frozen=True)
class Sum:
    """Holds where all of these claims hold."""

    name: str
    sentence: str
    parts: tuple[str, ...]


def _step(part: str, base: str, better: str, worse: str) -> Claim:
    sentence = f"{part} improves {base}, nine tasks"
    return Claim(
        f"{part.lower().replace('-', '')}_on_{base.lower()}", sentence, (better,), (worse,)
    )


STEPS = (
    _step("TMAS", "AWQ", "awq_tmas", "awq"),
    _step("CGQ", "AWQ", "awq_tmas_cgq", "awq_tmas"),
    _step("IA-AQ", "AWQ", "dllmquant_plus", "awq_tmas_cgq"),
    _step("TMAS", "QuaRot", "quarot_tmas", "quarot"),
    _step("CGQ", "QuaRot", "quarot_tmas_cgq", "quarot_tmas"),
    _step("IA-AQ", "QuaRot", "dllmquant_plusplus", "quarot_tmas_cgq"),
)
SUMS = tuple(
    Sum(
        f"adds_up_on_{base.lower()}",
        f"TMAS, CGQ and IA-AQ add up on {base}: each helps on top of the one before",
        tuple(step.name for step in STEPS if step.name.endswith(f"_on_{base.lower()}")),
    )
    for base in ("AWQ", "QuaRot")
)


def _sampling() -> Iterable[Claim]:
    """TMAS against the other samplers: as the rows are calibrated, then with as many states.

    On AWQ and QuaRot the first is a step above. Uniform time is asked for as many states as TMAS,
    so that the second is the first, but where TMAS finds fewer (on Dream's decodes).
    """
    pairs = (  # what is beaten, TMAS' row, its row, the tasks, whether the rows' own sizes differ
        ("random, on RTN", "static_tmas", "static_random", GENERATION, True),
        ("LLM-QAT, on RTN", "static_tmas", "static_llm_qat", GENERATION, True),
        ("uniform time, on RTN", "static_tmas", "static_uniform_time", GENERATION, False),
        ("random, on AWQ", "awq_tmas", "awq", PAPER_COLUMNS, False),
        ("random, on QuaRot", "quarot_tmas", "quarot", PAPER_COLUMNS, False),
    )
    for text, better, worse, tasks, apart in pairs:
        name, where = (
            f"{better}_beats_{worse}",
            "generation" if tasks == GENERATION else "nine tasks",
        )
        if apart:
            yield Claim(name, f"TMAS beats {text}, {where}", (better,), (worse,), tasks)
        sentence = f"TMAS beats {text}, with as many calibration states, {where}"
        yield Claim(f"{name}_at_equal_size", sentence, (better,), (worse,), tasks, equal_size=True)


CLAIMS = (
    *STEPS,
    Claim("plus_beats_awq", "DLLMQuant+ beats AWQ, nine tasks", ("dllmquant_plus",), ("awq",)),
    Claim(
        "plusplus_beats_quarot", "DLLMQuant++ beats QuaRot, nine tasks",
        ("dllmquant_plusplus",), ("quarot",),
    ),
    Claim("rotation_beats_awq", "QuaRot beats AWQ, nine tasks", ("quarot",), ("awq",)),
    Claim(
        "average_gain", "2 points on average over the methods it extends, nine tasks",
        ("dllmquant_plus", "dllmquant_plusplus"), ("awq", "quarot"), threshold=0.02,
    ),
    Claim(
        "arithmetic_gain", "over 10 points on the arithmetic task, DLLMQuant++ over QuaRot",
        ("dllmquant_plusplus",), ("quarot",), ("GSM8K",), threshold=0.1,
    ),
    Claim(
        "generation_comparable",
        "DLLMQuant++ generates comparably to full precision (at most 5 points below)",
        ("dllmquant_plusplus",), ("fp",), GENERATION, threshold=-COMPARABLE,
    ),
    *(
        Claim(
            f"generation_suffers_under_{row}",
            f"generation suffers most under {name}: what it loses beyond the other tasks",
            (row,), ("fp",), OTHERS, beside=GENERATION,
        )
        for row, name in (("rtn", "RTN"), ("awq", "AWQ"), ("quarot", "QuaRot"))
    ),
    Claim(
        "both_beat_mask", "CGQ with score and mask beats the mask alone, generation",
        ("quarot_tmas_cgq",), ("quarot_tmas_mask",), GENERATION,
    ),
    Claim(
        "both_beat_score", "CGQ with score and mask beats the score alone, generation",
        ("quarot_tmas_cgq",), ("quarot_tmas_score",), GENERATION,
    ),
    *_sampling(),
)  # fmt: skip
