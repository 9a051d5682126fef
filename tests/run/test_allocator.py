"""What a small model frees between two layers is not asked of the kernel again."""

import platform
import subprocess
import sys

import pytest

# By malloc itself, so that nothing else stands above what is freed at the heap's end.
SCRIPT = """
import ctypes, resource, sys
from dllmquant_exp.run.allocator import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
SIZE, TOGETHER = 30 << 20, 3
if sys.argv[1] == "kept":
    keep_freed_memory()

def work():
    blocks = [libc.malloc(SIZE) for _ in range(TOGETHER)]
    for block in blocks:
        ctypes.memset(block, 1, SIZE)
    for block in blocks:
        libc.free(block)

for _ in range(5):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    words = [sys.executable, "-c", SCRIPT, how]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_used_again() -> None:
    assert 10 * page_faults("kept") < page_faults("as it is")
