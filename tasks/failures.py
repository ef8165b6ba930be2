"""A sentence with the remedy for what fails on a machine rather than in the code: its memory, its disks. No torch."""

import builtins
import errno
import os
import re

from backbone.errors import InputError
from backbone.files import disk_error, not_written

_FEWER = "give a smaller --data.batch_size, or --data.num_workers 0"
_SHARED = "or more shared memory (in Docker: --shm-size 1g)"

# What is looked for in "kind: text" of an error, and what it means; the first that is found counts.
_MEANINGS = (
    (r"Too many open files", "too many files are open; give --data.num_workers 0, or raise the limit (ulimit -n)."),
    # that of a bus error too, in which a write to shared memory ends that was promised, but is not there
    (r"shared memory", f"the shared memory, /dev/shm, is too small for the loading processes; {_FEWER}, {_SHARED}."),
    (r"DataLoader timed out", f"the loading processes have given no batch for too long; {_FEWER}, {_SHARED}."),
    (
        r"DataLoader worker .*(?:is killed by|exited)",
        f"a loading process was killed, mostly for its memory; {_FEWER}, {_SHARED}.",
    ),
    (
        r"^OutOfMemoryError|(?:CUDA|MPS).* out of memory|_ALLOC_FAILED",
        "the memory of the device is full; give a smaller --data.batch_size.",
    ),
    (
        r"MemoryError|(?i:can(?:'t|not) allocate memory|(?:insufficient|not enough) memory)|failed to map segment",
        f"there is not enough memory; {_FEWER}.",
    ),
    (
        r"can't start new thread|^BlockingIOError: \[Errno 11\]",
        "no further thread or process can be started; give --data.num_workers 0, or raise the limit (ulimit -u, ulimit"
        " -v; in Docker: --pids-limit).",
    ),
)


def explained(error: BaseException, file: str = "a file of the run") -> str | None:
    """What failed, and what to do about it, where it is memory, a loading process or a disk; None for all else.

    Of an InputError it is its own sentence, which has come from a loading process inside of a traceback. `file` is what
    could not be written, where the error does not say.
    """
    if not isinstance(error, Exception):
        return None
    given = isinstance(error, InputError)
    kind, text = type(error).__name__, str(error.args[0]) if given else str(error)
    if crossed := re.match(r"Caught (\w+) in ", text):  # "... DataLoader worker process 0", and then its traceback
        kind = crossed[1]
        text = text.rpartition(f"{kind}: ")[2].strip()
        if kind in (InputError.__name__, *(below.__name__ for below in InputError.__subclasses__())):
            return text
    elif given:
        return str(error)
    if error.__cause__ and (meaning := explained(error.__cause__, file)):
        return meaning
    for pattern, meaning in _MEANINGS:
        if re.search(pattern, f"{kind}: {text}"):
            return meaning
    if crossed and issubclass(getattr(builtins, kind, object), OSError):
        return f"a loading process could not read the data ({text}); see that all of them can be read."
    if cause := disk_error(error):
        return _of_the_disk(cause, file)
    return None


def _of_the_disk(error: OSError, file: str) -> str:
    if isinstance(error.filename, str | bytes | os.PathLike):
        file = os.fsdecode(error.filename)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        return f"{file} {not_written(error)}"
    return f"{file} cannot be read or written ({error.strerror}); see to its permissions and its disk."
