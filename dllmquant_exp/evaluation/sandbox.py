"""Run a generated program where it can do no harm, and say whether it passed its checks.

A program never runs in our process. Each one gets a process of its own, with an empty environment,
limits on time, memory, processes, file size and open files, no network, no file but the standard
library and what it writes in memory, and no way to start, signal or trace other processes;
everything is killed at the end. Only the standard library can be imported, so that a score does not
depend on what happens to be installed.

Guards overlap on purpose (`active_guards` says which are up here, and so do the log and results):
Linux namespaces with a root folder that holds nothing but Python, Landlock rules for the same
paths, and a filter that leaves only those system calls that an interpreter needs. README.md beside
this file says what each set of them promises. Without the filter, or with a limit on processes that
does not bind, no program is run. Set DLLMQUANT_UNGUARDED_PROGRAMS=1 to run it behind whatever there
is: on a machine without anything to lose.

The checks run in a second process, which calls the program's functions and gets their results as
plain data. Leaving early, printing "passed", replacing built-in functions, objects that are equal
to everything, or searching the memory for the expected results all end as a failure, because
nothing that decides is in the program's process.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

START = "import sys; sys.path.insert(0, sys.argv[1]); from sandbox_child.supervisor import main; "
START += "del sys.path[0]; main()"
START_SECONDS = 120.0  # a busy machine may take this long to start and stop the supervisor
ISOLATION = (  # one of each group
    ("system_call_filter",),
    ("private_root", "landlock", "read_only_filter"),
    ("process_limit",),
)
UNGUARDED = "DLLMQUANT_UNGUARDED_PROGRAMS"
logger = logging.getLogger(__name__)


class SandboxError(RuntimeError):
    """The sandbox itself does not work here: no verdict about the program can be given."""


@dataclass(frozen=True)
class Verdict:
    """Outcome of one program: `reason` is "passed", or what went wrong in one line."""

    passed: bool
    reason: str


@dataclass(frozen=True)
class _Answer:
    reason: str
    guards: tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """Limits of a program: wall and CPU time in seconds, sizes in bytes."""

    timeout: float = 10.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20
    threads: int = 64

    def __post_init__(self) -> None:
        for name in ("timeout", "memory_bytes", "file_bytes", "threads"):
            if getattr(self, name) <= 0:
                raise ValueError(f"sandbox limit {name} = {getattr(self, name)} must be positive")


def run_program(
    program: str,
    checks: str = "",
    *,
    timeout: float = Limits.timeout,
    memory_bytes: int = Limits.memory_bytes,
    file_bytes: int = Limits.file_bytes,
) -> Verdict:
    """Run `program` (Python source) in a guarded process of its own, and `checks` on it.

    It passes when it reached its own end and then the checks reached theirs:

        run_program("def f(x): return x + 1", "assert answer('f')(1) == 2").passed

    Args:
        program: untrusted source.
        checks: trusted source, which raises where a result is wrong. `answer(name)` is there the
            program's function of that name: it takes and returns copies of plain data (numbers,
            texts, bytes, lists, tuples, sets, dictionaries, None), lazy iterables as their items.
        timeout: seconds of wall time for both; CPU time is limited alongside.
        memory_bytes: address space, the interpreter's own included.
        file_bytes: size of any file and of its working folder as a whole.

    Raises:
        SandboxError: where no isolation is available or the supervisor does not answer.
        ValueError: for a limit that is not positive.
    """
    limits = Limits(timeout, memory_bytes, file_bytes)
    active_guards()
    reason = _supervise(program, checks, limits).reason
    return Verdict(reason == "passed", reason)


@lru_cache(maxsize=1)
def active_guards() -> tuple[str, ...]:
    """Names of the guards that are up on this machine, tried out and logged once per process.

    Besides these, always: separate process and session, empty environment, null standard streams,
    wall clock limit.

    Raises:
        SandboxError: they are not enough, or cannot be tried out.
    """
    guards = _supervise("", "", Limits()).guards
    logger.info("generated programs run behind: %s", ", ".join(guards) or "nothing")
    return guards


def _supervise(program: str, checks: str, limits: Limits) -> _Answer:
    required = [] if os.environ.get(UNGUARDED) == "1" else ISOLATION
    if sys.platform != "linux":
        raise SandboxError("generated programs are run on Linux only; leave out the program tasks")
    request = {
        "program": program,
        "required": required,
        "timeout": limits.timeout,
        "memory_bytes": limits.memory_bytes,
        "file_bytes": limits.file_bytes,
        "tasks": limits.threads,
    }
    messages = _message(request) + _message({"checks": checks})
    answer = _ask_supervisor(messages, limits.timeout)
    lacking = [" or ".join(group) for group in required if not set(group) & set(answer.guards)]
    if lacking:
        raise SandboxError(
            f"generated programs are not run here, because there is no {' and no '.join(lacking)} "
            f"(guards that there are: {', '.join(answer.guards) or 'none'}). Use Linux "
            "on x86_64 or aarch64 with seccomp filters, as another user than root or with a Python "
            "that every user can read; or leave out the program tasks; or set "
            f"{UNGUARDED}=1 if these programs may do to this machine whatever you may do"
        )
    return answer


def _message(content: object) -> bytes:
    data = json.dumps(content).encode()
    return f"{len(data):016x}".encode() + data


def _ask_supervisor(messages: bytes, timeout: float) -> _Answer:
    # -s -P -S: no user site, no current folder, no site-packages. Not -I, which would also ignore
    # PYTHONHASHSEED: a program's set order, and so its verdict, should not differ between runs.
    process = subprocess.Popen(
        [sys.executable, "-s", "-P", "-S", "-c", START, str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
        start_new_session=True,
    )
    try:
        output, complaint = process.communicate(messages, timeout=timeout + START_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise SandboxError(f"the sandbox did not answer within {error.timeout:g} s") from None
    finally:
        _kill_session(process)
    try:
        answer = json.loads(output)
    except ValueError:
        text = complaint.decode("utf-8", "replace").strip()[-2000:]
        raise SandboxError(f"the sandbox ended with status {process.returncode}: {text}") from None
    return _Answer(str(answer["reason"]), tuple(answer["guards"]))


def _kill_session(process: "subprocess.Popen[bytes]") -> None:
    """End whatever is left of the supervisor's process group, the supervisor included."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
