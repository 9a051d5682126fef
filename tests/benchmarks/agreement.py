"""How many answers of fake and packed execution agree: at least 99.5% of them, or exit status 1.

    python -m dllmquant_exp -m row=quarot,dllmquant_plusplus execution=fake,packed sweep=both
    python tests/benchmarks/agreement.py runs/both

Reads the result files of one or more sweeps, and compares every pair of cells that differ in
nothing but `execution`, item by item. It loads no model.

    python tests/benchmarks/agreement.py between runs/native runs/avx2 ...

compares the cells of the first sweep with those of each other one, and prints a table of how many
items differ; tests/README.md says how such sweeps are made.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dllmquant_exp.store.results import RESULT_FILE, canonical_json, load_json

LEAST = 0.995
COUNTED = ("answer", "score", "log_likelihoods", "response")


def pairs(results: Iterable[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], ...]]:
    """(fake, packed) of every cell that is there in both."""
    found: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for result in results:
        config = dict(result["config"])
        execution = config.pop("execution")
        if "items" in result:
            found[canonical_json(config)][execution] = result
    return [(cell["fake"], cell["packed"]) for cell in found.values() if len(cell) == 2]


def agreement(fake: Mapping[str, Any], packed: Mapping[str, Any]) -> dict[str, int]:
    """How many of two cells' items are alike in each of COUNTED, and `of` how many.

    Raises:
        ValueError: cells of other items.
    """
    items = [
        {(item["subtask"], item["doc_id"], item["doc_hash"]): item for item in result["items"]}
        for result in (fake, packed)
    ]
    if items[0].keys() != items[1].keys():
        raise ValueError(f"{fake['cell']['name']}: the two executions answered other items")
    both = [(items[0][key], items[1][key]) for key in items[0]]
    alike = {name: sum(a[name] == b[name] for a, b in both) for name in COUNTED}
    return alike | {"of": len(both)}


def finished(folder: str) -> list[Mapping[str, Any]]:
    """The results in a sweep's folder that are finished, in the order of their names."""
    results = [load_json(path) for path in sorted(Path(folder).glob(f"*/{RESULT_FILE}"))]
    return [result for result in results if result["status"] == "finished"]


def between(folders: list[str]) -> int:
    """Print how many items of each method differ from the first folder's; the exit status."""
    first, *others = [
        {tuple(r["cell"][name] for name in ("method", "model", "task", "seed")): r for r in found}
        for found in map(finished, folders)
    ]
    methods = sorted({key[0] for key in first})
    print("|", " | ".join([Path(folders[0]).name, *methods]), "|\n|" + "---|" * (len(methods) + 1))
    for folder, other in zip(folders[1:], others, strict=True):
        row = [Path(folder).name]
        for method in methods:
            total: dict[str, int] = defaultdict(int)
            for key in first.keys() & other.keys():
                if key[0] == method:
                    for name, n in agreement(first[key], other[key]).items():
                        total[name] += n
            apart = {name: total["of"] - total[name] for name in COUNTED}
            row.append(", ".join(f"{n} {name}" for name, n in apart.items()) + f" of {total['of']}")
        print("|", " | ".join(row), "|")
    return 0


def main(folders: list[str]) -> int:
    """Print a line per pair of cells, and the sum; the exit status."""
    if folders[0] == "between":
        return between(folders[1:])
    total: dict[str, int] = defaultdict(int)
    for fake, packed in pairs(result for folder in folders for result in finished(folder)):
        counts = agreement(fake, packed)
        if counts["answer"] < counts["of"]:
            print(fake["cell"]["name"], *(f"{name} {n}" for name, n in counts.items()))
        for name, n in counts.items():
            total[name] += n
    if not total:
        print(f"no two cells in {' '.join(folders)} differ in execution alone", file=sys.stderr)
        return 2
    print("alike:", ", ".join(f"{name} {total[name]}" for name in COUNTED), f"of {total['of']}")
    return 0 if total["answer"] >= LEAST * total["of"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
