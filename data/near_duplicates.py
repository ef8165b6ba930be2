"""Near-duplicates of one data set's images in another: a test set's in a training set collected from the web.

Hashes compared on 585 images (Stanford Dogs of three breeds, the first of COCO) in 20 changes each: smaller,
larger, recompressed down to quality 30, cropped by 2 and 4 %, mirrored, framed, with a watermark, brighter, darker,
grey, of less and more contrast. Found, where no two of the images are taken for one (170,820 pairs, either way
round): average hash 70 % with 64 bits, 90 % with 256; difference hash 87 % and 93 %; DCT hash 96 % and 99.9 %.
"""

import contextlib
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import cv2
import numpy as np

from backbone.errors import InputError
from backbone.files import replacing, sweep
from data.folders import progress
from data.images import ImageError, open_image
from data.readers import shards
from data.records import Records, positions_in

# Bits of 256, for the DCT hash. It finds 99.6 % of the changed images above, of those cropped by 4 % 94 to 97 %.
# Different images differ by 127.5 bits, standard deviation 8.4, the closest by 90. Their tail is the normal
# distribution's, by which 80 takes one in 5,600 of ImageNet's 1.28 million for one of 8,580 others; 88 would one in 35.
MAX_DISTANCE = 80

_PLAIN = 4.0  # grey levels of 255: noise and JPEG leave below 2 of a plain image, the images above have 14 or more

_SIDE, _FREQUENCIES = 32, 16  # px; in each direction

_CACHED_AS = "hashes-1"  # another number where image_hash() or what is cached changes
_WORTH_CACHING = 1.0  # s: what takes less is done again

_BLOCK = 64  # images that a thread takes at a time


def image_hash(image: np.ndarray) -> np.ndarray:
    """256 bits, uint64 (4,), which images of uint8 RGB (H, W, 3) that look alike share but for some.

    The signs of the 16 x 16 lowest frequencies of the grey image's DCT at 32 x 32. All zero where the image has no
    contrast; the first bit, of the mean, is set in every other.
    """
    full = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey = cv2.resize(full, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    bits = cv2.dct(grey)[:_FREQUENCIES, :_FREQUENCIES] > 0
    return np.packbits(bits & (grey.std() >= _PLAIN)).view(np.uint64)


def mirrored(hashes: np.ndarray) -> np.ndarray:
    """The hashes, uint64 (N, 4), of the images turned left to right: that negates every odd frequency across."""
    odd = np.tile(np.arange(_FREQUENCIES) % 2 == 1, (_FREQUENCIES, 1))
    return np.where(hashes.any(axis=-1, keepdims=True), hashes ^ np.packbits(odd).view(np.uint64), np.uint64(0))


def hash_images(images: Records) -> np.ndarray:
    """image_hash() of every file, uint64 (N, 4), boxes disregarded; all zero as well where one cannot be read.

    Hashes are cached outside the data by file, size and time, after Ctrl-C too, and not computed again.
    """
    hashes, stamps = _load(images)
    new = np.zeros(len(images), dtype=bool)

    def work(start: int) -> int:
        block = range(start, min(start + _BLOCK, len(images)))
        for i in block:
            path = images.path(i)
            try:
                stamp = _stamp(images, i)
                if (stamps[i] != stamp).any():
                    content = shards.content_of(images, i)
                    hashes[i] = image_hash(open_image(path, at_least=(_SIDE, _SIDE), content=content))
                    stamps[i], new[i] = stamp, True
            except (ImageError, OSError):  # training will say so
                hashes[i], stamps[i] = 0, -1
        return len(block)

    began = time.monotonic()
    pool = ThreadPoolExecutor(os.cpu_count())  # PIL decodes without holding the lock
    try:
        with progress(total=len(images), desc="hashing images", unit=" images") as bar:
            for done in as_completed([pool.submit(work, start) for start in range(0, len(images), _BLOCK)]):
                bar.update(done.result())
    finally:
        pool.shutdown(cancel_futures=True)
        if new.any() and time.monotonic() - began > _WORTH_CACHING:
            _save(images, hashes, stamps)
    return hashes


def near_duplicates(hashes: np.ndarray, of: np.ndarray, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """Which of `hashes`, uint64 (N, W), are at most `max_distance` bits from any in `of` (M, W): bool (N,).

    A hash of zeros is that of no image, and near to none.
    """
    others = np.ascontiguousarray(of[of.any(axis=1)].T)  # (W, M)
    rows = np.flatnonzero(hashes.any(axis=1))
    near = np.zeros(len(hashes), dtype=bool)
    if not others.size:
        return near
    step = max(1, 2**18 // others.shape[1])  # 2 MB for each thread: larger blocks do not stay in the processor's cache

    def work(start: int) -> int:
        block = rows[start : start + step]
        distance = np.zeros((len(block), others.shape[1]), dtype=np.uint16)
        for word, other in zip(hashes[block].T, others, strict=True):
            distance += np.bitwise_count(word[:, None] ^ other)
        near[block] = distance.min(axis=1) <= max_distance
        return len(block)

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress(total=len(rows), desc="comparing images", unit=" images") as bar,
    ):
        for count in pool.map(work, range(0, len(rows), step)):
            bar.update(count)
    return near


def without_near_duplicates(images: Records, of: Records) -> tuple[Records, int]:
    """`images` without those that look like one `of` others, mirrored or not; and how many these were."""
    others = hash_images(of)
    near = near_duplicates(hash_images(images), np.concatenate([others, mirrored(others)]))
    return images.take(~near), int(near.sum())


def _stamp(images: Records, position: int) -> tuple[int, int]:
    """Size and time in ns of an image's file, or its size and the time of its shard, or its place in one far away."""
    length, offset, size = images["member"][position].tolist() if "member" in images.columns else (-1, -1, -1)
    if size < 0:
        stat = images.path(position).stat()
        return stat.st_size, stat.st_mtime_ns
    if images.url:
        return size, offset
    return size, (images.folder / os.fsdecode(images.file_names[position][:length])).stat().st_mtime_ns


def _cache_file(folder: Path) -> Path:
    """Where the hashes of the images in `folder` are: in $XDG_CACHE_HOME, by default ~/.cache, never in the data."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = base if base.is_absolute() else Path.home() / ".cache"  # as the XDG base directory specification has it
    digest = hashlib.blake2b(os.fsencode(folder.resolve()), digest_size=16).hexdigest()
    return base / "mobilenet-tasks" / _CACHED_AS / f"{digest}.npz"


def _cached(folder: Path) -> dict[str, np.ndarray]:
    """Cached `file_names`, `hashes` and `stamps`; empty where there are none, or none that can be read."""
    try:
        with np.load(_cache_file(folder), allow_pickle=False) as archive:  # a zip: every member has its checksum
            return dict(archive)
    except Exception:  # a damaged zip raises a dozen kinds
        return {}


def _load(images: Records) -> tuple[np.ndarray, np.ndarray]:
    """What is cached of each image: hashes uint64 (N, 4), stamps int64 (N, 2) of size and time in ns, -1 for none."""
    hashes = np.zeros((len(images), 4), dtype=np.uint64)
    stamps = np.full((len(images), 2), -1)
    if cached := _cached(images.folder):
        at = positions_in(cached["file_names"], images.file_names)
        hashes[at >= 0], stamps[at >= 0] = cached["hashes"][at[at >= 0]], cached["stamps"][at[at >= 0]]
    return hashes, stamps


def _save(images: Records, hashes: np.ndarray, stamps: np.ndarray) -> None:
    """Cache the hashes beside those of other files in the same folder: all, or what was cached before stays."""
    done = stamps[:, 0] >= 0
    arrays = {"file_names": images.file_names[done], "hashes": hashes[done], "stamps": stamps[done]}
    if cached := _cached(images.folder):
        other = ~np.isin(cached["file_names"], images.file_names)
        arrays = {key: np.concatenate([array, cached[key][other]]) for key, array in arrays.items()}
    with contextlib.suppress(OSError, RuntimeError, InputError):  # a full disk, no home folder: hashed again next time
        path = _cache_file(images.folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        with replacing(path) as beside:
            np.savez(beside, **arrays)  # type: ignore[arg-type]  # its stub: allow_pickle
