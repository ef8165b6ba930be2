"""Unpacking the archives of a data set, whose SHA-256 backbone/download.py has checked; nothing is half there."""

import tarfile
from pathlib import Path

from backbone.errors import InputError
from backbone.files import room_beside
from data.folders import progress


def extract(archive: Path, folder: Path) -> None:
    """Unpack a tar whose digest was right as the new folder `folder`, which appears complete or not at all.

    Where the archive itself has a folder of that name at its top, it is that one; so it does not matter which way the
    archive was packed. Raises InputError for a broken archive, and for members that would land elsewhere.
    """
    if folder.exists():
        raise InputError(f"{folder} exists already; move it away to unpack {archive} again.")
    try:
        with (
            tarfile.open(archive, "r:") as tar,  # never decompressed
            room_beside(folder) as room,
        ):
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.0 to 3.11.3 have none
            unpacked = room / "unpacked"
            tar.extractall(unpacked, progress(tar, desc=f"unpacking {archive.name}", unit="file"))
            inner = unpacked / folder.name
            (inner if inner.is_dir() else unpacked).replace(folder)
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"{archive} cannot be unpacked to {folder} ({error}); check the space left, or fetch it again."
        ) from error
