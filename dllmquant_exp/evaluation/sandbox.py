"""Run a generated program where it can do no harm, and say whether it passed its tests.

A program never runs in our process. Each one gets a process of its own, with an empty
environment, an empty folder that is removed afterwards, limits on time, memory, file size and
open files, no network and no way to start, signal or trace other processes; everything it started
is killed at the end. Only the standard library can be imported, so that a score does not depend on
what happens to be installed.

Two guards overlap on purpose: Linux namespaces (own network without devices, own process table,
all files read-only) and a system call filter (no sockets, no fork, no exec, no signals). A machine
that forbids one of them usually allows the other; `active_guards` says which are up, and where
neither is, `run_program` refuses.

A program passes only when it reached its own end: the wrapper then sends a random number that it
drew beforehand. Leaving early (`exit(0)`, `os._exit(0)`, SystemExit) or printing "passed" is a
failure. A program that searches its own process's memory for that number could still forge a
pass; nothing outside the score would suffer.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

CHILD = Path(__file__).with_name("sandbox_child.py")
START_SECONDS = 20.0  # a busy machine may take this long to start and stop the supervisor
ISOLATION = ("network_namespace", "system_call_filter")


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
    """What a program may use: wall and CPU time in seconds, sizes in bytes."""

    timeout: float = 10.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20
    processes: int = 64

    def __post_init__(self) -> None:
        for name in ("timeout", "memory_bytes", "file_bytes", "processes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"sandbox limit {name} = {getattr(self, name)} must be positive")


def run_program(
    program: str,
    *,
    timeout: float = Limits.timeout,
    memory_bytes: int = Limits.memory_bytes,
    file_bytes: int = Limits.file_bytes,
) -> Verdict:
    """Run `program` (Python source) in a guarded process of its own.

    Args:
        program: source that raises, or does not reach its end, where a test fails.
        timeout: seconds of wall time from its start; CPU time is limited alongside.
        memory_bytes: address space, the interpreter's own included.
        file_bytes: size of any file and of its working folder as a whole.

    Raises:
        SandboxError: where no isolation is available or the supervisor does not answer.
        ValueError: for a limit that is not positive.
    """
    limits = Limits(timeout, memory_bytes, file_bytes)
    reason = _supervise(program, limits).reason
    return Verdict(reason == "passed", reason)


@lru_cache(maxsize=1)
def active_guards() -> tuple[str, ...]:
    """Names of the guards that are up on this machine, tried out once per process.

    Besides these, always: separate process and session, empty environment, empty folder, null
    standard streams, wall clock limit.
    """
    return _supervise("pass", Limits()).guards


def _supervise(program: str, limits: Limits) -> _Answer:
    with tempfile.TemporaryDirectory(prefix="dllmquant-program-") as folder:
        request = {
            "program": program,
            "folder": folder,
            "required": ISOLATION,
            "timeout": limits.timeout,
            "memory_bytes": limits.memory_bytes,
            "file_bytes": limits.file_bytes,
            "processes": limits.processes,
        }
        answer = _ask_supervisor(json.dumps(request), limits.timeout)
    if not set(ISOLATION) & set(answer.guards):
        active = ", ".join(answer.guards) or "none"
        raise SandboxError(
            f"generated programs are not run here: neither of {', '.join(ISOLATION)} is available "
            f"(guards that are: {active}); use a Linux machine that allows "
            "unprivileged namespaces or seccomp filters, or leave out the program tasks"
        )
    return answer


def _ask_supervisor(request: str, timeout: float) -> _Answer:
    # -s -P -S: no user site, no current folder, no site-packages. Not -I, which would also ignore
    # PYTHONHASHSEED: a program's set order, and so its verdict, should not differ between runs.
    process = subprocess.Popen(
        [sys.executable, "-s", "-P", "-S", str(CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
        start_new_session=True,
        text=True,
    )
    try:
        output, complaint = process.communicate(request, timeout=timeout + START_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise SandboxError(f"the sandbox did not answer within {error.timeout:g} s") from None
    finally:
        _kill_session(process)
    try:
        answer = json.loads(output)
    except ValueError:
        raise SandboxError(
            f"the sandbox ended with status {process.returncode}: {complaint.strip()[-500:]}"
        ) from None
    return _Answer(str(answer["reason"]), tuple(answer["guards"]))


def _kill_session(process: "subprocess.Popen[str]") -> None:
    """End whatever is left of the supervisor's process group, the supervisor included."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
