"""Shards that are far away: each fetched once for all processes of a machine, checked, and kept while there is room.

`s3://`, `gs://`, `https://` and what else fsspec knows. A shard that is on the disk is whole and right, as it is
written beside its place and renamed. No torch: workers and threads use this.
"""

import contextlib
import hashlib
import importlib.util
import itertools
import json
import math
import os
import queue
import re
import threading
import time
import urllib.parse
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from backbone.files import lock, replacing, sweep, write_whole
from backbone.weights import cache_folder
from data.folders import progress, say
from data.images import ImageError

INDEX = "index.json"
# What 8 processes of a machine hold at once: each the group of 4 shards that its loading processes finish, the next
# one, and the one that is being fetched, of 256 MB a shard. It is 25 GB, and most data sets fit in as a whole.
LIMIT_GB = 30.0
_LIMIT_VARIABLE = "MOBILENET_TASKS_SHARD_CACHE_GB"  # so that processes that are started know it, however they are
HELD = 3  # groups
_CHUNK = 8 << 20  # bytes asked for at once: what is lost when a connection breaks
_SMALLEST = 1 << 18
STALL_S = 30  # for a chunk
PATIENCE_S = 1800  # for which a loading process may wait for a shard: 256 MB at 0.15 MB/s, or all tries
TRIES = 5  # in a row without a byte
_WAIT_S = 1.0  # before the second try, doubled before each later one
_REMEMBERED_S = 300  # for which a shard that could not be fetched is not tried again
_TOUCHED_S = 60  # how often a process notes that it uses a shard
_STREAMS = 4  # shards that a process fetches ahead at the same time
_LOCKS = 64
_SMALL_FILES = 16  # fetched at the same time
_MISSING = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}  # the package that reads it
_used: dict[Path, float] = {}  # when this process last noted that it uses a shard, on the monotonic clock


def is_remote(where: str) -> bool:
    """Whether it is a URL such as s3://bucket/folder."""
    return "://" in where


def shown(url: str) -> str:
    """The URL without what may be secret in it: a user with password, and everything behind a question mark."""
    if not is_remote(url):
        return url
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def folder_of(url: str) -> Path:
    """Where the shards of a URL lie on this machine, as long as there is room: a folder of the project's cache."""
    plain = shown(url).rstrip("/")
    name = re.sub(r"[^\w.-]", "_", plain.rpartition("/")[2])[-60:]
    return cache_folder().with_name("shards") / f"{name}-{hashlib.sha256(plain.encode()).hexdigest()[:12]}"


def fetch_index(url: str) -> dict[str, Any]:
    """The index.json at a URL, which is fetched into `folder_of` it; cached files that it says otherwise of go.

    Raises InputError where there is none, or where it is no index.
    """
    folder = folder_of(url)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); set MOBILENET_TASKS_CACHE.") from error
    try:
        content = _fetched(url, INDEX)
        index = json.loads(content)
        new = _files(index)
    except ImageError as error:
        raise InputError(
            f"--data.shards {shown(url)}: its index.json cannot be read ({error.reason}); give the URL of a folder "
            "that `python -m data.shard` has written."
        ) from error
    except InputError:  # a ValueError too
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{shown(url)}/{INDEX} is not an index of shards ({error!r}); write the shards again."
        ) from error
    with _locked(folder / INDEX):
        sweep(folder)
        path = folder / INDEX
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            for name, facts in _files(json.loads(path.read_bytes())).items():
                if new.get(name) != facts:
                    (folder / name).unlink(missing_ok=True)
        for failed in folder.glob("*.failed"):  # a new run tries again
            failed.unlink(missing_ok=True)
        write_whole(path, content)
    return index


def fetch_files(url: str, names: Sequence[str]) -> list[Path]:
    """Small files of a URL on this machine, many at a time, such as the records of its shards. Raises InputError."""
    folder = folder_of(url)
    with ThreadPoolExecutor(_SMALL_FILES) as pool:
        fetched = pool.map(lambda name: local_shard(url, folder, name), names)
        try:
            return list(progress(fetched, desc="fetching the shards' records", total=len(names), unit=" shards"))
        except ImageError as error:
            pool.shutdown(cancel_futures=True)
            raise InputError(f"{error.file}: {error.reason}; put it back, or write the shards again.") from error


def local_shard(url: str, folder: Path, name: str, *, filesize: int | None = None, sha256: str | None = None) -> Path:
    """The shard `name` of a URL as a file in `folder`, fetched where it is not there; others make room for it.

    Its size in bytes and digest are those given, or that the index in `folder` states. Of all processes and threads one
    fetches it, and the others wait. Raises ImageError with the shard's URL where it cannot be had, and at once where it
    could not within the last minutes; InputError where the disk is full.
    """
    path = folder / name
    if path.exists():
        return _in_use(path)
    if filesize is None and sha256 is None:
        filesize, sha256 = stated(folder).get(name, (None, None))
    with _locked(path):
        if path.exists():
            return _in_use(path)
        failed = path.with_name(f"{name}.failed")
        with contextlib.suppress(FileNotFoundError):
            if time.time() - failed.stat().st_mtime < _REMEMBERED_S:
                raise ImageError(shown(_joined(url, name)), failed.read_text("utf-8"))
        try:
            with replacing(path) as beside:
                _fetch(url, name, beside, filesize, sha256)
        except ImageError as error:
            write_whole(failed, error.reason)
            raise
    return path


def read_range(url: str, folder: Path, name: str, offset: int, size: int) -> bytes:
    """`size` bytes of a shard from `offset` on: of a URL as `local_shard` has it, or with none of a file in `folder`.

    Raises ImageError that names the shard, also where it is shorter.
    """
    while True:
        path = local_shard(url, folder, name) if url else folder / name
        try:
            with path.open("rb") as shard:
                there, wanted = os.fstat(shard.fileno()).st_size, stated(folder).get(name, (None, None))[0]
                if wanted not in (None, there):  # what lies at this place may be another image
                    raise ImageError(path, f"it has {there:,} bytes, and {wanted:,} by its index: copy it again")
                shard.seek(offset)
                content = shard.read(size)
        except FileNotFoundError as error:
            if url:  # another process has just made room for its own
                continue
            raise ImageError(path, "there is no such file") from error
        except OSError as error:
            raise ImageError(path, f"it cannot be read ({error.strerror or error})") from error
        if len(content) < size:
            raise ImageError(path, f"it is cut off: it ends before byte {offset + size:,}")
        return content


def set_limit(gigabytes: float) -> None:
    """Let this process, and those that it starts, keep so many GB of shards, of all URLs together."""
    os.environ[_LIMIT_VARIABLE] = f"{gigabytes:g}"


def limit() -> int:
    """The bytes that shards may take on this machine."""
    return int(float(os.environ.get(_LIMIT_VARIABLE) or LIMIT_GB) * 1e9)


def fetcher(url: str, names: Sequence[str], *, largest: int, processes: int) -> Callable[[list[int]], None]:
    """A function that has the shards of these numbers fetched by threads, so that training need not wait for them.

    `largest` is the number of bytes of the largest group of shards that is trained on together, by each of `processes`
    on this machine: where the limit has no room for HELD of them, it is raised, which a line says. No thread outlives
    what it was asked for, or the process, or tells of a failure: who needs the shard will meet it.
    """
    needed = HELD * processes * largest
    if needed > limit():
        raised = math.ceil(needed / 1e7) / 100
        say(f"--data.shard_cache_gb {limit() / 1e9:g} is too little for what is trained on at once: taking {raised:g}")
        set_limit(raised)
    folder, waiting = folder_of(url), queue.SimpleQueue[str]()

    def fetch() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                name = waiting.get_nowait()
                with contextlib.suppress(Exception):
                    local_shard(url, folder, name)

    def ahead(shards: list[int]) -> None:
        for shard in shards:
            waiting.put(names[shard])
        for _ in range(min(_STREAMS, len(shards))):
            threading.Thread(target=fetch, daemon=True, name="fetching shards").start()

    return ahead


# --- fetching ---------------------------------------------------------------------------------------------------------


def _fetch(url: str, name: str, beside: Path, filesize: int | None, sha256: str | None) -> None:
    """Write the file `name` of a URL to `beside`. Raises ImageError."""
    for wrong in itertools.count(1):
        if filesize is None:
            content = _fetched(url, name)
            beside.write_bytes(content)
            found = hashlib.sha256(content).hexdigest()
        else:
            found = _fetch_in_chunks(url, name, beside, filesize)
        if sha256 in (None, found):
            return
        if wrong == 2:  # it was no fault on the way
            raise ImageError(shown(_joined(url, name)), f"what was sent has the SHA-256 {found}, not {sha256}")


def _fetch_in_chunks(url: str, name: str, beside: Path, size: int) -> str:
    """Write a file of so many bytes to `beside`, going on where a connection broke; its SHA-256."""
    _make_room(beside, size)
    digest = hashlib.sha256()
    with beside.open("rb+") as file:
        for chunk in _chunks(url, name, size):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _chunks(url: str, name: str, size: int) -> Iterator[bytes]:
    """The bytes of a file by ranges, each tried TRIES times, ever smaller ones: a bad line may carry no large one."""
    have, failed, chunk = 0, 0, _CHUNK
    while have < size:
        end = min(have + chunk, size)
        got = _try(url, name, have, end)
        if isinstance(got, bytes) and len(got) == size:  # by a server that knows no ranges
            got, end = got[have:], size
        if isinstance(got, bytes) and len(got) != end - have:
            got = EOFError(f"{len(got):,} bytes came for those from {have:,} to {end:,}, of {size:,}")
        if isinstance(got, Exception):
            failed += 1
            _give_up_or_wait(url, name, failed, got)
            chunk = max(chunk // 2, _SMALLEST)
            continue
        failed = 0
        have = end
        yield got


def _fetched(url: str, name: str) -> bytes:
    """The whole of a small file. Raises ImageError."""
    failed = 0
    while isinstance(got := _try(url, name), Exception):
        failed += 1
        _give_up_or_wait(url, name, failed, got)
    return got


def _try(url: str, name: str, start: int | None = None, end: int | None = None) -> bytes | Exception:
    """What a request gave: no exception of the network is to be the context of one that is raised and told."""
    try:
        return _request(url, name, start, end)
    except Exception as error:
        return error


def _give_up_or_wait(url: str, name: str, failed: int, error: Exception) -> None:
    """Wait before the next try; raise ImageError after the last one, and where there is no use in another."""
    if isinstance(error, InputError):  # what is missing here
        raise error
    status = getattr(error, "status", 0)
    refused = 400 <= status < 500 and status not in (408, 429)  # which ask for patience
    if failed == TRIES or refused or isinstance(error, FileNotFoundError | PermissionError | NotImplementedError):
        raise ImageError(shown(_joined(url, name)), _reason(error))
    time.sleep(_WAIT_S * 2 ** (failed - 1))


def _reason(error: Exception) -> str:
    """Why a file could not be fetched, in one sentence without anything secret."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError) or getattr(error, "status", 0) in (401, 403):
        return "it may not be read: log in as the storage's own tools ask for"
    if status := getattr(error, "status", 0):
        return f"the server answers with {status}"
    if isinstance(error, TimeoutError):
        return f"nothing came for {STALL_S:g} s"
    said = re.sub(r"[\w+.-]+://\S+", lambda found: shown(found[0]), " ".join(str(error).split()))
    return f"it cannot be fetched ({said[:200] or type(error).__name__})"


def _request(url: str, name: str, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes `start` to `end` of a file, or all of it, in one request of STALL_S at most."""
    import fsspec.asyn

    system, path = _opened(_joined(url, name))
    if not system.async_impl:
        return system.cat_file(path, start=start, end=end)
    given = {"start": start, "end": end, "timeout": STALL_S}
    return fsspec.asyn.sync(system.loop, system._cat_file, path, **given)


def _opened(address: str) -> tuple[Any, str]:
    """The file system of a URL by fsspec, and the path there. Raises InputError where fsspec cannot read such URLs."""
    import fsspec

    scheme = address.partition("://")[0]
    package = _MISSING.get(scheme)
    if package and importlib.util.find_spec(package) is None:
        extra = "s3" if package == "s3fs" else "gs"
        raise InputError(
            f'--data.shards {shown(address)}: {scheme}:// needs {package}; pip install "mobilenet-tasks[{extra}]".'
        )
    options = {"client_kwargs": {"trust_env": True}} if scheme in ("http", "https") else {}  # its proxies
    try:
        return fsspec.core.url_to_fs(address, **options)
    except (ImportError, ValueError) as error:
        raise InputError(f"--data.shards {shown(address)}: {_reason(error)}; give s3://, gs:// or https://.") from None


def _joined(url: str, name: str) -> str:
    """The URL of a file in that of a folder; what is behind a question mark, such as a signature, stays at the end."""
    parts = urllib.parse.urlsplit(url)
    path = f"{parts.path.rstrip('/')}/{name}"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


# --- what is on the disk ----------------------------------------------------------------------------------------------


def _files(index: dict[str, Any]) -> dict[str, tuple[int | None, str | None]]:
    """Size and digest of all files that an index names. Raises KeyError, TypeError or ValueError for what is none."""
    found: dict[str, tuple[int | None, str | None]] = {}
    for shard in index["shardlist"]:
        name = shard["url"]
        if Path(name).name != name or name.startswith("."):  # it would be written outside the cache
            raise ValueError(name)
        found[name] = int(shard["filesize"]), shard.get("sha256")
        found[f"{name.removesuffix('.tar')}.npz"] = None, shard.get("npz_sha256")
    return found


def stated(folder: Path) -> dict[str, tuple[int | None, str | None]]:
    """Size in bytes and SHA-256 of the files by the index.json in a folder; {} where there is none."""
    try:
        return _stated_at(folder / INDEX, (folder / INDEX).stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(4)
def _stated_at(index: Path, changed: int) -> dict[str, tuple[int | None, str | None]]:
    return _files(json.loads(index.read_bytes()))


def _in_use(path: Path) -> Path:
    """Note now and then that a shard is used, so that others go first."""
    now = time.monotonic()
    if now - _used.get(path, -_TOUCHED_S) >= _TOUCHED_S:
        _used[path] = now
        with contextlib.suppress(OSError):
            os.utime(path)
    return path


def _make_room(beside: Path, size: int) -> None:
    """Reserve the bytes of a file that is to be written; the shards go that were not used for longest."""
    top = beside.parent.parent
    with _locked(top / "room"):
        kept, total = [], size
        for shard in top.rglob("*.tar"):
            with contextlib.suppress(FileNotFoundError):
                status = shard.stat()
                kept.append((status.st_mtime, status.st_size, shard))
                total += status.st_size
        for _, freed, shard in sorted(kept):
            if total > limit() and not shard.name.startswith("."):  # and is not being written
                with contextlib.suppress(OSError):
                    shard.unlink()
                    total -= freed
        with beside.open("wb") as file:
            file.truncate(size)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone of all processes and threads, by one of a few files beside `path`, which stay."""
    name = f".lock-{zlib.crc32(path.name.encode()) % _LOCKS:02}"
    with (path.parent / name).open("wb") as file:
        while lock(file.fileno()) is False:
            time.sleep(0.05)
        try:
            yield
        finally:
            # Not left to the closing: a loading process that was forked in between has this file open too.
            with contextlib.suppress(ImportError, OSError):
                import fcntl

                fcntl.flock(file.fileno(), fcntl.LOCK_UN)
