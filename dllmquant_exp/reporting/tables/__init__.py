"""Tables of a sweep as it was run, and tables that a preset of conf/table describes."""

PAPER_COLUMNS = (  # labels of the nine tasks, in the paper's order
    "Truth.", "Arc.", "Hella.", "Wino.", "PIQA", "MMLU", "C-EVAL", "Hum.", "GSM8K",
)  # fmt: skip
REFERENCE = "fp"  # the row that changes are from
