"""Execute the notebooks beside this file and keep their outputs.

    python notebooks/execute.py                    # all of them
    python notebooks/execute.py 01_tables.ipynb    # one
    DLLMQUANT_RUNS=$PWD/runs python notebooks/execute.py

Notebooks 01 and 02 read the runs folder in DLLMQUANT_RUNS (relative to notebooks/; ../runs without
it). What says where and when a notebook was executed is not kept.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
PATIENCE = 1800  # seconds for one cell, on a machine that does other work
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path: Path) -> NotebookNode:
    """A notebook with fresh outputs; the file stays as it is.

    It runs in its own folder, on the package of this checkout, installed or not.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; with its source and traceback.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=PATIENCE,
        startup_timeout=PATIENCE,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,  # how many pieces a cell's prints arrive in is chance
        resources={"metadata": {"path": str(path.parent)}},
    )
    paths = [str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory() as profile:  # nothing of the user's, nothing left behind
        own = {
            "PYTHONPATH": os.pathsep.join(paths),
            "IPYTHONDIR": profile,
            # tqdm misses widgets, and its warning would name this machine's folders.
            "PYTHONWARNINGS": "ignore:IProgress not found",
        }
        client.execute(env=os.environ | own)
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def main(names: Sequence[str]) -> None:
    for path in [FOLDER / name for name in names] or sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(execute(path), path)
        print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
