"""What takes long to find out about a data set, kept for the next run: in the user's cache folder, never in the data.

Losing it costs time and nothing else, so whatever goes wrong here, a full disk or a torn file, is passed over.
"""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np

WORTH_KEEPING = 1.0  # s: what takes less is done again


def file(kind: str, folder: Path) -> Path:
    """Where what is known of `folder` is kept: `mobilenet-tasks/<kind>/` in $XDG_CACHE_HOME, by default ~/.cache.

    As the XDG base directory specification has it, a relative $XDG_CACHE_HOME does not count. Raises RuntimeError where
    there is no home folder either.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = base if base.is_absolute() else Path.home() / ".cache"
    digest = hashlib.blake2b(os.fsencode(folder.resolve()), digest_size=16).hexdigest()
    return base / "mobilenet-tasks" / kind / f"{digest}.npz"


def load(kind: str, folder: Path) -> dict[str, np.ndarray]:
    """What save() kept; empty where there is nothing, or nothing that can be read."""
    try:
        with np.load(file(kind, folder), allow_pickle=False) as archive:  # a zip: every member has its checksum
            return dict(archive)
    except Exception:  # a damaged zip raises a dozen kinds
        return {}


def save(kind: str, folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Keep `arrays` for load(): all of them, or else what was kept before stays."""
    with contextlib.suppress(OSError, RuntimeError):
        path = file(kind, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as unfinished:
            np.savez(Path(unfinished) / path.name, **arrays)  # type: ignore[arg-type]  # its stub: allow_pickle
            (Path(unfinished) / path.name).replace(path)
