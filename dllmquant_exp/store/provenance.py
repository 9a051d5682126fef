"""Provenance of a result: code, libraries and hardware, and the memory that it took."""

import hashlib
import os
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import dllmquant_exp
from dllmquant_exp.store import process_memory

PACKAGE = Path(dllmquant_exp.__file__).parent
LIBRARIES = ("torch", "transformers", "lm_eval", "numpy", "datasets")


def now() -> str:
    """The time in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@lru_cache(maxsize=1)
def versions() -> dict[str, str | None]:
    """Versions of Python, of this package and of libraries that can change a number."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "dllmquant_exp": dllmquant_exp.__version__,
    }
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


@lru_cache(maxsize=1)
def source() -> dict[str, Any]:
    """Commit of the checkout that the package runs from, and whether its files differ from it.

    Both are None for an installed wheel, whose version says what it is.
    """
    tracked = _git("ls-files", "--error-unmatch", "__init__.py")
    commit = _git("rev-parse", "HEAD") if tracked else None
    if not commit:
        return {"commit": None, "modified": None}
    # The package and the configurations; other files of the checkout change no number.
    changes = _git("status", "--porcelain", "--", ".", "../conf")
    return {"commit": commit, "modified": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Digest of the code that makes calibration sets and weights; other code has another cache."""
    digest = hashlib.sha256()
    for room in ("models", "diffusion", "calibration", "quantization"):
        paths = (path for path in (PACKAGE / room).rglob("*") if path.suffix in (".py", ".c", ".h"))
        for path in sorted(paths):  # C rotates in every execution
            digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def hardware(device: torch.device) -> dict[str, Any]:
    """Processor, cores, torch's threads, and the GPU when one is used."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": gpu,
        "cuda": torch.version.cuda if gpu else None,
    }


@lru_cache(maxsize=1)
def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def restart_peak_memory(device: torch.device) -> None:
    """Start measuring peaks anew where the system allows it (Linux, CUDA); see `peak_memory`."""
    process_memory.restart_peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> dict[str, int | None]:
    """Highest resident memory of this process, and highest allocation on the GPU, in bytes."""
    on_gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    resident = process_memory.peak_bytes()
    return {"peak_memory_bytes": resident, "peak_gpu_memory_bytes": on_gpu}
