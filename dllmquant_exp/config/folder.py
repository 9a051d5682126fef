"""Where the configuration lies: conf/ in the installed package, or beside it in a checkout."""

from pathlib import Path


def config_folder() -> Path:
    """The folder of all groups and options."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"
