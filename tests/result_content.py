"""What a result file says, as small as one can be."""

from typing import Any

from dllmquant_exp.store.results import SCHEMA_VERSION

CELL = {
    "model": "m",
    "method": "rtn",
    "quant": "w4a4",
    "task": "t",
    "label": "T",
    "kind": "micro",
    "seed": 0,
    "embedded": True,
    "decoding": "published",
}
CONFIG = {"limit": 2, "model": {"checkpoint": "embedded:m"}, "method": {"name": "rtn"}}


def content(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "status": "finished",
        "cell": CELL,
        "row": {"name": "rtn", "label": "RTN"},
        "config": CONFIG,
        "config_hash": "abc",
        "score": 0.5,
        "chance": 0.25,
        "items": [
            {"subtask": "t", "doc_id": 0, "score": 1.0},
            {"subtask": "t", "doc_id": 1, "score": 0.0},
        ],
        "error": None,
        "timing": {"finished_at": "2025-01-01T00:00:00+00:00"},
    }
    return {**value, **changes}
