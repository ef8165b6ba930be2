"""Where the loader's time goes: decoding, augmenting and collating images of about 500x375 and of 12 megapixels.

    python benchmarks/loader_parts.py [DIR]

DIR is a folder with a folder of JPEG files for each class; without one, images of noise at every scale are made
up, about 45 kB each; Stanford Dogs' are 39 kB. Each part is timed alone on one core, on the same files in turn; the
decoding also whole, which is the ratio to look at.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from data.images import open_image
from data.module import collate
from data.readers import image_folder
from data.transforms import (
    apply_to_image,
    build_classification_eval,
    build_classification_train,
    needed_in_evaluation,
    needed_in_training,
)

SIZE, AREA, CENTRAL, ERASING = (224, 224), 0.25, 0.875, 0.2
BATCH = 32


def write_images(folder: Path, count: int, size: tuple[int, int], quality: int = 85) -> None:
    """Write `count` JPEG files of (height, width) `size` into each of two class folders."""
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            # amplitudes fall with the frequency, as in photos
            layers = [
                cv2.resize(generator.random((n, n, 3)).astype(np.float32) - 0.5, size[::-1]) / n**0.5
                for n in (4, 8, 16, 32, 64, 128)
            ]
            pixels = 128 + 300 * np.sum(layers, axis=0)
            pixels += generator.normal(0, 5, (*size, 1))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.jpg", quality=quality)


def milliseconds(call: Callable[[int], object], count: int) -> float:
    """Median time of `call(i)`, in ms, after a first that is not counted."""
    call(0)
    times = []
    for i in range(count):
        start = time.perf_counter()
        call(i)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def measure(files: list[Path], title: str) -> None:
    """Print a line for each part."""
    train, evaluate = build_classification_train(SIZE, AREA, ERASING), build_classification_eval(SIZE, CENTRAL)
    in_training, in_evaluation = needed_in_training(SIZE, AREA), needed_in_evaluation(SIZE, CENTRAL)
    small = [open_image(file, at_least=in_training) for file in files]
    cropped = [apply_to_image(train, image, seed=i) for i, image in enumerate(small)]
    count = len(files)
    samples = [
        {"image": image, "targets": {"labels": np.int64(0)}, "position": i, "view": 0}
        for i, image in enumerate(cropped)
    ]
    batch = (samples * BATCH)[:BATCH]
    whole = milliseconds(lambda i: open_image(files[i]), count)
    print(f"{title}: ms an image on one core")
    print(f"  decode whole           {whole:7.2f}")
    for name, needed in (("training", in_training), ("evaluation", in_evaluation)):
        part = milliseconds(lambda i, needed=needed: open_image(files[i], at_least=needed), count)
        print(f"  decode for {name:<11} {part:7.2f}   ratio {whole / part:.2f}")
    print(f"  augment                {milliseconds(lambda i: apply_to_image(train, small[i], seed=i), count):7.2f}")
    print(f"  central crop           {milliseconds(lambda i: apply_to_image(evaluate, small[i], seed=0), count):7.2f}")
    print(f"  collate                {milliseconds(lambda i: collate(batch), count) / BATCH:7.2f}")


def main() -> None:
    """Measure the user's images, or made-up ones of two sizes."""
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 1:
            records = image_folder.read(Path(sys.argv[1]))
            measure([records.path(i) for i in range(min(200, len(records)))], sys.argv[1])
            return
        for size, count in (((375, 500), 50), ((3000, 4000), 5)):
            root = Path(folder) / str(size[0])
            write_images(root, count, size)
            files = sorted(root.rglob("*.jpg"))
            kilobytes = statistics.mean(file.stat().st_size for file in files) / 1000
            measure(files, f"{size[1]}x{size[0]}, {kilobytes:.0f} kB")


if __name__ == "__main__":
    main()
