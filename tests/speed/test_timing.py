"""Rounds, their spread, and time spent in modules."""

import torch

from dllmquant_exp.speed.timing import Stopwatch, interleaved, spread


def test_rounds_run_every_variant_once_in_changing_order():
    order = []
    runs = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    times = interleaved(runs, 20, seed=0)
    assert {name: len(values) for name, values in times.items()} == dict.fromkeys("abc", 20)
    rounds = [tuple(order[i : i + 3]) for i in range(0, 60, 3)]
    assert all(set(r) == set("abc") for r in rounds) and len(set(rounds)) > 3
    first = [*order]
    order.clear()
    interleaved(runs, 20, seed=1)
    assert order != first


def test_spreads_are_medians_and_quartiles():
    assert spread([5.0]) == {"median": 5, "low": 5, "high": 5}
    assert spread([1.0, 2, 3, 4, 5]) == {"median": 3, "low": 2, "high": 4}


def test_a_stopwatch_counts_its_modules_only_while_it_runs(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    for module in (first, second):
        module.forward = lambda x: clock.__setitem__(0, clock[0] + 3) or x
    watch = Stopwatch()
    with watch.running([first]):
        second(first(torch.zeros(1)))
    first(torch.zeros(1))
    assert watch.total == 3
