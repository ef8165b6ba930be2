"""The built-in sample of face attributes: drawn faces in CelebA's layout, most of them without a label.

Every face is somebody's: a person has a shape, a skin and hair of their own, and is seen in several images. Pose,
light, ground, clothes and skin say nothing about the attributes. An attribute is said where it is seen, as CelebA's
annotators did it: under a hat nobody is bald. No real person is depicted.
"""

import math
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data.samples.drawing import cloud, progress, rgb

IMAGES = {"train": 400, "val": 150, "test": 400}
UNLABELLED = 3000  # in a folder beside, in no list
ATTRIBUTES = "list_attr_celeba.txt"
HEIGHT, WIDTH = 112, 96  # px; CelebA's 218 x 178 have this shape
# How many images have it. CelebA's names where it has one (Freckles is ours), and its order, the alphabet's.
FREQUENCIES = {
    "Arched_Eyebrows": 0.27,
    "Bald": 0.06,
    "Bangs": 0.2,
    "Big_Nose": 0.24,
    "Black_Hair": 0.28,
    "Blond_Hair": 0.16,
    "Bushy_Eyebrows": 0.18,
    "Eyeglasses": 0.16,
    "Freckles": 0.1,
    "Goatee": 0.15,
    "Gray_Hair": 0.07,
    "Mouth_Slightly_Open": 0.42,
    "Mustache": 0.12,
    "Narrow_Eyes": 0.12,
    "Rosy_Cheeks": 0.12,
    "Smiling": 0.6,
    "Wearing_Earrings": 0.22,
    "Wearing_Hat": 0.12,
    "Wearing_Lipstick": 0.36,
}
HAIR_COLOURS = ("Black_Hair", "Blond_Hair", "Gray_Hair")  # who has none of them has brown or red hair, or is bald
# Somebody has these in all images, and the others as it comes.
LASTING = {"Arched_Eyebrows", "Bald", "Big_Nose", "Bushy_Eyebrows", "Freckles", "Goatee", "Mustache", *HAIR_COLOURS}

Rng = np.random.Generator
_SUPERSAMPLING = 3  # outlines are filled this much larger and averaged down: smooth edges
# In units of the head: how high the skull rises above the eyes, and y of a hat's edge.
_SKULL, _HAT_EDGE = 1.3, -0.62


def draw(root: Path, seed: int) -> None:
    """Draws `img_align_celeba/`, CelebA's three lists and `unlabelled/`."""
    lists: dict[str, list[str]] = {name: [] for name in (ATTRIBUTES, "list_eval_partition.txt", "identity_CelebA.txt")}
    met = 0  # persons in the splits before: nobody is in two
    counts = [*IMAGES.values(), UNLABELLED]
    bar = progress(total=sum(counts))
    for split, count in enumerate(counts):
        labelled = split < len(IMAGES)
        images = root / ("img_align_celeba" if labelled else "unlabelled")
        images.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng((seed, split))
        people = people_of(rng, count)
        for place, (person, has) in enumerate(zip(people.tolist(), attribute_table(rng, people), strict=True)):
            # 1 and 2, as numpy fills a short seed up with zeros: (0, 1) and (0, 1, 0) would be the same stream.
            who, image = (np.random.default_rng((seed, split, *key)) for key in ((1, person), (2, place)))
            pixels = draw_face(who, image, {name for name, yes in zip(FREQUENCIES, has, strict=True) if yes})
            file = f"{(len(lists[ATTRIBUTES]) if labelled else place) + 1:06d}.jpg"
            Image.fromarray(pixels).save(images / file, quality=85)
            row = " ".join(f"{1 if yes else -1:2d}" for yes in has), split, met + person + 1
            for lines, text in zip(lists.values() if labelled else (), row, strict=labelled):
                lines.append(f"{file} {text}")
            bar.update()
        met += int(people.max(initial=-1)) + 1
    lists[ATTRIBUTES][:0] = [str(len(lists[ATTRIBUTES])), f"{' '.join(FREQUENCIES)} "]  # CelebA too has that space
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


# --- who has what -----------------------------------------------------------------------------------------------------


def people_of(rng: Rng, images: int) -> np.ndarray:
    """Who is in each image, from 0, int64 (images,): everybody in one to five, in no order."""
    return rng.permutation(np.repeat(np.arange(images), rng.integers(1, 6, images))[:images])


def attribute_table(rng: Rng, people: np.ndarray) -> np.ndarray:
    """Which image has which attribute, bool (N, K), for the persons (N,) who are in them.

    Every attribute is as frequent as FREQUENCIES says, and they are independent but for what holds in life: hair has
    one colour; the bald have neither bangs nor a colour of hair; under a hat nobody is seen to be bald, and bangs are
    rare; a smile often opens the mouth; and half of those with a mustache have a goatee.
    """
    persons = int(people.max(initial=-1)) + 1

    def chance(name: str) -> np.ndarray:
        # In 0 to 1, evenly spread over the split, so that also a small one has its share of what is rare.
        count = persons if name in LASTING else len(people)
        numbers = (rng.permutation(count) + rng.random(count)) / max(count, 1)
        return numbers[people] if name in LASTING else numbers

    given = ("Bald", "Bangs", "Goatee", "Mouth_Slightly_Open", *HAIR_COLOURS)
    share = FREQUENCIES
    has = {name: chance(name) < share[name] for name in share if name not in given}
    hat = has["Wearing_Hat"]
    has["Bald"] = ~hat & (chance("Bald") < share["Bald"] / (1 - share["Wearing_Hat"]))
    bangs = share["Bangs"] / (1 - share["Bald"] - 0.7 * share["Wearing_Hat"])
    has["Bangs"] = ~has["Bald"] & (chance("Bangs") < np.where(hat, 0.3 * bangs, bangs))
    opened = share["Mouth_Slightly_Open"] / (1 + 2 * share["Smiling"])
    has["Mouth_Slightly_Open"] = chance("Mouth_Slightly_Open") < np.where(has["Smiling"], 3 * opened, opened)
    goatee = (share["Goatee"] - 0.5 * share["Mustache"]) / (1 - share["Mustache"])
    has["Goatee"] = chance("Goatee") < np.where(has["Mustache"], 0.5, goatee)
    colour, low = chance("Black_Hair"), 0.0
    for name in HAIR_COLOURS:
        high = low + share[name] / (1 - share["Bald"])
        has[name] = ~has["Bald"] & (low <= colour) & (colour < high)
        low = high
    return np.stack([has[name] for name in share], axis=1)


# --- what a face is drawn with ----------------------------------------------------------------------------------------


class Head(NamedTuple):
    """Where a head is and how it is turned. Its unit is half its width; (0, 0) is between the eyes, y runs down."""

    x: float  # px of (0, 0)
    y: float
    unit: float  # px
    tilt: float  # radians, to a shoulder
    turn: float  # to the side
    nod: float


def head_of(rng: Rng) -> Head:
    """A pose about the middle of the image."""
    x, y = WIDTH / 2 + rng.uniform(-4, 4), 0.52 * HEIGHT + rng.uniform(-3, 3)
    return Head(x, y, rng.uniform(26, 29.5), rng.normal(0, 0.08), rng.uniform(-0.3, 0.3), rng.uniform(-0.1, 0.1))


def on_image(head: Head, points: np.ndarray, *, front: bool = True) -> np.ndarray:
    """Points (N, 2) of the head, in its units, in px of the image.

    Those of the front lie on a curved face, which moves to the side as the head turns; the others on its silhouette.
    """
    x, y = (_turned(head, points) if front else np.asarray(points, float)).T
    cos, sin = head.unit * math.cos(head.tilt), head.unit * math.sin(head.tilt)
    return np.stack([head.x + cos * x - sin * y, head.y + sin * x + cos * y], axis=1)


def _turned(head: Head, points: np.ndarray) -> np.ndarray:
    """Where on the silhouette points (N, 2) of the front are seen; those that are out of sight, on its edge."""
    x, y = np.asarray(points, float).T
    depth = np.sqrt(np.maximum(1 - (x / 1.1) ** 2 - ((y - 0.1) / 1.8) ** 2, 0))
    x = x * math.cos(head.turn) + depth * math.sin(head.turn)
    y = y * math.cos(head.nod) + depth * math.sin(head.nod)
    edge = np.sqrt(np.maximum(1 - (np.minimum(y, 0) / _SKULL) ** 2, 0))
    return np.stack([x.clip(-edge, edge), y], axis=1)


class Person:
    """What is alike in all images of somebody, in units of the head; colours in 0 to 255."""

    def __init__(self, rng: Rng) -> None:
        light = rng.uniform(0.4, 0.8)
        self.skin = rgb(rng.uniform(0.045, 0.075), light, rng.uniform(0.28, 0.42) + 0.3 * max(light - 0.6, 0))
        self.iris = rgb(rng.uniform(0.05, 0.6), rng.uniform(0.18, 0.35), rng.uniform(0.2, 0.45))
        self.hair = {  # by attribute, "" where none is named
            "Black_Hair": rgb(rng.uniform(0, 0.7), rng.uniform(0.06, 0.1), 0.12),
            "Blond_Hair": rgb(rng.uniform(0.115, 0.135), rng.uniform(0.6, 0.7), rng.uniform(0.55, 0.75)),
            "Gray_Hair": rgb(0.6, rng.uniform(0.6, 0.78), rng.uniform(0, 0.06)),
            "": rgb(rng.uniform(0.025, 0.08), rng.uniform(0.2, 0.3), rng.uniform(0.3, 0.6)),
        }
        self.jaw = rng.uniform(0.68, 0.95)  # exponent of its outline: the less, the squarer
        self.chin = rng.uniform(1.36, 1.56)  # y
        self.apart = rng.uniform(0.4, 0.47)  # x of an eye
        self.eye = rng.uniform(0.19, 0.225), rng.uniform(0.105, 0.125)  # half axes
        self.brow = rng.uniform(-0.33, -0.28)  # y
        self.nose = rng.uniform(0.5, 0.6)  # y of its tip
        self.mouth = rng.uniform(0.32, 0.4)  # half its width
        self.lips = rng.uniform(0.08, 0.11), rng.uniform(0.11, 0.15)  # heights
        self.volume = rng.uniform(0.08, 0.3)  # of the hair beyond the skull
        self.length = rng.choice([rng.uniform(0.9, 2.2), 0.0], p=[0.55, 0.45])  # y to which hair hangs down; 0 is short
        self.parting = rng.uniform(-0.5, 0.5)  # x
        self.wave = rng.choice([0.0, rng.uniform(0.03, 0.08)])


class _Portrait:
    """An image that is being drawn. Colours are float32 (HEIGHT, WIDTH, 3), as they would be were they everywhere."""

    def __init__(self, who: Person, head: Head, has: Collection[str], scene: Rng, light: Rng, hair: Rng) -> None:
        self.canvas, self.who, self.head, self.has = _ground(scene), who, head, has
        y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
        x, y = (x + 0.5 - head.x) / head.unit, (y + 0.5 - head.y) / head.unit
        cos, sin = math.cos(head.tilt), math.sin(head.tilt)
        x, y = cos * x + sin * y, cos * y - sin * x  # of every pixel, on the head's silhouette
        self.shade = _shade(light, x, y)  # how bright the light is on the head
        strands = Image.fromarray(hair.random((7, 40), np.float32)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        colour = who.hair[next((name for name in HAIR_COLOURS if name in has), "")]
        self.skin = who.skin * self.shade
        self.hair = colour * self.shade * (0.7 + 0.6 * np.asarray(strands)[..., None])
        # Brows and beard are darker than the hair, and much so where they would be lost on the skin.
        self.beard = self.hair * (0.75 if abs((0.75 * colour).mean() - who.skin.mean()) > 60 else 0.4)
        self.hat_edge = _HAT_EDGE + 0.8 * math.sin(head.nod)  # y
        # 0 where a hat would hide hair
        self.uncovered = ((y - self.hat_edge) * 8 + 1).clip(0, 1) if "Wearing_Hat" in has else np.ones_like(y)


def _paint(
    of: _Portrait,
    shapes: list[np.ndarray],
    colour: np.ndarray,
    alpha: float | np.ndarray = 1.0,
    *,
    front: bool = True,
    blur: float = 0.0,
    width: float | None = None,
    head: Head | None = None,
) -> None:
    """Fills `shapes`, polygons (P, 2) in units of the head, or strokes them as lines of `width`.

    `colour`, 0 to 255, and `alpha`, 0 to 1, are single ones or the canvas' size. `blur` is in px. See on_image.
    """
    n, head = _SUPERSAMPLING, head or of.head
    outlines = [on_image(head, shape, front=front) for shape in shapes]
    corners, margin = np.concatenate(outlines), 3 * blur + (width or 0) * head.unit
    low = np.floor(corners.min(axis=0) - margin).clip(0, (WIDTH, HEIGHT)).astype(int)
    high = np.ceil(corners.max(axis=0) + margin).clip(0, (WIDTH, HEIGHT)).astype(int)
    if (high <= low).any():
        return  # outside of the image
    mask = Image.new("L", tuple(((high - low) * n).tolist()))
    pen = ImageDraw.Draw(mask)
    for outline in outlines:
        flat = ((outline - low) * n - 0.5).ravel().tolist()
        if width is None:
            pen.polygon(flat, fill=255)
        else:
            pen.line(flat, fill=255, width=max(round(width * head.unit * n), 1), joint="curve")
    mask = mask.reduce(n)
    if blur:
        mask = mask.filter(ImageFilter.GaussianBlur(blur))
    here = slice(low[1], high[1]), slice(low[0], high[0])
    cover = np.asarray(mask, np.float32) / 255 * (alpha[here] if isinstance(alpha, np.ndarray) else np.float32(alpha))
    patch = of.canvas[here]
    patch += cover[..., None] * ((colour[here] if colour.ndim == 3 else colour) - patch)


def _oval(x: float, y: float, width: float, height: float, *, power: float = 1.0, count: int = 24) -> np.ndarray:
    """An ellipse about (x, y) of these half axes, (count, 2); a `power` below 1 makes it squarer."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.sign(unit) * np.abs(unit) ** power * (width, height) + (x, y)


def _between(x: np.ndarray, over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """The outline (2 P, 2) of what lies between two lines above the same x (P,)."""
    return np.stack([np.concatenate([x, x[::-1]]), np.concatenate([over, under[::-1]])], axis=1)


def _both(points: np.ndarray | list[tuple[float, float]]) -> list[np.ndarray]:
    """The shape and its mirror image, on the other side of the face."""
    return [np.asarray(points), np.asarray(points) * (-1, 1)]


# --- the face ---------------------------------------------------------------------------------------------------------


def draw_face(person: Rng, image: Rng, attributes: Collection[str]) -> np.ndarray:
    """A face that has `attributes`, names of FREQUENCIES, uint8 (HEIGHT, WIDTH, 3).

    `person` decides who it is and `image` all else. Both are asked the same whatever the attributes: from the same
    states, two images differ only where an attribute shows.
    """
    who, head = Person(person), head_of(image)
    # A stream for each part, so that none depends on what is drawn of the others.
    scene, light, hair, cheeks, eyes, mouth, goatee, mustache, glasses, hat, earrings = image.spawn(11)
    of = _Portrait(who, head, attributes, scene, light, hair)
    _shoulders(of, scene)
    _ears(of, earrings)
    _skin(of, cheeks)
    _nose(of)
    _eyes(of, eyes)
    _goatee(of, goatee)
    _mouth(of, mouth)
    _mustache(of, mustache)
    _hair(of, hair)
    _glasses(of, glasses)
    _hat(of, hat)
    exposed = of.canvas * light.uniform(0.8, 1.12) * light.uniform(0.96, 1.04, 3)
    grain = 2.5 * scene.standard_normal((HEIGHT, WIDTH, 1), np.float32)
    return np.clip(exposed + grain, 0, 255).astype(np.uint8)


def _ground(rng: Rng) -> np.ndarray:
    """A blurred ground of two colours, float32 (HEIGHT, WIDTH, 3)."""
    hue, light = rng.random(), rng.uniform(0.15, 0.85)
    near = rgb(hue, light, rng.uniform(0.05, 0.5))
    far = rgb(hue + rng.uniform(-0.2, 0.2), light + rng.uniform(-0.3, 0.3), rng.uniform(0.05, 0.5))
    texture = (cloud(rng, WIDTH, HEIGHT, 3) + 0.5 * cloud(rng, WIDTH, HEIGHT, 9)) / 1.5
    return near + texture[..., None] * (far - near)


def _shade(rng: Rng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How bright light is on the head, here an ellipsoid, float32 (HEIGHT, WIDTH, 1)."""
    x, y = x / 1.15, (y - 0.1) / 1.7
    z = np.sqrt(np.maximum(1 - x * x - y * y, 0.02))
    light = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.1), rng.uniform(0.7, 1)], np.float32)
    light /= np.linalg.norm(light)
    ambient = rng.uniform(0.5, 0.75)
    facing = (x * light[0] + y * light[1] + z * light[2]).clip(0)
    return (ambient + (1.12 - ambient) * facing)[..., None]


def _shoulders(of: _Portrait, rng: Rng) -> None:
    """Shoulders and neck, with the hair that hangs between them."""
    clothes, collar = rgb(rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.1, 0.7)), rng.uniform(1.7, 2.0)
    who, upright = of.who, of.head._replace(tilt=0.3 * of.head.tilt)
    trunk = [(-4, 4), (-3, collar + 0.7), (-0.9, collar), (0.9, collar), (3, collar + 0.7), (4, 4)]
    _paint(of, [np.array(trunk)], clothes, front=False, head=upright)
    if who.length and "Bald" not in of.has:
        y = np.linspace(-1.2, who.length, 16)
        x = 1.04 + who.volume * np.minimum(1, (y + 1.6) / 1.2) + who.wave * np.sin(9 * (y + who.parting))
        x[:4] *= np.sqrt(np.linspace(0.3, 1, 4))
        right = np.stack([np.append(x, 0.4), np.append(y, who.length + 0.1)], axis=1)
        _paint(of, [np.concatenate([right, right[::-1] * (-1, 1)])], of.hair * 0.8, of.uncovered, front=False)
    neck = [(-0.58, 0.8), (-0.56, 1.7), (-0.8, 2.05), (0, 2.3), (0.8, 2.05), (0.56, 1.7), (0.58, 0.8)]
    _paint(of, [np.array(neck)], who.skin * 0.72 * np.minimum(of.shade, 1), front=False, head=upright)


def _skin(of: _Portrait, rng: Rng) -> None:
    """The face before its features, with flush and freckles."""
    face = _oval(0, 0, 1, 1, count=48)
    below = face[:, 1] > 0
    side, down = face[below].T
    face[below, 0] = np.sign(side) * np.abs(side) ** of.who.jaw * (1 - 0.14 * down)
    face[:, 1] *= np.where(below, of.who.chin, _SKULL)
    _paint(of, [face], of.skin, front=False)
    _paint(of, _both(_oval(of.who.apart, -0.06, 0.27, 0.17)), of.skin * 0.7, 0.5, blur=1.2)  # the eyes' sockets
    x, y, strength = rng.uniform((0.44, 0.42, 0.75), (0.5, 0.5, 0.9)).tolist()
    if "Rosy_Cheeks" in of.has:
        # Redder and darker than any skin: what differs in hue alone, no small network learns beside eighteen others.
        flush = of.skin * np.array([0.9, 0.4, 0.45], np.float32)
        _paint(of, _both(_oval(x, y, 0.23, 0.19)), flush, strength, blur=2)
    if "Freckles" in of.has:
        places, radii = rng.uniform((-0.75, 0.12), (0.75, 0.62), (90, 2)), rng.uniform(0.022, 0.036, 90)
        dots = [place + _oval(0, 0, r, r, count=8) for place, r in zip(places, radii, strict=True)]
        _paint(of, dots, of.skin * np.array([0.5, 0.4, 0.34], np.float32), 0.8)


def _nose(of: _Portrait) -> None:
    wide, tip = (0.38, of.who.nose + 0.08) if "Big_Nose" in of.has else (0.18, of.who.nose)
    away = 1 if of.head.turn > 0 else -1  # the side that is turned away lies in the shade
    bridge = np.array([(0.06, -0.1), (0.09, 0.15), (wide, tip - 0.05), (wide / 2, tip + 0.03), (0.03, tip - 0.1)])
    _paint(of, [bridge * (away, 1)], of.skin * 0.62, 0.45, blur=0.7)
    _paint(of, [_oval(0, tip - 0.06, wide * 0.55, wide * 0.5)], of.skin * 1.12, 0.7, blur=1)
    # Its wings and the edge beneath, as one line.
    x = np.array([-1, -1.12, -1, -0.6, -0.25, 0, 0.25, 0.6, 1, 1.12, 1]) * wide
    y = np.array([-0.16, -0.06, 0.03, 0.05, 0.03, 0.07, 0.03, 0.05, 0.03, -0.06, -0.16]) + tip
    _paint(of, [np.stack([x, y], axis=1)], of.skin * 0.5, 0.75, width=0.045)
    _paint(of, _both(_oval(wide / 2, tip + 0.02, wide * 0.24, 0.035, count=12)), of.skin * 0.28, 0.85)


def _eyes(of: _Portrait, rng: Rng) -> None:
    """Eyes and brows."""
    gaze, ragged = rng.uniform((-0.05, -0.02), (0.05, 0.02)), rng.uniform(-0.03, 0.03, (2, 2, 12))
    narrow, bushy = "Narrow_Eyes" in of.has, "Bushy_Eyebrows" in of.has
    width, height = of.who.eye[0], of.who.eye[1] * (0.3 if narrow else 1)
    t = np.linspace(-1, 1, 13)
    x, over, under = t * width, -height * (1 - t * t) ** 0.75, 0.8 * height * (1 - t * t) ** 0.8
    at = [np.array([side * of.who.apart, 0]) for side in (-1, 1)]

    def disc(radius: float) -> list[np.ndarray]:  # as much of it as the lids leave open
        points = _oval(0, 0, radius, radius) + gaze
        points[:, 1] = points[:, 1].clip(np.interp(points[:, 0], x, over), np.interp(points[:, 0], x, under))
        return [points + eye for eye in at]

    white = np.array([238, 234, 230], np.float32) * np.minimum(of.shade, 1.05)
    _paint(of, [_between(x, over, under) + eye for eye in at], white)
    _paint(of, disc(0.115), of.who.iris)
    _paint(of, disc(0.05), np.array([12, 10, 10], np.float32))
    gleam = _oval(-0.04, -0.04 * height / of.who.eye[1], 0.03, 0.25 * height, count=8) + gaze
    _paint(of, [gleam + eye for eye in at], np.array([250, 250, 250], np.float32), 0.9)
    lid = np.stack([x, over], axis=1)
    _paint(of, [lid + eye for eye in at], of.who.skin * 0.25, 0.95, width=0.06)
    creases = [lid * (1.1, 1) - (0, 0.07)]
    if narrow:  # squinting folds what is below, too
        creases.append(np.stack([x, under + 0.07], axis=1))
    _paint(of, [crease + eye for crease in creases for eye in at], of.skin * 0.55, 0.6, width=0.035)

    s = np.linspace(0, 1, 12)  # from the nose outwards
    x = of.who.apart - 0.24 + 0.53 * s
    y = of.who.brow + (0.08 - 0.24 * np.sin(np.pi * s**1.2) if "Arched_Eyebrows" in of.has else 0.02 * s)
    thick = (0.12 if bushy else 0.035) * np.interp(s, [0, 0.1, 0.7, 1], [0.9, 1, 1, 0.3])
    rough = ragged * (1 if bushy else 0.2)
    brows = [_between(side * x, y - thick + a, y + thick + b) for side, (a, b) in zip((-1, 1), rough, strict=True)]
    _paint(of, brows, of.beard, 0.95)


def _mouth(of: _Portrait, rng: Rng) -> None:
    gap, droop, teeth = rng.uniform(0.1, 0.16), rng.uniform(-0.03, 0.03), rng.uniform(0.35, 0.6)
    red = rgb(rng.uniform(-0.08, 0.01), rng.uniform(0.26, 0.34), rng.uniform(0.8, 0.95))  # darker than lips: see _skin
    smiling, opened, painted = (name in of.has for name in ("Smiling", "Mouth_Slightly_Open", "Wearing_Lipstick"))
    colour = red if painted else of.who.skin * np.array([0.92, 0.78, 0.76], np.float32)
    if smiling:
        fold = [(0.3, 0.52), (0.48, 0.62), (0.62, 0.78), (0.66, 0.94)]
        _paint(of, _both(fold), of.skin * 0.6, 0.75, width=0.05)
    t = np.linspace(-1, 1, 17)
    arc = np.sqrt(1 - t * t)
    x = t * (of.who.mouth + (0.13 if smiling else 0))
    middle = 0.93 + (0.06 - 0.2 * t * t if smiling else droop * t * t)
    over, under = (middle - 0.25 * gap * arc, middle + 0.9 * gap * arc) if opened else (middle, middle)
    bow = of.who.lips[0] * (arc**0.8 - 0.35 * np.exp(-((t / 0.15) ** 2)))
    lips = _between(x, over - bow, under + of.who.lips[1] * arc**0.9)
    _paint(of, [lips], colour * of.shade, 0.95 if painted else 0.8)
    if opened:
        _paint(of, [_between(x, over, under)], np.array([45, 14, 16], np.float32))
        _paint(of, [_between(x, over, over + teeth * (under - over))], np.array([236, 232, 222], np.float32))
    else:
        _paint(of, [np.stack([x, middle], axis=1)], colour * 0.42, 0.9, width=0.045)
    if painted:  # it shines
        _paint(of, [_oval(0.06, under[8] + of.who.lips[1] / 2, 0.1, 0.02)], red + 90, 0.6, blur=0.3)


def _goatee(of: _Portrait, rng: Rng) -> None:
    if "Goatee" not in of.has:
        return
    wide, longer = rng.uniform(0.24, 0.36), rng.uniform(0.04, 0.18)
    angle = np.linspace(0, np.pi, 17)
    end = 1.2 + (of.who.chin - 1.2 + longer) * np.sin(angle) ** 0.8 + rng.uniform(-0.025, 0.025, 17)
    tuft = [(-wide / 2, 1.2), (-0.08, 1.1), (0.08, 1.1), (wide / 2, 1.2)]
    chin = np.concatenate([np.stack([wide * np.cos(angle), end], axis=1), tuft])
    chin[:, 0] += 0.6 * math.sin(of.head.turn)
    _paint(of, [chin], of.beard, 0.95, front=False)


def _mustache(of: _Portrait, rng: Rng) -> None:
    if "Mustache" not in of.has:
        return
    droop, ragged = rng.uniform(0.02, 0.18), rng.uniform(-0.02, 0.02, 17)
    t = np.linspace(-1, 1, 17)
    middle, thick = 0.765 + droop * t * t, 0.1 * (1 - np.abs(t) ** 3) + 0.02
    over = middle - thick + 0.05 * np.exp(-((t / 0.15) ** 2))
    _paint(of, [_between(t * (of.who.mouth + 0.08), over, middle + thick + ragged)], of.beard, 0.95)


def _hair(of: _Portrait, rng: Rng) -> None:
    """The hair on the skull, from its silhouette to the hairline, and bangs."""
    if "Bald" in of.has:
        return
    angle = np.linspace(0.05 * np.pi, -1.05 * np.pi, 30)
    x, y = np.cos(angle) * (1.03 + 0.6 * of.who.volume), np.sin(angle) * _SKULL * (1.02 + of.who.volume) - 0.02
    temple = np.array([(0.97, 0.1), (0.9, -0.2), (0.86, -0.5), (0.62, -0.8)])
    hairline = np.concatenate([temple * (-1, 1), [(of.who.parting, -0.98)], temple[::-1]])
    line = _turned(of.head, hairline)
    line[[0, -1]] = hairline[[0, -1]]  # before the ears
    _paint(of, [np.concatenate([np.stack([x, y], axis=1), line])], of.hair, of.uncovered, front=False)
    if "Bangs" in of.has:
        x = np.linspace(-0.84, 0.84, 15)
        ends = 0.06 * np.cos(np.pi * x) - 0.4 + rng.uniform(-0.03, 0.03, 15) - 0.06 * (np.arange(15) % 2)
        fringe = np.concatenate([np.stack([x, ends], axis=1), [(0.75, -0.95), (0, -1.15), (-0.75, -0.95)]])
        _paint(of, [fringe], of.hair * 0.92, of.uncovered)


# --- what is worn -----------------------------------------------------------------------------------------------------


def _glasses(of: _Portrait, rng: Rng) -> None:
    if "Eyeglasses" not in of.has:
        return
    plastic = rgb(rng.random(), rng.uniform(0.05, 0.3), rng.uniform(0.1, 0.8))
    metal = rgb(rng.uniform(0.1, 0.14), rng.uniform(0.2, 0.45), rng.uniform(0.1, 0.5))
    width, height = rng.uniform(0.31, 0.36), rng.uniform(0.22, 0.3)
    x = max(of.who.apart, width + 0.07)
    lenses = _both(_oval(x, 0.04, width, height, power=rng.uniform(0.5, 1)))
    _paint(of, lenses, np.array([225, 235, 245], np.float32), rng.uniform(0.06, 0.16))
    rims = [np.concatenate([lens, lens[:1]]) for lens in lenses]
    bridge = np.array([(width - x, 0.0), (0, -0.05), (x - width, 0)])
    arms = _both([(x + width, -0.02), (1, -0.03)])
    frame = metal if rng.random() < 0.3 else plastic
    _paint(of, [*rims, bridge, *arms], frame, 0.95, width=rng.uniform(0.055, 0.1))


def _hat(of: _Portrait, rng: Rng) -> None:
    """A woollen hat, a cap with a peak or a hat with a brim."""
    if "Wearing_Hat" not in of.has:
        return
    kind = rng.choice(["woollen", "cap", "brimmed"])
    light = np.minimum(of.shade, 1.1)
    cloth, trim = (rgb(rng.random(), rng.uniform(0.15, 0.75), rng.uniform(0.1, 0.8)) * light for _ in range(2))
    top, edge, forward = -rng.uniform(1.55, 1.8), of.hat_edge, 0.5 * of.head.turn
    width, *powers = {"woollen": (1.2, 1, 0.9), "cap": (1.16, 0.8, 0.9), "brimmed": (0.98, 0.55, 0.5)}[kind]
    angle = np.linspace(0, np.pi, 24)
    x = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** powers[0] * width
    dome = np.stack([x, edge + (top - edge) * np.sin(angle) ** powers[1]], axis=1)
    _paint(of, [dome], cloth, front=False)
    if kind == "woollen":
        t = np.linspace(-1, 1, 15)
        cuff = _between(t * 1.22, edge - 0.36 + 0.08 * t * t, edge + 0.08 - 0.08 * t * t)
        _paint(of, [cuff], trim, front=False)
        ribs = [np.array([(x, edge - 0.3), (x, edge)]) for x in np.linspace(-1.1, 1.1, 12)]
        _paint(of, ribs, trim * 0.6, 0.6, front=False, width=0.04)
    elif kind == "cap":
        peak = _oval(1.3 * forward, edge, 0.95, 0.24)
        peak[:, 1] = np.minimum(peak[:, 1], edge + 0.1)
        _paint(of, [peak], trim, front=False)
        _paint(of, [np.array([(0, edge - 0.24), (0, top)])], cloth * 0.6, 0.5, front=False, width=0.04)
    else:
        band = [(-1, edge), (1, edge), (0.98, edge - 0.34), (-0.98, edge - 0.34)]
        _paint(of, [np.array(band)], trim, front=False)
        _paint(of, [_oval(0.4 * forward, edge - 0.06, 1.75, 0.17)], cloth * 0.85, front=False)


def _ears(of: _Portrait, rng: Rng) -> None:
    """Ears, of which one comes forward and the other goes behind as the head turns, with hoops, pearls or drops."""
    ears = [side * 1.02 * math.cos(of.head.turn) - 0.22 * math.sin(of.head.turn) for side in (-1, 1)]
    shaded = of.who.skin * 0.88 * np.maximum(of.shade, 0.75)
    _paint(of, [_oval(x, 0.18, 0.13, 0.3) for x in ears], shaded, front=False)
    if "Wearing_Earrings" not in of.has:
        return
    kind, size = rng.choice(["hoop", "pearl", "drop"]), rng.uniform(0.13, 0.2)
    metal = rgb(rng.uniform(0.1, 0.14), rng.uniform(0.55, 0.8), rng.choice([0.1, 0.8]))
    stone = rgb(rng.random(), rng.uniform(0.45, 0.65), 0.9)
    ears = [1.04 * x for x in ears]
    if kind == "hoop":
        hoops = [_oval(x, 0.48 + size, size * 0.75, size) for x in ears]
        _paint(of, [np.concatenate([hoop, hoop[:1]]) for hoop in hoops], metal, front=False, width=0.07)
        return
    y, height = (0.52 + size / 2, 0.13) if kind == "pearl" else (0.52 + 2 * size, size)
    colour = metal if kind == "pearl" else stone
    _paint(of, [np.array([(x, 0.44), (x, y)]) for x in ears], metal, front=False, width=0.05)
    _paint(of, [_oval(x, y, 0.15, height + 0.03) for x in ears], colour * 0.4, front=False)  # an edge, on any ground
    _paint(of, [_oval(x, y, 0.11, height - 0.01) for x in ears], colour, front=False)
