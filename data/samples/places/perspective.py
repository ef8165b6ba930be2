"""A camera that looks along a road over flat ground, and the pen that draws what it sees. Lengths are in metres."""

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import Image, ImageDraw

Colour = tuple[float, float, float]  # 0 to 255
Point = tuple[float, float, float]  # across the road to the right, above the ground, along the road

_NEAR = 0.8  # what is nearer to the camera is cut off


class Foot(NamedTuple):
    """Where something on the ground stands in a picture, in px of the canvas."""

    x: float
    y: float
    scale: float  # px a m
    distance: float  # m


@dataclass
class View:
    """A picture that is being drawn, the camera that sees it, and the light."""

    canvas: Image.Image
    focal: float  # px of the canvas, as is the next
    horizon: float
    up: float  # of the camera
    across: float
    heading: tuple[float, float]  # cosine and sine of the angle by which it is turned to the right of the road
    haze: Colour
    sight: float  # where haze has taken two thirds of the colour
    sun: tuple[float, float]  # across and along, where the shadow of what is 1 m high ends
    direct: float  # the share of the light that casts shadows, 0 to 1
    things: list[tuple[float, Callable[[], None]]] = field(default_factory=list)  # distances, and what draws them

    def __post_init__(self) -> None:
        self.pen = ImageDraw.Draw(self.canvas)
        self.shadows = Image.new("L", self.canvas.size)
        self.shade = ImageDraw.Draw(self.shadows)

    def seen(self, point: Point) -> Point:
        """A point as the camera has it: to the right, above it, ahead."""
        t, s, (cos, sin) = point[0] - self.across, point[2], self.heading
        return t * cos - s * sin, point[1] - self.up, t * sin + s * cos

    def outline(self, points: Sequence[Point]) -> tuple[list[tuple[float, float]], float]:
        """A polygon in px of the canvas, empty where it is behind the camera, and its mean distance."""
        ahead = [self.seen(point) for point in points]
        distance = sum([point[2] for point in ahead]) / len(ahead)
        if min([point[2] for point in ahead]) < _NEAR:
            ahead = _cut(ahead)
        x, f = self.canvas.width / 2, self.focal
        return [(x + f * p[0] / p[2], self.horizon - f * p[1] / p[2]) for p in ahead], max(distance, _NEAR)

    def foot(self, t: float, s: float) -> Foot | None:
        """Where something stands that is `t` across and `s` along; None where it is out of sight or too near."""
        x, y, z = self.seen((t, 0, s))
        if z < 2 or abs(x) > 1.2 * z:
            return None
        scale = self.focal / z
        return Foot(self.canvas.width / 2 + scale * x, self.horizon - scale * y, scale, z)

    def hazy(self, colour: Colour, distance: float) -> tuple[int, int, int]:
        """The colour as it looks from there."""
        r, g, b = mixed(self.haze, colour, math.exp(-distance / self.sight))
        return int(min(r, 255)), int(min(g, 255)), int(min(b, 255))

    def face(self, points: Sequence[Point], colour: Colour) -> None:
        """Fills a polygon."""
        outline, distance = self.outline(points)
        if len(outline) > 2:
            self.pen.polygon(outline, fill=self.hazy(colour, distance))

    def shadow(self, points: Sequence[Point]) -> None:
        """Darkens a polygon on the ground."""
        outline, _ = self.outline(points)
        if len(outline) > 2:
            self.shade.polygon(outline, fill=255)

    def lit(self, colour: Colour, across: float, along: float) -> Colour:
        """The colour of a wall in the light that falls on it: `across` and `along` point out of it."""
        a, b = self.sun
        towards = -(across * a + along * b) / max(math.hypot(a, b), 1e-6)
        return scaled(colour, (0.68 + 0.32 * max(towards, 0)) * self.direct + 0.82 * (1 - self.direct))

    def later(self, t: float, s: float, draw: Callable[[], None]) -> None:
        """Has something drawn in its turn: what is farther off comes first."""
        self.things.append((self.seen((t, 0, s))[2], draw))

    def finish(self) -> Image.Image:
        """The picture with all shadows, and then all that draw() was left for later."""
        if self.direct:
            darker = self.canvas.point(lambda level: int(level * (1 - 0.45 * self.direct)))
            self.canvas.paste(darker, mask=self.shadows)
        for _, draw in sorted(self.things, key=lambda thing: -thing[0]):
            draw()
        return self.canvas


def _cut(points: list[Point]) -> list[Point]:
    """The part of a polygon that lies before the camera."""
    kept = []
    for a, b in zip(points, points[1:] + points[:1], strict=True):
        if a[2] >= _NEAR:
            kept.append(a)
        if (a[2] < _NEAR) != (b[2] < _NEAR):
            w = (_NEAR - a[2]) / (b[2] - a[2])
            kept.append((a[0] + w * (b[0] - a[0]), a[1] + w * (b[1] - a[1]), _NEAR))
    return kept


# --- colours ----------------------------------------------------------------------------------------------------------


def rgb(hue: float, lightness: float, saturation: float) -> Colour:
    """A colour of numbers in 0 to 1."""
    r, g, b = colorsys.hls_to_rgb(hue % 1, lightness, saturation)
    return 255 * r, 255 * g, 255 * b


def mixed(a: Colour, b: Colour, share: float) -> Colour:
    """`a` with so much of `b`."""
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), a[2] + share * (b[2] - a[2])


def scaled(colour: Colour, by: float) -> Colour:
    """The colour in more light, or in less."""
    return colour[0] * by, colour[1] * by, colour[2] * by
