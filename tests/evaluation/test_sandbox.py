"""Programs that behave, and programs that do not. None of them may touch this process.

What programs may try is in tests/faults/test_hostile_programs.py.
"""

import os
import re
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dllmquant_exp.evaluation import sandbox
from dllmquant_exp.evaluation.sandbox import START, SandboxError, active_guards, run_program
from dllmquant_exp.evaluation.sandbox_child import system_calls

PROGRAM = """
from typing import List
import math, collections, itertools, re, heapq

def total(numbers: List[int]) -> int:
    return sum(numbers)
"""
CHECKS = """
def check(candidate):
    assert candidate([1, 2, 3]) == 6

check(answer("total"))
"""


def reason(program: str, checks: str = "", **limits: Any) -> str:
    verdict = run_program(program, checks, **limits)
    assert verdict.passed == (verdict.reason == "passed")
    return verdict.reason


def test_a_correct_program_passes() -> None:
    assert reason(PROGRAM, CHECKS) == "passed"


def test_a_failed_assertion_is_named() -> None:
    wrong = PROGRAM.replace("sum(numbers)", "max(numbers)")
    assert reason(wrong, CHECKS) == "failed: AssertionError: "


def test_a_function_that_is_not_there_is_named() -> None:
    assert reason("", CHECKS) == "failed: NameError: name 'total' is not defined"


def in_place(program: str, checks: str) -> bool:
    """The reference: program and checks in one namespace of this process, as lm-eval runs them."""
    namespace: dict[str, Any] = {}
    namespace["answer"] = namespace.__getitem__
    try:
        exec(program, namespace)
        exec(checks, namespace)
    except Exception:
        return False
    return True


VALUES = """None, True, 0, -1, 2**70, -0.0, 0.1, float("inf"), 1j, "", "é\\ud800\\n", b"\\x00\\xff",
[], (), set(), {}, [1, (2, [3])], (1,), {1, "a", (2,)}, frozenset({1}),
{"a": {1: [None]}, (1, 2): "b"},
collections.Counter("aab"), collections.OrderedDict(a=1), fractions.Fraction(1, 3),
decimal.Decimal("0.10"), P(1, 2), "x" * 100000, list(range(1000)), {1: 2}.keys()"""
PRELUDE = "import collections, decimal, fractions\nP = collections.namedtuple('P', 'x y')\n"


def test_values_are_what_they_are_in_one_process() -> None:
    """Every value is compared with every other, there and back again."""
    program = f"{PRELUDE}V = [{VALUES}]\ndef get(i): return V[i]\ndef same(x): return x"
    checks = f"""
{PRELUDE}
V, get, same = [{VALUES}], answer("get"), answer("same")
for i, x in enumerate(V):
    for value in (get(i), same(x)):
        assert [value == y for y in V] == [x == y for y in V], (value, x)
        assert repr(value) == repr(x) or not isinstance(x, int | float | str | list), x
"""
    assert in_place(program, checks)
    assert reason(program, checks) == "passed"


@pytest.mark.parametrize(
    ("body", "check", "passes"),
    [
        ("return [x]", "f(1) == [1]", True),
        ("return (x,)", "f(1) == [1]", False),
        ("return float('nan')", "f(1) == f(1)", False),
        ("yield x", "f(1) == [1]", False),
        ("yield x", "list(f(1)) == [1]", True),
        ("return map(abs, [x])", "tuple(f(-1)) == (1,)", True),
        ("return zip", "f(1) == 'zip'", False),
        ("return lambda: x", "f(1) is not None", True),
        ("return x / 0", "raises(ZeroDivisionError, f, 1)", True),
        ("return [][x]", "raises(IndexError, f, 1)", True),
        ("return {}[x]", "raises(ValueError, f, 1)", False),
        ("class Own(ValueError): pass\n    raise Own(x)", "raises(Exception, f, 1)", True),
        ("return b'\\xff'.decode()", "raises(Exception, f, 1)", True),
        ("return x", "f(x=2) == 2", True),
        ("return x", "f() == 2", False),
        ("raise StopIteration", "f(1) == 1", False),
        ("raise StopIteration", "raises(Exception, f, 1)", True),
        ("return sorted(x, reverse=True)", "f({3, 1, 2}) == [3, 2, 1]", True),
    ],
)
def test_checks_see_what_they_see_in_one_process(body: str, check: str, passes: bool) -> None:
    checks = f"""
def raises(kind, function, *arguments):
    try: function(*arguments)
    except kind: return True

f = answer("f")
assert {check}
"""
    program = f"def f(x):\n    {body}\n"
    assert in_place(program, checks) == passes
    assert (reason(program, checks) == "passed") == passes


@pytest.mark.parametrize("error", ["StopIteration", "StopAsyncIteration", "GeneratorExit"])
@pytest.mark.parametrize(
    "loop",
    [
        "list(map(f, [1, 2]))",
        "all(map(f, [0, 0]))",
        "list(iter(f, 0))",
        "dict(zip('ab', map(f, 'ab')))",
    ],
)
def test_no_exception_ends_a_loop_of_the_checks_in_silence(error: str, loop: str) -> None:
    program = f"def f(*x): raise {error}"
    told = reason(program, f"f = answer('f')\n{loop}")
    assert told == f"failed: {error}: "


def test_arguments_are_copies() -> None:
    program = "def f(x):\n    x.append(1)\n    return x"
    assert reason(program, "x = []\nassert answer('f')(x) == [1] and x == []") == "passed"


def test_a_program_keeps_its_state_between_calls() -> None:
    program = "seen = []\ndef f(x):\n    seen.append(x)\n    return len(seen)"
    assert reason(program, "f = answer('f')\nassert [f(1), f(1)] == [1, 2]") == "passed"


def test_nothing_that_a_check_catches_hides_the_programs_end() -> None:
    program = "import os\ndef f(x): os._exit(0)"
    checks = "try: answer('f')(1)\nexcept BaseException: pass"
    assert reason(program, checks) == "failed: the process ended before the program did"


def test_a_syntax_error_is_named() -> None:
    assert reason("def f(:\n  pass").startswith("failed: SyntaxError")


@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(3600)"])
def test_time_is_limited(program: str) -> None:
    assert reason(program, timeout=0.5) == "timed out after 0.5 s"
    assert (
        reason(f"def f(x):\n    {program}", "answer('f')(1)", timeout=0.5)
        == "timed out after 0.5 s"
    )


def test_memory_is_limited() -> None:
    assert reason("x = bytearray(1 << 31)").startswith("failed: MemoryError")


def test_threads_are_allowed_but_not_without_end() -> None:
    use = "import threading\nt = threading.Thread(target=list)\nt.start()\nt.join()"
    assert reason(use) == "passed"
    many = (
        "import threading, time\n"
        "for _ in range(100000): threading.Thread(target=time.sleep, args=(60,)).start()"
    )
    assert reason(many, timeout=5).startswith(("failed", "timed out"))


def test_asyncio_works_without_a_network() -> None:
    assert reason("import asyncio\nasyncio.run(asyncio.sleep(0))") == "passed"


def test_its_own_folder_is_empty_writable_small_and_on_no_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    inside = "import os\nassert os.listdir('.') == []\nopen('a', 'w').write('x')\n"
    assert reason(inside + "assert os.listdir('.') == ['a']") == "passed"
    assert reason("open('a', 'wb').write(b'x' * (1 << 22))").startswith("failed: OSError")
    assert list(tmp_path.iterdir()) == []


def test_installed_packages_are_out_of_reach() -> None:
    assert "ModuleNotFoundError" in reason("import numpy")


def test_set_order_is_the_same_in_every_run() -> None:
    order = "raise ValueError(list({'a', 'b', 'c', 'd', 'e'}))"
    assert reason(order) == reason(order)


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="timeout = 0 must be positive"):
        run_program("pass", timeout=0)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """kernel(code): the supervisor starts with this code. `active_guards` is asked anew."""
    active_guards.cache_clear()
    yield lambda code: monkeypatch.setattr(sandbox, "START", f"{code}\n{START}")
    active_guards.cache_clear()


NO_FILTER = "import platform; platform.machine = lambda: 'riscv64'"


def test_a_machine_without_a_filter_refuses(
    kernel: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernel(NO_FILTER)
    touch = f"open({str(tmp_path / 'planted')!r}, 'w')"
    with pytest.raises(SandboxError, match=r"no system_call_filter .*UNGUARDED_PROGRAMS=1 if"):
        run_program(touch)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv(sandbox.UNGUARDED, "1")
    assert run_program("x = 1").passed
    assert "system_call_filter" not in active_guards()


UNLIMITED = """
import resource
setrlimit = resource.setrlimit
resource.setrlimit = lambda kind, pair: kind == resource.RLIMIT_NPROC or setrlimit(kind, pair)
"""


def test_a_limit_on_processes_that_does_not_bind_is_no_guard(
    kernel: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel's does not for root, whoever sets it."""
    kernel(UNLIMITED)
    with pytest.raises(SandboxError, match=r"no process_limit .*as another user than root"):
        run_program("x = 1")
    monkeypatch.setenv(sandbox.UNGUARDED, "1")
    assert "process_limit" not in active_guards() and run_program("x = 1").passed


def test_active_guards_are_logged_once(
    kernel: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        run_program("x = 1")
        run_program("x = 1")
    (record,) = caplog.records
    assert record.getMessage() == f"generated programs run behind: {', '.join(active_guards())}"
    assert "system_call_filter" in active_guards()
    assert "process_limit" in active_guards()
    assert {"private_root", "landlock"} & set(active_guards())


def test_a_sandbox_that_breaks_gives_no_verdict(kernel: Callable[[str], None]) -> None:
    kernel("import resource; resource.setrlimit = None")
    with pytest.raises(SandboxError, match=r"could not be set up: [\s\S]*'NoneType'"):
        run_program("x = 1")


KERNEL_HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),  # which arm64 uses as it is
}


@pytest.mark.parametrize("machine", system_calls.ARCHITECTURES)
def test_system_calls_have_the_kernels_numbers(machine: str) -> None:
    header = KERNEL_HEADERS[machine]
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    numbers = {name: int(number) for name, number in found} | {"fstatat": -1}
    numbers["fstatat"] = numbers.get("newfstatat", 79)
    column = list(system_calls.ARCHITECTURES).index(machine)
    conditional = {name: pair for name, (pair, *_) in system_calls.CONDITIONAL.items()}
    for name, pair in (system_calls.ALLOWED | conditional).items():
        assert pair[column] == numbers.get(name), name


def outcome(program: bytes, machine: int, number: int, arguments: Sequence[int]) -> int:
    """A second implementation of the kernel's filter machine, for the operations used here."""
    data = struct.pack("=iIQ6Q", number, machine, 0, *[*arguments, 0, 0, 0, 0, 0, 0][:6])
    accumulator, position = 0, 0
    while True:
        code, true, false, k = struct.unpack_from("=HBBI", program, 8 * position)
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x15:
            position += true if accumulator == k else false
        elif code == 0x35:
            position += true if accumulator >= k else false
        else:
            assert code == 0x06
            return int(k)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("machine", system_calls.ARCHITECTURES)
def test_the_filter_allows_its_calls_and_no_others(machine: str, read_only: bool) -> None:
    """The one for another processor cannot be tried out here, so all are simulated."""
    program = system_calls.seccomp_filter(machine, read_only)
    name = system_calls.ARCHITECTURES[machine]
    column = list(system_calls.ARCHITECTURES).index(machine)
    calls, some = system_calls.rules(read_only)
    allowed = {pair[column] for pair in calls.values()}
    conditional = {pair[column]: rest for pair, *rest in some.values()}
    for number in range(600):
        given = outcome(program, name, number, [])
        if number in conditional:
            index, _, values = conditional[number]
            for value in (*values, 7919):
                arguments = [9] * index + [value]
                good = outcome(program, name, number, arguments) == system_calls.ALLOW
                assert good == (value in values), (number, value)
        else:
            expected = system_calls.ALLOW if number in allowed else system_calls.NO_SUCH_CALL
            assert given == expected, number
    assert outcome(program, name ^ 1, 0, []) == system_calls.KILL
    assert outcome(program, name, 0x40000000, []) == system_calls.KILL


@pytest.mark.parametrize("machine", system_calls.ARCHITECTURES)
def test_the_read_only_filter_opens_for_reading_alone(machine: str) -> None:
    program = system_calls.seccomp_filter(machine, read_only=True)
    column = list(system_calls.ARCHITECTURES).index(machine)

    def opens(flags: int) -> bool:
        number = (257, 56)[column]
        arguments = [0, 0, flags, 0o666]
        given = outcome(program, system_calls.ARCHITECTURES[machine], number, arguments)
        return given == system_calls.ALLOW

    harmless = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK
    assert opens(os.O_RDONLY) and opens(harmless)
    for flag in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_TMPFILE & ~os.O_DIRECTORY):
        assert not opens(flag) and not opens(flag | os.O_CLOEXEC), flag
