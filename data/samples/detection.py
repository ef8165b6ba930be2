"""The built-in detection sample: five shapes to tell apart by their outline alone, in COCO's layout.

Colour, place, size and ground say nothing about the class, so a detector that scores has learnt shapes. Strokes and
dots are scattered about as clutter, shapes overlap a little, some images hold none, and some hold a heap of little
ones annotated as one crowd, as COCO does it.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from data.samples.drawing import progress, rgb, texture

IMAGES = {"train": 240, "val": 60, "test": 60}
CATEGORIES = {1: "circle", 3: "square", 4: "triangle", 7: "star", 9: "ring"}  # with gaps, as COCO's own ids have
HEIGHT, WIDTH = 240, 320  # px; not square, so that a mix-up of the two is seen
_SUPERSAMPLING = 4  # shapes are drawn this much larger and averaged down: smooth edges


def draw(root: Path, seed: int) -> None:
    """Draws `annotations/instances_<split>.json` and the JPEGs in `<split>/`."""
    (root / "annotations").mkdir(parents=True)
    bar = progress(total=sum(IMAGES.values()))
    for place, (split, count) in enumerate(IMAGES.items()):
        (root / split).mkdir()
        rng = np.random.default_rng((seed, place))
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(count):
            # A fixed share of the odd kinds, so that every split has both: every 20th is empty, every 15th has a crowd.
            kind = "empty" if number % 20 == 19 else "crowd" if number % 15 == 7 else "plain"
            pixels, objects = draw_scene(rng, kind)
            name = f"{number + 1:06d}.jpg"
            Image.fromarray(pixels).save(root / split / name, quality=88)
            images.append({"id": number + 1, "file_name": name, "height": HEIGHT, "width": WIDTH})
            annotations += [{"id": len(annotations) + i, "image_id": number + 1, **o} for i, o in enumerate(objects, 1)]
            bar.update()
        content = {
            "info": {"description": "Shapes, drawn by mobilenet-tasks", "version": "1"},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": name, "supercategory": "shape"} for i, name in CATEGORIES.items()],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def draw_scene(rng: np.random.Generator, kind: str = "plain") -> tuple[np.ndarray, list[dict[str, Any]]]:
    """One image, uint8 (HEIGHT, WIDTH, 3), and its annotations in COCO's fields but for the ids.

    `kind` is "plain", "empty" (no shape) or "crowd" (a heap of one class as one region beside the shapes).
    """
    canvas = _ground(rng)
    _clutter(canvas, rng)
    objects: list[dict[str, Any]] = []
    taken: list[tuple[float, float, float]] = []  # centre x, y and radius of what is there already
    if kind == "crowd":
        objects.append(_heap(canvas, rng, taken))
    for _ in range(0 if kind == "empty" else rng.integers(1, 6)):
        radius = float(np.exp(rng.uniform(np.log(18), np.log(62))))  # boxes of about 35 to 125 px
        place = _free_place(rng, radius, taken)
        if place is not None:
            category = int(rng.choice(list(CATEGORIES)))
            objects.append(_draw_shape(canvas, rng, CATEGORIES[category], *place, radius) | {"iscrowd": 0})
            objects[-1]["category_id"] = category
    grain = rng.normal(0, 3, (HEIGHT, WIDTH, 1))
    return np.clip(canvas + grain, 0, 255).astype(np.uint8), objects


def _free_place(
    rng: np.random.Generator, radius: float, taken: list[tuple[float, float, float]]
) -> tuple[float, float] | None:
    """A centre for a shape that overlaps the others a little at most; None where there is none."""
    for _ in range(30):
        x = rng.uniform(radius * 0.9, WIDTH - radius * 0.9)
        y = rng.uniform(radius * 0.9, HEIGHT - radius * 0.9)
        if all(math.hypot(x - u, y - v) > 0.9 * (radius + r) for u, v, r in taken):
            taken.append((x, y, radius))
            return x, y
    return None


# --- the ground -------------------------------------------------------------------------------------------------------


def _ground(rng: np.random.Generator) -> np.ndarray:
    """A soft two-coloured texture, float32 (HEIGHT, WIDTH, 3) in 0 to 255: cloudy noise, at times woven or striped."""
    pattern = texture(rng, WIDTH, HEIGHT, (6, 28), 0.35, 0.25)
    hue, light = rng.random(), rng.uniform(0.25, 0.8)
    dark = rgb(hue, max(light - 0.16, 0.08), rng.uniform(0.15, 0.5), float)
    bright = rgb(hue + rng.uniform(-0.12, 0.12), light + 0.12, rng.uniform(0.15, 0.5), float)
    return (dark + pattern[..., None] * (bright - dark)).astype(np.float32)


def _clutter(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Strokes and specks that are no shapes: the detector must tell them from what it looks for."""
    layer = Image.new("L", (WIDTH * 2, HEIGHT * 2))
    pen = ImageDraw.Draw(layer)
    for _ in range(rng.integers(2, 12)):
        x, y = rng.uniform(0, WIDTH * 2), rng.uniform(0, HEIGHT * 2)
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(8, 70)
        if rng.random() < 0.6:
            end = (x + length * np.cos(angle), y + length * np.sin(angle))
            pen.line([(x, y), end], fill=int(rng.integers(110, 220)), width=int(rng.integers(2, 6)))
        else:
            size = rng.uniform(3, 7)
            pen.ellipse([x - size, y - size, x + size, y + size], fill=int(rng.integers(110, 220)))
    alpha = np.asarray(layer.resize((WIDTH, HEIGHT), Image.Resampling.BOX), np.float32)[..., None] / 255
    canvas += alpha * (rgb(rng.random(), rng.uniform(0.15, 0.9), 0.5, float) - canvas)


# --- the shapes -------------------------------------------------------------------------------------------------------


def outline(name: str, x: float, y: float, radius: float, angle: float) -> np.ndarray:
    """The outer outline as a closed polygon, float (P, 2) in px; `radius` is that of the circle around it."""
    if name in ("circle", "ring"):
        angles, radii = np.linspace(0, 2 * np.pi, 96, endpoint=False), np.ones(96)
    elif name == "star":
        angles, radii = np.arange(10) * np.pi / 5, np.where(np.arange(10) % 2, 0.45, 1.0)
    else:
        corners = {"triangle": 3, "square": 4}[name]
        angles, radii = np.arange(corners) * 2 * np.pi / corners + (np.pi / 4 if corners == 4 else 0), np.ones(corners)
    turned = angles + angle - np.pi / 2  # the first corner points up
    return np.stack([x + radius * radii * np.cos(turned), y + radius * radii * np.sin(turned)], axis=1)


_HOLE = 0.55  # of a ring, as a part of its radius


def _draw_shape(
    canvas: np.ndarray, rng: np.random.Generator, name: str, x: float, y: float, radius: float
) -> dict[str, Any]:
    """Draws one shape with a soft shadow and a lit side; returns its `bbox`, `area` and `segmentation`."""
    # Squares and triangles lean by at most 20 degrees either way; the others look alike however they are turned.
    lean = math.radians(20) if name in ("square", "triangle") else math.pi
    polygon = outline(name, x, y, radius, rng.uniform(-lean, lean))

    x1, y1 = max(0, math.floor(x - radius - 4)), max(0, math.floor(y - radius - 4))
    x2, y2 = min(WIDTH, math.ceil(x + radius + 7)), min(HEIGHT, math.ceil(y + radius + 7))
    mask = Image.new("L", ((x2 - x1) * _SUPERSAMPLING, (y2 - y1) * _SUPERSAMPLING))
    hole = [(outline("circle", x, y, radius * _HOLE, 0), 0)] if name == "ring" else []
    for points, covered in [(polygon, 255), *hole]:
        ImageDraw.Draw(mask).polygon(((points - (x1, y1)) * _SUPERSAMPLING - 0.5).ravel().tolist(), fill=covered)
    coverage = np.asarray(mask.reduce(_SUPERSAMPLING), np.float32) / 255  # of each pixel, (h, w)
    patch = canvas[y1:y2, x1:x2]

    shadow = np.zeros_like(coverage)
    shadow[3:, 2:] = coverage[:-3, :-2]
    patch *= 1 - 0.3 * shadow[..., None]

    brightness = float(patch.mean() / 255)
    lightness = rng.uniform(0.62, 0.8) if brightness < 0.45 else rng.uniform(0.22, 0.42)
    if 0.4 < brightness < 0.6 and rng.random() < 0.5:
        lightness = rng.uniform(0.72, 0.85)
    colour = rgb(rng.random(), lightness, rng.uniform(0.55, 0.95), float)
    rows, columns = np.mgrid[y1:y2, x1:x2]
    light = 1 + 0.16 * ((x - columns) + (y - rows)) / (2 * radius)  # from the upper left
    patch += coverage[..., None] * (colour * light[..., None] - patch)

    corners = polygon.clip((0, 0), (WIDTH, HEIGHT))
    low, high = corners.min(axis=0), corners.max(axis=0)
    return {
        "bbox": [round(float(v), 2) for v in (*low, *(high - low))],
        "area": round(float(coverage.sum()), 2),
        "segmentation": [[round(float(v), 1) for v in corners.ravel()]],
    }


def _heap(canvas: np.ndarray, rng: np.random.Generator, taken: list[tuple[float, float, float]]) -> dict[str, Any]:
    """Draws a heap of little shapes of one class, and returns it as one crowd, with a run-length mask as in COCO."""
    category = int(rng.choice(list(CATEGORIES)))
    x, y = rng.uniform(70, WIDTH - 70), rng.uniform(60, HEIGHT - 60)
    taken.append((x, y, 60.0))
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for _ in range(rng.integers(14, 22)):
        small = rng.uniform(6, 10)
        at = (float(x + rng.uniform(-48, 48)), float(y + rng.uniform(-36, 36)))
        left, top, wide, high = _draw_shape(canvas, rng, CATEGORIES[category], *at, small)["bbox"]
        mask[math.floor(top) : math.ceil(top + high), math.floor(left) : math.ceil(left + wide)] = True
    (first_row, *_, last_row), (first, *_, last) = (np.flatnonzero(mask.any(axis=axis)).tolist() for axis in (1, 0))
    column_major = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(column_major)) + 1
    runs = np.diff([0, *changes.tolist(), mask.size]).tolist()  # COCO's runs begin with zeros, down the columns
    return {
        "bbox": [first, first_row, last + 1 - first, last_row + 1 - first_row],
        "area": int(mask.sum()),
        "segmentation": {"counts": [0, *runs] if column_major[0] else runs, "size": [HEIGHT, WIDTH]},
        "category_id": category,
        "iscrowd": 1,
    }
