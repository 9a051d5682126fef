"""Cells that were begun and have no result yet, and the files that say how far they are."""

import re
from collections.abc import Collection
from pathlib import Path

from dllmquant_exp.store.results import RESULT_FILE

_CELL = re.compile(r".+-s\d+-[0-9a-f]{8}")  # a cell's folder: what it is, seed, hash


def shard_file(number: int, count: int) -> str:
    """Name of the file in a cell's folder which says that a shard of it is done."""
    return f"shard-{number}-of-{count}.json"


def unfinished_cells(runs_dir: Path, sweep: str, models: Collection[str] = ()) -> list[str]:
    """The cells of a sweep that were begun and have no result, and which shards they lack.

    models: whose; all, where none is named.
    """
    folders = [path for path in sorted((runs_dir / sweep).iterdir()) if path.is_dir()]
    starts = tuple(f"{model}-" for model in models) or ("",)
    cells = [
        path for path in folders if _CELL.fullmatch(path.name) and path.name.startswith(starts)
    ]
    return [unfinished(path) for path in cells if not (path / RESULT_FILE).exists()]


def unfinished(folder: Path) -> str:
    """Describe the progress of a cell without a result."""
    done: dict[int, set[int]] = {}
    for path in folder.glob("*-*-of-*.json*"):  # begun (requests-...) or done (shard-...)
        match = re.fullmatch(r"(requests|shard)-(\d+)-of-(\d+)\.jsonl?", path.name)
        if match:
            numbers = done.setdefault(int(match[3]), set())
            if match[1] == "shard":
                numbers.add(int(match[2]))
    lines = [
        f"shards {', '.join(str(k) for k in range(count) if k not in numbers) or 'not merged'} "
        f"of {count} are missing"
        for count, numbers in sorted(done.items())
    ]
    return f"{folder.name}: {'; '.join(lines) or 'no result yet'}"
