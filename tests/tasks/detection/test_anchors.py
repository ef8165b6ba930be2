import pytest
import torch
from torchvision.ops import box_convert

from tasks.detection.anchors import ANCHOR_SHAPES, decode, encode, make_anchors

MAPS_AT_300 = [(19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]


def corners(anchor):
    return box_convert(anchor, "cxcywh", "xyxy").tolist()


def test_300_pixels_have_1917_anchors_three_on_the_finest_map_and_six_elsewhere():
    assert [len(row) for row in ANCHOR_SHAPES] == [3, 6, 6, 6, 6, 6]
    assert make_anchors(MAPS_AT_300, (300, 300)).shape == (1917, 4)  # 1083 + 600 + 150 + 54 + 24 + 6


def test_corners_of_the_first_anchors_are_those_worked_by_hand():
    anchors = make_anchors(MAPS_AT_300, (300, 300))
    # First cell of the 19 x 19 map: centre 300 / 19 / 2 = 7.894737. Scale 0.1: a square of 30.
    assert corners(anchors[0]) == pytest.approx([-7.105263, -7.105263, 22.894737, 22.894737], abs=1e-4)
    # Scale 0.2, twice as wide as high: 60 * sqrt(2) = 84.852814 by 42.426407.
    assert corners(anchors[1]) == pytest.approx([-34.531670, -13.318467, 50.321144, 29.107940], abs=1e-4)
    # The last cell, of the 1 x 1 map, centre (150, 150): scale 0.95, square, 285.
    assert corners(anchors[1911]) == pytest.approx([7.5, 7.5, 292.5, 292.5], abs=1e-4)
    # ... and its last shape: sqrt(0.95 * 1) = 0.974679, a square of 292.403830.
    assert corners(anchors[1916]) == pytest.approx([3.798085, 3.798085, 296.201915, 296.201915], abs=1e-4)
    # First cell of the 10 x 10 map, aspect 1/3 at 0.35: 105 / sqrt(3) = 60.621778 by 105 * sqrt(3) = 181.865335.
    assert corners(anchors[1083 + 4]) == pytest.approx([-15.310889, -75.932668, 45.310889, 105.932668], abs=1e-4)


def test_anchors_run_along_the_row_first_and_scale_with_the_shorter_side():
    anchors = make_anchors([(2, 3), (1, 2), (1, 1), (1, 1), (1, 1), (1, 1)], (100, 150))
    # 2 rows and 3 columns of cells of 50 x 50; scale 0.1 of the shorter side, 100, is a square of 10.
    squares = anchors[: 2 * 3 * 3].view(2, 3, 3, 4)[:, :, 0]
    assert squares[0, :, 0].tolist() == [25, 75, 125]
    assert squares[1, :, 1].tolist() == [75, 75, 75]
    assert squares[..., 2:].unique().tolist() == [10]


def test_code_of_a_box_is_the_one_worked_by_hand():
    anchor = torch.tensor([50.0, 60.0, 20.0, 40.0])
    box = torch.tensor([46.0, 50.0, 66.0, 90.0])  # centre (56, 70), size (20, 40)
    # 10 * 6 / 20 = 3; 10 * 10 / 40 = 2.5; sizes equal: 0
    assert encode(box, anchor).tolist() == pytest.approx([3.0, 2.5, 0.0, 0.0])
    # Twice as wide: 5 * ln 2
    assert encode(torch.tensor([36.0, 50.0, 76.0, 90.0]), anchor)[2].item() == pytest.approx(5 * 0.6931472)


def test_decode_undoes_encode():
    generator = torch.Generator().manual_seed(0)
    anchors = make_anchors(MAPS_AT_300, (300, 300))
    start = torch.rand(len(anchors), 2, generator=generator) * 250
    boxes = torch.cat([start, start + 1 + torch.rand(len(anchors), 2, generator=generator) * 300], dim=1)
    assert (decode(encode(boxes, anchors), anchors) - boxes).abs().max() < 1e-3


def test_an_absurd_code_decodes_to_finite_boxes():
    anchors = make_anchors(MAPS_AT_300, (300, 300))
    assert decode(torch.full_like(anchors, 1e4), anchors).isfinite().all()
