"""What every reader of a data set's folder needs; no torch, which a command's `--help` should not wait for."""

from pathlib import Path

from backbone.errors import InputError
from data.records import SPLITS, Split  # noqa: F401  # until the readers take them from there


def existing_folder(root: str | Path, option: str = "--data.root") -> Path:
    """The folder that an option names, as a path. Raises InputError where it is none."""
    path = Path(root)
    if not path.is_dir():
        problem = "is not a folder" if path.exists() else "does not exist"
        raise InputError(f"{option} {path} {problem}; give the folder that holds the data set.")
    return path


def say(line: str) -> None:
    """Print a line for the user, once in a distributed run."""
    from lightning.pytorch.utilities import rank_zero_only  # it imports torch

    rank_zero_only(print)(line, flush=True)
