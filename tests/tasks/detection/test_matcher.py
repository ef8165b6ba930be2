import pytest
import torch
from torchvision.ops import box_iou

from tasks.detection.anchors import decode, make_anchors
from tasks.detection.matcher import IGNORED, NEGATIVE, match

MAPS = [(4, 5), (2, 3), (1, 2), (1, 1), (1, 1), (1, 1)]


@pytest.fixture(scope="module")
def anchors_xyxy():
    anchors = make_anchors(MAPS, (64, 80))
    return decode(torch.zeros_like(anchors), anchors)


def random_boxes(count, seed, crowded=False):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(count, 2, generator=generator) * torch.tensor([80.0, 64.0])
    if crowded:
        centres = centres / 8 + 30
    sizes = 2 + torch.rand(count, 2, generator=generator) * 40
    return torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1)


def brute_force(anchors, boxes, min_iou):
    """One pair at a time: the highest IoU among free boxes and free anchors; then every anchor over min_iou."""
    expected = [NEGATIVE] * len(anchors)
    iou = box_iou(anchors, boxes).tolist()
    for a, row in enumerate(iou):
        best = max(range(len(boxes)), key=lambda b: row[b], default=None)
        if best is not None and row[best] >= min_iou:
            expected[a] = best
    free_anchors, free_boxes = set(range(len(anchors))), set(range(len(boxes)))
    while free_boxes:
        a, b = max(((a, b) for a in free_anchors for b in free_boxes), key=lambda pair: iou[pair[0]][pair[1]])
        expected[a] = b
        free_anchors.remove(a)
        free_boxes.remove(b)
    return expected


@pytest.mark.parametrize("crowded", [False, True])
def test_matches_equal_brute_force_in_a_batch_with_empty_images(anchors_xyxy, crowded):
    boxes = [random_boxes(n, seed, crowded) for seed, n in enumerate([1, 0, 7, 3, 12, 0, 25])]
    got = match(anchors_xyxy, boxes, [torch.zeros(0, 4)] * len(boxes))
    for row, own in zip(got, boxes, strict=True):
        assert row.tolist() == brute_force(anchors_xyxy, own, 0.5)


def test_objects_that_want_the_same_anchor_all_get_one(anchors_xyxy):
    box = anchors_xyxy[20].clone()
    twins = torch.stack([box, box, box + 0.1])
    got = match(anchors_xyxy, [twins], [torch.zeros(0, 4)])[0]
    assert set(got[got >= 0].tolist()) == {0, 1, 2}
    assert got[20] in (0, 1)  # the exact ones come first


def test_an_object_that_touches_no_anchor_takes_the_nearest_and_steals_none(anchors_xyxy):
    inside, outside = anchors_xyxy[0], torch.tensor([500.0, 500.0, 501.0, 501.0])
    got = match(anchors_xyxy, [torch.stack([inside, outside])], [torch.zeros(0, 4)])[0]
    assert got[0] == 0
    distances = ((anchors_xyxy[:, :2] + anchors_xyxy[:, 2:]) / 2 - 500.5).norm(dim=1)
    [taken] = (got == 1).nonzero()
    assert distances[taken] == distances.min()


def test_more_objects_than_anchors_use_every_anchor(anchors_xyxy):
    few = anchors_xyxy[:5]
    got = match(few, [random_boxes(9, 0)], [torch.zeros(0, 4)])[0]
    assert sorted(set(got.tolist())) == sorted(got.tolist())
    assert (got >= 0).all()


def test_anchors_inside_a_crowd_are_ignored_unless_an_object_has_them(anchors_xyxy):
    crowd = torch.tensor([[0.0, 0.0, 40.0, 64.0]])
    box = anchors_xyxy[3:4]
    got = match(anchors_xyxy, [box], [crowd])[0]
    assert got[3] == 0
    for (x1, y1, x2, y2), value in zip(anchors_xyxy.tolist(), got.tolist(), strict=True):
        inside = max(0, min(x2, 40) - max(x1, 0)) * max(0, min(y2, 64) - max(y1, 0)) / ((x2 - x1) * (y2 - y1))
        if value != 0:
            assert value == (IGNORED if inside > 0.5 else NEGATIVE)
    assert (got == IGNORED).any()
    assert (got == NEGATIVE).any()
