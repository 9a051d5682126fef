"""Progress: what is counted, and that a log hears of it in time."""

import logging
import threading

import pytest

from dllmquant_exp.store import progress as module
from dllmquant_exp.store.progress import around, progress, told, tracked, within


def test_a_log_hears_where_work_stands_and_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said, info = threading.Event(), module.logger.info
    monkeypatch.setattr(module, "SECONDS", 0.01)
    monkeypatch.setattr(module.logger, "info", lambda *words: (info(*words), said.set()))
    with (
        caplog.at_level(logging.INFO, module.logger.name),
        within("job 2 of 3"),
        within("a task (1 of 9)"),
        progress("answers", 200, done=100) as advance,
    ):
        assert around() == ("job 2 of 3", "a task (1 of 9)")
        advance(0.5)
        advance(49.5)
        said.clear()
        assert said.wait(10)
    assert "job 2 of 3, a task (1 of 9), answers: 150 of 200 (75%) in 00:00" in caplog.text
    assert around() == ()


def test_time_left_is_at_the_pace_of_this_call() -> None:
    assert told("x", 43, 200, 0, 310) == "x: 43 of 200 (22%) in 05:10, about 18:51 left"
    assert told("x", 150, 200, 100, 60) == "x: 150 of 200 (75%) in 01:00, about 01:00 left"
    assert told("x", 0, 200, 0, 60) == "x: 0 of 200 (0%) in 01:00"


def test_tracked_items_are_the_items() -> None:
    assert list(tracked("abc", "letters", 3)) == ["a", "b", "c"]
