"""Files written whole: beside their place, flushed to the disk, then renamed; a kill leaves the old file or the new."""

import contextlib
import errno
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from backbone.errors import InputError

_HOST = re.sub(r"[^\w.-]", "_", socket.gethostname())
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path`, with its ending, to write to; what is there at the end is flushed and becomes `path`.

    Raises InputError where the disk is full or may not be written to. Whatever is raised, `path` is as it was.
    """
    beside = path.with_name(f".tmp~{_HOST}~{os.getpid()}~{path.name[-60:]}")
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
        _flush_names(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) and not path.parent.is_dir() else disk_error(error)
        if isinstance(error, Exception) and cause:
            raise InputError(f"{path} {not_written(cause)}") from error
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole, text as UTF-8; half of a surrogate pair, which UTF-8 cannot have, as its escape."""
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with replacing(path) as beside:
        beside.write_bytes(data)


def copy_whole(source: Path, path: Path) -> None:
    """Copy a file, whole or not at all, into a folder that is made. InputError as `replacing`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        shutil.copyfile(source, beside)


def keep_as(path: Path, other: Path) -> None:
    """Give a file another name too, without a copy where the file system can, in place of what has that name."""
    with replacing(other) as beside:
        try:
            beside.hardlink_to(path)
        except OSError:  # FAT, and some network file systems
            shutil.copyfile(path, beside)


@contextlib.contextmanager
def room_beside(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, to build in and rename from; gone at the end, as is what killed processes left."""
    sweep(path.parent)
    start = f".tmp~{_HOST}~{os.getpid()}~"
    with tempfile.TemporaryDirectory(prefix=start, dir=path.parent, ignore_cleanup_errors=True) as room:
        yield Path(room)


def sweep(folder: Path) -> None:
    """Remove what processes of this machine left half-written in `folder` when they were killed."""
    for file in folder.glob(".tmp~*"):
        _, host, process, *_ = [*file.name.split("~"), "", ""]
        if host == _HOST and process.isdecimal() and not _runs(int(process)):
            if file.is_dir():
                shutil.rmtree(file, ignore_errors=True)
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)


def disk_error(error: BaseException | None) -> OSError | None:
    """The error of writing to a disk that this one is, or that led to it: torch.save raises others on top."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            return error
        error = error.__cause__ or error.__context__
    return None


def not_written(error: OSError) -> str:
    """The end of a sentence that begins with what could not be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = (
        "make room on its disk" if full else "raise the limit" if error.errno == errno.EFBIG else "make it writable"
    )
    return f"cannot be written ({error.strerror}); {remedy}, or name a folder on another disk."


def lock(file: int) -> bool | None:
    """Whether this open file is now locked by us, until it is closed; False: another has it, None: no locks here."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows; a file system without locks
        return None
    return True


def _flush_names(folder: Path) -> None:
    """Write a folder's list of names to the disk, so that a loss of power does not take a rename back."""
    with contextlib.suppress(OSError):  # Windows opens no folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is of another user
        pass
    return True
