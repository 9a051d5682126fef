"""The training recipe: LLaDA's objective, exact resumption, and the files that it leaves."""

import json
import math
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from dllmquant_exp.__main__ import main
from dllmquant_exp.models.checkpoints import load_model
from dllmquant_exp.models.embedded import batches, train, world
from dllmquant_exp.models.embedded.grown_outliers import Growth
from dllmquant_exp.models.embedded.items import Dice
from dllmquant_exp.models.embedded.tokenizer import EOS_ID, MASK_ID, train_tokenizer
from dllmquant_exp.models.transformer import Transformer

TINY = train.Recipe(name="tiny", d_model=32, n_layers=1, n_heads=4, d_ffn=32, steps=6, warmup=2)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    few = ({"micro_arc": 3}, {"micro_gsm8k": 2, "micro_mmlu": 1})
    monkeypatch.setattr(train, "BUCKETS", few)
    monkeypatch.setattr(train, "HARDER_BUCKETS", few)
    monkeypatch.setattr(train, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(train, "LOG_EVERY", 2)
    tokenizer = train_tokenizer(items_per_task=100)
    monkeypatch.setattr(train.micro_tokenizer, "train_tokenizer", lambda: tokenizer)


def tiny_model(vocabulary: int = 64) -> Transformer:
    torch.manual_seed(0)
    return Transformer(train.transformer_config(TINY, vocabulary)).double()


def test_row_loss_averages_to_the_published_bound() -> None:
    """E over l and masks of row_losses = LLaDA's Eq. 6 / L, by enumerating every mask of L = 3."""
    model = tiny_model()
    tokens = torch.tensor([[5, 6, 7, 8, 9]])  # two prompt tokens, then L = 3
    bound = averaged = 0.0
    for count in (1, 2, 3):
        masks = list(combinations((2, 3, 4), count))
        for places in masks:
            masked = torch.zeros(1, 5, dtype=torch.bool)
            masked[0, list(places)] = True
            logits = model(tokens.masked_fill(masked, MASK_ID))
            crosses = F.cross_entropy(logits[masked], tokens[masked], reduction="sum")
            probability = 1 / 3 / len(masks)
            bound += probability * 3 / count * float(crosses.detach())
            batch = batches.Batch(tokens, torch.ones(1, 5, dtype=torch.bool), masked, ("t",))
            averaged += probability * float(batches.row_losses(model, batch).detach())
    assert averaged == pytest.approx(bound / 3, rel=1e-6)


def test_prompts_are_never_masked_and_mask_counts_are_uniform() -> None:
    tokenizer = train_tokenizer(items_per_task=300)
    dice = Dice("0", "train")
    counts: list[float] = []
    for _ in range(30):
        batch = batches.make_batch({"micro_gsm8k": 8}, dice, tokenizer)
        for row in range(8):
            text = tokenizer.decode(
                batch.tokens[row][~batch.masked[row] & batch.attention_mask[row]]
            )
            assert text.startswith("Question:") and "have?\nAnswer:" in text
            assert not batch.masked[row][~batch.attention_mask[row]].any()
            counts.append(int(batch.masked[row].sum()) / 32)
    mean = sum(counts) / len(counts)
    assert min(counts) <= 2 / 32 and max(counts) == 1.0
    assert mean == pytest.approx(33 / 64, abs=0.02)  # uniform on {1/32 ... 32/32}


def test_exam_letters_are_the_only_response() -> None:
    tokenizer = train_tokenizer(items_per_task=300)
    row = batches.training_row("micro_mmlu", Dice("3", "train"), tokenizer)
    letters = [tokenizer.decode([t]) for t, r in zip(row.tokens, row.response, strict=True) if r]
    assert len(letters) == 3 and set(letters) <= {" A", " B", " C", " D"}


@pytest.mark.parametrize("growth", [None, Growth(rare_channels=2)])
def test_a_killed_training_continues_to_the_same_weights(
    tmp_path: Path, small: None, growth: Growth | None
) -> None:
    recipe = replace(TINY, growth=growth)
    whole = train.train(recipe, tmp_path / "whole")
    # The killed run stops after its second checkpoint; its recipe is that of the whole run.
    original = train.train_step

    def dies(*args: object) -> object:
        if args[3] == 5:
            raise KeyboardInterrupt
        return original(*args)

    train.train_step = dies
    try:
        with pytest.raises(KeyboardInterrupt):
            train.train(recipe, tmp_path / "killed")
    finally:
        train.train_step = original
    resumed = train.train(recipe, tmp_path / "killed")
    a, b = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    summaries = [
        json.loads((tmp_path / n / "training.json").read_text()) for n in ("whole", "killed")
    ]
    assert summaries[0]["tokens"] == summaries[1]["tokens"]
    assert (tmp_path / "killed" / "loss.csv").read_text().count("\n") == 4  # header, 3 points
    assert (tmp_path / "killed" / "loss.png").stat().st_size > 1000


def test_the_finished_checkpoint_loads_as_any_llada_checkpoint_does(
    tmp_path: Path, small: None
) -> None:
    final = train.train(replace(TINY, steps=2), tmp_path)
    model = load_model(str(final), dtype=torch.float32, device=torch.device("cpu"))
    assert model.config.mask_token_id == MASK_ID
    assert torch.isfinite(model(torch.tensor([[5, 6, MASK_ID]]))).all()


def test_a_model_trained_further_starts_where_the_first_one_ended(
    tmp_path: Path, small: None
) -> None:
    first = train.train(replace(TINY, steps=2), tmp_path / "first")
    further = replace(TINY, name="further", start=str(first), harder=True, steps=1)
    recipe = replace(further, learning_rate=0.0, weight_decay=0.0)
    same = train.train(recipe, tmp_path / "same")
    changed = train.train(further, tmp_path / "changed")
    a, b, c = (load_file(folder / "model.safetensors") for folder in (first, same, changed))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)
    with pytest.raises(ValueError, match="is of another shape than further"):
        train.train(replace(further, n_layers=2), tmp_path / "other")


def test_both_mixtures_have_the_same_size_and_tasks() -> None:
    plain, harder = (
        {task: n for counts in buckets for task, n in counts.items()}
        for buckets in (batches.BUCKETS, batches.HARDER_BUCKETS)
    )
    assert plain.keys() == harder.keys() == set(world.TASKS)
    assert sum(plain.values()) == sum(harder.values())


def test_dreams_sequences_end_with_a_visible_end_of_text() -> None:
    tokenizer = train_tokenizer(items_per_task=300)
    for task in world.TASKS:
        row, closed = (
            batches.training_row(task, Dice("5", "train"), tokenizer, closed=flag)
            for flag in (False, True)
        )
        if task in world.GENERATION:  # filled with end-of-text that is part of the response
            assert closed == row
        else:
            assert closed.tokens == (*row.tokens, EOS_ID)
            assert closed.response == (*row.response, False)


def test_another_recipe_in_the_same_folder_is_refused(tmp_path: Path, small: None) -> None:
    train.train(replace(TINY, steps=2), tmp_path)
    with pytest.raises(ValueError, match="another recipe"):
        train.train(replace(TINY, steps=2, seed=1), tmp_path)


def test_learning_rate_rises_stays_and_falls_to_zero() -> None:
    recipe = replace(TINY, steps=100, warmup=10, learning_rate=1.0, decay=0.2)
    rates = [train.learning_rate(recipe, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9:80] == [1.0] * 71
    assert rates[-1] == pytest.approx(0.05)
    assert all(math.isclose(a - b, 0.05) for a, b in pairwise(rates[80:]))


@pytest.mark.parametrize("word", ["model=nothing", "speed=3", "steps"])
def test_bad_settings_are_named(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", word]) == 2
    assert word.split("=")[0] in capsys.readouterr().err
