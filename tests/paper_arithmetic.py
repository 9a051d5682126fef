"""The names in the expressions of contradictions.yaml, which test_audit.py evaluates.

They rest on the paper's numbers (tables.yaml), its words (quotes.yaml) and the published shapes.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from itertools import combinations, count, pairwise
from math import ceil, hypot, sqrt
from statistics import mean
from typing import Any

from scipy import stats

from dllmquant_exp.models.published_shapes import published_shape
from dllmquant_exp.models.transformer import TransformerConfig
from dllmquant_exp.reporting.paper import (
    CHAINS,
    paper_caption,
    paper_cells,
    paper_checkpoint,
    paper_quotes,
)

GENERATED = ("Hum.", "GSM8K")
PAIRS = (("dllmquant_plus", "awq"), ("dllmquant_plusplus", "quarot"))  # the method, its basis
# Items of the evaluation splits; C-Eval's is the validation split, pooled over subjects. HellaSwag
# and MMLU have more items than two decimals can tell apart, TruthfulQA's mc2 is no accuracy.
SPLITS = {"Arc.": 1172, "Wino.": 1267, "PIQA": 1838, "C-EVAL": 1346, "Hum.": 164, "GSM8K": 1319}
Row = Mapping[str, Decimal]  # by column; a Decimal keeps the print, "44.50" is not "44.5"


class Names(dict[str, Any]):
    """A dictionary whose keys are attributes too: t1.llada_8b.fp.MMLU."""

    __getattr__ = dict.__getitem__


def table(number: int) -> Names:
    """A table by model, row and column."""
    rows = Names()
    for cell in paper_cells(number):
        rows.setdefault(cell.model, Names()).setdefault(cell.row, Names())[cell.column] = cell.value
    return rows


t1, t2, t3, t4, t5, t6 = map(table, range(1, 7))
MODELS, TASKS = tuple(t1), tuple(column for column in t1.llada_8b.fp if column != "Avg.")
QUANTIZED = tuple(row for row in t1.llada_8b if row != "fp")
speed = Names({model: t4[model].quantized for model in MODELS})


# --- rows ------------------------------------------------------------------------------------


def nine(row: Row) -> list[Decimal]:
    return [row[task] for task in TASKS]


def two(row: Row) -> str:
    return f"{row['GSM8K']} / {row['Hum.']}"


def rows_of(table: Names) -> list[Row]:
    return [row for rows in table.values() for row in rows.values()]


def copies(least: int) -> list[tuple[Row, Row]]:
    """Pairs of Table 1's rows that print at least so many scores alike."""
    pairs = combinations(rows_of(t1), 2)
    return [(a, b) for a, b in pairs if sum(str(a[t]) == str(b[t]) for t in TASKS) >= least]


def shared() -> list[list[str]]:
    """The prints of every cell that several tables have."""
    prints: dict[tuple[str, str, str], list[str]] = {}
    for cell in paper_cells():
        prints.setdefault((cell.model, cell.row, cell.column), []).append(cell.printed)
    return [several for several in prints.values() if len(several) > 1]


def one_decimal(*rows: str) -> list[Decimal]:
    scores = [score for model in MODELS for row in rows for score in nine(t1[model][row])]
    return [score for score in scores if score == round(score, 1)]


def out_of_order() -> list[tuple[str, str, str]]:
    """4-bit scores above full precision or below plain rounding."""
    places = [(m, row, task) for m in MODELS for row in QUANTIZED for task in TASKS]
    return [
        (m, row, task)
        for m, row, task in places
        if not t1[m].rtn[task] <= t1[m][row][task] <= t1[m].fp[task]
    ]


def rivals(model: str, task: str) -> dict[str, Decimal]:
    return {row: t1[model][row][task] for row in QUANTIZED if row != "dllmquant_plusplus"}


def not_alone() -> str:
    """Where DLLMQuant++ is not alone at the top, with the best of the others."""
    places = []
    for model, task in ((m, t) for m in MODELS for t in TASKS):
        row, best = max(rivals(model, task).items(), key=lambda rival: rival[1])
        mine = t1[model].dllmquant_plusplus[task]
        if mine <= best:
            places.append(f"{model} {task} {mine} {best} {row}")
    return "; ".join(places)


# --- differences -----------------------------------------------------------------------------


def lost(model: str, column: str) -> Decimal:
    """Full precision less DLLMQuant++."""
    return t1[model].fp[column] - t1[model].dllmquant_plusplus[column]


def restored(before: Decimal, after: Decimal, full: Decimal) -> Decimal:
    """The percentage of the loss that a step makes good."""
    return 100 * (after - before) / (full - before)


def gain(table: Names, base: str, task: str) -> Decimal:
    """The largest gain over the base."""
    return max(row[task] for row in table.llada_8b.values()) - table.llada_8b[base][task]


def gains() -> list[Decimal]:
    return [t1[m][new]["Avg."] - t1[m][old]["Avg."] for m in MODELS for new, old in PAIRS]


def differences() -> list[tuple[Decimal, Decimal, int]]:
    """A method's score, its basis' score and the number of items, where that is known."""
    return [
        (t1[m][new][task], t1[m][old][task], n)
        for m in MODELS
        for new, old in PAIRS
        for task, n in SPLITS.items()
    ]


def steps(*columns: str) -> dict[tuple[str, str], Decimal]:
    """The change that each component makes in Table 5, by the row that has it and by task."""
    return {
        (after, column): t5.llada_8b[after][column] - t5.llada_8b[before][column]
        for chain in CHAINS
        for before, after in pairwise(chain)
        for column in columns or TASKS
    }


# --- rounding --------------------------------------------------------------------------------


def half(printed: Decimal) -> Decimal:
    """Half a unit of the last printed digit: how far the true value may lie from the print."""
    return Decimal(5).scaleb(int(printed.as_tuple().exponent) - 1)


def averages(right: bool) -> list[tuple[Decimal, Decimal]]:
    """Printed averages with the mean of their nine scores, by whether rounding explains them."""
    pairs = []
    for row in (*rows_of(t1), *rows_of(t5)):
        slack = mean(map(half, nine(row))) + half(row["Avg."])
        if (abs(row["Avg."] - mean(nine(row))) <= slack) == right:
            pairs.append((row["Avg."], mean(nine(row))))
    return pairs


def ratios() -> list[bool]:
    """Whether rounding explains each ratio of Table 4."""
    right = []
    for row in speed.values():
        for a, b, printed in (
            (row["Speed Quant"], row["Speed FP"], row["Speed Up"]),
            (row["Memory FP"], row["Memory Quant"], row["Mem. Sav."]),
        ):
            least = (a - half(a)) / (b + half(b)) - half(printed)
            most = (a + half(a)) / (b - half(b)) + half(printed)
            right.append(least <= printed <= most)
    return right


def ratio(values: Sequence[Decimal]) -> Decimal:
    return values[0] / values[1]


def repairs(
    values: Sequence[Decimal], function: Callable[[Sequence[Decimal]], Decimal],
    target: Decimal, slack: float,
) -> list[str]:  # fmt: skip
    """Prints that differ in one digit from one of the values and explain the target."""
    found = []
    for i, printed in enumerate(map(str, values)):
        places = (k for k, letter in enumerate(printed) if letter != ".")
        for changed in (printed[:k] + d + printed[k + 1 :] for k in places for d in "0123456789"):
            result = function([*values[:i], Decimal(changed), *values[i + 1 :]])
            if abs(float(result) - float(target)) <= slack:
                found.append(changed)
    return found


# --- scores as k of n items ------------------------------------------------------------------


@cache
def prints(n: int, digits: int) -> set[int]:
    """Every k/n in units of the last digit, rounded and cut off, in whole numbers."""
    whole = 100 * 10**digits
    rounded = {(2 * k * whole + n) // (2 * n) for k in range(n + 1)}
    return rounded | {k * whole // n for k in range(n + 1)}


def fits(printed: str, n: int) -> bool:
    whole, _, part = printed.partition(".")
    return int(whole + part) in prints(n, len(part))


def distinct(task: str) -> list[str]:
    """The prints of a task by model and row; the tables agree where they share a row."""
    cells = (cell for cell in paper_cells() if cell.column == task)
    return list({(cell.model, cell.row): cell.printed for cell in cells}.values())


def off(task: str) -> list[str]:
    """Scores that no number of right items gives."""
    return [printed for printed in distinct(task) if not fits(printed, SPLITS[task])]


def chance(task: str) -> float:
    """How many of a task's scores would fit by chance."""
    digits = [len(printed.partition(".")[2]) for printed in distinct(task)]
    return sum(len(prints(SPLITS[task], d)) / (100 * 10**d + 1) for d in digits)


def fewest_runs(printed: Iterable[str], n: int) -> int:
    """The fewest equally many runs that averages like these can be of."""
    return next(r for r in count(1) if all(fits(each, n * r) for each in printed))


def any_print_fits(n: int) -> bool:
    return set(range(10_000)) <= prints(n, 2)


def standard_error(percent: Decimal, n: int) -> float:
    return sqrt(percent * (100 - percent) / n)


def best_p(points: Decimal, n: int) -> float:
    """p of a paired test if no item at all was lost: no pairing can give a smaller one."""
    k = ceil(points * n / 100)
    return float(stats.binomtest(k, k).pvalue) if k else 1.0


def exceeds(percent: int, new: Decimal, old: Decimal, n: int) -> bool:
    """Whether an unpaired confidence interval of the difference excludes zero."""
    z = stats.norm.ppf(0.5 + percent / 200)
    return abs(float(new - old)) > z * hypot(standard_error(new, n), standard_error(old, n))


# --- sizes -----------------------------------------------------------------------------------


def shape(model: str) -> TransformerConfig:
    return published_shape(paper_checkpoint(model))


def linear(model: str) -> int:
    """Weights of the blocks' linear layers: queries, keys, values, output; gate, up, down."""
    c = shape(model)
    kv = c.n_kv_heads * c.head_dim
    return c.n_layers * (2 * c.d_model * (c.d_model + kv) + 3 * c.d_model * c.d_ffn)


def parameters(model: str) -> int:
    """Linear layers, embedding and head, two norms a block and the last; Dream's q, k, v biases."""
    c = shape(model)
    biases = c.n_layers * (c.d_model + 2 * c.n_kv_heads * c.head_dim) * c.qkv_bias
    norms = (2 * c.n_layers + 1) * c.d_model
    return linear(model) + 2 * c.vocab_size * c.d_model + norms + biases


def gb(model: str, linear_bits: int, head_bits: int) -> Decimal:
    head = shape(model).vocab_size * shape(model).d_model
    rest = parameters(model) - linear(model) - head
    return Decimal(linear(model) * linear_bits + head * head_bits + rest * 16) / 8 / 10**9


def gib(model: str, linear_bits: int, head_bits: int) -> Decimal:
    return gb(model, linear_bits, head_bits) * 10**9 / 2**30


# --- words and formulas ----------------------------------------------------------------------


def in_caption(table: int, *names: str) -> list[str]:
    return [name for name in names if name in paper_caption(table)]


def said(quote: str) -> list[Decimal]:
    """The numbers in a quotation."""
    return [Decimal(text) for text in re.findall(r"(?<!\w)\d+(?:\.\d+)?", paper_quotes()[quote])]


def weight(quote: str, score: float) -> float:
    """Eq. 10's weight of a token in the Hessian, squared as X stands in it twice."""
    return float((float(said(quote)[0]) + sqrt(score)) ** 2)


def levels(low: float, high: float, bits: int) -> list[float]:
    """Eq. 3's (X - z) / s of X from low to high, with z = Xmin / s."""
    s = (high - low) / (2**bits - 1)
    return [(low + (high - low) * i / 100 - low / s) / s for i in range(101)]


def interval(percent: int) -> int:
    """Algorithm 1's class of a mask ratio."""
    return sum(percent >= 100 * threshold for threshold in said("thresholds"))
