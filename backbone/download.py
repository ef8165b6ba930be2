"""Fetching a file whose SHA-256 decides; nothing is half there.

The digest is the publisher's where one is known. Where none is, what came at the first fetch is kept beside the file as
`<name>.sha256`, and a change is refused. Over plain HTTP it is the only proof of what was sent.
"""

import gzip
import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import Any

from tqdm import tqdm

from backbone.errors import InputError
from backbone.web_pages import is_web_page

_CHUNK = 1 << 18  # bytes
_TIMEOUT_S = 60  # without a single byte
_MOST = 1 << 30  # bytes of a file whose size nobody states; weights of a MobileNet are some ten millions


def download(url: str, path: Path, sha256: str | None = None, size: int | None = None) -> str:
    """Fetch `url` to `path`, `size` bytes with this digest where they are known; return its SHA-256, or InputError.

    A file that is there already is checked and stays. What came before a connection broke stays as `<name>.part`, and
    the next call goes on from there where the server can (HTTP Range); it becomes `path` once it is complete and right.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        if path.exists():
            return check(path, sha256, size)
        expected = sha256 or kept_digest(path)
        _fetch(url, part, path, size, expected)
        if difference := _difference(part, expected, size):
            part.unlink()
            raise InputError(f"{url}: what the server sent {difference}; the file there has changed, do not use it.")
        digest = _keep(part, path, expected)
        part.replace(path)
        return digest
    except OSError as error:
        if path.exists():  # another process of the same run has finished it
            return check(path, sha256, size)
        raise InputError(f"{path} cannot be written ({error.strerror or error}); give another folder.") from error


def check(path: Path, sha256: str | None = None, size: int | None = None) -> str:
    """The SHA-256 of a file, the one that is expected or was kept; InputError where the file has another."""
    expected = sha256 or kept_digest(path)
    if difference := _difference(path, expected, size):
        raise InputError(f"{path} {difference}; move it away and run the command again.")
    return _keep(path, path, expected)


def kept_digest(path: Path) -> str | None:
    """The SHA-256 that the first fetch left beside `path`, as `sha256sum` writes it; None where there is none."""
    file = path.with_name(f"{path.name}.sha256")
    return file.read_text("utf-8").split()[0] if file.is_file() else None


def _keep(file: Path, path: Path, expected: str | None) -> str:
    """The SHA-256 of `file`, which is or becomes `path`: the `expected` one, or found here, said and kept."""
    if expected:
        return expected
    digest = digest_of(file)
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n", "utf-8")
    print(f"note: no digest of {path.name} is known; its SHA-256 is kept beside it and holds from now on: {digest}")
    return digest


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """To http and https alone; urllib itself would follow to ftp too."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.HTTPError(req.full_url, code, f"a redirect to {newurl} is not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(url: str, part: Path, path: Path, size: int | None, sha256: str | None) -> None:
    """Append to `part` what it lacks, of a known size one byte more at most. Raises InputError where less came."""
    # With neither a digest nor the ETag of what was sent, nothing tells whether two pieces fit together.
    etag_file = part.with_name(f"{part.name}.etag")
    etag = etag_file.read_text("utf-8") if etag_file.is_file() else None
    have = part.stat().st_size if part.exists() and (sha256 or etag) else 0
    if size is not None and have >= size:
        return  # complete, or wrong: the digest tells
    headers = {"User-Agent": "mobilenet-tasks"} | ({"Range": f"bytes={have}-"} if have else {})
    if have and etag and not sha256:
        headers["If-Range"] = etag
    broken: Exception | str | None = None
    total = size
    try:
        opener = urllib.request.build_opener(_Redirects)
        with opener.open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S) as response:
            have = have if response.status == 206 else 0  # a server without Range sends the whole file
            if total is None:
                total = _announced(response, have)
            most = _MOST if total is None else total
            if size is None and most > _MOST:
                raise OSError(f"it has {total:,} bytes, more than the {_MOST:,} that weights may have")
            if not sha256 and (sent := response.headers.get("ETag", "")).startswith('"'):  # W/ is of alike, not equal
                etag_file.write_text(sent, "utf-8")
            with (
                part.open("ab" if have else "wb") as file,
                tqdm(
                    desc=path.name,
                    total=total,
                    initial=have,
                    unit="B",
                    unit_scale=True,
                    delay=2,
                    leave=False,
                    disable=None,
                ) as bar,
            ):
                while have <= most and (chunk := response.read(min(_CHUNK, most + 1 - have))):
                    have += file.write(chunk)
                    bar.update(len(chunk))
            if total is None and not sha256 and response.headers.get("Transfer-Encoding") != "chunked":
                broken = "the server does not say how long the file is"
            elif size is None and have > most:
                broken = f"it has more than the {most:,} bytes announced or allowed"
    except (OSError, http.client.HTTPException) as error:  # HTTPError and URLError are OSErrors
        broken = error
        if getattr(error, "code", None) == 416:  # the server's file is shorter than the part, which is of another
            part.unlink()
            have = 0
    if broken or (total is not None and have < total and not _is_web_page(part)):
        why = f" ({broken})" if broken else ""
        of = "" if total is None else f" of {total:,}"
        raise InputError(
            f"{url} could not be fetched{why}: {have:,}{of} bytes are there; run the same command again, which goes on "
            f"from there, or fetch it with a browser and put it there as {path}."
        ) from (broken if isinstance(broken, Exception) else None)
    etag_file.unlink(missing_ok=True)


def _announced(response: Any, have: int) -> int | None:
    """The bytes of the whole file, of which `have` are there, as the server says; None where it does not."""
    length = response.headers.get("Content-Length", "")
    return have + int(length) if length.isdecimal() else None


def _difference(path: Path, sha256: str | None, size: int | None) -> str:
    """What tells the file from the one of this size and digest; empty where nothing does."""
    if _is_web_page(path):
        return "is a web page, not the file"
    found = path.stat().st_size
    if size is not None and found != size:
        return f"has {found:,} bytes, not {size:,}" if found < size else f"has more than the expected {size:,} bytes"
    if sha256 is None:
        return "" if found else "is empty"
    digest = digest_of(path)
    return "" if digest == sha256 else f"has the SHA-256 {digest}, not {sha256}"


def _is_web_page(path: Path) -> bool:
    with path.open("rb") as file:
        return is_web_page(file.read(512))


def extract_one(archive: Path, suffix: str, path: Path, most: int = 1 << 28) -> None:
    """Take the one file of an archive (.tgz, .zip) whose name ends in `suffix` out as `path`, and nothing else.

    Raises InputError where there is none or more than one, where it has more than `most` bytes, or the archive is
    damaged.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                sizes = {info.filename: info.file_size for info in zipped.infolist() if not info.is_dir()}
                with zipped.open(_only(archive, sizes, suffix, most)) as member, part.open("wb") as file:
                    shutil.copyfileobj(member, file, _CHUNK)  # both readers end at the size in the header
        else:
            with gzip.open(archive) as stream, tarfile.open(fileobj=stream) as tar, part.open("wb") as file:
                sizes = {info.name: info.size for info in tar if info.isreg()}
                inner = tar.extractfile(_only(archive, sizes, suffix, most))
                assert inner is not None  # which is of what is no regular file
                shutil.copyfileobj(inner, file, _CHUNK)
                while stream.read(_CHUNK):  # to its end, where the checksum is
                    pass
        part.replace(path)
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise InputError(
            f"{archive} cannot be read as an archive ({error}); move it away to fetch it again."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _only(archive: Path, sizes: dict[str, int], suffix: str, most: int) -> str:
    # macOS packs a file of attributes, ._NAME, beside each NAME
    found = [name for name in sizes if name.endswith(suffix) and not Path(name).name.startswith("._")]
    if len(found) != 1:
        raise InputError(f"{archive} has {len(found)} files ending in {suffix} ({', '.join(found[:5])}), not one.")
    if sizes[found[0]] > most:
        raise InputError(f"{archive}: {found[0]} has {sizes[found[0]]:,} bytes, more than the {most:,} expected.")
    return found[0]
