"""Decodes of small random models, made once for all tests of the room."""

from collections.abc import Callable

import pytest
from made_probes import GIVEN

from dllmquant_exp.models.checkpoints import random_checkpoint
from dllmquant_exp.probes.decodes import Subject, load_subject
from dllmquant_exp.probes.probe import read_probe


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Hydra's words for a random model of an architecture, with a runs folder of its own."""
    root = tmp_path_factory.mktemp("probes")

    def make(architecture: str = "llada", name: str = "shared") -> list[str]:
        folder = root / architecture
        if not folder.exists():
            random_checkpoint(architecture, folder, d_model=32, n_layers=3)  # type: ignore[arg-type]
        return [
            f"model.checkpoint={folder}", f"model.architecture={architecture}", "threads=1",
            "model.outliers=null", "batch_size=2", f"runs_dir={root / name}",
        ]  # fmt: skip

    return make


@pytest.fixture(scope="session")
def subject(words: Callable[..., list[str]]) -> Subject:
    return load_subject(read_probe(GIVEN, words()))


@pytest.fixture(scope="session")
def dream(words: Callable[..., list[str]]) -> Subject:
    own = "model.settings=micro_dream"
    return load_subject(read_probe(GIVEN, [*words("dream"), own]))
