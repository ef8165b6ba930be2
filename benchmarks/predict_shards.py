"""`predict_shard` beside the bare loop, its memory over many images, and what decoding costs.

    python benchmarks/predict_shards.py [rate|memory|decode] [--images N] [--batch N] [--side PX]

`rate`: images of 500 x 400 px in one shard; the bare loop reads the same bytes, decodes with the same threads, and runs
the network on the same batches; both take turns in one process. `memory`: MB of the process after each shard of 5,000
small images, 50,000 in all, whose bytes repeat. `decode`: images/s of one core at 0.1 to 12 megapixels, decoded no
larger than a network of --side needs. The net is an untrained classifier.
"""

import argparse
import io
import os
import sys
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

import numpy as np
from PIL import Image

from backbone.accelerator import retain_freed_memory
from data.images import open_image
from data.readers.shards import members
from tasks.classification.module import ClassificationModule
from tasks.classification.predict import PREDICT
from tasks.predict_shards import Network, Shard, parquet_of, predict_shard
from tasks.predictor import Predictor

ROUNDS = 5
SIZES = ((300, 340), (700, 720), (1250, 1600), (3000, 4000))  # height, width px


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", nargs="?", default="rate", choices=("rate", "memory", "decode"))
    parser.add_argument("--images", type=int, help="default: 500 for the rate, 50,000 for the memory")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=224)
    options = parser.parse_args()
    options.threads = len(os.sched_getaffinity(0))
    retain_freed_memory()  # as the command
    module = ClassificationModule({i: str(i) for i in range(1000)}, (options.side, options.side))
    predictor = Predictor(module, 0.875)
    print(f"side {options.side}, batch {options.batch}, {options.threads} threads; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        {"rate": rate, "memory": memory, "decode": decode}[options.what](predictor, options, Path(folder))


def rate(predictor: Predictor, options: argparse.Namespace, folder: Path) -> None:
    """Print images/s of `predict_shard`, of the bare loop, and how they compare."""
    count = options.images or 500
    shard = write(folder, "rate.tar", [jpeg(400, 500, i) for i in range(20)], count)
    ours, bare = [], []
    for i in range(ROUNDS):
        bare.append(count / loop(predictor, options, folder / shard.name))
        start = time.perf_counter()
        predict(predictor, options, shard, folder / str(i))
        ours.append(count / (time.perf_counter() - start))
    print(
        f"bare {median(bare):.1f} images/s, predict_shard {median(ours):.1f}, {median(ours) / median(bare):.3f} of it"
    )


def memory(predictor: Predictor, options: argparse.Namespace, folder: Path) -> None:
    """Print the resident MB after each shard, and the bytes of a row."""
    per_shard = (options.images or 50_000) // 10
    shard = write(folder, "memory.tar", [jpeg(64, 64, i) for i in range(100)], per_shard)
    for i in range(10):
        path = predict(predictor, options, shard, folder / str(i))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        print(f"{(i + 1) * per_shard:,} images: {resident:.0f} MB, {path.stat().st_size / per_shard:.0f} bytes a row")


def decode(predictor: Predictor, options: argparse.Namespace, folder: Path) -> None:
    """Print images/s of one thread that decodes, whole and no larger than needed."""
    for height, width in SIZES:
        content, rates = jpeg(height, width, 0), []
        for at_least in (None, predictor.at_least):
            start, count = time.perf_counter(), 0
            while time.perf_counter() < start + 2:
                predictor.resized(open_image("image", at_least=at_least, content=content))
                count += 1
            rates.append(count / (time.perf_counter() - start))
        size = f"{height * width / 1e6:.1f} Mpx ({len(content) / 1e3:.0f} kB)"
        print(f"{size}: {rates[0]:.0f} images/s whole, {rates[1]:.0f} no larger than needed")


def loop(predictor: Predictor, options: argparse.Namespace, tar: Path) -> float:
    """Seconds of reading the tar, decoding in threads and the network, with nothing else."""
    start = time.perf_counter()

    def prepared(content: bytes) -> tuple[np.ndarray, tuple[int, int]]:
        image = open_image("image", at_least=predictor.at_least, content=content)
        return predictor.resized(image), (image.shape[0], image.shape[1])

    def ahead(pool: ThreadPoolExecutor) -> Iterable[tuple[np.ndarray, tuple[int, int]]]:
        contents = (content for _, _, content, _ in members(tar))
        waiting = deque(pool.submit(prepared, one) for one in islice(contents, options.batch + options.threads))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(prepared, one) for one in islice(contents, 1))

    with ThreadPoolExecutor(options.threads) as pool:
        ready = iter(ahead(pool))
        while group := list(islice(ready, options.batch)):
            predictor.answer([pixels for pixels, _ in group], [size for _, size in group])
    return time.perf_counter() - start


def predict(predictor: Predictor, options: argparse.Namespace, shard: Shard, out: Path) -> Path:
    """Predict the shard into a new folder."""
    out.mkdir()
    network = Network(predictor.stream, predictor.at_least, PREDICT.row, PREDICT.fields(()), {"top": 5, "conf": 0.0})
    predict_shard(shard, network, out, options.batch)
    return parquet_of(shard, out)


def jpeg(height: int, width: int, seed: int) -> bytes:
    """An image as JPEG, of about the bytes of a photograph."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    kept = io.BytesIO()
    Image.fromarray(small).resize((width, height)).save(kept, "JPEG", quality=90)
    return kept.getvalue()


def write(folder: Path, name: str, images: list[bytes], count: int) -> Shard:
    """A shard of so many members, whose contents repeat."""
    with tarfile.open(folder / name, "w") as archive:
        for i in range(count):
            member = tarfile.TarInfo(f"{i:09}.jpg")
            member.size = len(images[i % len(images)])
            archive.addfile(member, io.BytesIO(images[i % len(images)]))
    return Shard("", folder, name)


if __name__ == "__main__":
    main()
