"""Programs that behave, and programs that do not. None of them may touch this process."""

import os
import socket
import time
from pathlib import Path

import pytest

from dllmquant_exp.evaluation import sandbox
from dllmquant_exp.evaluation.sandbox import SandboxError, active_guards, run_program

HUMANEVAL_LIKE = """
from typing import List
import math, collections, itertools, re, heapq

def total(numbers: List[int]) -> int:
    return sum(numbers)

def check(candidate):
    assert candidate([1, 2, 3]) == 6

check(total)
"""


def reason(program: str, **limits: float) -> str:
    verdict = run_program(program, **{"timeout": 10.0, **limits})
    assert verdict.passed == (verdict.reason == "passed")
    return verdict.reason


def test_a_correct_program_passes() -> None:
    assert reason(HUMANEVAL_LIKE) == "passed"


def test_a_failed_assertion_is_named() -> None:
    wrong = HUMANEVAL_LIKE.replace("sum(numbers)", "max(numbers)")
    assert reason(wrong).startswith("failed: AssertionError")


def test_a_syntax_error_is_named() -> None:
    assert reason("def f(:\n  pass").startswith("failed: SyntaxError")


@pytest.mark.parametrize(
    "leave",
    ["exit(0)", "import sys; sys.exit(0)", "raise SystemExit(0)", "import os; os._exit(0)"],
)
def test_leaving_early_is_not_a_pass(leave: str) -> None:
    assert reason(f"print('passed')\n{leave}\nassert False").startswith("failed")


def test_writing_to_every_open_descriptor_is_not_a_pass() -> None:
    program = (
        "import os\n"
        "for fd in range(3, 64):\n"
        "    try: os.write(fd, b'passed')\n"
        "    except OSError: pass\n"
        "os._exit(0)"
    )
    assert reason(program).startswith("failed")


def test_replacing_the_functions_that_report_does_not_turn_a_failure_into_a_pass() -> None:
    program = "import os\nos._exit = os.write = lambda *a: None\nassert False, 'caught'"
    assert reason(program) == "failed: AssertionError: caught"


@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(60)"])
def test_time_is_limited(program: str) -> None:
    started = time.monotonic()
    assert reason(program, timeout=0.5) == "timed out after 0.5 s"
    assert time.monotonic() - started < 30  # and not the 60 s that it asked for


def test_memory_is_limited() -> None:
    assert reason("x = bytearray(1 << 31)").startswith("failed: MemoryError")


def test_output_without_end_is_discarded() -> None:
    assert "timed out" in reason("while True: print('x' * 1000000)", timeout=0.5)


@pytest.mark.parametrize(
    "program",
    [
        "import os\nwhile True: os.fork()",
        "import subprocess; subprocess.run(['ls'])",
        "import os; os.execv('/bin/true', ['true'])",
        "import multiprocessing as m; p = m.Process(target=print); p.start(); p.join()",
    ],
)
def test_no_process_can_be_started(program: str) -> None:
    assert reason(program).startswith("failed: ")


def test_threads_are_allowed_but_not_without_end() -> None:
    use = "import threading\nt = threading.Thread(target=list)\nt.start()\nt.join()"
    assert reason(use) == "passed"
    many = (
        "import threading, time\n"
        "for _ in range(100000): threading.Thread(target=time.sleep, args=(60,)).start()"
    )
    assert reason(many, timeout=5).startswith(("failed", "timed out"))


def test_the_network_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)"
        assert reason(connect).startswith("failed: ")
        listener.settimeout(0.05)  # a connection would be waiting in the queue
        with pytest.raises(TimeoutError):
            listener.accept()


def test_files_outside_its_folder_cannot_be_written(tmp_path: Path) -> None:
    if "read_only_files" not in active_guards():
        pytest.skip("this machine allows no mount namespace: files are guarded by limits only")
    target = tmp_path / "planted"
    assert reason(f"open({str(target)!r}, 'w').write('x')").startswith("failed: OSError")
    assert not target.exists()


def test_its_own_folder_is_empty_writable_small_and_gone_afterwards() -> None:
    before = set(Path(os.environ.get("TMPDIR", "/tmp")).glob("dllmquant-program-*"))
    inside = "import os\nassert os.listdir('.') == []\nopen('a', 'w').write('x')\n"
    assert reason(inside + "assert os.listdir('.') == ['a']") == "passed"
    assert reason("open('a', 'wb').write(b'x' * (1 << 22))").startswith("failed: OSError")
    assert set(Path(os.environ.get("TMPDIR", "/tmp")).glob("dllmquant-program-*")) == before


def test_our_environment_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert reason("import os; assert not os.environ, dict(os.environ)") == "passed"
    parent = f"open('/proc/{os.getpid()}/environ').read()"
    assert reason(parent).startswith("failed: ")


@pytest.mark.parametrize(
    "target", ["os.getppid()", "-1", "0", "os.getpid()", str(os.getpid())], ids=str
)
def test_no_process_can_be_signalled(target: str) -> None:
    assert reason(f"import os; os.kill({target}, 9)").startswith("failed: ")


def test_installed_packages_are_out_of_reach() -> None:
    assert "ModuleNotFoundError" in reason("import numpy")


def test_set_order_is_the_same_in_every_run() -> None:
    order = "raise ValueError(list({'a', 'b', 'c', 'd', 'e'}))"
    assert reason(order) == reason(order)


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="timeout = 0 must be positive"):
        run_program("pass", timeout=0)


def test_a_machine_without_isolation_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "ISOLATION", ("a_guard_that_does_not_exist",))
    with pytest.raises(SandboxError, match="not run here: neither of a_guard"):
        run_program("pass")


def test_active_guards_name_an_isolation() -> None:
    assert {"network_namespace", "system_call_filter"} & set(active_guards())
