"""What the probes record, against single requests, closed forms and second implementations."""

import copy
import functools
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torch import Tensor

from dllmquant_exp.__main__ import config_folder, main
from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.diffusion.schedule import llada_steps, steps_of
from dllmquant_exp.diffusion.trajectory import states, trajectories
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.checkpoints import random_checkpoint
from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.probes import accumulation, noise, numbers
from dllmquant_exp.probes import subject as subjects
from dllmquant_exp.probes.accumulation import OWN, SAME, error_numbers, logit_errors
from dllmquant_exp.probes.activations import (
    QUANTILES,
    block_output_range,
    channel_distance,
    chosen_tokens,
    ffn_channels,
    iteration_distances,
    sorted_quantiles,
)
from dllmquant_exp.probes.attention import (
    NEAR,
    attention_of,
    keys_for_mass,
    near_diagonal,
    softmax_and_values,
    softmax_over_blocks,
    spaced_layers,
)
from dllmquant_exp.probes.command import split_words, wanted
from dllmquant_exp.probes.decode_grid import KEPT, MASKED, NEW, decode_and_noise, status_grid
from dllmquant_exp.probes.greedy import commit
from dllmquant_exp.probes.measured import Measured
from dllmquant_exp.probes.noise import noisy_steps, positions_of_groups, propagation
from dllmquant_exp.probes.record import KINDS, figure_config, record
from dllmquant_exp.probes.sensitivity import layer_sensitivity
from dllmquant_exp.probes.settings import (
    DRAWN,
    READS,
    Probe,
    ProbeError,
    ProbeSettings,
    changed_settings,
    check_read,
    read_probe,
)
from dllmquant_exp.probes.subject import Subject, load_subject, response_logits, state_batches
from dllmquant_exp.quantization.pipeline import BLOCK_LINEARS
from dllmquant_exp.quantization.quantizers import fake_quantize
from dllmquant_exp.reporting.figures import FIGURES
from dllmquant_exp.reporting.statistics import ratio_interval
from dllmquant_exp.run import prepare as preparation
from dllmquant_exp.run.prepare import Prepared

GIVEN = {"prompts": "3", "gen_length": "8", "steps": "8", "blocks": "2", "states": "2"}


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def subject(words: Callable[..., list[str]]) -> Subject:
    return load_subject(read_probe(GIVEN, words(), config_folder()))


@pytest.fixture(scope="module")
def dream(words: Callable[..., list[str]]) -> Subject:
    own = "model.settings=micro_dream"
    return load_subject(read_probe(GIVEN, [*words("dream"), own], config_folder()))


def every_state(one: Subject, number: int) -> list[Tensor]:
    """The tokens [1, T] of each step of one prompt, without a batch and without padding."""
    mask = one.model.config.mask_token_id
    found = states(one.trajectories[number], one.decoding, mask)
    return [torch.tensor([state.tokens]) for state in found]


def hooked(module: torch.nn.Module, run: Callable[[], Any]) -> list[Tensor]:
    seen: list[Tensor] = []
    hook = module.register_forward_hook(lambda _m, _a, output: seen.append(output))
    run()
    hook.remove()
    return seen


# Settings


@pytest.mark.parametrize(
    ("given", "words", "message"),
    [
        ({"prompts": "0"}, [], "at least 1"),
        ({"prompts": "few"}, [], "whole number"),
        ({"prompt": "64"}, [], "between 0 and 63"),
        ({"steps": "64"}, [], "at most one step per token"),
        ({"blocks": "5"}, [], "must divide"),
        ({"noise": "0"}, [], "above 0"),
        ({}, ["row=rtn"], "decide their own row"),
        ({}, ["quant.weight_bits=3"], "decide their own quant"),
        ({}, ["limit=3"], "decide their own limit"),
        ({}, ["execution=packed"], "decide their own execution"),
        ({}, ["save=kept"], "no figure reads save"),
        ({}, ["+launcher.processes=2"], "no figure reads launcher"),
        ({}, ["model=nonsense"], "nonsense"),
        ({"task": "micro_nine"}, [], "one task"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    given: dict[str, str], words: list[str], message: str
) -> None:
    with pytest.raises((ProbeError, ConfigError), match=message):
        read_probe(given, words, config_folder())


def test_defaults_fit_the_model() -> None:
    embedded = read_probe({}, [], config_folder())
    assert (embedded.settings.prompts, embedded.settings.gen_length) == (64, 32)
    assert embedded.decoding.block_length == 8
    assert embedded.experiment.tasks[0].name == "micro_gsm8k"
    paper = read_probe({}, ["model=llada_8b"], config_folder())
    assert (paper.settings.prompts, paper.settings.steps, paper.settings.blocks) == (1000, 100, 4)
    assert paper.experiment.tasks[0].name == "piqa"


OTHER_VALUES = {
    **dict.fromkeys(("prompts", "layer"), "2"),
    **dict.fromkeys(("gen_length", "steps", "states"), "16"),
    **dict.fromkeys(("prompt", "head", "seed"), "1"),
    **{"blocks": "2", "noise": "0.25", "task": "micro_humaneval"},
    **{"dtype": "float64", "batch_size": "7", "threads": "1"},
}


def asked(name: str, architecture: str) -> tuple[dict[str, str], list[str]]:
    """A setting with another value than its default, ours and Hydra's, of an embedded model."""
    model = ["model=micro_dream"] if architecture == "dream" else []
    if name in ("task", *ProbeSettings.__dataclass_fields__):
        steps = {"steps": "16"} if name == "gen_length" else {}
        return {name: OTHER_VALUES[name], **steps}, model
    return {}, [*model, f"{name}={OTHER_VALUES[name]}"]


@functools.cache
def configs(given: tuple[tuple[str, str], ...], words: tuple[str, ...]) -> dict[str, Any]:
    """What names the recording of each figure."""
    probe = read_probe(dict(given), words, config_folder())
    return {figure: figure_config(probe, figure) for figure in KINDS}


@pytest.mark.parametrize(
    ("name", "architecture"),
    [*((name, "llada") for name in OTHER_VALUES), ("blocks", "dream"), ("seed", "dream")],
)
def test_a_figure_takes_what_changes_its_recording_and_nothing_else(
    name: str, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accumulation, "BITS", {"INT4": "w4a4"})  # one of Figure 2's 8 models
    monkeypatch.setattr(accumulation, "ROWS", {"quarot": ("row=quarot",)})
    given, words = asked(name, architecture)
    probe = read_probe(given, words, config_folder())
    plain = configs(
        tuple(item for item in given.items() if item[0] != name),
        tuple(word for word in words if word.startswith("model=")),
    )
    for figure in FIGURES:
        if figure in KINDS and figure_config(probe, figure) != plain[figure]:
            check_read(probe, [figure], [name])
            check_read(probe, ["figure7", figure], [name])
        else:
            with pytest.raises(ConfigError, match=f"{name}: figure {figure[-1]} would not change"):
                check_read(probe, [figure], [name])
    assert set(READS) == set(KINDS) and {*READS, *DRAWN} == set(FIGURES)


def test_figures_of_results_read_their_sweep_alone() -> None:
    probe = read_probe({}, [], config_folder())
    words = ["sweep", "model=micro_llada", "runs_dir=runs"]
    check_read(probe, ["figure7"], words)
    check_read(probe, ["figure8", "figure1"], [*words, "model.checkpoint=x"])
    for figure, word in (("figure1", "sweep"), ("figure7", "model.checkpoint=x")):
        with pytest.raises(ConfigError, match="would not change with it; leave it out"):
            check_read(probe, [figure], [word])
    with pytest.raises(ConfigError, match="read by figures 1, 2, 3, 4, 5, 6, 9"):
        check_read(probe, ["figure7", "figure8"], ["prompts"])


def test_settings_that_are_not_the_models_own_are_named() -> None:
    def changed(figure: str, given: dict[str, str], *words: str) -> dict[str, Any]:
        return changed_settings(read_probe(given, words, config_folder()), figure)

    usual = {"prompts": "3", "prompt": "2"}
    where = ("threads=1", "dtype=bfloat16", "batch_size=2", "model.checkpoint=elsewhere")
    for figure in KINDS:
        assert changed(figure, usual, "model=micro_dream", *where) == {}
    assert changed("figure4", {"noise": "0.25", "blocks": "2"}) == {"noise": 0.25, "blocks": 2}
    assert changed("figure6", {"noise": "0.25"}, "seed=1") == {}
    assert changed("figure9", {"task": "micro_humaneval"}) == {"task": "micro_humaneval"}
    found = changed("figure1", {"steps": "16"}, "model.outliers.strength=5")
    assert found == {"steps": 16, "model.outliers.strength": 5}
    assert "model.outliers" in changed("figure1", {}, "model.outliers=null")


def test_words_are_ours_or_hydras() -> None:
    assert split_words(["figure=2", "model=x", "seed=1", "noise=0.1"]) == (
        {"figure": "2", "noise": "0.1"},
        ["model=x", "seed=1"],
    )
    with pytest.raises(ConfigError, match="did you mean 'figure'"):
        split_words(["figur=1"])
    for words in (["figure"], ["prompts=1", "prompts=2"]):
        with pytest.raises(ConfigError):
            split_words(words)
    assert wanted("2,figure9") == ["figure2", "figure9"]
    assert len(wanted("all")) == 9
    with pytest.raises(ProbeError, match="10"):
        wanted("10")


# Decodes and their states


def test_decodes_are_kept_and_read(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(subjects, "trajectories", refuse)
    again = load_subject(subject.probe)
    assert again.trajectories == subject.trajectories
    prompts = [decode.prompt for decode in subject.trajectories]
    seeds = [0] * len(prompts)
    alone = trajectories(subject.model, prompts, subject.decoding, seeds=seeds, batch_size=1)
    assert tuple(alone) == subject.trajectories


def test_batches_hold_every_state_in_its_place(subject: Subject) -> None:
    config = subject.model.config
    seen = set()
    for batch in state_batches(config, subject.trajectories, subject.decoding, 2):
        for row, number in enumerate(batch.prompts):
            keep = batch.attention_mask[row]
            tokens = every_state(subject, number)[batch.step][0]
            assert torch.equal(batch.tokens[row][keep], tokens)
            assert torch.equal(batch.response[row].nonzero()[:, 0], torch.arange(len(tokens))[-8:])
            assert int(batch.masked[row].sum()) == int((tokens[-8:] == config.mask_token_id).sum())
            seen.add((number, batch.step))
    assert seen == {(number, step) for number in range(3) for step in range(8)}


# Figures 1 and 6


def test_block_output_quantiles_are_those_of_each_prompt_alone(subject: Subject) -> None:
    found = block_output_range(subject)
    for number in range(3):
        for step, tokens in enumerate(every_state(subject, number)):
            (output,) = hooked(subject.model.blocks[0], lambda t=tokens: subject.model(t))  # type: ignore[misc]
            expected = np.quantile(output.double().numpy(), QUANTILES)
            assert found.arrays["quantiles"][number, step] == pytest.approx(expected, abs=1e-4)
    width = np.ptp(found.arrays["quantiles"], axis=2)
    first = found.numbers["range_first_step"]
    assert first["value"] == pytest.approx(width[:, 0].mean()) and first["n"] == 3
    assert found.numbers["range_last_over_first"]["value"] == pytest.approx(
        width[:, -1].mean() / width[:, 0].mean()
    )


def test_ffn_channels_are_those_of_all_tokens(subject: Subject) -> None:
    found = ffn_channels(subject)
    assert found.arrays["steps"].tolist() == [0, 4, 7]
    for place, step in enumerate((0, 4, 7)):
        rows = []
        for number in range(3):
            tokens = every_state(subject, number)[step]
            block = subject.model.blocks[0]
            (output,) = hooked(block.down_proj, lambda t=tokens: subject.model(t))  # type: ignore[misc]
            rows.append(output[0].double().numpy())
        expected = np.quantile(np.concatenate(rows), QUANTILES, axis=0).T
        assert found.arrays["channels"][place] == pytest.approx(expected, abs=1e-5)
    ratio = found.numbers["first_to_last_over_chance"]
    for number in range(3):
        block = subject.model.blocks[0]
        first, middle, last = (
            hooked(block.down_proj, lambda t=tokens: subject.model(t))[0][0].numpy()  # type: ignore[misc]
            for tokens in (every_state(subject, number)[step] for step in (0, 4, 7))
        )
        _, above, below = iteration_distances(first, middle, last)
        assert (ratio["above"][number], ratio["below"][number]) == pytest.approx(
            (above, below), rel=1e-3
        )


def test_iterations_that_do_not_differ_are_as_far_apart_as_chance() -> None:
    generator = np.random.default_rng(0)
    first = generator.normal(size=(60, 8)).astype(np.float32)
    middle, last, chance = iteration_distances(first, first, first + 2)
    assert middle == chance > 0.01
    wide = np.ptp(np.quantile(first, (0.01, 0.99), axis=0), axis=0)
    assert last == pytest.approx(float((2 / wide).mean()), rel=0.2)


def test_quantiles_distances_and_chosen_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(1001, generator=torch.Generator().manual_seed(0))
    expected = np.quantile(values.double().numpy(), (0, 0.3, 1))
    assert sorted_quantiles(values, (0, 0.3, 1)) == pytest.approx(expected)
    rows = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    assert channel_distance(rows, rows) == pytest.approx(0)
    width = np.quantile(rows, 0.99, axis=0) - np.quantile(rows, 0.01, axis=0)
    assert channel_distance(rows, rows + 1) == pytest.approx(1 / width, rel=1e-4)
    kept = chosen_tokens([5, 2], 0)
    assert [k.tolist() for k in kept] == [[0, 1, 2, 3, 4], [0, 1]]
    monkeypatch.setattr("dllmquant_exp.probes.activations.TOKENS_KEPT", 20)
    kept = chosen_tokens([30, 20], 1)
    assert sum(map(len, kept)) == 20 and all(k.unique().tolist() == k.tolist() for k in kept)
    assert int(kept[0].max()) < 30 and int(kept[1].max()) < 20


# Figure 2


def test_an_unquantized_copy_has_no_error(subject: Subject) -> None:
    found = logit_errors(subject, copy.deepcopy(subject.model))
    assert all(values.shape == (3, 8) and not values.any() for values in found.values())


def test_errors_are_those_of_each_state_alone(subject: Subject) -> None:
    other = copy.deepcopy(subject.model)
    with torch.no_grad():
        for block in other.blocks:
            block.up_proj.weight *= 1.5  # type: ignore[operator, union-attr]
    found = logit_errors(subject, other)
    prompts = [decode.prompt for decode in subject.trajectories]
    own = tuple(trajectories(other, prompts, subject.decoding, seeds=[0] * 3, batch_size=3))
    assert own != subject.trajectories  # else the two panels could not be told apart
    changed = replace(subject, trajectories=own)
    for number in range(3):
        pairs = zip(every_state(subject, number), every_state(changed, number), strict=True)
        for step, (same, mine) in enumerate(pairs):
            exact = subject.model(same)[0, -8:]
            for name, state in ((SAME, same), (OWN, mine)):
                error = float(torch.nn.functional.mse_loss(other(state)[0, -8:], exact))
                assert found[name][number, step] == pytest.approx(error, rel=1e-3, abs=1e-9)
            differ = float((same != mine).sum()) / 8
            assert found["tokens_differ"][number, step] == pytest.approx(differ)


def test_error_numbers_are_ratios_of_sums() -> None:
    variants = [("INT4", "quarot"), ("INT4", "quarot*")]
    rising = np.tile(np.arange(1.0, 5), (5, 1))
    values = np.stack([rising, 0.25 * rising])
    arrays = {SAME: values, OWN: 2 * values, "tokens_differ": np.zeros_like(values)}
    found = error_numbers(arrays, variants)
    star = found[SAME]["INT4 quarot*"]
    assert isinstance(star, dict)
    assert star["removed_of_quarot"]["value"] == 0.75
    assert star["removed_of_quarot"]["above"] == [2.5] * 5  # what is left, prompt by prompt
    assert star["removed_of_quarot"]["below"] == [10.0] * 5
    assert star["last_over_first"]["value"] == 4
    assert star["accumulated"]["value"] == 2.5
    feedback = found["feedback"]["INT4 quarot*"]
    assert isinstance(feedback, dict) and feedback["own_over_same_states"]["value"] == 2


def test_numbers_hold_each_prompts_values_and_the_limits_that_there_are() -> None:
    one = numbers.mean([4.0])
    assert one == {"value": 4.0, "low": None, "high": None, "n": 1, "values": [4.0]}
    above, below = np.arange(1.0, 9), np.full(8, 2.0)
    found = numbers.ratio(above, below)
    assert (found["low"], found["high"]) == ratio_interval(above, below)
    assert (found["value"], found["n"], found["above"]) == (2.25, 8, above.tolist())
    removed = numbers.share_removed(above, 10 * below)
    limits = (removed["low"], removed["value"], removed["high"])
    expected = (1 - found["high"] / 10, 0.775, 1 - found["low"] / 10)
    assert limits == pytest.approx(expected)
    assert numbers.ratio([1.0, 2.0], [0.0, 0.0])["value"] is None
    few = numbers.ratio([1.0, 2.0], [1.0, 1.0])
    assert (few["low"], few["high"]) == (0.0, None)  # unbounded above
    few = numbers.share_removed([1.0, 2.0], [1.0, 1.0])
    assert (few["low"], few["high"]) == (None, 1.0)


# Figures 3 and 5


@pytest.mark.parametrize("name", ["subject", "dream"])
def test_softmax_times_values_is_what_attention_hands_on(
    name: str, request: pytest.FixtureRequest
) -> None:
    one: Subject = request.getfixturevalue(name)
    model, config = one.model, one.model.config
    (batch,) = state_batches(config, one.trajectories[:1], one.decoding, 1, [3])
    before = [block.attention for block in model.blocks]
    found = attention_of(model, batch)
    assert [block.attention for block in model.blocks] == before
    for block, (softmax, values) in zip(model.blocks, found, strict=True):
        seen: list[Tensor] = []
        hook = block.o_proj.register_forward_pre_hook(lambda _m, args, s=seen: s.append(args[0]))  # type: ignore[union-attr, misc]
        model(batch.tokens)
        hook.remove()
        heads = values.unflatten(1, (config.n_kv_heads, -1)).transpose(0, 1)
        heads = heads.repeat_interleave(config.n_heads // config.n_kv_heads, dim=0)
        mixed = (softmax @ heads).transpose(0, 1).flatten(1)
        torch.testing.assert_close(mixed, seen[0][0], atol=1e-4, rtol=1e-4)


def test_sparsity_of_known_maps() -> None:
    uniform, peaked = torch.full((2, 20, 20), 0.05), torch.eye(20)[None]
    assert keys_for_mass(uniform) == pytest.approx(18 / 20)
    assert keys_for_mass(peaked) == 1 / 20
    assert near_diagonal(peaked) == 1
    near = sum(abs(i - j) <= NEAR for i in range(20) for j in range(20))
    assert near_diagonal(uniform) == pytest.approx(near / 400)
    assert spaced_layers(32, 4) == [0, 10, 21, 31] and spaced_layers(2, 4) == [0, 1]


def test_attention_figures_hold_the_prompt_that_was_asked_for(subject: Subject) -> None:
    settings = replace(subject.probe.settings, prompt=1, layer=2, head=3)
    chosen = replace(subject, probe=replace(subject.probe, settings=settings))
    (batch,) = state_batches(
        subject.model.config, subject.trajectories[1:2], subject.decoding, 1, [4]
    )
    softmax, values = attention_of(subject.model, batch)[2]
    found = softmax_and_values(chosen)
    assert found.arrays["softmax"] == pytest.approx(softmax[3].numpy(), abs=1e-6)
    assert found.arrays["values"] == pytest.approx(values.numpy(), abs=1e-5)
    blocks = softmax_over_blocks(chosen)
    assert blocks.arrays["maps"][2] == pytest.approx(softmax[3].numpy(), abs=1e-6)
    assert blocks.arrays["keys_for_mass"][2, 1] == pytest.approx(keys_for_mass(softmax))
    with pytest.raises(ProbeError, match="below the model's 3 layers"):
        softmax_and_values(replace(chosen, probe=with_settings(chosen.probe, layer=3)))


def with_settings(probe: Probe, **changes: Any) -> Probe:
    return replace(probe, settings=replace(probe.settings, **changes))


# Figure 4


def test_the_grid_says_what_each_state_and_its_successor_say(subject: Subject) -> None:
    decode = subject.trajectories[0]
    mask = subject.model.config.mask_token_id
    masked = [tokens[0, -8:] == mask for tokens in every_state(subject, 0)]
    masked.append(torch.tensor(decode.response) == mask)
    expected = np.array([
        [KEPT if not now[i] else MASKED if then[i] else NEW for i in range(8)]
        for now, then in itertools.pairwise(masked)
    ])  # fmt: skip
    assert np.array_equal(status_grid(decode.last_masked, 8), expected)


def test_scores_are_probabilities_of_best_and_standing_tokens(subject: Subject) -> None:
    found = decode_and_noise(subject)
    mask = subject.model.config.mask_token_id
    for step, tokens in enumerate(every_state(subject, 0)):
        p = subject.model(tokens)[0, -8:].softmax(-1)
        standing = tokens[0, -8:]
        own = p[torch.arange(8), standing]
        score = torch.where(standing == mask, p.amax(-1), own)
        assert found.arrays["scores"][step] == pytest.approx(score.numpy(), abs=1e-5)
    assert len(found.labels["tokens"]) == 8


@pytest.mark.parametrize("name", ["subject", "dream"])
def test_committing_step_by_step_is_the_decode(name: str, request: pytest.FixtureRequest) -> None:
    one: Subject = request.getfixturevalue(name)
    mask = one.model.config.mask_token_id
    for decode in one.trajectories:
        response = torch.full((1, 8), mask)
        for step in steps_of(one.decoding):
            logits = one.model(torch.cat((torch.tensor([decode.prompt]), response), 1))[:, -8:]
            response = commit(logits, response, mask, step, one.decoding.remasking)
        assert tuple(response[0].tolist()) == decode.response


@pytest.mark.parametrize("name", ["subject", "dream"])
def test_noise_spreads_from_the_first_block_and_not_from_the_last(
    name: str, request: pytest.FixtureRequest
) -> None:
    found = propagation(request.getfixturevalue(name))
    change, final = found.arrays["logit_change"], found.arrays["final_changed"]
    assert found.arrays["layers"].tolist() == [0, 1, 2]
    assert change.shape == final.shape == (3, 3, 3)
    assert not change[-1].any() and not final[-1, 2].any()  # the last group is `unmasked`
    assert (change[:2] > 0).all()
    assert (final >= 0).all() and (final <= 1).all()


def test_noise_at_committed_positions_is_what_a_second_decode_shows(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of a noisy decode against `generate`'s own loop, with a hook in that one step."""
    loud = replace(subject, probe=with_settings(subject.probe, noise=10.0))
    monkeypatch.setattr(noise, "noisy_steps", lambda *_: [2])
    found = propagation(loud).arrays["final_changed"]
    model, mask = subject.model, subject.model.config.mask_token_id
    for number, decode in enumerate(subject.trajectories):
        new = torch.tensor(decode.last_masked) == 2

        calls = [0]

        def add(
            _m: Any, _a: Any, output: Tensor, new: Tensor = new, n: int = number, c: Any = calls
        ) -> Tensor:
            if c[0] != 3:  # calls are counted from 1
                return output
            vectors = torch.randn(
                int(new.sum()), 32, generator=torch.Generator().manual_seed(2**20 * n + 2)
            )
            changed = output.clone()
            changed[0, -8:][new] += 10 * output.square().mean().sqrt() * vectors
            return changed

        counter = model.register_forward_pre_hook(lambda *_, c=calls: c.__setitem__(0, c[0] + 1))  # type: ignore[misc]
        hook = model.blocks[1].register_forward_hook(add)
        (ended,) = trajectories(model, [decode.prompt], subject.decoding, seeds=[0], batch_size=1)
        hook.remove()
        counter.remove()
        assert mask not in ended.response
        wrong = np.mean(np.array(ended.response) != np.array(decode.response))
        assert found[1, 0, number] == pytest.approx(wrong)


def test_groups_are_equally_large_and_disjoint() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(4, 10, 7, generator=generator)
    masked = torch.zeros(4, 10, dtype=torch.bool)
    masked[:, 3:] = True
    committed = torch.zeros_like(masked)
    committed[:, 4:6] = True
    high, low, unmasked = positions_of_groups(exact, masked, committed, seed=0)
    assert torch.equal(high, committed)
    for group in (low, unmasked):
        assert group.sum(1).tolist() == [2] * 4
    assert not (unmasked & masked).any() and not (low & ~masked).any() and not (low & high).any()
    score = exact.softmax(-1).amax(-1)
    for row in range(4):
        rest = score[row][masked[row] & ~high[row] & ~low[row]]
        assert score[row][low[row]].max() <= rest.min()


def test_noisy_steps_are_the_middle_of_each_block(subject: Subject) -> None:
    assert noisy_steps(steps_of(subject.decoding), 8, 2) == [2]  # two masks are left in step 7
    assert noisy_steps(llada_steps(32, 8, 32), 32, 4) == [4, 12, 20, 28]
    with pytest.raises(ProbeError, match="longer response"):
        noisy_steps(steps_of(subject.decoding)[:1], 8, 1)


# Figure 9


def test_sensitivity_is_that_of_one_linear_alone(subject: Subject) -> None:
    model, config = subject.model, subject.model.config
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = layer_sensitivity(subject)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    divergence = found.arrays["divergence"]
    assert divergence.shape == (3, len(BLOCK_LINEARS), 3) and (divergence >= 0).all()
    settings = subject.probe.row("row=rtn", "quant=w4a4").quant
    assert settings is not None and settings.weight is not None and settings.activation is not None
    layer, name, number = 1, "down_proj", 2
    linear = model.blocks[layer].get_submodule(name)
    weight = fake_quantize(linear.weight, settings.weight)  # type: ignore[arg-type]
    own = []
    for step in (0, 4):
        tokens = every_state(subject, number)[step]
        where = tokens[0] == config.mask_token_id
        exact = model(tokens)[0, where].softmax(-1)
        hook = linear.register_forward_hook(
            lambda _m, args, _y: fake_quantize(args[0], settings.activation) @ weight.T  # type: ignore[arg-type]
        )
        other = model(tokens)[0, where].softmax(-1)
        hook.remove()
        own.append(entropy(exact.double().numpy(), other.double().numpy(), axis=1).mean())
    place = (layer, BLOCK_LINEARS.index(name), number)
    assert divergence[place] == pytest.approx(np.mean(own), rel=1e-3)


# Recording


def test_a_recorded_figure_is_read_and_says_how_it_was_made(
    words: Callable[..., list[str]], subject: Subject
) -> None:
    probe = read_probe(GIVEN, words(name="recorded"), config_folder())
    made = record(probe, "figure1", lambda: replace(subject, probe=probe))

    def refuse() -> Subject:
        raise AssertionError("measured again")

    again = record(probe, "figure1", refuse)
    assert np.array_equal(again.arrays["quantiles"], made.arrays["quantiles"])
    info = json.loads((made.folder / "figure.json").read_text())
    assert info["config"]["decoding"]["gen_length"] == 8 and info["config"]["prompts"] == 3
    assert made.folder.name.endswith(info["config_hash"][:8])
    assert info["versions"]["torch"] == torch.__version__ and "commit" in info["source"]
    with pytest.raises(AssertionError, match="measured again"):
        record(with_settings(probe, prompts=2), "figure1", refuse)
    # What a figure does not depend on does not make another one of it.
    assert record(with_settings(probe, noise=0.25), "figure1", refuse).folder == made.folder
    small = {"gen_length": 8, "steps": 8, "blocks": 2}
    assert small.items() <= info["changed"].items() and "model.checkpoint" not in info["changed"]


def test_the_command_measures_and_draws(
    words: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    own, runs_dir = words(name="cli"), words(name="cli")[-1:]
    line = ["figures", "figure=9,1", *(f"{k}={v}" for k, v in GIVEN.items()), *own]
    assert main(line) == 0
    paths = [Path(text) for text in capsys.readouterr().out.split()]
    assert [p.name for p in paths] == [
        f"figure{n}.{kind}" for n in (9, 1) for kind in ("png", "pdf")
    ]
    assert all(path.stat().st_size > 1000 for path in paths)
    assert main(["figures", "figure=12"]) == 2
    assert "is not all or some of" in capsys.readouterr().err
    assert main(["figures", "figure=7", *runs_dir]) == 1
    assert "run table=table2 first" in capsys.readouterr().out
    assert main(["figures", "figure=7", "noise=2", *runs_dir]) == 2
    assert "noise: figure 7 would not change with it" in capsys.readouterr().err


def test_each_seed_is_recorded_where_one_is_read(
    words: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = []

    def measure(one: Subject) -> Measured:
        measured.append(one.probe.experiment.common.seed)
        return ffn_channels(one)

    monkeypatch.setitem(KINDS, "figure6", replace(KINDS["figure6"], measure=measure))
    own = [*words(name="seeds"), "seed=0,2"]
    given = [f"{k}={v}" for k, v in GIVEN.items() if k != "states"]
    assert main(["figures", "figure=1,6", *given, *own]) == 0
    paths = [Path(text) for text in capsys.readouterr().out.split() if text.endswith(".png")]
    infos = [json.loads((path.parent / "figure.json").read_text()) for path in paths]
    assert [(info["figure"], info["seed"]) for info in infos] == [
        ("figure1", 0), ("figure6", 0), ("figure6", 2),
    ]  # fmt: skip
    assert measured == [0, 2] and len({path.parent for path in paths}) == 3
    assert not any("runs_dir" in word for info in infos for word in info["words"])
    for words_given in (["seed=1,1"], ["seed=1, 1"], ["seed=1", "seed=1"], ["seed=1", "seed=2"]):
        assert main(["figures", "figure=6", *words_given]) == 2
        assert "give each seed once, as in seed=0,1,2" in capsys.readouterr().err
    assert main(["figures", "figure=6", "seed=1,x"]) == 2
    assert main(["figures", "figure=1", "seed=0,1"]) == 2
    assert "seed=0,1: figure 1 would not change with it" in capsys.readouterr().err


def test_what_is_not_calibrated_is_measured_once_for_all_seeds(
    subject: Subject, words: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RTN has no calibration set: its errors do not depend on the seed."""
    monkeypatch.setattr(accumulation, "BITS", {"INT4": "w4a4"})
    monkeypatch.setattr(accumulation, "ROWS", {"rtn": ("row=rtn",), "quarot": ("row=quarot",)})
    prepared = []

    def prepare(experiment: Experiment) -> Prepared:
        prepared.append((experiment.row, experiment.common.seed))
        return replace(unquantized, model=copy.deepcopy(subject.model))

    unquantized = preparation.prepare(subject.probe.experiment)
    monkeypatch.setattr(accumulation, "prepare", prepare)
    for seed in (0, 1):
        probe = read_probe(GIVEN, [*words(name="once"), f"seed={seed}"], config_folder())
        accumulation.accumulated_error(replace(subject, probe=probe))
    assert prepared == [("rtn", 0), ("quarot", 0), ("quarot", 1)]


def test_settings_have_limits() -> None:
    with pytest.raises(ProbeError, match="states"):
        ProbeSettings(prompts=1, gen_length=8, steps=4, states=5)


def test_logits_are_cut_to_the_response(subject: Subject) -> None:
    (batch,) = state_batches(subject.model.config, subject.trajectories, subject.decoding, 3, [1])
    logits = response_logits(subject.model, batch)
    for row, number in enumerate(batch.prompts):
        alone: Tensor = subject.model(every_state(subject, number)[1])[0, -8:]
        torch.testing.assert_close(logits[row], alone, atol=1e-4, rtol=1e-4)
    assert isinstance(subject.model, Transformer)
