"""What a small model frees between two layers is not asked of the kernel again."""

import platform
import resource
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from dllmquant_exp.allocator import keep_freed_memory

keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    return [torch.ones(2**20) for _ in range(8)]  # 4 MB each, all freed at once

for _ in range(5):
    work()
before = faults()
for _ in range(20):
    work()
print(faults() - before)
"""


def page_faults() -> int:
    words = [sys.executable, "-c", SCRIPT]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_used_again() -> None:
    pages = 20 * 8 * 2**22 // resource.getpagesize()  # of all tensors that are made
    assert page_faults() < pages / 10  # without it: mostly all of them
