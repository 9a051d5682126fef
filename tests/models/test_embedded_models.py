"""The weights that ship with the package: there, small, trained, and what their presets say."""

from pathlib import Path

import pytest
import torch

import dllmquant_exp
from dllmquant_exp.config.folder import Folders, content_of
from dllmquant_exp.models.checkpoints import load_model, load_tokenizer
from dllmquant_exp.models.embedded.batches import BUCKETS, make_batch, row_losses
from dllmquant_exp.models.embedded.items import Dice
from dllmquant_exp.models.embedded.train import RECIPES, transformer_config

NAMES = ("micro_llada", "micro_llada_1_5", "micro_dream")
EMBEDDED = Path(dllmquant_exp.__file__).parent / "models" / "embedded"
GUESSING = 5.0  # nats per masked token of an untrained model: the logarithm of the words in use


def test_all_of_them_are_small() -> None:
    files = [path for path in EMBEDDED.rglob("*") if path.suffix == ".safetensors"]
    assert sorted(path.parent.name for path in files) == sorted(NAMES)
    assert sum(path.stat().st_size for path in files) < 40e6


@pytest.mark.parametrize("name", NAMES)
def test_each_is_what_its_recipe_and_its_preset_say(name: str) -> None:
    preset = content_of(Folders(), "model", name)
    assert (preset["name"], preset["checkpoint"]) == (name, f"embedded:{name}")
    model = load_model(preset["checkpoint"], dtype=torch.float32, device=torch.device("cpu"))
    expected = transformer_config(RECIPES[name], model.config.vocab_size)
    assert model.config == expected and model.config.architecture == preset["architecture"]
    assert (EMBEDDED / name / "README.md").exists() and (EMBEDDED / name / "loss.csv").exists()


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_each_knows_its_tasks(name: str) -> None:
    """On sequences that training did not draw: a fifth of an untrained model's loss at most."""
    model = load_model(f"embedded:{name}", dtype=torch.float32, device=torch.device("cpu"))
    tokenizer = load_tokenizer(f"embedded:{name}")
    dice = Dice("a test's own batches", "train")
    losses: dict[str, list[float]] = {}
    for counts in BUCKETS:
        batch = make_batch(counts, dice, tokenizer, closed=model.config.shifted)
        for task, loss in zip(batch.tasks, row_losses(model, batch).tolist(), strict=True):
            losses.setdefault(task, []).append(loss)
    means = {task: sum(values) / len(values) for task, values in losses.items()}
    assert len(means) == 9
    assert sum(means.values()) / 9 < GUESSING / 5, means


def test_the_further_trained_one_is_near_its_start_and_not_equal() -> None:
    first, further = (
        load_model(f"embedded:{name}", dtype=torch.float32, device=torch.device("cpu"))
        for name in ("micro_llada", "micro_llada_1_5")
    )
    moved = [
        float((b - a).norm() / a.norm())
        for a, b in zip(first.state_dict().values(), further.state_dict().values(), strict=True)
        if a.dim() == 2
    ]
    assert all(0 < distance < 1 for distance in moved)
