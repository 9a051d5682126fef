"""The sandbox's main process: one request on standard input, one JSON answer on standard output."""

import builtins
import contextlib
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from .calls import check, serve
from .guards import READ_ONLY, die_with_parent, enclose, hide_memory, shut_in

LONGEST_MESSAGE = 4096
PASSED = b"passed"
CRASHED = b"?"  # first byte of a message that tells of our own failure, not of the program's


def main() -> None:
    """Run one program and its checks; `sandbox.py` says what the request and the answer are."""
    request = read_message()
    die_with_parent()
    shared = enclose(request)
    hide_memory()  # not earlier: a user namespace is set up through files that this closes
    requests_out, requests_in = os.pipe()
    results_out, results_in = os.pipe()
    guards_out, guards_in = os.pipe()
    worker = fork(lambda: work(request, shared, requests_out, results_in, guards_in), guards_in)
    close(requests_out, results_in, guards_in)
    guards = json.loads(read_message_of(guards_out))
    if not sufficient(request["required"], guards):
        answer("", guards)
        end(worker)
        return
    checks = read_message()["checks"]  # not earlier: the worker is not to have seen them
    verdict_out, verdict_in = os.pipe()
    message, late = b"", False
    with contextlib.suppress(OSError):  # the namespace of a worker that has ended takes no more
        checker = fork(
            lambda: judge(request, shared, checks, requests_in, results_out, verdict_in),
            verdict_in,
        )
        close(requests_in, results_out, verdict_in)
        message, late = watch(verdict_out, request["timeout"])
        end(checker)
    if message and READ_ONLY in guards:
        message = kind_alone(message)
    answer(decide(message, late, end(worker), request["timeout"]), guards)


def work(
    request: dict[str, Any], shared: Sequence[str], requests: int, results: int, guards: int
) -> None:
    """In the worker: put up the guards, say which, and run the program behind them."""
    active = [*shared, *shut_in(request, shared, [requests, results, guards])]
    os.write(guards, json.dumps(active).encode())
    os.close(guards)
    if sufficient(request["required"], active):
        with open(requests) as calls, open(results, "w") as replies:
            serve(request["program"], calls, replies)


def judge(
    request: dict[str, Any],
    shared: Sequence[str],
    checks: str,
    requests: int,
    results: int,
    verdict: int,
) -> None:
    """In the checker: behind the same guards, let the checks call the program's functions."""
    shut_in(request, shared, [requests, results, verdict])
    with open(requests, "w") as calls, open(results) as replies:
        reason = check(checks, calls, replies)
        # before the calls are closed: that ends the worker, and with it, its process namespace
        os.write(verdict, reason.encode("utf-8", "replace")[:LONGEST_MESSAGE])


def sufficient(required: Sequence[Sequence[str]], guards: Sequence[str]) -> bool:
    """Whether at least one guard of each required group is up."""
    return all(set(group) & set(guards) for group in required)


def fork(function: Callable[[], None], complaints: int) -> int:
    """Run `function` in a child process and return its id; a crash of it goes to `complaints`."""
    child = os.fork()
    if child:
        return child
    try:
        function()
    except BaseException:
        with contextlib.suppress(OSError):
            os.write(complaints, CRASHED + traceback.format_exc().encode()[-LONGEST_MESSAGE:])
    finally:
        os._exit(0)


def watch(verdict: int, timeout: float) -> tuple[bytes, bool]:
    """Read the checker's message until it ends or the time is up: (message, timed out)."""
    if not select.select([verdict], [], [], timeout)[0]:
        return b"", True
    return read_message_of(verdict), False


def end(child: int) -> int:
    """Kill a child process and return its status, which is its own where it had ended before."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def decide(message: bytes, late: bool, status: int, timeout: float) -> str:
    """The reason in words, one printable line. `status` is the worker's."""
    if message:
        text = message.decode("utf-8", "replace")
        return "".join(letter if letter.isprintable() else " " for letter in text)
    if late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return f"timed out after {timeout:g} s"
    if os.WIFSIGNALED(status):
        return f"failed: killed by signal {os.WTERMSIG(status)}"
    return "failed: the process ended before the program did"


def kind_alone(message: bytes) -> bytes:
    """A checker's message without the program's words, which may come from a file that it read."""
    if message == PASSED:
        return message
    kind = message.removeprefix(b"failed: ").partition(b":")[0].decode("utf-8", "replace")
    return f"failed: {kind if kind in dir(builtins) else 'an exception'}".encode()


def read_message() -> Any:
    """The next JSON value on standard input: its length in 16 hexadecimal digits, then itself.

    Not a byte more is read, so that the next message is in no memory yet.
    """
    return json.loads(read_exactly(0, int(read_exactly(0, 16), 16)))


def read_exactly(descriptor: int, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = os.read(descriptor, size - len(parts))
        if not part:
            raise EOFError("the request ended early")
        parts += part
    return parts


def read_message_of(descriptor: int) -> bytes:
    """Read a child's output until it closes, at most LONGEST_MESSAGE; exit where it crashed."""
    message = b""
    while len(message) < LONGEST_MESSAGE and (part := os.read(descriptor, LONGEST_MESSAGE)):
        message += part
    if message.startswith(CRASHED):
        sys.exit(f"a guarded process could not be set up: {message[1:].decode()}")
    return message


def answer(reason: str, guards: Sequence[str]) -> None:
    json.dump({"reason": reason, "guards": list(guards)}, sys.stdout)


def close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
