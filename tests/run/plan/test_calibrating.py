"""The sizes of calibration sets against those that are really made."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dllmquant_exp.calibration.collect import collect
from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.models.checkpoints import load_tokenizer, resolve_checkpoint
from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.run.plan.calibrating import calibration_size

Make = Callable[..., Transformer]
Compose = Callable[..., Experiment]


@pytest.mark.parametrize(
    "words",
    [
        ("calibration.samples=12",),
        ("calibration=uniform_time", "calibration.samples=12"),
        ("calibration=llm_qat", "calibration.samples=12"),
        ("+tmas=on", "tmas.samples=40"),
        ("+tmas=on", "tmas.samples=40", "tmas.stride=3"),
        ("+tmas=on", "tmas.samples=40", "tmas.tokens=500"),
    ],
)
def test_states_tokens_and_bytes(
    words: tuple[str, ...], tiny: Make, experiment: Compose, tmp_path: Path
) -> None:
    settings = experiment("method=gptq", *words).calibration
    assert settings is not None
    model = tiny()
    made = collect(
        settings, model, load_tokenizer(str(resolve_checkpoint("embedded:micro_llada"))),
        model_key="", embedded=True, data_root=None, seed=0, batch_size=16, needs_scores=False,
        folder=tmp_path,
    )  # fmt: skip
    size = calibration_size(settings, model.config, 4, embedded=True, needs_scores=False)
    # A few prompts may be far from the mean length that is assumed.
    assert size.states == pytest.approx(len(made.states), abs=2 if settings.tokens is None else 6)
    assert 0.5 < size.tokens / made.tokens < 2
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert 0.5 < size.disk / written < 2


def test_tmas_decodes_until_the_rarest_cell_is_full(experiment: Compose, tiny: Make) -> None:
    settings = experiment("method=gptq", "+tmas=on").calibration
    assert settings is not None
    size = calibration_size(settings, tiny().config, 4, embedded=True, needs_scores=False)
    # As published runs of the embedded model record: 39 prompts, decoded 16 at a time, 520 states.
    assert size.states == 520
    rows = 48 * 32
    assert size.work.flops > 2 * rows * 32 * 7 * 16 * 16


def test_scores_cost_a_forward_pass_with_all_logits(experiment: Compose, tiny: Make) -> None:
    settings = experiment("method=gptq").calibration
    assert settings is not None
    config = tiny().config
    plain, scored = (
        calibration_size(settings, config, 4, embedded=True, needs_scores=needed)
        for needed in (False, True)
    )
    assert plain.work.flops == 0
    assert scored.work.flops > 2 * scored.tokens * config.d_model * config.vocab_size
