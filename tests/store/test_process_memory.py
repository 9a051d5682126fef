"""Memory of the process moves with what it holds."""

import pytest
import torch

from dllmquant_exp.store import process_memory


@pytest.mark.skipif(process_memory.resident_bytes() is None, reason="the system does not say")
def test_resident_memory_moves_with_what_is_held():
    before = process_memory.resident_bytes()
    held = torch.ones(64 * 2**20, dtype=torch.uint8)
    between = process_memory.resident_bytes()
    process_memory.restart_peak()
    more = torch.ones(32 * 2**20, dtype=torch.uint8)
    del more
    peak = process_memory.peak_bytes()
    assert 60 * 2**20 < between - before < 70 * 2**20
    assert peak - between > 28 * 2**20
    assert len(held) and (process_memory.available_bytes() or 1) > 0
