"""`predict` on a folder of JPEG files, beside the bare loop: the files decoded and resized, the network on batches.

    python benchmarks/predict.py [detection|classification] [--weights F] [--batch N] [--counts 200 2000]

Images of 500 x 400 px are drawn into a temporary folder. For each number of images, both kinds of `predict` (without
pictures and with them) and the bare loop take turns in one process, with the same threads of torch, and a process of
its own each measures the peak memory. Without weights the net is an untrained one of the task's usual size.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from tasks.classification import predict as classification
from tasks.detection import predict as detection
from tasks.predictor import Predictor

ROUNDS = 3
COMMANDS: dict[str, Any] = {"classification": classification, "detection": detection}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("task", nargs="?", default="detection", choices=("detection", "classification"))
    parser.add_argument("--weights")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--memory-of", nargs=2, metavar=("FOLDER", "OPTION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        folder, option = options.memory_of
        _, peak = predicted(options, predictor_of(options), Path(folder), option)
        print(f"{peak / 2**20:.0f}")
        return
    print(f"{options.task}, batch {options.batch}, {torch.get_num_threads()} threads; load {os.getloadavg()[0]:.1f}")
    predictor = predictor_of(options)
    for count in options.counts:
        with tempfile.TemporaryDirectory() as folder:
            files = draw(Path(folder), count)
            rates: dict[str, list[float]] = {"bare": [], "--no-images": [], "": []}
            for _ in range(ROUNDS if count <= 500 else 1):
                rates["bare"].append(count / bare(predictor, files, options.batch))
                for option in ("--no-images", ""):
                    rates[option].append(count / predicted(options, predictor, Path(folder), option)[0])
            loop = median(rates["bare"])
            print(f"{count:,} images: the bare loop {loop:.0f} images/s")
            for option, words in (("--no-images", "without pictures"), ("", "with pictures")):
                command = [sys.executable, __file__, options.task, "--batch", str(options.batch)]
                command += ["--weights", options.weights] if options.weights else []
                run = [*command, "--memory-of", folder, option.strip("-") or "all"]
                peak = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()[-1]
                rate = median(rates[option])
                print(f"  {words}: {rate:.0f} images/s, {rate / loop:.2f} of it; peak memory {peak} MB")


def predictor_of(options: Any) -> Predictor:
    """The net that is measured."""
    if options.weights:
        predictor: Predictor = COMMANDS[options.task].load(options.weights)
        return predictor
    torch.manual_seed(0)
    if options.task == "detection":
        from tasks.detection.module import DetectionModule

        return Predictor(DetectionModule({i: str(i) for i in range(1, 91)}, (300, 300)), None)
    from tasks.classification.module import ClassificationModule

    return Predictor(ClassificationModule({i: str(i) for i in range(1000)}, (224, 224)), 0.875)


def draw(folder: Path, count: int) -> list[Path]:
    """So many JPEG files of 500 x 400 px, with discs on noise."""
    generator = np.random.default_rng(0)
    files = []
    for i in range(count):
        noise = generator.integers(60, 190, (50, 63, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((500, 400), Image.Resampling.BICUBIC)
        drawing = ImageDraw.Draw(image)
        for x, y in generator.integers(20, 380, (4, 2)).tolist():
            drawing.ellipse((x, y, x + 60, y + 60), fill=tuple(generator.integers(0, 255, 3).tolist()))
        files.append(folder / f"{i:05}.jpg")
        image.save(files[-1], quality=90)
    return files


def bare(predictor: Predictor, files: list[Path], batch: int) -> float:
    """Seconds of decoding, resizing and the network, one batch after the other."""
    start = time.perf_counter()
    with torch.inference_mode():
        for first in range(0, len(files), batch):
            arrays = [predictor.resized(predictor.open(path)) for path in files[first : first + batch]]
            predictor.module(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2))
    return time.perf_counter() - start


def predicted(options: Any, predictor: Predictor, folder: Path, option: str) -> tuple[float, int]:
    """Seconds of the command on a folder, from the net being loaded, and the peak memory of this process in bytes."""
    from tasks import predict

    times = []

    def load(path: Path, device: str) -> Predictor:
        times.append(time.perf_counter())
        return predictor

    with tempfile.TemporaryDirectory() as out:
        net = Path(out) / "net.ckpt"
        net.touch()
        command = dataclasses.replace(COMMANDS[options.task].PREDICT, load=load)
        args = ["--source", str(folder), "--ckpt_path", str(net), "--batch", str(options.batch), "--runs", out]
        args += ["--no-images"] if "no-images" in option else []
        with contextlib.redirect_stdout(io.StringIO()):
            predict.main(options.task, lambda: (type(predictor.module), None), command, args)
    return time.perf_counter() - times[0], 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
