"""Paths as a user writes them."""

from pathlib import Path

from dllmquant_exp.errors import ConfigError


def expanded(path: str | Path) -> Path:
    """The path with the user's home folder in place of `~` (ConfigError: there is none)."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: no home folder is known for ~ ({error}); set HOME") from error
