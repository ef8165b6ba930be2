from unittest.mock import Mock

import numpy as np
import pytest
from helpers import HOSTILE, is_color, pixels

from tasks.plotting import _font, _label_place, _shortened, class_color, contact_sheet, draw_boxes, fit

RED, BLUE = (255, 0, 0), (0, 0, 255)


def grey(height, width):
    return np.full((height, width, 3), 90, np.uint8)


def test_a_box_is_drawn_on_its_pixels_and_the_image_is_left_alone():
    image = grey(200, 300)
    drawn = draw_boxes(image, np.array([[50, 60, 120, 150.0]]), [""], [RED])
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    ys, xs = np.nonzero(is_color(drawn, RED))
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == (50, 60, 120, 150)
    assert is_color(drawn[60, 50:121], RED).all()
    assert is_color(drawn[60:151, 120], RED).all()
    assert not is_color(drawn[70:140, 60:110], RED).any()
    assert (image == 90).all()


def test_a_box_beyond_the_edge_is_drawn_along_the_edge():
    drawn = draw_boxes(grey(100, 100), np.array([[-20, -5, 130, 400.0]]), [""], [RED])
    for side in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
        assert is_color(side, RED).all()


def test_no_box_changes_nothing():
    image = grey(50, 60)
    assert np.array_equal(draw_boxes(image, np.zeros((0, 4)), [], []), image)


@pytest.mark.parametrize(("height", "width"), [(80, 100), (480, 640), (1500, 2000), (40, 800)])
def test_labels_lie_inside_the_image_whole_and_apart(height, width):
    # top left, crossing the right edge, along the bottom: the natural place of each label is outside
    boxes = np.array([[0, 0, 0.3, 0.3], [0.8, 0.1, 1.3, 0.5], [0.4, 0.9, 0.7, 1.0]]) * [width, height, width, height]
    colors = [(255, 0, 0), (0, 0, 255), (0, 130, 0)]
    drawn = draw_boxes(grey(height, width), boxes, ["dog 0.9"] * 3, colors)
    # white letters on dark labels: all those of each label are there, so none is cut off or covered
    letters = is_color(drawn, (255, 255, 255)).sum()
    one = is_color(draw_boxes(grey(height, width), boxes[:1], ["dog 0.9"], [RED]), (255, 255, 255)).sum()
    assert letters == 3 * one > 0


def test_letters_and_lines_grow_with_the_image():
    def label_height(side):
        box = np.array([[0.2, 0.5, 0.8, 0.9]]) * side
        added = (draw_boxes(grey(side, side), box, ["dog"], [RED]) != 90).any(axis=-1)
        return np.ptp(np.nonzero(added[: side // 2])[0]) + 1

    assert label_height(4000) > 5 * label_height(400) > 5 * 8


def test_letters_are_dark_on_a_light_label_and_light_on_a_dark_one():
    box = np.array([[20, 40, 150, 90.0]])
    assert is_color(draw_boxes(grey(100, 200), box, ["dog"], [(255, 255, 0)]), (0, 0, 0)).any()
    assert is_color(draw_boxes(grey(100, 200), box, ["dog"], [(0, 0, 90)]), (255, 255, 255)).any()


def test_the_first_box_lies_on_top():
    boxes = np.array([[10, 10, 50, 50.0], [10, 10, 50, 50.0]])
    assert not is_color(draw_boxes(grey(60, 60), boxes, ["", ""], [RED, BLUE]), BLUE).any()


def test_class_colors_are_fixed_distinct_and_far_from_their_neighbours():
    assert class_color(0) == (13, 132, 242)
    colors = np.array([class_color(k) for k in range(80)])
    assert len({tuple(color) for color in colors.tolist()}) == 80
    assert np.abs(np.diff(colors, axis=0)).max(axis=1).min() > 80


def test_fit_keeps_the_shape_and_says_the_scale():
    small, scale = fit(grey(400, 800), 200, 200)
    assert small.shape == (100, 200, 3)
    assert scale == 0.25
    large, scale = fit(grey(10, 5), 200, 200)
    assert large.shape == (200, 100, 3)
    assert scale == 20
    assert fit(grey(1, 4000), 200, 200)[0].shape == (1, 200, 3)


def test_a_sheet_holds_every_tile_pixel_for_pixel_in_rows(tmp_path):
    rng = np.random.default_rng(0)
    tiles = [rng.integers(0, 256, (height, 320, 3), np.uint8) for height in (100, 140, 60)]
    path = tmp_path / "sheet.png"
    contact_sheet(tiles, ["one\nsecond line", "two", "three"], path, columns=2, title="Three tiles")
    sheet = pixels(path)
    # two columns of 320 with a margin of 14 around; title line 28; rows of 140 and 60 with two and one caption lines
    assert sheet.shape == (14 + 28 + (140 + 2 * 20 + 28) + (60 + 20 + 28) + 14, 2 * 334 + 14, 3)
    for tile, left, top in zip(tiles, (14, 348, 14), (42, 42, 42 + 208), strict=True):
        assert np.array_equal(sheet[top : top + tile.shape[0], left : left + 320], tile)
    caption = sheet[42 + 100 : 42 + 100 + 44, 14:334]
    assert (caption < 100).any(axis=(1, 2)).sum() > 15  # dark letters, on two lines
    assert (sheet[:, -14:] == 255).all()  # nothing runs into the margin


def test_long_captions_are_wrapped_within_their_tile(tmp_path):
    tiles = [np.zeros((50, 330, 3), np.uint8)] * 2
    path = tmp_path / "sheet.png"
    contact_sheet(tiles, ["word " * 40 + "x" * 300, ""], path, columns=2, title="t")
    sheet = pixels(path)
    assert (sheet[100:, 344:] == 255).all()
    assert (sheet[100:, 14:344] < 100).any()


def test_a_sheet_without_tiles_is_its_title(tmp_path):
    contact_sheet([], [], tmp_path / "sheet.png", columns=4, title="No errors")
    sheet = pixels(tmp_path / "sheet.png")
    assert sheet.shape[1] == 640
    assert (sheet < 100).any()


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_is_drawn_within_its_place(name, tmp_path):
    box = np.array([[20, 40, 90, 90.0]])
    assert draw_boxes(grey(100, 200), box, [name], [RED]).shape == (100, 200, 3)
    contact_sheet([grey(50, 300)] * 2, [name, 1000 * f"{name}\n"], tmp_path / "a.png", columns=2, title=name)
    sheet = pixels(tmp_path / "a.png")
    assert (sheet[:, 314:328] == 255).sum() > 0.9 * sheet[:, 314:328].size  # only the title may cross the middle
    assert max(sheet.shape) < 6000


@pytest.mark.parametrize("width", [5, 30, 100, 200])
@pytest.mark.parametrize("text", ["n" * 5000, "abcdefghijklmnopqrstuvwxyz"], ids=len)
def test_a_text_too_wide_keeps_as_much_of_both_ends_as_fits_and_is_measured_few_times(text, width):
    font = Mock(wraps=_font(15))
    short = _shortened(text, font, width)
    assert font.getlength.call_count < 20
    assert font.getlength(short) <= width or len(short) == 1
    if len(short) > 1:
        head, tail = short.split("…")
        assert text.startswith(head)
        assert text.endswith(tail)
        assert 0 <= len(head) - len(tail) <= 1
        assert font.getlength(text[: len(head) + 1] + "…" + text[len(text) - len(tail) - 1 :]) > width


def test_a_label_lies_where_it_covers_the_least_of_those_before_it():
    def shared(one, other):
        """By counting pixels."""
        canvas = np.zeros((80, 100), int)
        for left, top, right, bottom in (one, other):
            canvas[top:bottom, left:right] += 1
        return int((canvas == 2).sum())

    rng, taken = np.random.default_rng(0), []
    for left, top in rng.integers(0, 60, (40, 2)).tolist():
        box = [left, top, left + 30, top + 18]
        place = _label_place(box, (25, 9), (100, 80), taken)
        corners = [(x, y) for y in (top - 9, top, top + 18, top + 9) for x in (left, left + 5)]
        inside = [(min(max(x, 0), 75), min(max(y, 0), 71)) for x, y in corners]
        costs = [sum(shared((x, y, x + 25, y + 9), other) for other in taken) for x, y in inside]
        assert place[:2] == inside[costs.index(min(costs))]
        taken.append(place)
    assert min(costs) > 0  # in the end there is no free place
