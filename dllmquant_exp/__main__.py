"""The entry point: `python -m dllmquant_exp`. A subcommand, our help, or a composition by Hydra."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dllmquant_exp import cli
from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.run.allocator import keep_freed_memory

if TYPE_CHECKING:
    from dllmquant_exp.config.overrides import Overrides

RAW_ERRORS = "HYDRA_FULL_ERROR"  # Hydra's variable; whoever sets it to 1 gets tracebacks
INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    0: everything is there; 1: a cell failed; 2: the input was wrong.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    keep_freed_memory()
    status = cli.dispatch(words)
    if status is not None:
        return status
    from dllmquant_exp.config.overrides import Overrides
    from dllmquant_exp.config.tables import sweeps

    try:
        lines = sweeps(Overrides.read(words))
        for line in lines:
            line.check_names()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    statuses = []
    for line in lines:
        statuses.append(_compose(line))
        if statuses[-1] == INTERRUPTED:
            break
    return max(statuses)


def _offer_plugins() -> None:
    """Show Hydra our sweeper and launchers, here and in the jobs that are started from here.

    It takes them from packages named hydra_plugins only, which would lie on the top level.
    """
    folder = str(Path(__file__).resolve().parent / "run" / "sweep" / "plugins")
    if folder not in sys.path:
        sys.path.append(folder)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if folder not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*paths, folder]))
    from hydra.core.plugins import Plugins
    from hydra_plugins.dllmquant_exp.launchers import LocalLauncher, SlurmLauncher
    from hydra_plugins.dllmquant_exp.sweeper import UnfinishedSweeper

    for plugin in (UnfinishedSweeper, LocalLauncher, SlurmLauncher):
        Plugins.instance().register(plugin)


def _compose(line: "Overrides") -> int:
    _offer_plugins()
    import hydra

    from dllmquant_exp.run.sweep.callbacks import run_job
    from dllmquant_exp.run.sweep.refusals import report_error

    program, sys.argv = sys.argv, [sys.argv[0], *line.command_line()]  # which Hydra reads
    raw = os.environ.get(RAW_ERRORS)
    os.environ[RAW_ERRORS] = "1"  # errors are ours to report
    try:
        decorate = hydra.main(
            version_base="1.3", config_path=str(config_folder()), config_name="config"
        )
        decorate(run_job)()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        if raw == "1":
            raise
        return report_error(error)
    finally:
        sys.argv = program
        if raw is None:
            del os.environ[RAW_ERRORS]
        else:
            os.environ[RAW_ERRORS] = raw
    return 0


if __name__ == "__main__":
    sys.exit(main())
