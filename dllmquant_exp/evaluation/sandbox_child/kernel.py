"""Calls of the C library that Python has no function for."""

import ctypes
import os
from typing import Any

PR_SET_NO_NEW_PRIVS = 38
libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> int:
    """Call a libc function and return what it does; OSError with its errno where it fails."""
    result: int = getattr(libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def no_new_privileges() -> None:
    """Nothing that this process starts can have more rights than itself."""
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
