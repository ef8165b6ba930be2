"""The whole of `tasks/run.py` on a folder of JPEG files, beside the bare network and the decoding of the files.

    python benchmarks/runner.py F.onnx FOLDER

Each in turn, with one thread of onnxruntime: the files decoded and nothing else; `session.run` on arrays that are
ready, in batches as large as the runner's; the runner, which decodes, resizes, runs and prints. First all on one core,
then on all of them, where the runner decodes while the network runs.
"""

import contextlib
import io
import os
import re
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from tasks import run

ROUNDS, BATCH = 7, 2


def main() -> None:
    """Measure and print."""
    file, folder = sys.argv[1:]
    cores = os.sched_getaffinity(0)
    model = run.Model(file, threads=1)
    files = [path for path in sorted(Path(folder).rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")]
    arrays = np.stack([model.resized(run.open_image(path, model.at_least)) for path in files])
    outputs = [output.name for output in model.session.get_outputs()]
    print(f"{len(files)} images, medians of {ROUNDS} rounds, ms an image; the load was {os.getloadavg()[0]:.1f}")
    for allowed in ({max(cores)}, cores):
        os.sched_setaffinity(0, allowed)
        times: dict[str, list[float]] = {"decoding": [], "network": [], "whole": []}
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for path in files:
                with Image.open(path) as image:
                    if model.at_least is not None:
                        image.draft(None, model.at_least[::-1])
                    image.load()
            decoded = time.perf_counter()
            for first in range(0, len(arrays), BATCH):
                model.session.run(outputs, {"images": arrays[first : first + BATCH]})
            times["network"].append((time.perf_counter() - decoded) / len(files))
            times["decoding"].append((decoded - start) / len(files))
            times["whole"].append(seconds([file, folder, "--threads", "1", "--batch", str(BATCH)]))
        decoding, network, whole = (1000 * median(times[name]) for name in ("decoding", "network", "whole"))
        ratio = whole / (decoding + network)
        told = f"decoding {decoding:.2f}, network {network:.2f}, the runner {whole:.2f}"
        print(f"{len(allowed)} core(s): {told}: {ratio:.3f} of decoding and network")


def seconds(args: list[str]) -> float:
    """Seconds an image, by what the runner itself says."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
        if run.main(args):
            raise SystemExit(printed.getvalue())
    return 1 / float(re.search(r"([0-9.]+) images/s", printed.getvalue())[1])  # type: ignore[index]


if __name__ == "__main__":
    main()
