"""Post-training quantization of diffusion language models: run, measure and report.

Data flows one way: config -> model -> quantized model -> evaluation -> result -> tables.

From Python, a comparison with full precision (limit=100 or more says something):

>>> from dllmquant_exp import evaluate, load
>>> model = load("micro_llada", threads=1)
>>> rows = [model, model.quantize("rtn"), model.quantize("rtn", quant="w8a8")]
>>> scores = evaluate(rows, ["micro_piqa", "micro_arc"], limit=4)
>>> changes = scores.pivot(index="row", columns="task", values="change")
>>> changes.shape
(3, 3)

`results`, `table` and `verdicts` read a sweep's files. Each name's help has its units, errors and
an example.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dllmquant_exp.reporting.frames import results, table, verdicts
    from dllmquant_exp.run.load import load
    from dllmquant_exp.run.model import Model, evaluate

__all__ = ["Model", "evaluate", "load", "results", "table", "verdicts"]
_MODULES = {
    **dict.fromkeys(("results", "table", "verdicts"), "reporting.frames"),
    **dict.fromkeys(("Model", "evaluate"), "run.model"),
    "load": "run.load",
}

# MKL then adds the terms of each product in one order, whatever the number of rows and of threads.
# It reads this at its first product, so it stands here, in front of everything.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import at first use: the command line's help does without torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
