"""Small data in the true on-disk format, made by code."""

import datetime
import gc
import json
import re
import signal
import socket
import weakref
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import ExifTags, Image, ImageDraw
from PIL.TiffImagePlugin import IFDRational
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

_LOADING: weakref.WeakSet[_MultiProcessingDataLoaderIter] = weakref.WeakSet()  # with processes, in this one


def pytest_configure():
    begin = _MultiProcessingDataLoaderIter.__init__

    def begun(self, loader):
        begin(self, loader)
        _LOADING.add(self)

    _MultiProcessingDataLoaderIter.__init__ = begun


@pytest.fixture(autouse=True)
def _loaders_end():
    """End the processes of loaders that a test leaves; as garbage each would take torch 5 s."""
    yield
    for one in list(_LOADING):
        one._shutdown_workers()


def pytest_collection_finish():
    """Leave what has been imported out of every later collection of garbage, which would look at it each time."""
    gc.collect()
    gc.freeze()


_SIGNALS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


@pytest.fixture(autouse=True)
def _signals_are_as_they_were():
    """Fail the test that leaves a signal ignored: every process that a later test starts would ignore it too."""
    yield
    after = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in _SIGNALS.items():
        signal.signal(number, handler)
    assert after == _SIGNALS


CATEGORIES = [{"id": 2, "name": "disc"}, {"id": 5, "name": "bar"}]  # ids with gaps


def _write_coco(root: Path, splits: dict[str, int], seed: int = 0, size: tuple[int, int] = (96, 128)) -> Path:
    """Write images of bright discs and dark bars on grey, (height, width) `size`, in COCO's own layout."""
    generator = np.random.default_rng(seed)
    height, width = size
    (root / "annotations").mkdir(parents=True)
    for split, count in splits.items():
        (root / split).mkdir()
        images, annotations = [], []
        for i in range(count):
            pixels = generator.integers(90, 130, (height, width, 3), dtype=np.uint8)
            image = Image.fromarray(pixels)
            draw = ImageDraw.Draw(image)
            images.append({"id": 10 + 3 * i, "file_name": f"{split}_{i:02}.png", "width": width, "height": height})
            for k, category in enumerate(CATEGORIES):
                w, h = (30, 30) if k == 0 else (46, 20)
                x = int(generator.integers(k * width // 2, (k + 1) * width // 2 - w))
                y = int(generator.integers(0, height - h))
                box = (x, y, x + w - 1, y + h - 1)
                if k == 0:
                    draw.ellipse(box, fill=(250, 240, 60))
                else:
                    draw.rectangle(box, fill=(20, 20, 120))
                row = {"id": len(annotations) + 1, "image_id": images[-1]["id"], "category_id": category["id"]}
                annotations.append({**row, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})
            image.save(root / split / images[-1]["file_name"])
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def coco_root(tmp_path_factory):
    """A folder with 8 training, 4 validation and 4 test images of two classes."""
    return _write_coco(tmp_path_factory.mktemp("data") / "shapes", {"train": 8, "val": 4, "test": 4})


@pytest.fixture(scope="session")
def write_coco():
    """The function that writes such a folder: root, {split: number of images}."""
    return _write_coco


def _write_classes(root: Path, splits: dict[str, int], seed: int = 0, size: tuple[int, int] = (48, 64)) -> Path:
    """Write images with a disc, a bar or a cross somewhere on grey, as many of each class as `splits` says."""
    generator = np.random.default_rng(seed)
    height, width = size
    for split, count in splits.items():
        for name in ("bar", "cross", "disc"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(generator.integers(90, 130, (height, width, 3), dtype=np.uint8))
                draw = ImageDraw.Draw(image)
                x, y = int(generator.integers(2, width - 34)), int(generator.integers(2, height - 34))
                if name == "disc":
                    draw.ellipse((x, y, x + 31, y + 31), fill=(250, 240, 60))
                else:
                    draw.rectangle((x, y + 11, x + 31, y + 20), fill=(250, 240, 60))
                if name == "cross":
                    draw.rectangle((x + 11, y, x + 20, y + 31), fill=(250, 240, 60))
                image.save(root / split / name / f"{split}_{i:02}.png")
    return root


@pytest.fixture(scope="session")
def classes_root(tmp_path_factory):
    """A folder with 4 training, 2 validation and 2 test images of each of three classes."""
    return _write_classes(tmp_path_factory.mktemp("data") / "signs", {"train": 4, "val": 2, "test": 2})


@pytest.fixture(scope="session")
def write_classes():
    """The function that writes such a folder: root, {split: images of each class}."""
    return _write_classes


def _write_faces(root: Path, splits: dict[str, int], unlabelled: int = 0, seed: int = 0) -> Path:
    """Write CelebA's layout, and `unlabelled/`: grey 48 x 40 images with a bright disc, a bar, both or none."""
    generator = np.random.default_rng(seed)
    (root / "img_align_celeba").mkdir(parents=True)
    (root / "unlabelled").mkdir()
    rows, parts = [], []
    for i in range(sum(splits.values()) + unlabelled):
        disc, bar = (int(generator.random() < 0.5) for _ in range(2))
        image = Image.fromarray(generator.integers(90, 130, (48, 40, 3), dtype=np.uint8))
        draw = ImageDraw.Draw(image)
        if disc:
            draw.ellipse((8, 4, 24, 20), fill=(250, 240, 60))
        if bar:
            draw.rectangle((6, 30, 34, 38), fill=(20, 20, 120))
        name = f"{i + 1:06}.jpg"
        if i >= sum(splits.values()):
            image.save(root / "unlabelled" / name, quality=95)
            continue
        image.save(root / "img_align_celeba" / name, quality=95)
        rows.append(f"{name} {2 * disc - 1:2} {2 * bar - 1:2}")
        parts.append(f"{name} {np.searchsorted(np.cumsum(list(splits.values())), i, side='right')}")
    (root / "list_attr_celeba.txt").write_text("\n".join([str(len(rows)), "Disc Bar", *rows]) + "\n")
    (root / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    return root


@pytest.fixture(scope="session")
def faces_root(tmp_path_factory):
    """A folder in CelebA's layout: 8 training, 6 validation and 6 test images, and 8 without labels."""
    return _write_faces(tmp_path_factory.mktemp("data") / "faces", {"train": 8, "val": 6, "test": 6}, unlabelled=8)


@pytest.fixture(scope="session")
def write_faces():
    """The function that writes such a folder: root, {split: number of images}, unlabelled."""
    return _write_faces


def _write_photo(path: Path, pixels: np.ndarray, latlng: tuple[float, float] | None, taken: str = "") -> Path:
    """Save an image with a position, as a camera writes it, and a date, "2020:01:31 12:00:00", in its EXIF."""
    exif = Image.Exif()
    if latlng is not None:
        gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
        for tag, letters, degrees in ((1, "NS", latlng[0]), (3, "EW", latlng[1])):
            seconds = round(abs(degrees) * 3600 * 10_000)
            parts = (seconds // 36_000_000, seconds // 600_000 % 60, seconds % 600_000)
            gps[tag] = letters[int(degrees < 0)]
            gps[tag + 1] = tuple(map(IFDRational, parts, (1, 1, 10_000)))
    if taken:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = taken
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif.tobytes())
    return path


@pytest.fixture(scope="session")
def write_photo():
    """The function that writes such an image: path, pixels (H, W, 3), latlng or None, taken."""
    return _write_photo


# Paris, New York, Sydney, Nairobi, Tokyo, Rio de Janeiro: (latitude, longitude)
CITIES = ((48.86, 2.35), (40.71, -74.01), (-33.87, 151.21), (-1.29, 36.82), (35.68, 139.69), (-22.91, -43.17))


def _write_places(root: Path, splits: dict[str, int], seed: int = 0, size: tuple[int, int] = (48, 64)) -> Path:
    """Write images from near six cities in turn, with EXIF: the city has the ground's colour, noise has the rest.

    Every image has a day of its own. With the split "" they lie right in the root.
    """
    generator = np.random.default_rng(seed)
    height, width = size
    day = 0
    for split, count in splits.items():
        for i in range(count):
            city = i % len(CITIES)
            blocks = generator.integers(-60, 60, (12, 16, 1)) + np.array([130, 130, 130])
            blocks[6:] += np.array([100 * (city & 1), 100 * (city >> 1 & 1), 100 * (city >> 2)]) - 50
            pixels = np.kron(blocks, np.ones((height // 12, width // 16, 1), int)).clip(0, 255)
            latitude, longitude = np.array(CITIES[city]) + generator.normal(0, 0.2, 2)
            date = datetime.date(2015, 1, 1) + datetime.timedelta(days=day)
            day += 1
            _write_photo(
                root / split / f"{split or 'photo'}_{i:03}.jpg",
                pixels.astype(np.uint8),
                (float(latitude), float(longitude)),
                f"{date:%Y:%m:%d} 12:00:00",
            )
    return root


@pytest.fixture(scope="session")
def places_root(tmp_path_factory):
    """A folder of images with EXIF positions: 12 for training, 6 for validation and 6 for testing, in folders."""
    return _write_places(tmp_path_factory.mktemp("data") / "places", {"train": 12, "val": 6, "test": 6})


@pytest.fixture(scope="session")
def write_places():
    """The function that writes such a folder: root, {split: number of images}, where "" is the root itself."""
    return _write_places


@pytest.fixture
def offline(monkeypatch):
    """Without sockets."""

    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Run every test in a folder of its own, so that `runs/`, `datasets/` and what is cached land there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))


@pytest.fixture(autouse=True)
def _empty_figures(request, monkeypatch):
    """Save the figures of whole commands empty; the tests of reports, and of the table of students, draw them."""
    if request.node.get_closest_marker("slow") and not re.search(
        "report|maps|mapped|plotting|experiment", request.node.nodeid
    ):
        save = Figure.savefig
        monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **options: save(Figure((1, 1)), *args, **options))
