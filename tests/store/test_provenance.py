"""What a result says about the code that made it."""

from pathlib import Path

import pytest

from dllmquant_exp.store import provenance


def test_every_source_of_the_rooms_that_make_weights_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("quantization/a.py", "quantization/kernels/b.c", "quantization/kernels/b.h")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)

    def digest() -> str:
        provenance.code_digest.cache_clear()
        return provenance.code_digest()

    found = [digest()]
    try:
        for name in names:
            (tmp_path / name).write_text("changed")
            found.append(digest())
        (tmp_path / "quantization" / "weights.safetensors").write_text("not code")
        assert digest() == found[-1]
    finally:
        provenance.code_digest.cache_clear()
    assert len(set(found)) == len(names) + 1
