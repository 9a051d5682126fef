"""`plan`: cells, what is finished and shared, totals, and bad input; nothing is run or written."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dllmquant_exp.__main__ import main
from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.models.checkpoints import random_checkpoint
from dllmquant_exp.run.plan import machines
from dllmquant_exp.run.plan.counting import estimate, precision
from dllmquant_exp.run.plan.estimates import STARTUP, Estimates
from dllmquant_exp.run.plan.machines import named_gpu
from dllmquant_exp.run.plan.shapes import shape_of
from dllmquant_exp.run.plan.work import Machine, Work
from dllmquant_exp.run.sweep.composition import compose_jobs

Call = Callable[..., tuple[int, str, str]]
MACHINE = Machine("m", 1e9, 1e9, 1e9, 1e9, 1e-6, 1e12, False, "made up")


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


def estimated(*words: str) -> Estimates:
    jobs = compose_jobs(Overrides.read(words))
    return estimate(jobs, lambda *_: MACHINE)


def test_work_and_time_add_up() -> None:
    machine = Machine("m", 2.0, 4.0, 5.0, 10.0, 0.5, 0.0, False, "")
    work = Work(2, 4, 5, 10, 2, 3)
    assert machine.seconds(work) == 1 + 1 + 1 + 1 + 1 + 3
    assert machine.seconds(3 * work + work) == 4 * machine.seconds(work)


def test_a_named_gpu_is_its_data_sheet_times_the_utilisation() -> None:
    a100 = named_gpu("a100", torch.bfloat16, 0.5)
    assert (a100.flops, a100.wide_flops) == (156e12, 9.75e12)
    assert named_gpu("a100", torch.float32, 0.5).flops == 9.75e12
    assert "50% of 312 TFLOP/s" in a100.source


def test_this_machine_is_measured_once_per_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """And by its best round: the first is slow here, as beside other work."""
    config = shape_of(compose_jobs(Overrides.read(["method=fp"]))[0].model)
    calls: list[float] = []

    def median_seconds(*_: object) -> float:
        calls.append(0.5 if len(calls) < 5 else 0.25)
        return calls[-1]

    monkeypatch.setattr(machines, "_median_seconds", median_seconds)
    machines._measured.cache_clear()
    first = machines.measured(config, torch.float32, torch.device("cpu"))
    assert machines.measured(config, torch.float32, torch.device("cpu")) is first
    assert len(calls) == 5 * machines.ROUNDS
    assert first.launch == 0.25
    assert first.flops == 4 * 2 * machines.ROWS * config.d_model * config.d_ffn
    machines._measured.cache_clear()


def test_the_cells_of_table_1_and_what_they_share() -> None:
    found = estimated("table=table1", "models=paper", "device=cuda", "dtype=bfloat16")
    assert len(found.cells) == 6 * 3 * 9
    kinds = [stage.kind for stage in found.stages.values()]
    # Per model: random segments for AWQ and QuaRot, TMAS states for + and ++.
    assert kinds.count("calibration") == 3 * 2
    assert kinds.count("weights") == 3 * 4  # all rows but fp, and rtn, which keeps nothing
    tmas = [s for s in found.stages.values() if "tmas" in s.label and s.kind == "calibration"]
    assert {len(stage.cells) for stage in tmas} == {2 * 9}
    assert found.downloads.keys() == {
        "GSAI-ML/LLaDA-8B-Base", "GSAI-ML/LLaDA-1.5", "Dream-org/Dream-v0-Base-7B",
    }  # fmt: skip
    assert found.seconds() > sum(cell.seconds for cell in found.cells.values())


def test_rows_that_differ_in_iaaq_share_their_weights() -> None:
    words = ("-m", "row=quarot_tmas_cgq,dllmquant_plusplus", "task=gsm8k", "model=llada_8b")
    found = estimated(*words, "device=cuda")
    assert [len(stage.cells) for stage in found.stages.values()] == [2, 2]


def test_faster_machines_and_fewer_items_take_less() -> None:
    words = ("task=gsm8k", "model=llada_8b", "method=fp")
    jobs = compose_jobs(Overrides.read(words))
    slow, fast = (
        estimate(jobs, lambda *_, f=f: Machine("m", f, f, f, f, 0, 1e12, True, "")).seconds()
        for f in (1e12, 1e14)
    )
    assert fast < slow / 50
    assert estimated(*words, "limit=13").seconds() < estimated(*words).seconds() / 50


def test_what_is_finished_costs_nothing_more(call: Call, tmp_path: Path) -> None:
    checkpoint = random_checkpoint("llada", tmp_path / "llada", d_model=32)
    words = [
        "-m", "method=awq,gptq", "task=micro_piqa,micro_ceval", "limit=3", "threads=1",
        "model.outliers=null", "calibration.samples=4", f"model.checkpoint={checkpoint}",
    ]  # fmt: skip
    status, out, err = call("plan", *words, "throughput=1e11")
    assert status == 0, err
    assert "4 cells, 0 finished, 4 to do in 4 jobs" in out
    assert "stated: 1e+11 FLOP/s" in out and ": estimated" not in out
    assert not (tmp_path / "runs").exists()
    assert call(*words, "tracking=off")[0] == 0
    before = sorted((tmp_path / "runs").rglob("*"))
    out = call("plan", *words)[1]
    assert "4 cells, 4 finished, 0 to do in 4 jobs: 0.0 s" in out
    assert "micro_llada awq+" not in out and "micro_llada awq w4a4: estimated" in out
    out = call("plan", *words, "seed=0,1")[1]
    assert "8 cells, 4 finished, 4 to do" in out
    assert sorted((tmp_path / "runs").rglob("*")) == before


def test_answers_that_are_kept_are_not_counted_again(call: Call, tmp_path: Path) -> None:
    words = ("task=micro_piqa", "limit=4", "method=fp")
    whole = estimated(*words)
    (cell,) = whole.cells.values()
    folder = Path("runs/default") / cell.name
    folder.mkdir(parents=True)
    kept = b'{"key": "a", "answer": 1}\n' * (cell.demand.requests // 2)
    (folder / "requests.jsonl").write_bytes(kept)
    part = estimated(*words)
    (again,) = part.cells.values()
    assert (again.status, again.answered) == ("begun", 0.5)
    assert part.seconds() == pytest.approx(STARTUP + again.load + again.seconds / 2)


def test_what_sharing_saves() -> None:
    """Against plans of every cell alone; and of tables that have all cells in common."""
    words = ("-m", "row=quarot_tmas_cgq,dllmquant_plusplus", "model=llada_8b", "device=cuda")
    jobs = compose_jobs(Overrides.read([*words, "task=gsm8k,piqa"]))
    together = estimate(jobs, lambda *_: MACHINE)
    alone = sum(estimate([job], lambda *_: MACHINE).seconds() for job in jobs)
    assert len(jobs) == len(together.cells) == 4
    assert together.unshared_seconds() == pytest.approx(alone)
    assert together.seconds() < alone
    twice = estimate([*jobs, *jobs], lambda *_: MACHINE)
    assert twice.seconds() == pytest.approx(together.seconds())
    assert twice.unshared_seconds() == pytest.approx(2 * alone)


def test_seeds_share_a_count_of_requests() -> None:
    counted: list[str] = []
    jobs = compose_jobs(Overrides.read(["-m", "task=micro_piqa", "method=fp", "seed=0,1"]))
    found = estimate(jobs, lambda *_: MACHINE, counted.append)
    first, second = found.cells.values()
    assert len(counted) == 1
    assert (first.seed, second.seed) == (0, 1) and first.demand == second.demand


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["on=tpu"], "on = 'tpu' is not one of: here, a100, h100, a6000"),
        (["throughput=fast"], "throughput = 'fast' is not a number"),
        (["throughput=0"], "throughput = 0 must be a number above 0"),
        (["utilisation=1.5"], "utilisation = 1.5 must be in (0, 1]"),
        (["method=foo"], "foo"),
        (["task=micro_gsm8k", "decoding.block_length=7"], "does not divide"),
        (["model.checkpoint=nowhere"], "neither a folder that exists nor a hub id"),
        (["model=llada_8b", "model.checkpoint=some/model", "task=gsm8k"], "is not known without"),
    ],
)
def test_bad_input(call: Call, words: list[str], message: str) -> None:
    status, _, err = call("plan", *words)
    assert status == 2 and message in err


def test_a_job_says_what_is_quantized(experiment: Callable[..., Experiment]) -> None:
    how = precision(experiment("row=dllmquant_plusplus"), torch.float32)
    assert (how.linears, how.attention, how.alphas, how.rotated) == (True, True, 2, True)
    how = precision(experiment("method=rtn", "execution=packed"), torch.float32)
    assert (how.packed, how.rotated, how.alphas) == (True, False, 1)
    how = precision(experiment("method=fp"), torch.bfloat16)
    assert (how.itemsize, how.linears, how.attention) == (2, False, False)
