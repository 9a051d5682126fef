"""Refusals of Hydra's and ours, told in one paragraph that says what to do."""

import difflib
import sys
import traceback
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dllmquant_exp.config.folder import Folders
from dllmquant_exp.config.quantized_model import COMPONENTS
from dllmquant_exp.errors import BAD_INPUT, FAILED, Refusal
from dllmquant_exp.run.machine import UNWRITABLE, explain_unwritten
from dllmquant_exp.store.schema import unknown_key


def report_error(error: Exception) -> int:
    """Print what ended a call, and return its exit status: 2 for bad input, else 1."""
    if isinstance(error, Refusal) or _is_hydras(error):
        print(f"error: {explain(error)}", file=sys.stderr)
        return BAD_INPUT
    if isinstance(error, OSError) and error.filename is not None and error.errno in UNWRITABLE:
        print(f"error: {explain_unwritten(Path(error.filename), error)}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    return FAILED


def _is_hydras(error: Exception) -> bool:
    """Whether Hydra raised it while it composed: the words are wrong, and not what a job does."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_by = str(frames[-1].f_globals.get("__name__")) if frames else ""
    return isinstance(error, HydraException) or raised_by.startswith("hydra.")


def explain(error: Exception) -> str:
    """A refusal of Hydra's in one paragraph that says what to do; other messages as they are."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = error.options or list(Folders().options(group))
        near = difflib.get_close_matches(option, options, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        known = ", ".join(options)
        return f"{group} has no option {option!r}{hint}. Available options in {group!r}: {known}"
    cause = error.__cause__
    if isinstance(error, HydraException) and isinstance(cause, OmegaConfBaseException):
        return f"{str(error).splitlines()[0].rstrip('.')}: {_wrong_key(cause)}"
    if isinstance(error, HydraException):
        return " ".join(str(error).replace("--multirun", "-m").split())
    return str(error)


def _wrong_key(error: OmegaConfBaseException) -> str:
    """Name the key that was meant, where Hydra proposes to add it as it is."""
    key, parent = str(error.key), error.parent_node
    if not isinstance(parent, DictConfig):
        return str(error).splitlines()[0]
    where = parent._get_full_key("") or "config"
    if where == "config" and key in COMPONENTS:
        return f"{key} is off; switch it on with +{key}=on"
    known = {str(name) for name in parent if name != "hydra"}
    return unknown_key(key, known | ({*COMPONENTS} if where == "config" else set()), where)
