import pytest
import torch
from torchvision.ops import nms

from tasks.detection.anchors import decode, encode, make_anchors
from tasks.detection.head import Outputs
from tasks.detection.postprocess import class_scores, postprocess

ANCHORS = make_anchors([(19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)], (300, 300))
CLASSES = 4


def trained_like_outputs(seed, background=True):
    """Confident at some fifty anchors, background elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, len(ANCHORS), CLASSES + background, generator=generator) - (0 if background else 6)
    if background:
        logits[..., 0] += 8
    for anchor in torch.randint(len(ANCHORS), (50,), generator=generator).tolist():
        logits[0, anchor, background + int(torch.randint(CLASSES, (1,), generator=generator))] += 12
    return Outputs(logits, torch.randn(1, len(ANCHORS), 4, generator=generator), ANCHORS)


@pytest.mark.parametrize("background", [True, False])
def test_one_flat_suppression_equals_a_loop_over_classes(background):
    outputs = trained_like_outputs(3, background)
    [found] = postprocess(*outputs, CLASSES, (300, 300), [(300, 300)])
    scores = class_scores(outputs.class_logits, CLASSES)[0]
    boxes = decode(outputs.box_codes[0], ANCHORS).clamp(0, 300)
    rows = []
    for label in range(CLASSES):
        kept = (scores[:, label] > 0.01).nonzero().flatten()
        kept = kept[nms(boxes[kept], scores[kept, label], 0.6)]
        rows += [(scores[anchor, label].item(), label, *boxes[anchor].tolist()) for anchor in kept.tolist()]
    rows = sorted(rows, reverse=True)[:100]
    assert len(rows) > 40
    assert found.scores.tolist() == pytest.approx([row[0] for row in rows])
    assert found.labels.tolist() == [row[1] for row in rows]
    assert torch.allclose(found.boxes_xyxy, torch.tensor([row[2:] for row in rows]), atol=1e-3)


def test_boxes_come_back_in_the_images_pixels():
    codes, logits = torch.zeros(1, len(ANCHORS), 4), torch.zeros(1, len(ANCHORS), CLASSES + 1)
    logits[..., 0] = 20
    logits[0, 700, 3] = 40
    codes[0, 700] = encode(torch.tensor([30.0, 60.0, 150.0, 240.0]), ANCHORS[700])
    [found] = postprocess(logits, codes, ANCHORS, CLASSES, (300, 300), [(480, 640)])
    assert found.labels.tolist() == [2]
    expected = [30 / 300 * 640, 60 / 300 * 480, 150 / 300 * 640, 240 / 300 * 480]
    assert found.boxes_xyxy[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_class_agnostic_suppression_leaves_one_box_where_two_classes_share_it():
    codes, logits = torch.zeros(1, len(ANCHORS), 4), torch.full((1, len(ANCHORS), 2), -20.0)
    logits[0, 1500] = torch.tensor([2.0, 3.0])
    outputs = Outputs(logits, codes, ANCHORS)
    [by_class] = postprocess(*outputs, 2, (300, 300), [(300, 300)])
    [over_all] = postprocess(*outputs, 2, (300, 300), [(300, 300)], class_agnostic=True)
    assert sorted(by_class.labels.tolist()) == [0, 1]
    assert over_all.labels.tolist() == [1]


def test_at_most_a_hundred_boxes_and_none_below_the_least_score():
    flat = Outputs(torch.zeros(1, len(ANCHORS), 91), torch.zeros(1, len(ANCHORS), 4), ANCHORS)
    [found] = postprocess(*flat, 90, (300, 300), [(300, 300)])
    assert len(found.scores) == 100
    [found] = postprocess(*flat, 90, (300, 300), [(300, 300)], min_score=0.02)
    assert len(found.scores) == 0
    assert found.boxes_xyxy.shape == (0, 4)
