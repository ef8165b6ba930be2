import errno
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from backbone.errors import InputError
from data.images import ImageError
from data.loading import hear_of_killed_workers
from tasks.failures import explained

ROOT = Path(__file__).parents[2]
TOO_MUCH = 1 << 60  # bytes
WORKERS, BATCH, SHM = "--data.num_workers 0", "--data.batch_size", "--shm-size"


class Failing(Dataset):
    def __init__(self, fault):
        self.fault = fault

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.fault()


def fail(error):
    raise error


@pytest.fixture(autouse=True)
def _ended_soon(monkeypatch):
    """Let no loader wait five seconds for a worker that is gone."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)


def from_worker(fault, timeout=0):
    hear_of_killed_workers()
    with pytest.raises(Exception) as raised:  # noqa: PT011  # each fault has a kind of its own
        list(DataLoader(Failing(fault), num_workers=1, timeout=timeout))
    error = raised.value.with_traceback(None)  # which holds the loader
    del raised
    gc.collect()
    return error


def in_this_process(fault):
    with pytest.raises(Exception) as raised:  # noqa: PT011
        fault()
    return raised.value


ALLOCATIONS = {
    "numpy": lambda: np.zeros(TOO_MUCH, np.uint8),
    "torch": lambda: torch.zeros(TOO_MUCH, dtype=torch.uint8),
    "python": lambda: bytearray(TOO_MUCH),
    "opencv": lambda: cv2.resize(np.zeros((2, 2), np.uint8), (10**9, 10**9)),
    "system": lambda: fail(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))),  # as fork() and mmap() raise it
}


@pytest.mark.parametrize("there", [from_worker, in_this_process])
@pytest.mark.parametrize("fault", ALLOCATIONS.values(), ids=ALLOCATIONS)
def test_memory_that_cannot_be_had_is_told_with_the_options_that_need_less(fault, there):
    meaning = explained(there(fault))
    assert WORKERS in meaning
    assert BATCH in meaning
    assert "memory" in meaning
    assert "\n" not in meaning


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), ("killed", WORKERS, BATCH, SHM)),
        (lambda: os._exit(3), ("killed", WORKERS, BATCH, SHM)),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), ("shared memory", WORKERS, BATCH, SHM)),
        (lambda: time.sleep(60), ("no batch", WORKERS, SHM)),
        (lambda: Path("/no/such/file").read_bytes(), ("could not read", "/no/such/file")),
    ],
    ids=["killed", "gone", "bus error", "hangs", "unreadable"],
)
def test_a_loading_process_that_ends_or_hangs_is_told(fault, words):
    # 8 s are enough for a process to start beside others; one that hangs need not have started
    meaning = explained(from_worker(fault, timeout=1 if "no batch" in words else 8))
    assert [word for word in words if word not in meaning] == []
    assert "\n" not in meaning


@pytest.mark.parametrize("error", [InputError("a is b; give c."), ImageError("a.jpg", "it is empty")])
def test_what_a_user_gave_is_told_by_its_own_sentence_from_wherever_it_comes(error):
    assert explained(from_worker(lambda: fail(error))) == str(error)
    assert explained(error) == str(error)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), BATCH),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), BATCH),
        (RuntimeError("CUDA error: out of memory"), BATCH),
        (RuntimeError("can't start new thread"), WORKERS),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), WORKERS),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a.jpg"), "ulimit -n"),
        (ImportError("libscipy.so: failed to map segment from shared object"), "memory"),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_7>: No space left on device (28)"), SHM),
    ],
    ids=repr,
)
def test_what_only_some_machines_raise_is_told(error, word):
    assert word in explained(error)


def test_a_disk_is_told_by_the_file():
    assert explained(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/a.csv")).startswith("/runs/a.csv ")
    assert "a file of the run" in explained(OSError(errno.EROFS, os.strerror(errno.EROFS)))
    assert "read or written" in explained(
        PermissionError(errno.EACCES, "Permission denied", b"/a")
    )  # which, it cannot tell
    with Path("/dev/full").open("w") as full, pytest.raises(OSError, match="No space") as raised:
        full.write("a" * 100_000)
    later = RuntimeError("unexpected pos 576 vs 534")  # as torch.save ends on a full disk
    later.__cause__ = raised.value
    assert "make room" in explained(later)


@pytest.mark.parametrize(
    "error", [ValueError("shapes differ"), KeyError("a"), FileNotFoundError(2, "No such file", "a")]
)
def test_a_mistake_of_the_code_keeps_its_traceback(error):
    assert explained(error) is None
    if not isinstance(error, OSError):
        assert explained(from_worker(lambda: fail(error))) is None
    stop = KeyboardInterrupt()
    stop.__cause__ = MemoryError()
    assert explained(stop) is None


@pytest.mark.slow
def test_a_limit_of_the_address_space_is_told_in_a_whole_process():
    """Threads, tensors and pixels each meet it with an error of their own."""
    code = """
        import resource, threading, time
        import cv2, numpy as np, torch
        from tasks.failures import explained
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2_000_000,) * 2)
        thread = lambda: threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
        faults = {
            "thread": lambda: [thread() for _ in range(9)],
            "torch": lambda: torch.zeros(1 << 24),
            "numpy": lambda: np.zeros(1 << 26, np.uint8),
            "opencv": lambda: cv2.resize(np.zeros((2, 2), np.uint8), (20_000, 20_000)),
            "import": lambda: __import__("scipy.optimize"),
        }
        for name, fault in faults.items():
            try:
                fault()
            except Exception as error:
                print(name, "--data.num_workers 0" in (explained(error) or ""))
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    told = [f"{name} True" for name in ("thread", "torch", "numpy", "opencv", "import")]
    assert done.stdout.splitlines() == told, done.stderr[-2000:]
