"""Run one exported ONNX file on photographs, folders of them or a camera; print a JSON line for each image.

    python run.py F.onnx photo.jpg folder --draw drawn

It needs numpy, Pillow and onnxruntime, and no other file of the project: copy it to the device beside F.onnx. In Python:

    from run import Model
    model = Model("F.onnx")
    model("photo.jpg")  # {"file": "photo.jpg", "objects": [{"name": "cat", "score": 0.8, "box_xyxy": [...]}]}

An image is turned upright and resized to the bit as in training's evaluation; all else is inside the file.
"""

import argparse
import colorsys
import contextlib
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # --help should not wait for them
    import numpy as np
    from PIL import Image

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF")
_ENDINGS = ".jpg .jpeg .jpe .jfif .png .bmp .gif .webp .tif .tiff .avif .ppm .pgm .jp2".split()
_NOT_DATA = ("__MACOSX", "@eaDir")  # folders that macOS and file servers leave behind
_SMOOTHED = 2.5  # the shrink beyond which pixels are averaged


class InputError(ValueError):
    """What the user gave cannot be used; one sentence that says what to do."""


class ImageError(InputError):
    """An image that cannot be used."""


# --- The model ---


class Model:
    """An exported file as a function: an image in, its row out, as `predict` writes it.

    `threads` of onnxruntime, 0: one for each core. Objects of `min_score` or more are told, and the `top_k` likeliest
    classes or cells. Raises InputError where the file is not an exported one.
    """

    def __init__(self, file: str | Path, threads: int = 0, min_score: float = 0.3, top_k: int = 5) -> None:
        try:
            with Path(file).open("rb") as opened:
                head = opened.read(8)
        except OSError as error:
            raise InputError(f"{file} cannot be read ({error.strerror}); give an exported ONNX file.") from error
        if head[4:6] == b"ET" or Path(file).suffix == ".pte":
            raise InputError(f"{file} is for ExecuTorch, whose own runtime runs it; export with --format onnx for here.")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        try:
            self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a dozen kinds of its own
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{file} is no ONNX file that can be run ({reason}); export it again.") from error
        text = self.session.get_modelmeta().custom_metadata_map.get("mobilenet_tasks")
        if text is None:
            raise InputError(f"{file} has no metadata of ours; give what `python -m tasks.<task> export` wrote.")
        try:
            about = json.loads(text)
            task, rule = about["task"], about["resize"]
            self.height, self.width = about["image_size"]
            self.crop, self.bicubic = rule["crop"], {"bilinear": False, "bicubic": True}[rule["interpolation"]]
            self.at_least = rule["draft_at_least"] and tuple(rule["draft_at_least"])
            self.names, self.cells = about["names"], about.get("cells")
            raw = about.get("nms") == "none"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{file} has metadata that cannot be read ({reason}); export it again.") from error
        if task not in _OUTPUTS:
            raise InputError(f"{file} is of the task {task!r}, unknown here; take run.py of the version that wrote it.")
        if raw:
            raise InputError(f"{file} gives raw boxes for a suppression of your own; export without --nms none for here.")
        self.task, self.min_score, self.top_k = task, min_score, top_k

    def __call__(self, file: str | Path) -> dict[str, Any]:
        """The row of an image. Raises ImageError."""
        image = open_image(file, self.at_least)
        return {"file": str(file), **self.rows(self.resized(image)[None], [image.shape[:2]])[0]}

    def resized(self, image: "np.ndarray") -> "np.ndarray":
        """What the network sees of an upright image uint8 RGB (H, W, 3): uint8 (height, width, 3), cut and resized."""
        if self.crop is not None:
            scale = self.crop * min(image.shape[0] / self.height, image.shape[1] / self.width)
            height = min(image.shape[0], max(1, round(scale * self.height)))
            width = min(image.shape[1], max(1, round(scale * self.width)))
            top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
            image = image[top : top + height, left : left + width]
        if not self.bicubic:
            return resize(image, self.height, self.width)
        import numpy as np
        from PIL import Image

        return np.asarray(Image.fromarray(image).resize((self.width, self.height), Image.Resampling.BICUBIC))

    def rows(self, pixels: "np.ndarray", sizes: Sequence[tuple[int, ...]]) -> list[dict[str, Any]]:
        """The rows of `resized` images uint8 (N, height, width, 3) that were of the `sizes` (height, width)."""
        outputs = self.session.run(_OUTPUTS[self.task], {"images": pixels})
        return [_row(self, size, *one) for size, *one in zip(sizes, *outputs, strict=True)]


_OUTPUTS = {
    "detection": ("boxes_xyxy", "scores", "labels", "count"),
    "classification": ("probabilities",),
    "face_attributes": ("probabilities", "present"),
    "face_embeddings": ("embedding",),
    "geolocalization": ("probabilities", "latlng"),
}


def _row(model: Model, size: tuple[int, ...], first: Any, *others: Any) -> dict[str, Any]:
    """What is printed of one image, from its outputs in the order of `_OUTPUTS`."""
    if model.task == "detection":
        scores, labels, count = others
        boxes = (first * (size[1], size[0], size[1], size[0])).tolist()
        rows = itertools.islice(zip(labels.tolist(), scores.tolist(), boxes, strict=True), int(count))
        found = [(model.names[label], score, box) for label, score, box in rows if score >= model.min_score]
        return {"objects": [{"name": name, "score": score, "box_xyxy": box} for name, score, box in found]}
    if model.task == "face_attributes":
        attributes = dict(zip(model.names, first.tolist(), strict=True))
        return {"attributes": attributes, "present": list(itertools.compress(model.names, others[0]))}
    if model.task == "face_embeddings":
        return {"embedding": first.tolist()}
    best = [(i, float(first[i])) for i in (-first).argsort(kind="stable")[: model.top_k].tolist()]
    if model.task == "classification":
        return {"classes": [{"name": model.names[i], "probability": p} for i, p in best]}

    def degrees(place: Any) -> dict[str, float]:
        return {"latitude": round(float(place[0]), 6), "longitude": round(float(place[1]), 6)}

    places, tokens = model.cells["latlng"], model.cells["tokens"]
    cells = [{**degrees(places[i]), "probability": round(p, 6), "cell": tokens[i]} for i, p in best]
    return {**degrees(others[0]), "cells": cells}


# --- The image, as data/images.py opens it and data/transforms.py resizes it ---


def open_image(file: str | Path, at_least: tuple[int, int] | None = None) -> "np.ndarray":
    """A file as uint8 RGB (H, W, 3), upright by its EXIF orientation, the first frame, transparency shown on white.

    `at_least` (height, width): a JPEG may be decoded at 1/2, 1/4 or 1/8, as long as it stays that large. ImageError.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(file, formats=_FORMATS) as image:
            if image.format == "PNG":
                image.load()  # its EXIF may follow the pixels
            orientation = 1
            with contextlib.suppress(Exception):  # a broken EXIF says nothing about the pixels
                orientation = 1 if image.format == "TIFF" else image.getexif().get(0x0112, 1)  # PIL turns TIFFs itself
            if at_least is not None:
                image.draft(None, at_least if orientation in (5, 6, 7, 8) else at_least[::-1])
            image.load()
            upright = _rgb(image)
            if orientation in range(2, 9):
                flip = Image.Transpose
                turns = flip.FLIP_LEFT_RIGHT, flip.ROTATE_180, flip.FLIP_TOP_BOTTOM, flip.TRANSPOSE
                upright = upright.transpose((*turns, flip.ROTATE_270, flip.TRANSVERSE, flip.ROTATE_90)[orientation - 2])
            return np.asarray(upright)
    except FileNotFoundError as error:
        raise ImageError(f"{file}: there is no such file.") from error
    except Exception as error:  # PIL's plugins raise a dozen kinds
        raise ImageError(f"{file}: it cannot be decoded ({error or type(error).__name__}); replace it.") from error


def _rgb(image: "Image.Image") -> "Image.Image":
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I"):  # grey of 16 bits: scaled, where convert() would cut it
        low, high = image.getextrema()
        if low < 0 or high > 65535:
            raise ValueError(f"its values {low} to {high} are outside 16 bits")
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("32-bit floating-point pixels have no fixed white")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def resize(image: "np.ndarray", height: int, width: int) -> "np.ndarray":
    """uint8 (H, W, 3) at height x width, as OpenCV to the bit: INTER_LINEAR up to a shrink of 2.5, else INTER_AREA."""
    import numpy as np

    down, across = image.shape[0] / height, image.shape[1] / width
    if down == across == 1:
        return image
    if down == across == 2:  # OpenCV's own way for the half
        pairs = np.add(image[::2], image[1::2], dtype=np.uint16)
        return ((pairs[:, ::2] + pairs[:, 1::2] + 2) >> 2).astype(np.uint8)
    smoothed = max(down, across) > _SMOOTHED
    if smoothed and min(down, across) >= 1:
        return _averaged(image, height, width)
    return _interpolated(image, height, width, smoothed)


def _interpolated(image: "np.ndarray", height: int, width: int, smoothed: bool) -> "np.ndarray":
    """OpenCV's fixed point: weights of 11 bits, 4 bits fewer between the passes, and 16 and 2 fewer at the end."""
    import numpy as np

    top, bottom, down = _pairs(image.shape[0], height, smoothed, 1)
    left, right, weight = _pairs(image.shape[1], width, smoothed, 3)
    flat = image.reshape(len(image), -1)
    # first * (2048 - weight) + second * weight >> 4; split so that 16 bits hold it all, as those are quickest
    first = flat.take(left, axis=1)
    step = np.subtract(flat.take(right, axis=1), first, dtype=np.int16)
    across = step * (weight & 15)
    across >>= 4
    step *= weight >> 4
    across += step
    across += np.left_shift(first, 7, dtype=np.int16)
    above = np.multiply(across.take(top, axis=0), 2048 - down[:, None], dtype=np.int32)
    below = np.multiply(across.take(bottom, axis=0), down[:, None], dtype=np.int32)
    above >>= 16
    below >>= 16
    above += below
    above += 2
    above >>= 2
    return above.astype(np.uint8).reshape(height, width, 3)


@functools.lru_cache(64)
def _pairs(source: int, target: int, smoothed: bool, channels: int) -> tuple["np.ndarray", "np.ndarray", "np.ndarray"]:
    """For each of `target` pixels of a row two of `source`, as places in the flat row, and the second's weight."""
    import numpy as np

    at, scale = np.arange(target), 1 / (target / source)
    if smoothed:  # INTER_AREA where one of the sides grows
        first = np.floor(at * scale)
        part = ((at + 1) - (first + 1) * (target / source)).astype(np.float32)
        part = np.where(part <= 0, np.float32(0), part - np.floor(part))
    else:
        place = ((at + 0.5) * scale - 0.5).astype(np.float32)
        first = np.floor(place)
        part = place - first
    weight = np.rint(part * np.float32(2048)).astype(np.int16).repeat(channels)
    left, right = (_places((first + i).clip(0, source - 1), channels) for i in (0, 1))
    return left, right, weight


def _places(pixels: "np.ndarray", channels: int) -> "np.ndarray":
    """Where the channels of pixels (..., N) are in a flat row, int64 (..., N * channels)."""
    import numpy as np

    return (pixels.astype(np.int64)[..., None] * channels + np.arange(channels)).reshape(*pixels.shape[:-1], -1)


def _averaged(image: "np.ndarray", height: int, width: int) -> "np.ndarray":
    """OpenCV's INTER_AREA where no side grows: each pixel weighs as much of it as is covered, in float32."""
    import numpy as np

    shrinks = 1 / (height / image.shape[0]), 1 / (width / image.shape[1])
    whole = all(shrink.is_integer() for shrink in shrinks)  # then the sum is exact, and divided once
    rows, row_weights = _covered(image.shape[0], height, whole, 1)
    columns, column_weights = _covered(image.shape[1], width, whole, 3)
    flat = image.reshape(len(image), -1)
    across = np.zeros((len(flat), columns.shape[1]), np.float32)
    step = max(1, 65536 // columns.shape[1])  # rows at once: they stay in the processor's cache
    for start in range(0, len(flat), step):
        part = flat[start : start + step]
        for at, weight in zip(columns, column_weights, strict=True):
            across[start : start + step] += part.take(at, axis=1) * weight
    mean = np.zeros((height, across.shape[1]), np.float32)
    for at, weight in zip(rows, row_weights, strict=True):
        mean += across.take(at, axis=0) * weight[:, None]
    if whole:
        mean *= np.float32(1 / (shrinks[0] * shrinks[1]))
    return np.rint(mean).astype(np.uint8).reshape(height, width, 3)


@functools.lru_cache(64)
def _covered(source: int, target: int, whole: bool, channels: int) -> tuple["np.ndarray", "np.ndarray"]:
    """The places of the K pixels, at most, that each of `target` covers, and their weights, (K, target * channels)."""
    import numpy as np

    scale = 1 / (target / source)
    start = np.arange(target) * scale
    end, size = start + scale, np.minimum(scale, source - start)
    last = np.minimum(np.floor(end), source - 1)
    first = np.minimum(np.ceil(start), last)
    before, after = first - start, end - last  # OpenCV leaves out what is covered by a thousandth or less
    lowest = first - (before > 1e-3)
    at = lowest + np.arange((last + 1 - lowest).max())[:, None]
    rest = np.where((at == last) & (after > 1e-3), np.minimum(after, np.minimum(1, size)), 0)
    weight = np.where(at < first, before, np.where(at < last, 1, rest)) / size
    if whole:
        weight = at < lowest + round(scale)
    return _places(np.minimum(at, source - 1), channels), weight.astype(np.float32).repeat(channels, axis=1)
