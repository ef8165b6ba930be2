"""The sides of a benchmark, each in a process of its own: the peak of memory of one is not the other's."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def answer(side: Callable[[], Any]) -> None:
    """In the side's own process: run it and print what it took and returned, which is plain numbers.

    Seconds; seconds of the processor, of all threads, which say more where others run at the same time; the peak of
    this process's memory. The imports and the input are made before; the input counts in the peak.
    """
    before, start, processor = peak_gib(), time.perf_counter(), time.process_time()
    result = side()
    took = {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}
    print(json.dumps({**took, "gib": peak_gib(), "before": before, "result": result}))


def ask(script: str, side: str, args: Sequence[object] = ()) -> dict[str, Any]:
    """Run `script --side SIDE ARGS` on one thread of OpenMP, and return what `answer` printed there."""
    command = [sys.executable, script, "--side", side, *map(str, args)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def line(name: str, found: dict[str, Any], ours: dict[str, Any]) -> str:
    """The line of a side: seconds, peak of memory (and what of it was there before the clock), and beside ours."""
    told = f"{name:<36} {found['seconds']:7.2f} s ({found['processor']:7.2f} s of a processor)"
    told += f"   {found['gib']:5.2f} GiB at the peak ({found['before']:.2f} before)"
    return told if found is ours else f"{told}   {found['seconds'] / ours['seconds']:.1f}x our time"


def peak_gib() -> float:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's begins with that of the process that started this one
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # macOS


ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
