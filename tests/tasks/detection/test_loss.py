import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection.ssd import SSD as TorchvisionSSD
from torchvision.ops import box_convert

from tasks.detection.anchors import decode, encode, make_anchors
from tasks.detection.loss import focal_loss, multibox_loss
from tasks.detection.matcher import IGNORED, NEGATIVE, match

ANCHORS = make_anchors([(8, 8), (4, 4), (2, 2), (1, 1), (1, 1), (1, 1)], (128, 128))
ANCHORS_XYXY = decode(torch.zeros_like(ANCHORS), ANCHORS)
CLASSES = 5


def random_outputs(batch, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, len(ANCHORS), columns, generator=generator)
    return logits, torch.randn(batch, len(ANCHORS), 4, generator=generator)


def objects(counts):
    generator = torch.Generator().manual_seed(1)
    boxes, labels = [], []
    for count in counts:
        start = torch.rand(count, 2, generator=generator) * 90
        boxes.append(torch.cat([start, start + 8 + torch.rand(count, 2, generator=generator) * 30], dim=1))
        labels.append(torch.randint(CLASSES, (count,), generator=generator))
    return boxes, labels


def test_multibox_equals_torchvisions_loss_where_nothing_collides():
    boxes, labels = objects([3, 1, 5])
    logits, codes = random_outputs(3, CLASSES + 1)
    matches = match(ANCHORS_XYXY, boxes, [torch.zeros(0, 4)] * 3)

    coder = SimpleNamespace(encode_single=lambda box, xyxy: encode(box, box_convert(xyxy, "xyxy", "cxcywh")))
    theirs = TorchvisionSSD.compute_loss(
        SimpleNamespace(neg_to_pos_ratio=3, box_coder=coder),  # what it reads of its own SSD
        [{"boxes": b, "labels": label + 1} for b, label in zip(boxes, labels, strict=True)],
        {"bbox_regression": codes, "cls_logits": logits},
        [ANCHORS_XYXY] * 3,
        list(matches),
    )
    ours = multibox_loss(logits, codes, ANCHORS, matches, boxes, labels)
    assert ours.classes.item() == pytest.approx(theirs["classification"].item(), rel=1e-5)
    assert ours.boxes.item() == pytest.approx(theirs["bbox_regression"].item(), rel=1e-5)


def test_a_batch_of_empty_images_teaches_three_negatives_an_image():
    logits = torch.zeros(2, len(ANCHORS), CLASSES + 1, requires_grad=True)
    codes = torch.zeros(2, len(ANCHORS), 4, requires_grad=True)
    empty = [torch.zeros(0, 4)] * 2
    matches = match(ANCHORS_XYXY, empty, empty)
    losses = multibox_loss(logits, codes, ANCHORS, matches, empty, [torch.zeros(0, dtype=torch.long)] * 2)
    assert losses.classes.item() == pytest.approx(3 * math.log(CLASSES + 1))  # 2 * 3 negatives over 2 images
    assert losses.boxes.item() == 0
    (losses.classes + losses.boxes).backward()
    assert (logits.grad[..., 0] < 0).sum() == 6  # towards background
    assert codes.grad.abs().sum() == 0


def test_ignored_anchors_give_no_gradient():
    boxes, labels = objects([2])
    matches = match(ANCHORS_XYXY, boxes, [torch.zeros(0, 4)])
    ignored = (matches[0] == NEGATIVE).nonzero().flatten()[::2]
    matches[0, ignored] = IGNORED
    for loss, columns in ((multibox_loss, CLASSES + 1), (focal_loss, CLASSES)):
        logits, codes = (x.requires_grad_() for x in random_outputs(1, columns))
        sum(loss(logits, codes, ANCHORS, matches, boxes, labels)).backward()
        assert logits.grad[0, ignored].abs().sum() == 0
        assert logits.grad.abs().sum() > 0


def test_the_hardest_negatives_are_taken_three_for_each_positive():
    boxes = [ANCHORS_XYXY[5:6]]
    matches = torch.full((1, len(ANCHORS)), NEGATIVE)
    matches[0, 5] = 0
    logits = torch.zeros(1, len(ANCHORS), 2)
    hard = [10, 50, 90]
    logits[0, hard, 1] = 4.0  # sure of an object where there is none: loss ln(1 + e^4) each
    losses = multibox_loss(logits, torch.zeros(1, len(ANCHORS), 4), ANCHORS, matches, boxes, [torch.tensor([0])])
    assert losses.classes.item() == pytest.approx(math.log(2) + 3 * math.log(1 + math.exp(4)), rel=1e-5)
    assert losses.boxes.item() == pytest.approx(0, abs=1e-6)  # the box is the anchor


def test_focal_loss_is_the_formula_of_the_paper():
    boxes, labels = objects([2, 0])
    matches = match(ANCHORS_XYXY, boxes, [torch.zeros(0, 4)] * 2)
    logits, codes = random_outputs(2, CLASSES)
    total = 0.0
    for image in range(2):
        for anchor in range(len(ANCHORS)):
            for label in range(CLASSES):
                p = torch.sigmoid(logits[image, anchor, label]).item()
                row = int(matches[image, anchor])
                hit = row >= 0 and int(labels[image][row]) == label
                total -= 0.75 * (1 - p) ** 2 * math.log(p) if hit else 0.25 * p**2 * math.log(1 - p)
    ours = focal_loss(logits, codes, ANCHORS, matches, boxes, labels)
    assert ours.classes.item() == pytest.approx(total / (int((matches >= 0).sum()) + 1), rel=1e-4)  # 1: the empty one


def test_box_loss_reads_the_right_box_of_the_right_image():
    boxes, labels = objects([2, 0, 4])
    matches = match(ANCHORS_XYXY, boxes, [torch.zeros(0, 4)] * 3)
    logits, codes = random_outputs(3, CLASSES + 1)
    expected = 0.0
    for image in range(3):
        for anchor in (matches[image] >= 0).nonzero().flatten().tolist():
            wanted = encode(boxes[image][matches[image, anchor]], ANCHORS[anchor])
            expected += F.smooth_l1_loss(codes[image, anchor], wanted, reduction="sum").item()
    ours = multibox_loss(logits, codes, ANCHORS, matches, boxes, labels)
    assert ours.boxes.item() == pytest.approx(expected / (int((matches >= 0).sum()) + 1), rel=1e-5)


@pytest.mark.parametrize(("loss", "columns"), [(multibox_loss, CLASSES + 1), (focal_loss, CLASSES)])
def test_class_weights_multiply_the_loss_of_each_positive_anchor_alone(loss, columns):
    boxes, labels = objects([6, 4])
    matches = match(ANCHORS_XYXY, boxes, [torch.zeros(0, 4)] * 2)
    logits, codes = random_outputs(2, columns)
    weights = torch.tensor([0.5, 1, 30, 0.25, 7])
    given = (ANCHORS, matches, boxes, labels)
    plain, weighted = (loss(logits, codes, *given, *more) for more in ((), (weights,)))
    positives = (matches >= 0).nonzero().tolist()
    expected = plain.classes.item()
    for image, anchor in positives:
        label = int(labels[image][matches[image, anchor]])
        if loss is multibox_loss:
            own = -logits[image, anchor].log_softmax(0)[label + 1].item()
        else:
            p, hit = torch.sigmoid(logits[image, anchor]), torch.arange(CLASSES) == label
            own = torch.where(hit, -0.75 * (1 - p) ** 2 * p.log(), -0.25 * p**2 * (1 - p).log()).sum().item()
        expected += (weights[label].item() - 1) * own / len(positives)
    assert len({label for of_image in labels for label in of_image.tolist()}) > 3
    assert weighted.classes.item() == pytest.approx(expected, rel=1e-5)
    assert weighted.boxes.item() == plain.boxes.item()
    assert loss(logits, codes, *given, torch.ones(CLASSES)) == plain
