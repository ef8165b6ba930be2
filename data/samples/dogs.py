"""The built-in sample of fine-grained classes: eight breeds of drawn dogs, in Stanford Dogs' official layout.

A breed is a choice of ears, tail and coat, and every choice is made, so that any one detail alone leaves four breeds
open. Coat colours, build, pose, view, light, place, size and ground say nothing. Each dog is built of spheres along its
bones and seen from the side or three quarters, so its details turn and hide as real ones do.
"""

import io
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.interpolate import PchipInterpolator
from scipy.io import savemat
from scipy.ndimage import gaussian_filter

from data.samples.drawing import progress, rgb, texture

DETAILS = (("prick-ear", "drop-ear"), ("curl-tail", "straight-tail"), ("saddle", "spots"))
BREEDS = tuple(itertools.product(*DETAILS))
TRAIN_IMAGES = 80  # of each breed, as the official list has 100 of each
TEST_IMAGES = (14, 9, 12, 16, 8, 13, 11, 13)  # by breed; the official test list is as uneven
WNID = 101  # of the first breed, and up from there: WordNet's nouns begin at n00001740, so none of these is ImageNet's
# Two oddities of the real set, both in its training list. 89 of its files are exact copies of others.
PNG_NAMED_JPG = (5, 7)  # breed, place in the list; the real one is n02105855_2933.jpg
COPY_OF_THE_ONE_BEFORE = (2, 31)

_SUPERSAMPLING = 3  # dogs are drawn this much larger and averaged down: smooth edges

# Axes of the body, from the floor beneath it; a dog that looks to the right of the image has its right side near. The
# unit is about its height, without the head.
FORWARD, UP, NEAR = range(3)
# What a ball belongs to, and a pixel of the dog.
TRUNK, MARKING, LIMB, HEAD, EAR, INNER_EAR, TAIL, COLLAR, DARK = range(PARTS := 9)


def folder_name(breed: int) -> str:
    """The breed's folder, as `n00000101-prick-ear_curl-tail_saddle`: an id, a hyphen, the name."""
    return f"n{WNID + breed:08d}-{'_'.join(BREEDS[breed])}"


def draw(root: Path, seed: int) -> None:
    """Draws `Images/`, `Annotation/` and the three `lists/*.mat`."""
    lists: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}  # "<folder>/<id>" and the label from 1
    bar = progress(total=len(BREEDS) * TRAIN_IMAGES + sum(TEST_IMAGES))
    for breed in range(len(BREEDS)):
        name, rng = folder_name(breed), np.random.default_rng((seed, breed))
        for kind in ("Images", "Annotation"):
            (root / kind / name).mkdir(parents=True)
        numbers = rng.choice(np.arange(10, 20000), TRAIN_IMAGES + TEST_IMAGES[breed], replace=False)
        for place, number in enumerate(numbers):
            stem = f"{name}/{name.partition('-')[0]}_{number}"
            if (breed, place) != COPY_OF_THE_ONE_BEFORE:
                pixels, coverage = draw_dog(rng, BREEDS[breed])
            options: dict[str, Any] = {"format": "PNG"} if (breed, place) == PNG_NAMED_JPG else {"quality": 90}
            Image.fromarray(pixels).save(root / "Images" / f"{stem}.jpg", **options)
            (root / "Annotation" / stem).write_text("\n".join(_annotation(stem, coverage)), encoding="utf-8")
            lists["train" if place < TRAIN_IMAGES else "test"].append((stem, breed + 1))
            bar.update()
    (root / "lists").mkdir()
    for listed, entries in {**lists, "file": sorted(lists["train"] + lists["test"])}.items():
        (root / "lists" / f"{listed}_list.mat").write_bytes(_list(entries))


def _list(entries: list[tuple[str, int]]) -> bytes:
    """One of the .mat lists: cells of strings `file_list` and `annotation_list`, and `labels`, all (N, 1)."""
    stems, labels = zip(*entries, strict=True) if entries else ((), ())
    columns = {"file_list": [f"{stem}.jpg" for stem in stems], "annotation_list": stems}
    cells = {key: np.array(texts, dtype=object)[:, None] for key, texts in columns.items()}
    content = io.BytesIO()
    savemat(content, cells | {"labels": np.array(labels, np.uint8)[:, None]})
    # savemat begins with 116 bytes of free text that hold the time: the same seed is to give the same bytes.
    return b"MATLAB 5.0 MAT-file, drawn by mobilenet-tasks".ljust(116) + content.getvalue()[116:]


def box_of(coverage: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box of whole pixels (x1, y1, x2, y2) that holds all of a mask, its far edges exclusive."""
    rows, columns = np.flatnonzero(coverage.any(axis=1)), np.flatnonzero(coverage.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _annotation(stem: str, coverage: np.ndarray) -> list[str]:
    """The lines of the XML that tells where the dog is, as PASCAL VOC has it."""
    name, _, identifier = stem.partition("/")
    wnid, _, breed = name.partition("-")
    height, width = coverage.shape
    xmin, ymin, xmax, ymax = box_of(coverage)
    truncated = int(xmin == 0 or ymin == 0 or xmax == width or ymax == height)
    box = {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}
    dog = {"name": breed, "pose": "Unspecified", "truncated": truncated, "difficult": 0, "bndbox": box}
    size, source = {"width": width, "height": height, "depth": 3}, {"database": "drawn by mobilenet-tasks"}
    content = {"folder": wnid[1:], "filename": identifier, "source": source, "size": size, "segment": 0, "object": dog}
    return _xml("annotation", content)


def _xml(key: str, value: Any) -> list[str]:
    if not isinstance(value, dict):
        return [f"<{key}>{value}</{key}>"]
    inner = itertools.chain.from_iterable(_xml(*item) for item in value.items())
    return [f"<{key}>", *(f"\t{line}" for line in inner), f"</{key}>"]


# --- the image --------------------------------------------------------------------------------------------------------


def draw_dog(rng: np.random.Generator, breed: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """One dog on a ground: the image, uint8 (H, W, 3), and how much of each pixel the dog covers, float32 (H, W).

    `rng` is asked the same whatever the breed: from the same state, two breeds differ in their details alone.
    """
    ears, tail, coat = breed
    width, height = int(rng.integers(164, 209)), int(rng.integers(152, 193))
    unit = rng.uniform(0.82, 1.0) * min(width / 2.25, height / 1.75)  # px

    # Turned rather towards the viewer than away, and seen from a little above.
    camera = _turn(UP, NEAR, rng.uniform(0.05, 0.3)) @ _turn(FORWARD, NEAR, rng.uniform(-0.3, 0.7))
    # Where it stands follows from the trunk, so that the place tells nothing of ears and tail.
    play = np.array([width - 2.2 * unit, height - 1.72 * unit])
    origin = np.array([width / 2, height / 2 + 0.79 * unit]) + rng.uniform(-0.5, 0.5, 2) * play

    canvas = _ground(rng, width, height, horizon=origin[1] - rng.uniform(0.2, 0.9) * unit)
    _shadow(canvas, rng, origin, unit)
    dog, coverage = _render(_balls(rng, ears, tail), rng, camera, origin, unit, (height, width), coat)
    fur = 1 + 0.03 * rng.standard_normal((height, width, 1), np.float32)
    canvas += coverage[..., None] * (dog * fur - canvas)
    canvas += 2.5 * rng.standard_normal((height, width, 1), np.float32)
    if rng.random() < 0.5:
        canvas, coverage = canvas[:, ::-1], coverage[:, ::-1]
    return np.clip(canvas, 0, 255).astype(np.uint8), coverage


def _turn(axis: int, towards: int, angle: float) -> np.ndarray:
    """The rotation, (3, 3), that turns `axis` by `angle` radians towards another."""
    matrix = np.eye(3)
    matrix[[axis, towards], [axis, towards]] = math.cos(angle)
    matrix[towards, axis] = math.sin(angle)
    matrix[axis, towards] = -math.sin(angle)
    return matrix


def _ground(rng: np.random.Generator, width: int, height: int, horizon: float) -> np.ndarray:
    """A textured wall above a textured floor, float32 (height, width, 3) in 0 to 255."""
    sides = []
    for _ in range(2):
        pattern = texture(rng, width, height, (8, 30), 0.2)
        hue, light, saturation = rng.random(), rng.uniform(0.25, 0.75), rng.uniform(0.1, 0.45)
        dark = rgb(hue, light - 0.1, saturation)
        bright = rgb(hue + rng.uniform(-0.1, 0.1), light + 0.1, saturation)
        sides.append(dark + pattern[..., None] * (bright - dark))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    edge = horizon + rng.uniform(-0.08, 0.08) * (x - width / 2)
    below = ((y - edge) / rng.uniform(1.5, 8) + 0.5).clip(0, 1)[..., None]
    return (sides[0] + below * (sides[1] - sides[0])).astype(np.float32)


def _shadow(canvas: np.ndarray, rng: np.random.Generator, origin: np.ndarray, unit: float) -> None:
    """A soft shadow on the floor beneath the dog."""
    y, x = np.mgrid[: canvas.shape[0], : canvas.shape[1]].astype(np.float32)
    x = (x - origin[0] - rng.uniform(-0.15, 0.15) * unit) / (0.75 * unit)
    y = (y - origin[1]) / (0.17 * unit)
    canvas *= 1 - rng.uniform(0.25, 0.5) * np.exp(-((x * x + y * y) ** 1.5))[..., None]


# --- the dog ----------------------------------------------------------------------------------------------------------


def _chain(part: int, *stations: tuple[float, float, float, float]) -> np.ndarray:
    """Balls (x, y, z, radius, part) close together on a smooth line through `stations` (x, y, z, radius)."""
    at = np.array(stations)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(at[:, :3], axis=0), axis=1))])
    count = int(along[-1] / min(0.4 * at[:, 3].mean(), 0.04)) + 2
    line = PchipInterpolator(along, at)(np.linspace(0, along[-1], count))
    return np.column_stack([line, np.full(count, part)])


def _balls(rng: np.random.Generator, ears: str, tail: str) -> np.ndarray:
    """A dog in a pose of its own, float (N, 5): centre, radius and part of every ball."""
    legs, girth = rng.uniform(0.9, 1.1), rng.uniform(0.9, 1.12)
    hip, chest = 0.69 * legs, 0.67 * legs
    back = (-0.2, hip + 0.02, 0, 0.16 * girth), (0.1, chest, 0, 0.185 * girth), (0.34, chest, 0, 0.2 * girth)
    neck = (0.36, chest + 0.05, 0, 0.17 * girth), (0.52, chest + 0.28, 0, 0.13), (0.58, chest + 0.36, 0, 0.12)
    balls = [_chain(TRUNK, (-0.46, hip, 0, 0.17 * girth), *back), _chain(TRUNK, *neck)]
    for side in (-1, 1):
        fore, hind = rng.uniform(-0.13, 0.13, 2)
        z = side * 0.11 * girth
        elbow, knee = (0.35 + 0.4 * fore, 0.42 * legs, z, 0.075), (-0.42 + 0.3 * hind, 0.42 * legs, z, 0.1)
        hock, paw = (-0.56 + 0.6 * hind, 0.26, z, 0.055), (-0.46 + hind, 0.05, z, 0.055)
        balls += [
            _chain(TRUNK, (0.36, chest - 0.04, z, 0.11), elbow),
            _chain(LIMB, elbow, (0.35 + fore, 0.06, z, 0.055), (0.41 + fore, 0.05, z, 0.055)),
            _chain(TRUNK, (-0.46, hip - 0.03, z, 0.15), knee),
            _chain(LIMB, knee, hock, (-0.52 + hind, 0.06, z, 0.05), paw),
        ]

    length, plump = rng.uniform(0.9, 1.1), rng.uniform(0.9, 1.2)
    sideways, lift = rng.uniform(-0.1, 0.1), rng.uniform(-0.45, 0.55)
    if tail == "curl-tail":  # up and forward over the back
        line = [(-0.52, hip + 0.06, 0.0)] + [
            (-0.57 + 0.17 * length * math.cos(a), hip + 0.33 + 0.17 * length * math.sin(a), sideways * step / 3)
            for step, a in enumerate(np.linspace(-0.55, -2.1, 6) * np.pi, 1)
        ]
    else:
        line = [
            (-0.52 - s * length * math.cos(lift), hip + 0.06 + s * length * math.sin(lift), sideways * s * 4)
            for s in np.linspace(0, 0.55, 4)
        ]
    thickness = np.interp(np.linspace(0, 1, len(line)), [0, 0.5, 1], [0.06, 0.065, 0.035]) * plump
    balls.append(_chain(TAIL, *((*at, r) for at, r in zip(line, thickness, strict=True))))

    # The head is built about the skull's centre, turned, and set on the neck.
    muzzle, broad = rng.uniform(0.17, 0.26), rng.uniform(0.9, 1.1)
    nose = 0.1 + muzzle
    head = [
        _chain(HEAD, (-0.03, 0, 0, 0.17 * broad), (0.03, 0, 0, 0.17 * broad)),
        _chain(HEAD, (0.1, -0.06, 0, 0.1 * broad), (nose, -0.08, 0, 0.07 * broad)),
        _chain(HEAD, (0.08, -0.1, 0, 0.085), (nose - 0.05, -0.125, 0, 0.05)),
        np.array([[nose + 0.05, -0.05, 0, 0.04, DARK]]),
    ]
    spread, tilt = rng.uniform(0.8, 1.2), rng.uniform(-0.04, 0.04)
    for side in (-1, 1):
        head.append(np.array([[0.125, 0.06, side * 0.1 * broad, 0.034, DARK]]))  # the eye
        tip, out = side * 0.17 * spread, side * (0.17 + 0.03 * spread)
        if ears == "prick-ear":
            head.append(_chain(EAR, (-0.05, 0.08, side * 0.1, 0.11), (-0.06 + tilt, 0.45, tip, 0.02)))
            head.append(_chain(INNER_EAR, (0.02, 0.13, side * 0.11, 0.06), (-0.015 + tilt, 0.35, tip, 0.02)))
        else:
            ends = (-0.01 + tilt, -0.17, out, 0.115), (0.01 + tilt, -0.34, out * 0.9, 0.06)
            head.append(_chain(EAR, (-0.05, 0.1, side * 0.12, 0.06), (-0.03 + tilt, 0.03, out, 0.08), *ends))
    head_balls = np.concatenate(head)
    turn = _turn(FORWARD, NEAR, rng.uniform(-0.35, 0.6)) @ _turn(FORWARD, UP, rng.uniform(-0.3, 0.25))
    head_balls[:, :3] = head_balls[:, :3] @ turn.T + (0.64, chest + 0.47, 0)
    wears = rng.random() < 0.4
    collar = _chain(COLLAR, (0.485, chest + 0.27, 0, 0.137), (0.52, chest + 0.3, 0, 0.137))
    return np.concatenate([*balls, *([collar] if wears else []), head_balls])


def _render(
    balls: np.ndarray,
    rng: np.random.Generator,
    camera: np.ndarray,
    origin: np.ndarray,
    unit: float,
    size: tuple[int, int],
    coat: str,
) -> tuple[np.ndarray, np.ndarray]:
    """The balls in parallel projection, coated and lit: colours, float32 (H, W, 3), and coverage, float32 (H, W).

    `origin` is where (0, 0, 0) falls, in px (x, y), and `unit` is how many px the body's unit measures.
    """
    fine = _SUPERSAMPLING
    scale = unit * fine
    seen = balls[:, :3] @ camera.T * scale + (origin[0] * fine, 0, 0)
    seen[:, 1] = origin[1] * fine - seen[:, 1]
    depth, part = _nearest(seen, balls[:, 3] * scale, balls[:, 4].astype(np.int8), (size[0] * fine, size[1] * fine))

    # From here on in the dog's own window, of whole pixels.
    x1, y1, x2, y2 = np.add(box_of(depth > -np.inf), [0, 0, fine - 1, fine - 1]) // fine
    window = slice(y1 * fine, y2 * fine), slice(x1 * fine, x2 * fine)
    solid, part = depth[window] > -np.inf, part[window]
    depth = np.where(solid, depth[window], 0)

    # Light falls on the surface as if it were soft: its height is averaged over a pixel or so, within the dog.
    soft = {"sigma": 1.2 * fine, "truncate": 2.5, "mode": "constant"}
    smooth = gaussian_filter(depth, **soft) / np.maximum(gaussian_filter(solid.astype(np.float32), **soft), 1e-3)
    down, right = np.gradient(smooth)
    light = np.array([rng.uniform(-0.7, 0.7), rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.8)], np.float32)
    light /= np.linalg.norm(light)
    facing = (light[2] - right * light[0] + down * light[1]) / np.sqrt(1 + right**2 + down**2)
    ambient = np.float32(rng.uniform(0.55, 0.75))
    shade = ambient + (1.15 - ambient) * facing.clip(0)

    # The trunk's markings belong to places on the body, so that they turn with it.
    row, column = np.nonzero(solid & (part == TRUNK))
    at_x, at_y = column + (x1 - origin[0]) * fine, (origin[1] - y1) * fine - row
    place = np.stack([at_x, at_y, depth[row, column]]).astype(np.float32) / np.float32(scale)
    marked = _marked(rng, camera.T.astype(np.float32) @ place, coat)
    part[row[marked], column[marked]] = MARKING
    colour = np.take(_colours(rng), part, axis=0)

    coverage, dog = np.zeros(size, np.float32), np.zeros((*size, 3), np.float32)
    here = slice(y1, y2), slice(x1, x2)
    coverage[here] = _reduced(solid[..., None].astype(np.float32))[..., 0]
    dog[here] = _reduced(colour * (shade * solid)[..., None]) / np.maximum(coverage[here], 1e-6)[..., None]
    return dog, coverage


def _reduced(fine: np.ndarray) -> np.ndarray:
    """The means of the blocks of _SUPERSAMPLING x _SUPERSAMPLING pixels."""
    n = _SUPERSAMPLING
    height, width, channels = fine.shape
    rows = fine.reshape(height // n, n, width * channels).sum(axis=1)
    return rows.reshape(height // n, width // n, n, channels).sum(axis=2) / n**2


def _nearest(
    centres: np.ndarray, radii: np.ndarray, parts: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The surface nearest to the eye in every pixel: depth, float32 (h, w), -inf where there is none, and its part."""
    depth, part = np.full(size, -np.inf, np.float32), np.zeros(size, np.int8)
    down, right = (np.arange(length, dtype=np.float32) for length in size)
    with np.errstate(invalid="ignore"):  # outside a ball the root is NaN, and NaN is not nearer
        for (x, y, near), r, kind in zip(centres.astype(np.float32), radii.astype(np.float32), parts, strict=True):
            rows, columns = (slice(max(int(at - r), 0), max(int(at + r) + 2, 0)) for at in (y, x))
            dy, dx = down[rows] - y, right[columns] - x
            surface = np.sqrt((r * r - dy * dy)[:, None] - dx * dx) + near
            nearer = surface > depth[rows, columns]
            np.copyto(depth[rows, columns], surface, where=nearer)
            np.copyto(part[rows, columns], kind, where=nearer)
    return depth, part


def _marked(rng: np.random.Generator, place: np.ndarray, coat: str) -> np.ndarray:
    """Which places of the trunk, (3, N) in the body's axes, bear the second colour, bool (N,).

    A saddle over the back or spots all over, of about the same area, so that the amounts of colour are no cue.
    """
    level, phases = rng.uniform(0.65, 0.71), rng.uniform(0, 2 * np.pi, 2)
    count = 64
    spots = np.column_stack([rng.uniform((-0.62, 0.42), (0.5, 0.92), (count, 2)), rng.choice([-0.17, 0.17], count)])
    radii = rng.uniform(0.06, 0.085, count)
    if coat == "saddle":
        x, y, _ = place
        return (y > level + 0.02 * np.sin(11 * x + phases[0]) + 0.015 * np.sin(23 * x + phases[1])) & (x < 0.34)
    # Within a spot: |a - b|^2 = a^2 - 2ab + b^2 < r^2.
    limit = np.full(place.shape[1], np.inf, np.float32)
    for spot, radius in zip(spots.astype(np.float32), radii.astype(np.float32), strict=True):
        np.minimum(limit, spot @ spot - radius * radius - 2 * (spot @ place), out=limit)
    return (place**2).sum(axis=0) < -limit


def _colours(rng: np.random.Generator) -> np.ndarray:
    """The colour of every part, float32 (P, 3) in 0 to 255."""
    # Coat and markings in colours of dogs, either the lighter, apart by a third of the way from black to white.
    low = rng.uniform(0.12, 0.4)
    lights = rng.permutation([low, rng.uniform(low + 0.33, 0.88)])
    coat, markings = (rgb(rng.uniform(0.05, 0.13), light, rng.uniform(0.05, 0.6)) for light in lights)
    colours = np.tile(coat, (PARTS, 1))
    colours[MARKING] = markings
    colours[EAR] = coat * (rng.uniform(0.5, 0.7) if coat.mean() > 80 else rng.uniform(1.5, 2))
    colours[INNER_EAR] = colours[EAR] * 0.75
    colours[COLLAR] = rgb(rng.random(), 0.45, 0.8)
    colours[DARK] = rgb(0.05, 0.07, 0.1)
    return colours
