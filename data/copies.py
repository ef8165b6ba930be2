"""Files that hold the same bytes: two names of one image, which no two splits may share. No torch."""

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from data.folders import progress

MOST_COMPARED = 50_000  # files that are looked through for copies: of more it would take minutes
_THREADS = 16  # they wait for the disk


def same_bytes(folder: Path, names: np.ndarray) -> np.ndarray:
    """A number for each of the files `names`, bytes (N,), the same where two hold the same bytes: int64 (N,).

    Only files of one size are read. Empty and unreadable ones count as different: opening them will say more.
    """
    start = os.fsencode(folder) + b"/"
    paths = list(dict.fromkeys(start + name for name in names.tolist()))

    def size_of(path: bytes) -> int:
        try:
            return os.stat(path).st_size  # noqa: PTH116  # a Path cannot be bytes
        except (OSError, ValueError):  # ValueError: a zero byte in the name
            return 0

    def digest_of(path: bytes) -> bytes:
        try:
            with open(path, "rb") as opened:  # noqa: PTH123
                return hashlib.file_digest(opened, "sha256").digest()
        except OSError:
            return path

    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = list(progress(pool.map(size_of, paths), "comparing images", len(paths)))
        of_size = Counter(sizes)
        alike = [path for path, size in zip(paths, sizes, strict=True) if size and of_size[size] > 1]
        digests = progress(pool.map(digest_of, alike), "comparing images of equal size", len(alike))
        content = dict(zip(alike, digests, strict=True))
    numbers: dict[bytes, int] = {}
    paths = [start + name for name in names.tolist()]
    return np.array([numbers.setdefault(content.get(path, path), len(numbers)) for path in paths], dtype=np.int64)
