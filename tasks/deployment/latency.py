"""How long a network takes for one image and how much memory, measured in a process that does nothing else."""

import contextlib
import importlib.metadata
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backbone.errors import InputError

RUNTIMES = {".onnx": "onnxruntime", ".pte": "executorch", ".tflite": "ai_edge_litert"}
_WARM_UP = 10  # runs that are not counted: they allocate, and fill the caches


class Opened(NamedTuple):
    """A network that is ready to run."""

    run: Callable[[np.ndarray], object]  # of uint8 (1, height, width, 3)
    size: tuple[int, int]  # height and width, px
    precision: str
    runtime: str  # with its version
    size_mb: float  # of its file
    task: str | None = None  # that it says it is of


def measured(load: Callable[[], Opened], runs: int) -> dict[str, Any]:
    """Milliseconds of each of `runs` runs on one random image, memory, and what the network says of itself.

    `memory_mb` is the resident peak beyond what the process had before, its runtime being imported already;
    `process_mb` is the peak of the whole process.
    """
    with contextlib.suppress(OSError):  # Linux: from now on the peak is a new one, without what imports took
        Path("/proc/self/clear_refs").write_text("5")
    before = _peak_mb()
    opened = load()
    image = np.random.default_rng(0).integers(0, 256, (1, *opened.size, 3), np.uint8)
    times = timings(lambda: opened.run(image), runs)
    peak = _peak_mb()
    return {
        "runtime": opened.runtime,
        "precision": opened.precision,
        "image_size": list(opened.size),
        "size_mb": opened.size_mb,
        "task": opened.task,
        "times_ms": times,
        "memory_mb": peak - before,
        "process_mb": peak,
    }


def timings(run: Callable[[], object], runs: int, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Milliseconds of each of `runs` calls, after a warm-up; `clock` gives seconds."""
    for _ in range(min(_WARM_UP, runs)):
        run()
    times = []
    for _ in range(runs):
        start = clock()
        run()
        times.append(1000 * (clock() - start))
    return times


def opener(path: Path, threads: int) -> Callable[[], Opened]:
    """What opens an exported file, or any .tflite whose input is one image; what runs it is imported already.

    Raises InputError where that is not installed, and where the file is neither.
    """
    try:
        if path.suffix == ".onnx":
            import onnxruntime  # noqa: F401
        elif path.suffix == ".pte":
            import executorch.runtime  # noqa: F401
        else:
            from ai_edge_litert import interpreter  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{path} needs the package {RUNTIMES[path.suffix]}, which is not installed ({error}); install it."
        ) from error
    return lambda: _open(path, threads)


def _open(path: Path, threads: int) -> Opened:
    try:
        return _open_litert(path, threads) if path.suffix == ".tflite" else _open_exported(path, threads)
    except InputError:
        raise
    except Exception as error:  # each runtime has its own
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} cannot be opened ({reason}); give a file that `export` wrote.") from error


def _open_exported(path: Path, threads: int) -> Opened:
    from tasks.deployment.artifact import open_artifact

    artifact = open_artifact(path, threads)
    if not {"image_size", "precision"} <= artifact.metadata.keys():
        raise InputError(f"{path} has no metadata of this project; give a file that `export` wrote.")
    height, width = artifact.metadata["image_size"]
    runtime = _versioned(RUNTIMES[path.suffix])
    facts = artifact.metadata["precision"], runtime, size_mb(path), artifact.metadata.get("task")
    return Opened(artifact.run, (height, width), *facts)


def _open_litert(path: Path, threads: int) -> Opened:
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(model_path=str(path), num_threads=threads)
    network.allocate_tensors()
    [given] = network.get_input_details()
    _, height, width, _ = given["shape"]
    dtype = np.dtype(given["dtype"])

    def run(image: np.ndarray) -> None:
        network.set_tensor(given["index"], image.astype(dtype, copy=False))
        network.invoke()

    precision = "int8" if dtype.itemsize == 1 else dtype.name
    return Opened(run, (int(height), int(width)), precision, _versioned("ai-edge-litert"), size_mb(path))


def size_mb(path: Path) -> float:
    """Megabytes of a file, a million bytes each."""
    return path.stat().st_size / 1e6


def _versioned(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def _peak_mb() -> float:
    """The largest resident memory so far of this process.

    getrusage would give that of the process that started this one where it was larger: Linux hands it on.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    import resource  # not of Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
