"""Seconds until a folder of labelled pictures is known: listed for the first time, and kept from the last time.

    python benchmarks/image_folder_listing.py [FILES]

Makes a folder of FILES (default 320,000; ImageNet has 1,281,167) empty files in 1,000 class folders, reads it twice in
processes of their own, and prints both and their ratio. Local disk: on a network drive the first takes minutes.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLASSES = 1000
READ = """
import sys, time
from pathlib import Path
from data.image_folder import read_image_folder
start = time.perf_counter()
data = read_image_folder(Path(sys.argv[1]))
print(time.perf_counter() - start, sum(map(len, data.splits.values())))
"""


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 320_000
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "pictures"
        for label in range(CLASSES):
            of_class = root / "train" / f"n{label:08}"
            of_class.mkdir(parents=True)
            for i in range(count // CLASSES):
                (of_class / f"n{label:08}_{i}.JPEG").touch()
        time.sleep(11)  # folders younger than ten seconds are not kept
        environment = {**os.environ, "XDG_CACHE_HOME": str(Path(folder) / "cache")}
        times = []
        for title in ("listed", "kept"):
            done = subprocess.run(
                [sys.executable, "-c", READ, str(root)], capture_output=True, text=True, env=environment, check=True
            )
            seconds, found = done.stdout.split()
            times.append(float(seconds))
            print(f"{title:>7}: {float(seconds):6.2f} s for {int(found):,} files")
    print(f"ratio: {times[0] / times[1]:.1f}")


if __name__ == "__main__":
    main()
