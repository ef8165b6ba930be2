"""Run one exported ONNX file on photographs, folders of them or a camera; print a JSON line for each image.

    python run.py F.onnx photo.jpg folder --draw drawn

It needs numpy, Pillow and onnxruntime, and no other file of the project: copy it to the device, beside F.onnx.
In Python:

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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help should not wait for them
    import numpy as np
    from PIL import Image

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF")
# fmt: off
_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif", ".ppm", ".pgm", ".jp2",
)
# fmt: on
_NOT_DATA = ("__MACOSX", "@eaDir")  # folders that macOS and file servers leave behind
_BATCH = 2  # on one core as fast as 1, where 8 took a fifth longer: their pixels no longer fit into its cache
_SMOOTHED = 2.5  # the shrink beyond which pixels are averaged


class InputError(ValueError):
    """What the user gave cannot be used; one sentence that says what to do."""


class ImageError(InputError):
    """An image that cannot be used."""


# --- The model ---


class Model:
    """An exported file as a function: an image in, its row out, as `predict` writes it.

    `threads` of onnxruntime, 0: one for each core. Objects of `conf` or more are told, and the `top` likeliest
    classes or cells. Raises InputError where the file is not an exported one.
    """

    def __init__(self, file: str | Path, threads: int = 0, conf: float = 0.3, top: int = 5) -> None:
        try:
            with Path(file).open("rb") as opened:
                head = opened.read(8)
        except OSError as error:
            raise InputError(f"{file} cannot be read ({error.strerror}); give an exported ONNX file.") from error
        if head[4:6] == b"ET" or Path(file).suffix == ".pte":
            raise InputError(
                f"{file} is for ExecuTorch, whose own runtime runs it; export with --format onnx for here."
            )
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its builds send Microsoft what they are used for
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        try:
            try:
                str(file).encode()
                source: str | bytes = str(file)
            except UnicodeEncodeError:  # onnxruntime takes no such name
                source = Path(file).read_bytes()
            self.session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a dozen kinds of its own
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{file} is no ONNX file that can be run ({reason}); export it again.") from error
        text = self.session.get_modelmeta().custom_metadata_map.get("mobilenet_tasks")
        if text is None:
            raise InputError(f"{file} has no metadata of ours; give what `python -m tasks.<task> export` wrote.")
        try:
            about = json.loads(text)
            task, rule = str(about["task"]), about["resize"]
            self.height, self.width = map(int, about["image_size"])
            self.crop = None if rule["crop"] is None else float(rule["crop"])
            self.bicubic = {"bilinear": False, "bicubic": True}[rule["interpolation"]]
            self.at_least = rule["draft_at_least"] and tuple(map(int, rule["draft_at_least"]))
            self.names, self.cells = list(map(str, about["names"])), about.get("cells")
            raw = about.get("nms") == "none"
            if list(self.session.get_inputs()[0].shape[1:3]) != [self.height, self.width]:
                raise ValueError(f"image_size {about['image_size']} is not the network's")
            if self.crop is not None and not 0 < self.crop <= 1:
                raise ValueError(f"crop {self.crop} is not above 0 and up to 1")
            if self.at_least and (len(self.at_least) != 2 or min(self.at_least) < 1):
                raise ValueError(f"draft_at_least {self.at_least} is not a height and a width")
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{file} has metadata that cannot be read ({reason}); export it again.") from error
        if task not in _OUTPUTS:
            raise InputError(f"{file} is of the task {task!r}, unknown here; take run.py of the version that wrote it.")
        if raw:
            raise InputError(
                f"{file} gives raw boxes for a suppression of your own; export without --nms none for here."
            )
        self.task, self.conf, self.top = task, conf, top

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
        try:
            outputs = self.session.run(_OUTPUTS[self.task], {"images": pixels})
            return [_row(self, size, *one) for size, *one in zip(sizes, *outputs, strict=True)]
        except Exception as error:
            raise InputError(f"the file and its metadata do not fit ({' '.join(str(error).split())[:200]}).") from error


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
        found = int((scores[:count] >= model.conf).sum())  # the best come first
        boxes = first[:found] * (size[1], size[0], size[1], size[0])
        rows = zip(labels[:found].tolist(), scores[:found].tolist(), boxes.round(2).tolist(), strict=True)
        return {"objects": [{"name": model.names[k], "score": round(p, 6), "box_xyxy": box} for k, p, box in rows]}
    if model.task == "face_attributes":
        attributes = {name: round(p, 6) for name, p in zip(model.names, first.tolist(), strict=True)}
        return {"attributes": attributes, "present": list(itertools.compress(model.names, others[0]))}
    if model.task == "face_embeddings":
        return {"embedding": first.tolist()}
    best = [(i, round(float(first[i]), 6)) for i in (-first).argsort(kind="stable")[: model.top].tolist()]
    if model.task == "classification":
        return {"classes": [{"name": model.names[i], "probability": p} for i, p in best]}

    def degrees(place: Any) -> dict[str, float]:
        return {"latitude": round(float(place[0]), 6), "longitude": round(float(place[1]), 6)}

    places, tokens = model.cells["latlng"], model.cells["tokens"]
    cells = [{**degrees(places[i]), "probability": p, "cell": tokens[i]} for i, p in best]
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
                image.load()  # or asking for its EXIF would, and hide that it is damaged
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
        low, high = (float(x) for x in image.getextrema())  # type: ignore[arg-type]
        if low < 0 or high > 65535:
            raise ValueError(f"its values {low:.0f} to {high:.0f} are outside 16 bits")
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("32-bit floating-point pixels have no fixed white")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def resize(image: "np.ndarray", height: int, width: int) -> "np.ndarray":
    """uint8 (H, W, 3) at height x width, as OpenCV to the bit: INTER_LINEAR up to a shrink of 2.5, else INTER_AREA."""
    down, across = image.shape[0] / height, image.shape[1] / width
    if down == across == 1:
        return image
    smoothed = max(down, across) > _SMOOTHED
    if smoothed and min(down, across) >= 1:
        return _averaged(image, height, width)
    return _interpolated(image, height, width, smoothed)


def _interpolated(image: "np.ndarray", height: int, width: int, smoothed: bool) -> "np.ndarray":
    """OpenCV's fixed point: weights of 11 bits, 4 bits fewer between the passes, and 16 and 2 fewer at the end."""
    import numpy as np

    top, bottom, below = _pairs(image.shape[0], height, smoothed, 1)
    left, right, weight = _pairs(image.shape[1], width, smoothed, 3)
    flat, resized = image.reshape(len(image), -1), np.empty((height, 3 * width), np.uint8)
    for block in _blocks(image, height, width):
        start = top[block][0]
        part = flat[start : bottom[block][-1] + 1]
        # first * (2048 - weight) + second * weight >> 4; split so that 16 bits hold it all, as those are quickest
        first = part.take(left, axis=1)
        step = np.subtract(part.take(right, axis=1), first, dtype=np.int16)
        across = np.left_shift(first, 7, dtype=np.int16)
        across += step * (weight >> 4)
        step *= weight & 15
        step >>= 4
        across += step
        down = np.multiply(across.take(top[block] - start, axis=0), 2048 - below[block, None], dtype=np.int32)
        down >>= 16
        more = np.multiply(across.take(bottom[block] - start, axis=0), below[block, None], dtype=np.int32)
        more >>= 16
        down += more
        down += 2
        down >>= 2
        resized[block] = down
    return resized.reshape(height, width, 3)


def _blocks(image: "np.ndarray", height: int, width: int) -> Iterator[slice]:
    """The new rows in blocks, of which nothing takes 128 KiB: it stays in the cache, and malloc keeps its memory."""
    rows = max(1, int(120_000 / (3 * width * max(4, 2 * image.shape[0] / height))))
    return (slice(start, min(start + rows, height)) for start in range(0, height, rows))


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
    flat, resized = image.reshape(len(image), -1), np.empty((height, 3 * width), np.uint8)
    for block in _blocks(image, height, 2 * width):  # of 32 bits
        start, end = rows[0, block][0], rows[-1, block][-1] + 1
        across, mean = (np.zeros((n, 3 * width), np.float32) for n in (end - start, block.stop - block.start))
        for at, weight in zip(columns, column_weights, strict=True):
            across += flat[start:end].take(at, axis=1) * weight
        for at, weight in zip(rows[:, block] - start, row_weights[:, block], strict=True):
            mean += across.take(at, axis=0) * weight[:, None]
        if whole:
            mean *= np.float32(1 / (shrinks[0] * shrinks[1]))
        resized[block] = np.rint(mean)
    return resized.reshape(height, width, 3)


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


# --- What is drawn ---


def draw(image: "np.ndarray", row: dict[str, Any], names: Sequence[str]) -> "Image.Image":
    """A copy of the image uint8 RGB (H, W, 3) with its row's boxes, or with the likeliest names or place below it."""
    from PIL import Image, ImageDraw, ImageFont

    size = image.shape[1], image.shape[0]
    try:
        font: Any = ImageFont.truetype("DejaVuSans.ttf", max(11, max(size) // 40))  # most Linux systems have it
    except OSError:
        font = ImageFont.load_default(max(11, max(size) // 40))  # English letters alone
    step = round(font.getbbox("Åg")[3]) + 3  # of lines
    lines = [f"{_seen(one['name'])} {one['probability']:.2f}" for one in row.get("classes", ())]
    lines += [f"{_seen(name)} {row['attributes'][name]:.2f}" for name in row.get("present", ())]
    lines += [f"{row['latitude']:.4f}, {row['longitude']:.4f}"] if "latitude" in row else []
    width = max([size[0], *(round(font.getlength(line)) + 8 for line in lines)])
    drawn = Image.new("RGB", (width, size[1] + step * len(lines)), "white")
    drawn.paste(Image.fromarray(image))
    pen = ImageDraw.Draw(drawn)
    for k, line in enumerate(lines):
        pen.text((4, size[1] + k * step), line, font=font, fill="black")
    marks = []
    for one in reversed(row.get("objects", ())):  # the best lies on top
        left, top, right, bottom = (min(max(round(x), 0), size[k % 2] - 1) for k, x in enumerate(one["box_xyxy"]))
        hue = (0.58 + names.index(one["name"]) * 0.6180339887) % 1  # steps by the golden ratio: neighbours differ
        marks.append((left, top, one, tuple(round(255 * x) for x in colorsys.hls_to_rgb(hue, 0.5, 0.9))))
        corners = left, top, max(left, right), max(top, bottom)
        pen.rectangle(corners, outline=marks[-1][-1], width=max(1, max(size) // 250))
    for left, top, one, color in marks:  # above every box
        text = f" {_seen(one['name'])} {one['score']:.2f} "
        left = max(0, min(left, round(size[0] - font.getlength(text))))
        top = top - step if top >= step else top
        pen.rectangle((left, top, left + round(font.getlength(text)), top + step), fill=color)
        pen.text((left, top), text, font=font, fill="black" if sum(color[:2]) > 255 else "white")
    return drawn


def _seen(text: str, most: int = 60) -> str:
    """A text in one line, cut, with visible escapes for what is not seen but does something."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return escaped if len(escaped) <= most else f"{escaped[: most - 1]}…"


# --- The command ---


def _found(sources: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """The image files in `sources`, and the path of each within its own source, in order. Raises InputError."""
    for source in map(Path, sources):
        insides = [Path(source.name)]
        if source.is_dir():
            files = [path.relative_to(source) for path in source.rglob("*") if path.suffix.lower() in _ENDINGS]
            shown = [path for path in files if not any(part[0] == "." or part in _NOT_DATA for part in path.parts)]
            insides = sorted(path for path in shown if (source / path).is_file())
        if not insides or not source.exists():
            raise InputError(f"{source}: there is no image by its ending; name images, folders of them, or camera.")
        yield from ((source / inside if source.is_dir() else source, inside) for inside in insides)


def _targets(folder: Path, insides: Iterable[Path]) -> Iterator[Path]:
    """Where each image is drawn: no two alike, and none over a file that is there. Raises InputError."""
    taken: set[str] = set()
    for inside in insides:
        name = inside.name if inside.suffix.lower() in (".jpg", ".jpeg") else f"{inside.name}.jpg"
        names = itertools.chain([name], (f"{count}_{name}" for count in itertools.count(2)))
        target = next(path for path in map((folder / inside).with_name, names) if str(path).lower() not in taken)
        taken.add(str(target).lower())
        if os.path.lexists(target):
            raise InputError(f"--draw {folder}: {target} is there already; name a new folder.")
        yield target


def _frames(source: str) -> "Iterator[tuple[Path, np.ndarray]]":
    """A name for each of a camera's frames, and the frame, uint8 RGB (H, W, 3). Raises InputError."""
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise InputError("a camera needs OpenCV: pip install opencv-python") from error
    number = source.partition(":")[2] or "0"
    camera = cv2.VideoCapture(int(number)) if number.isdecimal() else None
    if camera is None or not camera.isOpened():
        raise InputError(f"{source} cannot be opened; camera:0 is the first camera, camera:1 the second.")
    for count in itertools.count(1):
        there, frame = camera.read()
        if not there:
            return
        yield Path(f"camera{number}_{count:06}.jpg"), frame[:, :, ::-1]


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, each made in a thread while the one before is worked on; never more than two are there."""
    if (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) == 1:
        yield from items  # two threads would only take turns
        return
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def _run(options: argparse.Namespace) -> None:
    """Print the rows, draw the images. Raises InputError."""
    folder, camera = options.draw, options.sources[0] if options.sources[0].split(":")[0] == "camera" else None
    if camera and len(options.sources) > 1:
        raise InputError(f"{camera} has no end; name it alone.")
    if folder and folder.exists() and not folder.is_dir():
        raise InputError(f"--draw {folder} is a file; name a folder.")
    found = [] if camera else list(_found(options.sources))
    targets = list(_targets(folder, (inside for _, inside in found))) if folder else [None] * len(found)
    model = Model(options.file, options.threads, options.conf, options.top)
    if folder and model.task == "face_embeddings":
        raise InputError(f"{options.file} gives embeddings, of which there is nothing to draw; leave --draw out.")
    import numpy as np

    bad, done, start = 0, 0, time.perf_counter()

    def opened() -> Iterator[tuple[Any, ...]]:  # the image's name, where it is drawn, its size and pixels, itself
        nonlocal bad
        for file, image in _frames(camera) if camera else ():
            yield file, folder and folder / file, image.shape[:2], model.resized(image), image
        for (file, _), target in zip(found, targets, strict=True):
            try:
                image = open_image(file, model.at_least)
                yield file, target, image.shape[:2], model.resized(image), image if folder else None
            except ImageError as error:
                bad += 1
                print(f"warning: {_seen(str(error), 500)}", file=sys.stderr)

    images, many = opened(), 1 if camera else options.batch
    try:
        for batch in _ahead(iter(lambda: list(itertools.islice(images, many)) or None, None)):
            files, places, sizes, pixels, whole = zip(*batch, strict=True)
            for file, target, image, row in zip(files, places, whole, model.rows(np.stack(pixels), sizes), strict=True):
                print(json.dumps({"file": str(file), **row}))
                done += 1
                if target:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("xb") as out:  # never over a file that is there
                        draw(image, row, model.names).save(out, "JPEG", quality=92)
            sys.stdout.flush()
    finally:
        left_out = f"{bad:,} could not be read, " if bad else ""
        speed = done / (time.perf_counter() - start)
        if done or bad:
            print(f"{done:,} image{'s' * (done != 1)}, {left_out}{speed:.1f} images/s", file=sys.stderr)
    if not done:
        raise InputError("no image could be read; name others.")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 2 where what was given cannot be used, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="run", description="Run an exported ONNX file; print a JSON line an image.")
    parser.add_argument("file", metavar="F.onnx", type=Path, help="what `python -m tasks.<task> export` wrote")
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="an image, a folder, camera or camera:1")
    parser.add_argument("--draw", type=Path, metavar="DIR", help="write each image with its boxes or names here")
    parser.add_argument("--conf", type=float, default=0.3, help="least score of an object (default: %(default)s)")
    parser.add_argument("--top", type=int, default=5, help="classes or cells of an image (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=_BATCH, help="images at once (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="of onnxruntime (default: one for each core)")
    options = parser.parse_args(args)
    try:
        if not 0 <= options.conf <= 1 or options.top < 1 or options.batch < 1:
            raise InputError("--conf must be from 0 to 1, --top and --batch 1 or more.")
        if not 0 <= options.threads <= (cores := os.cpu_count() or 1):
            raise InputError(f"--threads is {options.threads}; it must be from 0 to {cores}, the cores that there are.")
        _run(options)
        return 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has what it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except InputError as error:
        message = str(error)
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed: pip install onnxruntime pillow numpy"
    except OSError as error:
        message = f"{error.filename or 'a file'} cannot be written ({error.strerror or error}); name another place."
    print(f"error: {_seen(message, 1000)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
