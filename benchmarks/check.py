"""`python -m tasks.detection check` on made-up JPEG files with YOLO's texts, beside reading the files' headers alone.

    python benchmarks/check.py [IMAGES]

Each in turn in a new process, with all that it imports: PIL opens every file, which reads its header; the command,
which reads headers and texts, compares the files, and draws.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

ROUNDS = 5
HEADERS = (
    "import pathlib, PIL.Image as I\nprint(sum(I.open(p).size[0] > 0 for p in pathlib.Path('set/images').iterdir()))"
)


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    project = str(Path(__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "set", count)
        sides = {
            "headers": [sys.executable, "-c", HEADERS],
            "check": [sys.executable, "-m", "tasks.detection", "check", "--data.root", "set"],
        }
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(ROUNDS):
            for name, command in sides.items():
                start = time.perf_counter()
                environment = {**os.environ, "PYTHONPATH": project}
                subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
                times[name].append(time.perf_counter() - start)
    headers, check = (median(times[name]) for name in sides)
    print(f"{count:,} images, medians of {ROUNDS}; the load was {os.getloadavg()[0]:.1f}")
    print(f"check {check:.2f} s, headers alone {headers:.2f} s: {check / headers:.1f} times")


def draw(root: Path, count: int) -> None:
    """Photographs of 640 x 480 px, each with three boxes of three classes."""
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("a\nb\nc\n")
    rng = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        small.resize((640, 480), Image.Resampling.BICUBIC).save(root / f"images/{i:06}.jpg")
        boxes = rng.uniform(0.1, 0.4, (3, 4)) + np.array([0.2, 0.2, 0, 0])
        rows = (f"{k} {x:.6f} {y:.6f} {w:.6f} {h:.6f}" for k, (x, y, w, h) in enumerate(boxes.tolist()))
        (root / f"labels/{i:06}.txt").write_text("\n".join(rows))


if __name__ == "__main__":
    main()
