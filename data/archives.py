"""Fetching and unpacking archives that are published with their SHA-256, which decides; nothing is half there.

Over plain HTTP the digest is the only proof of what was sent; what has it is what was published.
"""

import hashlib
import http.client
import tarfile
import tempfile
import urllib.request
from pathlib import Path

from tqdm import tqdm

from backbone.errors import InputError
from data.web_pages import is_web_page

_CHUNK = 1 << 18  # bytes
_TIMEOUT_S = 60  # without a single byte


def download(url: str, path: Path, sha256: str, size: int) -> None:
    """Fetch `url` to `path`: `size` bytes with this digest, or InputError.

    A file that is there already is checked and stays. What came before a connection broke stays as `<name>.part`, and
    the next call goes on from there where the server can (HTTP Range); it becomes `path` once the digest is right.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        if path.exists():
            if difference := _difference(path, sha256, size):
                raise InputError(f"{path} {difference}; move it away and run the command again.")
            return
        _fetch(url, part, size)
        if difference := _difference(part, sha256, size):
            part.unlink()
            raise InputError(f"{url}: what the server sent {difference}; the file there has changed, do not use it.")
        part.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); give another folder.") from error


def _fetch(url: str, part: Path, size: int) -> None:
    """Append to `part` what it lacks of `size` bytes, one byte more at most. Raises InputError where less came."""
    have = part.stat().st_size if part.exists() else 0
    if have >= size:
        return  # complete, or wrong: the digest tells
    headers = {"User-Agent": "mobilenet-tasks"} | ({"Range": f"bytes={have}-"} if have else {})
    broken: Exception | None = None
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S) as response:
            have = have if response.status == 206 else 0  # a server without Range sends the whole file
            with (
                part.open("ab" if have else "wb") as file,
                tqdm(desc=part.stem, total=size, initial=have, unit="B", unit_scale=True, delay=2, leave=False) as bar,
            ):
                while have <= size and (chunk := response.read(min(_CHUNK, size + 1 - have))):
                    have += file.write(chunk)
                    bar.update(len(chunk))
    except (OSError, http.client.HTTPException) as error:  # HTTPError and URLError are OSErrors
        broken = error
        if getattr(error, "code", None) == 416:  # the server's file is shorter than the part, which is of another
            part.unlink()
            have = 0
    if broken or (have < size and not _is_web_page(part)):
        why = f" ({broken})" if broken else ""
        raise InputError(
            f"{url} could not be fetched{why}: {have:,} of {size:,} bytes are there; run the same command again, which "
            f"goes on from there, or fetch it with a browser into {part.parent}."
        ) from broken


def _difference(path: Path, sha256: str, size: int) -> str:
    """What tells the file from the one of this size and digest; empty where nothing does."""
    if _is_web_page(path):
        return "is a web page, not the archive"
    found = path.stat().st_size
    if found != size:
        return f"has {found:,} bytes, not {size:,}" if found < size else f"has more than the expected {size:,} bytes"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return "" if digest == sha256 else f"has the SHA-256 {digest}, not {sha256}"


def _is_web_page(path: Path) -> bool:
    with path.open("rb") as file:
        return is_web_page(file.read(512))


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
            tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary,
        ):
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.0 to 3.11.3 have none
            unpacked = Path(temporary) / "unpacked"
            tar.extractall(unpacked, tqdm(tar, desc=f"unpacking {archive.name}", unit="file", delay=2, leave=False))
            inner = unpacked / folder.name
            (inner if inner.is_dir() else unpacked).replace(folder)
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"{archive} cannot be unpacked to {folder} ({error}); check the space left, or fetch it again."
        ) from error
