"""Programs that attack the machine, the run or the verdict: none of them passes or does harm.

The short version runs a part of `hostile_programs.yaml`; all of it, behind each set of guards, runs

    DLLMQUANT_LONG_TESTS=1 python -m pytest tests/faults/test_hostile_programs.py

which takes some minutes, heavy ones for the machine. A machine without the guards refuses to run
programs, and so does this suite: do not set DLLMQUANT_UNGUARDED_PROGRAMS for it. It sets it itself
for a few harmless ones, as a root whose Python nobody else can read has no limit on processes.
"""

import ctypes
import os
import platform
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from dllmquant_exp.evaluation import sandbox
from dllmquant_exp.evaluation.sandbox import SandboxError, active_guards, run_program

LONG = os.environ.get("DLLMQUANT_LONG_TESTS") == "1"
PROGRAMS: dict[str, dict[str, str]] = yaml.safe_load(
    Path(__file__).with_name("hostile_programs.yaml").read_text(encoding="utf-8")
)
SHORT, AT_ONCE = 4, 4  # programs of each group in the short version; programs at the same time
SECONDS = 5.0 if LONG else 1.0
MEMORY = 1 << 29
CHECKS = "f = answer('solve')  # SOLVE-IS-GOOD=\nassert f(6) == 42\nassert f(7) == 49"
SECRET, CANARY = "c0ffee-of-a-file", "c0ffee-of-the-environment"
PR_SET_CHILD_SUBREAPER = 36
UNSHARE = {"x86_64": 272, "aarch64": 97}.get(platform.machine(), 0)
LANDLOCK = 444
KERNELS = {
    "every guard": (),
    "no namespaces": (UNSHARE,),
    "no Landlock": (LANDLOCK,),
    "neither": (UNSHARE, LANDLOCK),
}


def start_without(*calls: int) -> str:
    """How the supervisor starts where the kernel does not have these system calls."""
    return f"""
import ctypes, struct
def op(code, k, true=0, false=0): return struct.pack("HBBI", code, true, false, k)
program = op(0x20, 0)
for number in {calls}: program += op(0x15, number, 0, 1) + op(6, 0x00050026)
program += op(6, 0x7FFF0000)
buffer = ctypes.create_string_buffer(program, len(program))
header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == libc.prctl(22, 2, header, 0, 0) == 0
{sandbox.START}"""


@dataclass(frozen=True)
class Scene:
    """What programs attack: a folder, a process, sockets and this process's memory."""

    folder: Path
    victim: "subprocess.Popen[bytes]"
    streams: tuple[socket.socket, ...]
    datagrams: tuple[socket.socket, ...]
    memory: "ctypes.Array[ctypes.c_char]"

    def names(self) -> str:
        """The lines in front of a program."""
        return (
            f"PARENT, VICTIM, FOLDER = {os.getpid()}, {self.victim.pid}, {str(self.folder)!r}\n"
            f"SECRET, PORT = FOLDER + '/secret', {self.streams[0].getsockname()[1]}\n"
            f"UNIX, DATAGRAM = FOLDER + '/stream', FOLDER + '/datagram'\n"
            f"ABSTRACT, ADDRESS = {self.folder.name!r}, {ctypes.addressof(self.memory)}\n"
            f"COLUMN = {int(platform.machine() == 'aarch64')}\n"
        )

    def state(self) -> object:
        """Everything that a program could have changed."""
        files = {
            (str(path), (found := path.lstat()).st_mode, found.st_uid, found.st_mtime_ns,
             path.read_text() if path.is_file() else None)
            for path in [self.folder, *self.folder.rglob("*")]
        }  # fmt: skip
        if self.victim.poll() is not None:
            return "the victim is dead"
        niceness = os.getpriority(os.PRIO_PROCESS, self.victim.pid)
        allowed = resource.prlimit(self.victim.pid, resource.RLIMIT_CPU)
        return files, niceness, allowed, self.memory.raw, self.calls(), descendants()

    def calls(self) -> list[str]:
        """What arrived at the sockets."""
        arrived = []
        for stream in self.streams:
            with suppress(BlockingIOError):
                stream.accept()
                arrived.append(f"a connection to {stream.getsockname()}")
        for datagram in self.datagrams:
            with suppress(BlockingIOError):
                arrived.append(f"{datagram.recv(100)!r}")
        return arrived


def descendants() -> set[int]:
    """The living processes below this one, which adopts those that lost their parent."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has ended
            continue
        if state != "Z":
            parents[int(path.parent.name)] = int(parent)
    found, waiting = set(), {os.getpid()}
    while waiting:
        waiting = {process for process, parent in parents.items() if parent in waiting} - found
        found |= waiting
    return found


def bury(before: set[int]) -> None:
    """Wait for what has ended, as init does: a namespace's first process ends after its others."""
    for path in Path("/proc/self/task").glob("*/children"):
        for process in set(map(int, path.read_text().split())) - before:
            with suppress(ChildProcessError):
                os.waitpid(process, os.WNOHANG)


@contextmanager
def scene_of_its_own() -> Iterator[Scene]:
    """World-writable on purpose, in a folder that everybody can reach: only guards protect it."""
    libc = ctypes.CDLL(None)
    with ExitStack() as stack:
        stack.callback(libc.prctl, PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dllmquant-faults-")))
        folder.chmod(0o777)
        (folder / "secret").write_text(SECRET)
        (folder / "secret").chmod(0o666)

        def bound(family: int, kind: int, address: object) -> socket.socket:
            made = stack.enter_context(socket.socket(family, kind))
            made.bind(address)
            made.setblocking(False)
            if kind == socket.SOCK_STREAM:
                made.listen()
            return made

        tcp = bound(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        streams = (
            tcp,
            bound(socket.AF_UNIX, socket.SOCK_STREAM, f"{folder}/stream"),
            bound(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + folder.name),
        )
        datagrams = (
            bound(socket.AF_INET, socket.SOCK_DGRAM, tcp.getsockname()),
            bound(socket.AF_UNIX, socket.SOCK_DGRAM, f"{folder}/datagram"),
        )
        for name in ("stream", "datagram"):
            (folder / name).chmod(0o777)
        victim = subprocess.Popen(["sleep", "3600"])
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        yield Scene(folder, victim, streams, datagrams, ctypes.create_string_buffer(b"x" * 15))


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with scene_of_its_own() as made:
        yield made


@contextmanager
def running_on(name: str, temporary: Path) -> Iterator[None]:
    """A kernel with all guards or only some; afterwards the sandbox has left no file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", CANARY)
        patch.setenv("DLLMQUANT_CANARY", CANARY)
        patch.setattr(tempfile, "tempdir", str(temporary))
        patch.setattr(sandbox, "START", start_without(*KERNELS[name]))
        active_guards.cache_clear()
        yield
        assert list(temporary.iterdir()) == []
    active_guards.cache_clear()


@pytest.fixture(params=KERNELS if LONG else ["every guard"])
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with running_on(request.param, tmp_path):
        try:
            active_guards()
        except SandboxError as error:
            pytest.skip(f"NOT TESTED: {error}")
        yield request.param


def attack(scene: Scene, programs: dict[str, str]) -> dict[str, str]:
    """The verdicts' reasons."""

    def run(program: str) -> str:
        verdict = run_program(scene.names() + program, CHECKS, timeout=SECONDS, memory_bytes=MEMORY)
        assert verdict.passed == (verdict.reason == "passed")
        return verdict.reason

    active_guards()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(programs, pool.map(run, programs.values()), strict=True))


def refused(reason: str) -> bool:
    """Whether a reason is one line that tells of a failure and of nothing that is secret."""
    told = re.search(rf"\breached|{SECRET}|{CANARY}", reason) is not None
    failed = reason.startswith(("failed: ", "timed out after "))
    return failed and not told and reason.isprintable() and len(reason) < 500


@pytest.mark.parametrize("group", PROGRAMS)
def test_no_program_passes_or_does_harm(scene: Scene, kernel: str, group: str) -> None:
    programs = PROGRAMS[group]
    if not LONG and group != "forged_passes":
        programs = dict(list(programs.items())[:SHORT])
    before, memory = scene.state(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    reasons = attack(scene, programs)
    assert {name: reason for name, reason in reasons.items() if not refused(reason)} == {}
    assert scene.state() == before
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    # A child is as large as this process until it becomes another program.
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert used <= max(memory, MEMORY >> 10, ours)  # KiB


LIST_PACKAGES = """
import glob, os, sys
for place in {os.path.dirname(os.__file__), "/usr/lib/python3", *sys.path}:
    for path in glob.glob(place + "/*-packages/**/*.py", recursive=True):
        try: open(path)
        except PermissionError: pass
        else: raise ValueError(path)
"""


@pytest.mark.parametrize("name", KERNELS)
def test_a_correct_program_passes_behind_each_set_of_guards(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(sandbox.UNGUARDED, "1")
    with running_on(name, tmp_path):
        solve = "import functools, math, re\ndef solve(x): return 42 if x == 6 else x * x"
        assert run_program(solve, CHECKS, timeout=60).reason == "passed"
        assert {"system_call_filter", "no_tracing"} <= set(active_guards())
        files = {"private_root", "landlock", "read_only_filter"} & set(active_guards())
        if files != {"read_only_filter"}:  # no package that is installed can be read
            assert run_program(LIST_PACKAGES, timeout=60).reason == "passed"
    assert name == "neither" or files >= {"private_root"} or files == {"landlock"}
    assert name != "neither" or files == {"read_only_filter"}


def test_where_only_the_filter_is_left_nothing_is_written_or_told(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(sandbox.UNGUARDED, "1")
    programs = {name: text for name, text in PROGRAMS["files"].items()}
    programs["its_own_folder"] = "open('x', 'w').write('x')"
    programs["tell_by_the_name_of_an_error"] = (
        "raise type('the process ' + open(SECRET).read(), (Exception,), {})"
    )
    before = scene.state()
    with running_on("neither", tmp_path):
        reasons = attack(scene, programs)
    assert scene.state() == before
    assert reasons["its_own_folder"] == "failed: PermissionError"
    assert reasons["tell_by_the_name_of_an_error"] == "failed: an exception"
    own_words = (
        r"failed: (\w+|an exception|killed by signal \d+|the process ended before .*)|timed.*"
    )
    assert all(re.fullmatch(own_words, reason) for reason in reasons.values()), reasons


HARMFUL = {  # some that are harmless enough to be let loose on a scene of their own
    "files": [
        "write_beside_the_secret", "delete_the_secret", "change_its_mode", "empty_the_secret",
        "link_to_the_secret", "read_the_secret", "environment", "environment_in_memory",
    ],
    "network": ["udp", "unix_socket", "abstract_socket", "pair_that_is_redirected"],
    "signals": [
        "kill_a_process_beside", "kill_by_descriptor", "signal_by_the_owner_of_a_pipe",
        "queue_a_signal", "limit_the_parent",
    ],
    "forged_passes": ["equal_to_everything", "number_equal_to_everything"],
}  # fmt: skip


@pytest.mark.parametrize("name", [name for names in HARMFUL.values() for name in names])
def test_the_programs_do_harm_where_nothing_stops_them(name: str) -> None:
    """Or else the test above would prove nothing. PARENT is the victim here, and not this test."""
    (program,) = (programs[name] for programs in PROGRAMS.values() if name in programs)
    in_place = "def answer(name): return globals()[name]"
    with scene_of_its_own() as scene:
        before = scene.state()
        lines = [scene.names(), "PARENT = VICTIM", program, in_place, CHECKS]
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(lines)],
            env={"CANARY": CANARY}, cwd=scene.folder, capture_output=True, text=True,
        )  # fmt: skip
        told = any(text in done.stderr for text in (SECRET, CANARY))
        assert told or done.returncode == 0 or scene.state() != before


def test_a_killed_run_leaves_neither_a_program_nor_a_file(tmp_path: Path) -> None:
    code = (
        "from dllmquant_exp.evaluation.sandbox import run_program\n"
        "print('up', flush=True)\nrun_program('while True: pass', timeout=60)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    before = descendants()
    for seconds in (0.05, 0.2, 0.4):
        run = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE
        )
        assert run.stdout is not None and run.stdout.readline() == b"up\n"
        time.sleep(seconds)
        run.kill()
        run.communicate()
    assert list(tmp_path.iterdir()) == []
    for _ in range(100):
        if descendants() <= before:
            break
        time.sleep(0.1)
        bury(before)
    assert descendants() <= before


def test_there_are_programs_of_many_kinds() -> None:
    every = [text for group in PROGRAMS.values() for text in group.values()]
    assert len(set(every)) == len(every) >= 100
    for text in every:
        compile(text, "<hostile>", "exec")
