"""Folders of tensors that are written completely or not at all."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dllmquant_exp.models.formats import CheckpointError
from dllmquant_exp.models.tensor_files import INDEX_FILE, SINGLE_FILE
from dllmquant_exp.models.tokenizer_files import write_json
from dllmquant_exp.store.whole_files import whole_folder


def write_shards(tensors: Iterable[tuple[str, Tensor]], folder: Path, max_shard_bytes: int) -> None:
    """Tensors into files of at most `max_shard_bytes` (but a tensor is never split), with an index
    where they are several. One file's tensors are in memory at a time."""
    parts: list[list[str]] = []
    held: dict[str, Tensor] = {}
    filled = total = 0

    def flush() -> None:
        save_file(held, folder / f"part-{len(parts)}", metadata={"format": "pt"})
        parts.append(list(held))
        held.clear()

    for name, tensor in tensors:
        if held and filled + tensor.nbytes > max_shard_bytes:
            flush()
            filled = 0
        held[name] = tensor.cpu().contiguous()
        filled += tensor.nbytes
        total += tensor.nbytes
    flush()
    files = [f"model-{n:05}-of-{len(parts):05}.safetensors" for n in range(1, len(parts) + 1)]
    if len(parts) == 1:
        files = [SINGLE_FILE]
    for n, file in enumerate(files):  # their number is known by now
        (folder / f"part-{n}").rename(folder / file)
    if len(files) > 1:
        where = {name: file for file, names in zip(files, parts, strict=True) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        write_json(folder / INDEX_FILE, index)


def check_target(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that is taken (CheckpointError)."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir() or not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: exists and is not a checkpoint; choose another folder")
    if not overwrite:
        raise CheckpointError(f"{folder}: already holds a checkpoint; choose another folder")


@contextmanager
def replacing(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` when the block ends without an error,
    and vanishes otherwise.

    Raises:
        CheckpointError: the folder is taken, see `check_target`, before the block or by the time
            that it ends; or it cannot be written.
    """
    check_target(folder, overwrite)
    try:
        with whole_folder(folder, "replace" if overwrite else "refuse") as partial:
            yield partial
    except (OSError, SafetensorError) as error:
        check_target(folder, overwrite)
        raise CheckpointError(f"{folder}: cannot be written ({error})") from error
