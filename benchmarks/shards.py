"""The loader from shards, from the same shards behind a web server, and from loose files: images per second, memory.

    python benchmarks/shards.py [DIR] [--images 6000] [--epochs 10] [--workers 2] [--shard_mb 8] [--room DIR]

DIR is a folder with a folder of images for each class; without one, images of 500x375 and about 45 kB are made up.
Every round takes the sides in turn: `read` reads the files' bytes in the order of training and nothing else, in one
process; `load` is an epoch of the training loader, decoded and augmented. Cold is with what the system keeps of the
files dropped (as root; else file by file, which is said), and with nothing in the cache of the web server's shards,
which has no more room than a run needs at once. Then epochs of shards from the web server: the resident memory of this
process and the proportional one of it with its loading processes, and the bytes of the cache, after each. The server
is a process of its own on this machine.
"""

import argparse
import contextlib
import functools
import http.server
import io
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from loader_parts import write_images

from data import shard
from data.classification import ClassificationDataModule
from data.readers import shards
from data.shard_cache import folder_of

ROUNDS = 3
DISTINCT = 50  # images of a class that are drawn; the others are copies, in files of their own


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """A server of files that knows ranges, which Python's own does not."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """Send the range that is asked for, or the whole file."""
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(wanted[1]), min(int(wanted[2]), size - 1)) if wanted else (0, size - 1)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        with path.open("rb") as file:
            file.seek(first)
            self.wfile.write(file.read(last + 1 - first))


def serve(folder: Path, port: Any) -> None:
    """Serve a folder until killed."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Ranges, directory=str(folder))) as server:
        port.value = server.server_port
        server.serve_forever()


def drop(folders: list[Path]) -> str:
    """Let the system forget what it keeps of the files in these folders; how."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
        return "all caches dropped"
    except OSError:
        for file in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
            handle = os.open(file, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)
        return "the files' contents dropped, but not their names"


def data_of(workers: int, **where: str) -> ClassificationDataModule:
    """The data of one side, set up to train on."""
    with contextlib.redirect_stdout(io.StringIO()):
        data = ClassificationDataModule(num_workers=workers, batch_size=32, shard_cache_gb=0.001, **where)
        data.setup("fit")
        data.train_dataloader()  # which raises the limit of the cache to what is needed at once
    return data


def read(data: ClassificationDataModule) -> float:
    """Bytes of all training images in the order of an epoch: images per second."""
    records, loader = data.records("train"), data.train_dataloader()
    start, count = time.perf_counter(), 0
    for items in loader.sampler:  # of shards a batch at a time
        for _, position in items if isinstance(items, list) else [items]:
            if "member" in records.columns:
                shards.image_bytes(records, position)
            else:
                records.path(position).read_bytes()
            count += 1
    return count / (time.perf_counter() - start)


def load(data: ClassificationDataModule) -> float:
    """An epoch of the training loader, with the start of its processes: images per second."""
    start = time.perf_counter()
    count = sum(len(batch["images"]) for batch in data.train_dataloader())
    return count / (time.perf_counter() - start)


def memory() -> tuple[float, float]:
    """MB resident in this process, and the proportional share of it and its children together."""
    process = psutil.Process()
    every = [process, *process.children(recursive=True)]
    return process.memory_info().rss / 1e6, sum(each.memory_full_info().pss for each in every) / 1e6


def folder_bytes(folder: Path) -> float:
    """MB of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shard_mb", type=int, default=8)
    parser.add_argument("--room", type=Path, help="where everything is written; a disk, for what is cold to be so")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.room) as name:
        room = Path(name)
        os.environ["MOBILENET_TASKS_CACHE"] = str(room / "cache")
        source, written = options.folder or room / "images", room / "shards"
        if not options.folder:
            write_images(source, DISTINCT, (375, 500))
            for i in range(2 * DISTINCT, options.images):
                of_class, number = source / "ab"[i % 2], i // 2
                content = (of_class / f"{number % DISTINCT}.jpg").read_bytes()
                (of_class / f"{number}.jpg").write_bytes(content + number.to_bytes(4))  # no copy, which is of one split
        if shard.main([str(source), str(written), "--shard_mb", str(options.shard_mb)]):
            raise SystemExit(2)
        port = multiprocessing.Value("i", 0)
        server = multiprocessing.get_context("fork").Process(target=serve, args=(written, port), daemon=True)
        server.start()
        while not port.value:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{port.value}"
        compare(options, source, written, url)
        epochs(options, url)
        server.kill()


def compare(options: argparse.Namespace, source: Path, written: Path, url: str) -> None:
    """The sides in turn, cold and warm."""
    sides: dict[str, dict[str, str]] = {
        "loose files": {"root": str(source)},
        "shards": {"shards": str(written)},
        "shards by HTTP": {"shards": url},
    }
    rates: dict[tuple[str, str, str], list[float]] = {}
    how = ""
    for _ in range(ROUNDS):
        for side, where in sides.items():
            for kind, measured in (("read", read), ("load", load)):
                for state in ("cold", "warm"):
                    data = data_of(options.workers, **where)  # its list is read before the clock starts
                    if state == "cold":
                        for file in folder_of(url).glob("*.tar"):
                            file.unlink()
                        how = drop([source, written])
                    rates.setdefault((kind, state, side), []).append(measured(data))
    print(f"images/s, medians of {ROUNDS} rounds, {options.workers} loading processes; the load was", end=" ")
    print(f"{os.getloadavg()[0]:.1f}; cold: {how}")
    for (kind, state, side), found in sorted(rates.items()):
        ratio = statistics.median(found) / statistics.median(rates[kind, state, "loose files"])
        all_rounds = ", ".join(f"{rate:.0f}" for rate in found)
        print(
            f"  {kind} {state}  {side:<15} {statistics.median(found):8.0f}  {ratio:5.2f} of loose files  ({all_rounds})"
        )


def epochs(options: argparse.Namespace, url: str) -> None:
    """Epochs of one loader, and what they leave behind."""
    data = data_of(options.workers, shards=url)
    loader: Any = data.train_dataloader()
    for epoch in range(options.epochs):
        loader.sampler.set_epoch(epoch)
        start = time.perf_counter()
        count = sum(len(batch["images"]) for batch in loader)
        rate, (resident, proportional) = count / (time.perf_counter() - start), memory()
        told = f"{rate:6.0f} images/s, resident {resident:6.0f} MB, with its processes {proportional:6.0f} MB"
        print(f"epoch {epoch}: {count} images, {told}, cache {folder_bytes(folder_of(url)):.0f} MB")


if __name__ == "__main__":
    main()
