"""Memory of this process and of the system, in bytes. Linux says most of it; elsewhere None."""

import ctypes
import gc
import resource
import sys
from contextlib import suppress
from pathlib import Path


def resident_bytes() -> int | None:
    """Resident memory of this process, after all that is free was given back."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return _kilobytes("/proc/self/status", "VmRSS:")


def restart_peak() -> bool:
    """Start measuring the peak anew; returns whether the system allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return True
    return False


def peak_bytes() -> int:
    """Highest resident memory of this process, since `restart_peak` where that worked."""
    found = _kilobytes("/proc/self/status", "VmHWM:")
    if found is not None:
        return found
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts in KiB except on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available_bytes() -> int | None:
    """Memory that the system can still give without swapping."""
    return _kilobytes("/proc/meminfo", "MemAvailable:")


def _kilobytes(path: str, key: str) -> int | None:
    """A line such as `VmRSS:  1024 kB` of one of the system's files, in bytes."""
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return None
