"""The C sources of this folder as a shared library: compiled once, in seconds, and kept.

Neither PyTorch's headers nor its compiler flags are needed. The library holds the code of several
instruction sets side by side and chooses while it runs, so one folder serves all machines of a
cluster. It is named by what it is made from: another version of the sources is another file. Behind
the library, where loaders do not look, the file ends in the sha256 of what stands before: loading a
damaged one could kill the process.
"""

import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from dllmquant_exp.errors import ConfigError
from dllmquant_exp.store.paths import expanded
from dllmquant_exp.store.whole_files import whole_file

logger = logging.getLogger(__name__)
CACHE_VARIABLE = "DLLMQUANT_CACHE"
COMPILERS = ("cc", "gcc", "clang")  # tried in this order where $CC is not set
# Sums must be rounded where linear.py rounds them: no contraction of a product and a sum.
FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_AVX2 = ("-mavx2", "-mfma")
INSTRUCTION_SETS: dict[str, tuple[str, ...]] = {
    "packed_linear.c": (),
    "share.c": (),
    "quantize.c": _AVX2,
    "blocks.c": _AVX2,
    "hadamard.c": _AVX2,
    "attention.c": _AVX2,
    "multiply_avx2.c": _AVX2,
}
# Left out where the compiler is older than they are: best_level() counts what is there.
OPTIONAL: dict[str, tuple[str, ...]] = {
    "multiply_avx512.c": ("-mavx512f", "-mavx512vnni"),
    "multiply_amx.c": ("-mamx-tile", "-mamx-int8"),
}
_FOLDER = Path(__file__).parent


class BuildError(Exception):
    """There is no library; the message says why."""


def cache_folder() -> Path:
    """Folder of the libraries: $DLLMQUANT_CACHE, or dllmquant_exp in the user's cache folder.

    Raises:
        BuildError: the user has no home folder to look in.
    """
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return expanded(os.environ.get(CACHE_VARIABLE) or f"{user}/dllmquant_exp")
    except ConfigError as error:
        raise BuildError(f"{error}, or {CACHE_VARIABLE}") from error


def library_path() -> Path:
    """The library, compiled if it is not kept yet; two processes may do so at the same time.

    Raises:
        BuildError: another processor, no compiler, an error of the compiler, or a cache folder that
            cannot be written.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        raise BuildError(f"the kernels are for x86-64 processors, not {platform.machine()}")
    path = cache_folder() / f"packed_linear-{_digest()}.so"
    if _is_intact(path):
        return path
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with whole_file(path) as partial, tempfile.TemporaryDirectory() as folder:
            library = _compiled(Path(folder), path)
            partial.write_bytes(library + hashlib.sha256(library).digest())
    except OSError as error:
        raise BuildError(
            f"{path.parent} cannot be written ({error}); set {CACHE_VARIABLE} to a folder that can"
        ) from error
    return path


def _is_intact(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


def _digest() -> str:
    digest = hashlib.sha256(repr((FLAGS, INSTRUCTION_SETS, OPTIONAL)).encode())
    for name in ("packed_linear.h", *INSTRUCTION_SETS, *OPTIONAL):
        digest.update((_FOLDER / name).read_bytes())
    return digest.hexdigest()[:16]


def _compiled(folder: Path, path: Path) -> bytes:
    """The library, made in `folder`; `path`, where it will be kept, is for a message."""
    compiler, objects = _compiler(), []
    for name, instruction_set in {**INSTRUCTION_SETS, **OPTIONAL}.items():
        made = str(folder / f"{name}.o")
        try:
            _run(compiler, *FLAGS, *instruction_set, "-c", str(_FOLDER / name), "-o", made)
        except BuildError as error:
            if name not in OPTIONAL:
                raise
            logger.warning(
                "packed layers do without %s here, which would be faster where the processor has "
                "it; after installing a newer compiler delete %s: %s",
                " ".join(instruction_set).replace("-m", ""), path, error,
            )  # fmt: skip
        else:
            objects.append(made)
    library = folder / "library.so"
    _run(compiler, "-shared", *objects, "-o", str(library), "-lm")
    return library.read_bytes()


def _compiler() -> list[str]:
    chosen = os.environ.get("CC")
    if chosen:
        return shlex.split(chosen)
    found = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if found is None:
        raise BuildError("there is no C compiler; install gcc 11 or clang 12, or newer, or set CC")
    return [found]


def _run(compiler: list[str], *arguments: str) -> None:
    try:
        done = subprocess.run([*compiler, *arguments], capture_output=True, text=True)
    except OSError as error:
        raise BuildError(f"the C compiler {shlex.join(compiler)} does not run: {error}") from error
    if done.returncode != 0:
        raise BuildError(
            f"{shlex.join([*compiler, *arguments])} failed: {done.stderr.strip()[-500:]}; "
            "gcc 8 or clang 12, or newer, is needed"
        )
