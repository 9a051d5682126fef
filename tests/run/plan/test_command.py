"""`plan`: cells, what is finished and shared, totals, and bad input; nothing is run or written."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from dllmquant_exp.__main__ import main
from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.models.checkpoints import random_checkpoint
from dllmquant_exp.run.plan.cells import Plan, calibration_forwards, make_plan
from dllmquant_exp.run.plan.forward import Place
from dllmquant_exp.run.plan.requests import demand
from dllmquant_exp.run.sweep.composition import compose_jobs

Call = Callable[..., tuple[int, str, str]]
A100 = Place("a100", "cuda", 0.4, 1.0, None)


@pytest.fixture
def call(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Call:
    """call(words...): exit status, output and error stream of one command line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(words)
        out, err = capfd.readouterr()
        return status, out, err

    return run


def composed(*words: str) -> list[Experiment]:
    return compose_jobs(Overrides.read(words))


def planned(*words: str, place: Place = A100) -> Plan:
    return make_plan(composed(*words), place)


def test_the_cells_of_table_1_and_what_they_share() -> None:
    found = planned("table=table1", "models=paper", "device=cuda", "dtype=bfloat16")
    assert len(found.cells) == 6 * 3 * 9 and len(found.jobs) == 6 * 3
    kinds = [stage.kind for stage in found.stages.values()]
    # Per model: random segments for AWQ and QuaRot, TMAS states for + and ++.
    assert kinds.count("calibration") == 3 * 2
    assert kinds.count("weights") == 3 * 4  # all rows but fp, and rtn, which keeps nothing
    tmas = [s for s in found.stages.values() if "tmas" in s.label and s.kind == "calibration"]
    assert {len(stage.cells) for stage in tmas} == {2 * 9}
    assert found.downloads.keys() == {
        "GSAI-ML/LLaDA-8B-Base", "GSAI-ML/LLaDA-1.5", "Dream-org/Dream-v0-Base-7B",
    }  # fmt: skip
    parts = [*found.cells.values(), *found.stages.values()]
    assert found.seconds() == pytest.approx(sum(part.seconds or 0 for part in parts))
    for cell in found.cells.values():  # weights of 16 bits, and less than the GPU has
        assert 15e9 < cell.memory < 80e9
    slower = Place("a100", "cuda", 0.1, 1.0, None)
    words = ("task=gsm8k", "model=llada_8b", "method=fp", "device=cuda")
    assert planned(*words, place=slower).seconds() == pytest.approx(4 * planned(*words).seconds())
    assert planned(*words, "limit=13").seconds() < planned(*words).seconds() / 50


def test_rows_that_differ_in_iaaq_share_their_weights() -> None:
    words = ("-m", "row=quarot_tmas_cgq,dllmquant_plusplus", "task=gsm8k", "model=llada_8b")
    found = planned(*words, "device=cuda")
    assert [len(stage.cells) for stage in found.stages.values()] == [2, 2]


def test_what_is_finished_costs_nothing_more(call: Call, tmp_path: Path) -> None:
    """And says how long what is open takes, other seeds' roundings included."""
    checkpoint = random_checkpoint("llada", tmp_path / "llada", d_model=32)
    words = [
        "-m", "method=awq,gptq", "task=micro_piqa,micro_ceval", "limit=3", "threads=1",
        "model.outliers=null", "calibration.samples=4", f"model.checkpoint={checkpoint}",
    ]  # fmt: skip
    status, out, err = call("plan", *words, "throughput=1e11")
    assert status == 0, err
    assert "4 cells, 0 finished, 4 to do in 4 jobs" in out and "1e+11 FLOP/s" in out
    assert "not estimated: 1 of what is made once" in out
    assert not (tmp_path / "runs").exists()
    assert call(*words, "tracking=off")[0] == 0
    before = sorted((tmp_path / "runs").rglob("*"))
    out = call("plan", *words)[1]
    assert "4 cells, 4 finished, 0 to do in 4 jobs: 0.0 s" in out
    out = call("plan", *words, "seed=0,1")[1]
    assert "8 cells, 4 finished, 4 to do" in out and "1 of 2" in out
    assert "by task: seconds per item" in out and "not estimated" not in out
    assert sorted((tmp_path / "runs").rglob("*")) == before


def test_answers_that_are_kept_are_not_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("task=micro_piqa", "limit=4", "method=fp")
    whole = planned(*words)
    ((name, cell),) = whole.cells.items()
    folder = Path("runs/default") / name
    folder.mkdir(parents=True)
    line = b'{"key": "a", "answer": 1}\n'
    (folder / "requests.jsonl").write_bytes(line * (cell.demand.requests // 4))
    (folder / "requests-0-of-2.jsonl").write_bytes(line * (cell.demand.requests // 4))
    part = planned(*words)
    (again,) = part.cells.values()
    assert again.answered == 0.5 and again.took is None
    assert part.seconds() == pytest.approx(whole.seconds() / 2)


def test_seeds_are_composed_and_counted_once() -> None:
    """And are the jobs that Hydra composes one by one."""
    words = ["-m", "task=micro_piqa", "row=fp,awq_tmas", "seed=0,1"]
    jobs = composed(*words)
    alone = [
        composed(*words[:2], f"row={row}", f"seed={seed}")[0]
        for row in ("fp", "awq_tmas")
        for seed in (0, 1)
    ]
    assert jobs == alone
    saved = composed(*words[:2], "row=rtn,quarot", words[3], "save='kept/${seed}'")
    assert [job.common.save for job in saved] == ["kept/0", "kept/1"] * 2
    demand.cache_clear()
    found = make_plan(jobs, A100)
    assert len(found.cells) == 4 and demand.cache_info().misses == 1
    assert make_plan([*jobs, *jobs], A100).seconds() == pytest.approx(found.seconds())


def test_passes_of_steps_and_samplers_are_forwards_of_the_set() -> None:
    sampler = SimpleNamespace(samples=4, length=16, passes=3)
    assert calibration_forwards(sampler, [sampler]) == 3 * 4 * 16
    decoded = SimpleNamespace(samples=4, gen_length=8)
    steps = [SimpleNamespace(passes=2), SimpleNamespace(passes=0)]
    assert calibration_forwards(decoded, steps) == 2 * 4 * 8
    assert calibration_forwards(decoded, [*steps, object()]) is None
    job = composed("task=micro_piqa", "method=gptq", "+tmas=on")[0]
    assert job.calibration is not None
    found = make_plan([job], A100)
    (cell,) = found.cells.values()
    (seconds,) = [s.seconds for s in found.stages.values() if s.kind == "calibration"]
    forwards = calibration_forwards(job.calibration, [job.calibration])
    assert seconds == pytest.approx(forwards * cell.seconds / cell.demand.tokens)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["on=tpu"], "on = 'tpu' is not one of: here, a100, h100, a6000"),
        (["throughput=fast"], "throughput = 'fast' is not a number"),
        (["slowdown=0"], "slowdown = 0.0 must be above 0"),
        (["utilisation=1.5"], "utilisation = 1.5 must be above 0 and at most 1"),
        (["method=foo"], "foo"),
        (["task=micro_gsm8k", "decoding.block_length=7"], "does not divide"),
        (["model.checkpoint=nowhere"], "neither a folder that exists nor a hub id"),
        (["model=llada_8b", "model.checkpoint=some/model", "task=gsm8k"], "is not known without"),
    ],
)
def test_bad_input(call: Call, words: list[str], message: str) -> None:
    status, _, err = call("plan", *words)
    assert status == 2 and message in err
