"""Fetching and unpacking archives that are published with their SHA-256; nothing half-written gets the final name.

The digest comes first: over plain HTTP it is the only proof of what was sent, and Python's tarfile had holes of its own
(CVE-2024-6232, CVE-2025-8194) in parsing hostile headers. The checks of `extract` are the second line.
"""

import hashlib
import http.client
import re
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from backbone.errors import InputError

_CHUNK = 1 << 18  # bytes
_TIMEOUT_S = 60  # without a single byte
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")  # gzip, bzip2, xz, zstd, zip


def download(url: str, path: Path, sha256: str, size: int) -> None:
    """Fetch `url` to `path`: `size` bytes with this digest, or InputError.

    A file that is there already is checked and kept. What came before a connection broke stays as `<name>.part`, and
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
    by_hand = f"try again later, or fetch it with a browser into {part.parent}"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # Range Not Satisfiable: the file there ends before our part does
            part.unlink()
            return _fetch(url, part, size)
        raise InputError(f"{url} cannot be fetched (HTTP {error.code} {error.reason}); {by_hand}.") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(f"{url} cannot be fetched ({reason}); {by_hand}.") from error
    with response:
        if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise InputError(f"{url}: the server sent another part of the file than was asked for; delete {part}.")
        if response.status != 206:  # a server without Range sends the whole file
            have = 0
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and have + int(length) != size:
            raise InputError(
                f"{url}: the server offers {have + int(length):,} bytes, not {size:,}; "
                "the file there has changed or this is an error page, so nothing was fetched."
            )
        broken: Exception | None = None
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(desc=part.stem, total=size, initial=have, unit="B", unit_scale=True, delay=2, leave=False) as progress,
        ):
            while have <= size:  # one byte too many is enough to know
                try:
                    chunk = response.read(min(_CHUNK, size + 1 - have))
                except (OSError, http.client.HTTPException) as error:
                    broken = error
                    break
                if not chunk:
                    break
                file.write(chunk)
                have += len(chunk)
                progress.update(len(chunk))
    if have < size and not _is_web_page(part):
        why = f" ({broken})" if broken else ""
        raise InputError(
            f"{url}: the connection broke{why} after {have:,} of {size:,} bytes; "
            "run the same command again, it goes on from there."
        )
    return None


def _difference(path: Path, sha256: str, size: int) -> str:
    """What tells the file from the one of this size and digest; empty where nothing does."""
    if _is_web_page(path):
        return "is a web page, not the archive"
    found = path.stat().st_size
    if found != size:
        return f"has {found:,} bytes, not {size:,}" if found < size else f"has more than the expected {size:,} bytes"
    digest = hashlib.sha256()
    with (
        path.open("rb") as file,
        tqdm(desc=f"checking {path.name}", total=size, unit="B", unit_scale=True, delay=2, leave=False) as progress,
    ):
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            progress.update(len(chunk))
    return "" if digest.hexdigest() == sha256 else f"has the SHA-256 {digest.hexdigest()}, not {sha256}"


def _is_web_page(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(512).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body"))


def extract(archive: Path, folder: Path, *, max_bytes: int, max_files: int) -> None:
    """Unpack a plain tar as the new folder `folder`, which appears complete or not at all.

    Where the archive itself has a folder of that name at its top, it is that one; so it does not matter which way the
    archive was packed. Every member is checked before the first is written. Raises InputError with the archive, the
    member and the reason for: a compressed tar, whose contents have no bound; absolute names and `..`; links, devices
    and sparse files; two members with one name; more than `max_files` members or `max_bytes` in all; a cut archive.
    """
    if folder.exists():
        raise InputError(f"{folder} exists already; move it away to unpack {archive} again.")
    remedy = "delete it and fetch it again"
    try:
        if _is_web_page(archive):
            raise InputError(f"{archive} is a web page, not a tar archive; {remedy}.")
        with archive.open("rb") as file:
            if file.read(8).startswith(_COMPRESSED):
                raise InputError(f"{archive} is compressed, which hides how large it is; give a plain tar.")
        try:
            with tarfile.open(archive, "r:") as tar:  # "r:": never decompress
                # Python 3.11.0 to 3.11.3 have no filters; there, and everywhere, the checks below hold by themselves.
                tar.extraction_filter = getattr(tarfile, "data_filter", None)
                members = list(_checked(archive, tar, max_bytes, max_files))
                if not any(member.isreg() for member in members):
                    raise InputError(f"{archive} holds no file; {remedy}.")
                folder.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
                    unpacked = Path(temporary) / "unpacked"
                    bar = tqdm(members, desc=f"unpacking {archive.name}", unit="file", delay=2, leave=False)
                    tar.extractall(unpacked, bar)
                    inner = unpacked / folder.name
                    (inner if inner.is_dir() else unpacked).replace(folder)
        except (OSError, InputError):
            raise
        except Exception as error:  # on a broken header tarfile raises TarError, ValueError, IndexError, RecursionError
            raise InputError(f"{archive} is not a tar archive, or a broken one ({error}); {remedy}.") from error
    except OSError as error:
        raise InputError(
            f"{archive} cannot be unpacked to {folder} ({error.strerror or error}); check both, and the space left."
        ) from error


def _checked(archive: Path, tar: tarfile.TarFile, max_bytes: int, max_files: int) -> Iterator[tarfile.TarInfo]:
    """The members of `tar`. Raises InputError at the first that is refused."""
    size = archive.stat().st_size
    files: set[str] = set()
    folders: set[str] = set()
    total = end = 0
    name = "its beginning"
    progress = tqdm(tar, desc=f"checking {archive.name}", unit="file", delay=2, leave=False)
    for count, member in enumerate(progress, start=1):
        name = repr(member.name[:100])
        length = member.size if member.isreg() else 0
        total += length
        reason = _refusal(member)
        if not reason and count > max_files:
            reason = f"is one more than the {max_files:,} members allowed"
        if not reason and total > max_bytes:
            reason = f"brings the contents to {total:,} bytes, over the {max_bytes:,} allowed"
        if not reason and member.offset_data + length > size:
            reason = f"has {length:,} bytes by its header, but the archive ends before that"
        # Lower case, because macOS and Windows have one file for A.jpg and a.jpg.
        parts = [part for part in member.name.casefold().split("/") if part not in ("", ".")]
        above = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        path = "/".join(parts)
        if not reason and (path in files or above & files or (member.isreg() and path in folders | {""})):
            reason = "has the name of another member"
        if reason:
            raise InputError(f"{archive}: the member {name} {reason}; nothing was unpacked.")
        folders |= above
        (files if member.isreg() else folders).add(path)
        end = member.offset_data + -(-length // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        yield member
    # tarfile takes a broken header, or the end of the file, for the end of the archive. That is a block of zeros.
    with archive.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise InputError(f"{archive} is cut off or broken after {name}; delete it and fetch it again.")


def _refusal(member: tarfile.TarInfo) -> str:
    """Why a member is not unpacked, whatever the others are; empty where it may be."""
    name = member.name
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "has an absolute name"
    if ".." in re.split(r"[/\\]", name):
        return "has `..` in its name"
    if any(ord(character) < 32 for character in name):
        return "has a control character in its name"
    if member.issym() or member.islnk():
        return f"is a link (to {member.linkname[:100]!r})"
    if member.issparse():
        return "is a sparse file, which may be larger than its archive"
    if not (member.isreg() or member.isdir()):
        return "is neither a file nor a folder"
    return "has a negative size" if member.size < 0 else ""
