"""Images that several tasks draw: boxes on an image, a sheet of captioned tiles.

Everything is drawn with PIL into plain arrays, so there is no window, no global state, and the same input gives the
same pixels.
"""

import colorsys
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from backbone.errors import InputError
from backbone.files import replacing
from backbone.names import shown

Color = tuple[int, int, int]

# Okabe and Ito's colours, told apart with every form of colour blindness: https://jfly.uni-koeln.de/color/
GREEN: Color = (0, 158, 115)
VERMILLION: Color = (213, 94, 0)

_MOST_LETTERS = 1000  # of a line under a tile
_MOST_LINES = 12  # of a caption, before they are wrapped
_INK: Color = (32, 32, 32)
_PAPER: Color = (255, 255, 255)


def class_color(index: int) -> Color:
    """Colour of the class at this position: always the same one, and far from its neighbours'.

    Hues step by the golden ratio, which spreads any number of them evenly; lightness changes every few classes.
    """
    hue = (0.58 + index * 0.6180339887) % 1.0
    lightness, saturation = ((0.50, 0.90), (0.68, 0.85), (0.36, 0.75))[index // 5 % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(image: np.ndarray, boxes_xyxy: np.ndarray, labels: Sequence[str], colors: Sequence[Color]) -> np.ndarray:
    """A copy of the image (H, W, 3) uint8 RGB with boxes (N, 4) in its pixels, each with a label ("" for none).

    Lines and letters grow with the image. Earlier boxes lie on top and choose the place of their label first, so
    give the best first. What crosses the edge is drawn along the edge.
    """
    height, width = image.shape[:2]
    drawn = Image.fromarray(np.ascontiguousarray(image))
    draw = ImageDraw.Draw(drawn)
    longest = max(height, width)
    line = max(1 if longest < 150 else 2, round(longest / 250))
    font = _font(max(11, round(longest / 40)))
    limit = np.array([width, height, width, height]) - 1.0
    corners = np.clip(np.asarray(boxes_xyxy, np.float64).reshape(-1, 4), 0, limit).round().astype(int)  # (N, 4)
    for (left, top, right, bottom), color in reversed(list(zip(corners.tolist(), colors, strict=True))):
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=color, width=line)

    pad = max(1, line // 2)
    places: list[tuple[int, int, int, int]] = []
    tags = []
    for corner, label, color in zip(corners.tolist(), labels, colors, strict=True):
        if label:
            text = _shortened(shown(label, 100), font, width - 2 * pad)
            places.append(_label_place(corner, _text_size(text, font, pad), (width, height), places))
            tags.append((places[-1], text, color))
    for (left, top, right, bottom), text, color in reversed(tags):
        draw.rectangle((left, top, right - 1, bottom - 1), fill=color)
        bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
        draw.text((left + pad, top + pad), text, font=font, fill=(0, 0, 0) if bright else (255, 255, 255))
    return np.asarray(drawn)


def fit(image: np.ndarray, width: int, height: int) -> tuple[np.ndarray, float]:
    """The image (H, W, 3) enlarged or reduced to just fit into width x height, and the scale it took.

    Scaling before drawing, not after, keeps lines and letters legible whatever the size of the image.
    """
    scale = min(width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BICUBIC)), scale


def image_or_grey(open_image: Callable[[int], np.ndarray], key: int, size: tuple[int, int] = (300, 300)) -> np.ndarray:
    """What `open_image` gives for a position or id, uint8 RGB; grey of (height, width) where it raises InputError."""
    try:
        return open_image(key)
    except InputError:
        return np.full((*size, 3), 160, np.uint8)


def contact_sheet(
    tiles: Sequence[np.ndarray], captions: Sequence[str], path: Path, *, columns: int, title: str
) -> None:
    """Write a PNG of what `sheet` draws. Raises InputError where the file cannot be written."""
    drawn = sheet(tiles, captions, columns=columns, title=title)
    with replacing(path) as beside:
        drawn.save(beside, format="PNG", compress_level=1)  # photographs hardly get smaller by more, which takes long


def sheet(tiles: Sequence[np.ndarray], captions: Sequence[str], *, columns: int, title: str) -> Image.Image:
    """Tiles (H, W, 3) uint8 RGB in rows of `columns`, captions under them, the title above.

    A caption's lines are separated by newlines and wrapped to the tile's width; of absurdly many or long ones only a
    part is drawn. Without tiles it is the title alone.
    """
    margin, size = 14, 15
    font, bold = _font(size), _font(20)
    step = size + 5
    cell = max((tile.shape[1] for tile in tiles), default=0)
    columns = max(1, min(columns, len(tiles)))
    width = max(columns * (cell + margin) + margin, 640)
    lines = [text.split("\n")[:_MOST_LINES] for text in captions]
    wrapped = [[one for line in caption for one in _wrapped(line, font, cell)] for caption in lines]
    heading = _wrapped(title, bold, width - 2 * margin)
    rows = [range(first, min(first + columns, len(tiles))) for first in range(0, len(tiles), columns)]
    row_heights = [(max(tiles[i].shape[0] for i in row), max(len(wrapped[i]) for i in row) * step) for row in rows]

    top = margin + len(heading) * 28
    height = top + sum(tile + text + 2 * margin for tile, text in row_heights) + margin
    drawn = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(drawn)
    for k, text in enumerate(heading):
        draw.text((margin, margin + k * 28), text, font=bold, fill=_INK)
    for row, (tile_height, text_height) in zip(rows, row_heights, strict=True):
        for column, i in enumerate(row):
            left = margin + column * (cell + margin)
            drawn.paste(Image.fromarray(np.ascontiguousarray(tiles[i])), (left, top))
            for k, text in enumerate(wrapped[i]):
                draw.text((left, top + tiles[i].shape[0] + 4 + k * step), text, font=font, fill=_INK)
        top += tile_height + text_height + 2 * margin
    return drawn


@functools.lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    import matplotlib  # for its DejaVu Sans: Latin, Greek and Cyrillic letters, where PIL's own font has Latin alone

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _text_size(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, pad: int) -> tuple[int, int]:
    """Width and height of a label; the height is that of the font, the same for every text."""
    bottom = font.getbbox("Ågjy")[3]
    return int(np.ceil(font.getlength(text))) + 2 * pad, int(np.ceil(bottom)) + 2 * pad


def _label_place(
    box: list[int], size: tuple[int, int], canvas: tuple[int, int], taken: list[tuple[int, int, int, int]]
) -> tuple[int, int, int, int]:
    """The first place at the box, all inside the image, that covers no earlier label; else the least covering."""
    left, top, right, bottom = box
    width, height = size
    places = []
    for y in (top - height, top, bottom, bottom - height):
        for x in (left, right - width):
            x0 = min(max(x, 0), max(canvas[0] - width, 0))
            y0 = min(max(y, 0), max(canvas[1] - height, 0))
            places.append((x0, y0, x0 + width, y0 + height))

    place, others = np.array(places)[:, None], np.array(taken or [(0, 0, 0, 0)])
    sides = np.minimum(place[..., 2:], others[:, 2:]) - np.maximum(place[..., :2], others[:, :2])
    covered = sides.clip(min=0).prod(axis=-1).sum(axis=-1)
    return places[int(covered.argmin())]  # the first of equals


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, with its middle left out where it is wider than so many pixels."""
    if font.getlength(text) <= width:
        return text

    def keeping(letters: int) -> str:
        return text[: (letters + 1) // 2] + "…" + text[len(text) - letters // 2 :]

    fits, wider = 1, len(text)
    while wider - fits > 1:
        middle = (fits + wider) // 2
        fits, wider = (middle, wider) if font.getlength(keeping(middle)) <= width else (fits, middle)
    return keeping(fits) if fits > 1 else text[:1]


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines: list[str] = []
    for word in shown(text, _MOST_LETTERS).split():
        word = _shortened(word, font, width)
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]
