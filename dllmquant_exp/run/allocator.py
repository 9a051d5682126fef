"""The C library's allocator, told to keep what it is going to need again in a moment.

By default glibc takes tensors of more than 128 KB from the kernel and gives them back at once, or
grows and trims its heap for them; either way the kernel clears their pages anew each time. In a
block of a small model that was up to 40% of the time.
"""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT = 128 << 20  # bytes of free memory at the end of the heap, beyond which it is given back
LARGE = 32 << 20  # bytes from which on a tensor comes from the kernel and goes back to it


def keep_freed_memory() -> None:
    """Set both limits for this process. Does nothing where the C library is not glibc."""
    with suppress(OSError, AttributeError):  # another system, another library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)
