"""Seconds until a folder of labelled images is listed: our reader against torchvision's ImageFolder, in turn.

    python benchmarks/image_folder_listing.py [FILES]

Makes FILES (default 320,000; ImageNet has 1,281,167) empty files in 1,000 class folders on the local disk, and prints
the medians of three rounds and their ratio. Both must find the same files.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from torchvision.datasets import ImageFolder

from data.readers import image_folder

CLASSES, ROUNDS = 1000, 3


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 320_000
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        for label in range(CLASSES):
            of_class = root / "train" / f"n{label:08}"
            of_class.mkdir(parents=True)
            for i in range(count // CLASSES):
                (of_class / f"n{label:08}_{i}.JPEG").touch()
        seconds: dict[str, list[float]] = {"torchvision": [], "ours": []}
        for _ in range(ROUNDS):
            start = time.perf_counter()
            theirs = len(ImageFolder(str(root / "train")).samples)
            seconds["torchvision"].append(time.perf_counter() - start)
            start = time.perf_counter()
            ours = len(image_folder.read(root))
            seconds["ours"].append(time.perf_counter() - start)
            assert ours == theirs, f"{ours} files, and torchvision finds {theirs}"
    median = {name: statistics.median(each) for name, each in seconds.items()}
    for name, each in seconds.items():
        print(f"{name:>11}: {median[name]:6.2f} s for {theirs:,} files  {[round(s, 2) for s in each]}")
    print(f"ratio: {median['torchvision'] / median['ours']:.2f}")


if __name__ == "__main__":
    main()
