import pytest
import torch
from torchvision.ops import batched_nms, nms

from tasks.deployment.suppression import ROUNDS, Suppression, suppress, suppress_by_rounds
from tasks.detection.postprocess import MAX_DETECTIONS, MAX_IOU, MIN_SCORE
from tasks.detection.suppression import BY_OPERATOR, BY_ROUNDS, suppressed


def crowd(count, seed, images=1):
    """Boxes in heaps on a grid of quarters of a pixel, with many of equal score and of IoU on the limit itself."""
    random = torch.Generator().manual_seed(seed)
    heaps = torch.randint(0, 200, (images, max(1, count // 12), 2), generator=random)
    heap = torch.randint(heaps.shape[1], (images, count, 1), generator=random).expand(-1, -1, 2)
    corner = heaps.gather(1, heap) + torch.randint(0, 24, (images, count, 2), generator=random) / 4
    boxes = torch.cat([corner, corner + torch.randint(8, 40, (images, count, 2), generator=random)], -1)
    scores = torch.randint(0, 30, (images, count), generator=random) / 30
    return boxes, scores.sort(descending=True).values


@pytest.mark.parametrize("form", [suppress, suppress_by_rounds])
@pytest.mark.parametrize("max_iou", [0.2, 1 / 3, 0.6])
def test_what_stays_is_what_torchvision_leaves(form, max_iou):
    stayed = gone = 0
    for seed in range(40):
        boxes, scores = crowd(150, seed, images=2)
        keep = form(boxes, scores, max_iou, 0.1)
        for i in range(2):
            over = scores[i] > 0.1
            expected = torch.zeros(150, dtype=torch.bool)
            expected[nms(boxes[i, over], scores[i, over], max_iou)] = True
            assert torch.equal(keep[i], expected)
            stayed, gone = stayed + expected.sum(), gone + (over & ~expected).sum()
    assert min(stayed, gone) > 500


@pytest.mark.parametrize("form", [BY_OPERATOR, BY_ROUNDS])
def test_boxes_of_several_classes_are_those_of_batched_nms(form):
    boxes, _ = crowd(80, 0, images=3)
    scores = torch.rand(3, 80, 4, generator=torch.Generator().manual_seed(1))
    found = suppressed(boxes, scores, (240, 240), form, class_agnostic=False)
    flat = scores.flatten(1)
    for i in range(3):
        order = flat[i].argsort(descending=True)
        sizes = torch.tensor([0, 240.0])
        candidates = boxes[i, order // 4].clamp(*sizes)
        keep = batched_nms(candidates, flat[i, order], order % 4, MAX_IOU)[:MAX_DETECTIONS]
        assert found.count[i] == len(keep) == MAX_DETECTIONS
        torch.testing.assert_close(found.boxes_xyxy[i] * 240, candidates[keep])
        assert torch.equal(found.labels[i], (order % 4)[keep])
        assert (found.scores[i] > MIN_SCORE).all()


def chain(length):
    """Boxes of which each overlaps the next alone: greedy suppression leaves every second one."""
    left = torch.arange(length) * 3.0
    boxes = torch.stack([left, torch.zeros(length), left + 10, torch.full((length,), 10.0)], -1)
    return boxes[None], torch.linspace(1, 0.5, length)[None]


@pytest.mark.parametrize("better", [1, ROUNDS - 1, ROUNDS])
def test_a_chain_of_as_many_better_boxes_as_there_are_rounds_is_judged_as_by_greedy_suppression(better):
    keep = suppress_by_rounds(*chain(better + 1), 0.5, 0.1)
    assert keep[0].tolist() == [i % 2 == 0 for i in range(better + 1)]
    assert torch.equal(keep, suppress(*chain(better + 1), 0.5, 0.1))


def test_of_a_longer_chain_a_box_too_many_stays_and_none_is_lost():
    keep, greedy = (form(*chain(ROUNDS + 2), 0.5, 0.1) for form in (suppress_by_rounds, suppress))
    assert (keep != greedy).nonzero().tolist() == [[0, ROUNDS + 1]]
    assert keep[0, -1]


def test_boxes_without_area_and_none_over_the_least_score():
    nothing = torch.zeros(1, 3, 4)
    scores = torch.tensor([[0.9, 0.8, 0.7]])
    assert suppress_by_rounds(nothing, scores, 0.5, 0.1).all()
    assert torch.equal(suppress(nothing, scores, 0.5, 0.1), suppress_by_rounds(nothing, scores, 0.5, 0.1))
    assert not suppress_by_rounds(*crowd(20, 0), 0.5, 1.0).any()
    found = suppressed(torch.rand(2, 5, 4), torch.zeros(2, 5, 3), (8, 8), BY_ROUNDS, class_agnostic=True)
    assert found.count.tolist() == [0, 0]
    assert (found.labels == -1).all()
    assert not found.boxes_xyxy.any()


def test_a_form_is_given_the_best_of_its_candidates_alone():
    boxes = torch.arange(40.0)[None, :, None] * 5 + torch.tensor([0, 0, 4, 4])
    scores = torch.linspace(0.2, 0.9, 40)[None, :, None]
    found = suppressed(boxes, scores, (400, 400), Suppression(suppress_by_rounds, 7), class_agnostic=False)
    assert found.count.tolist() == [7]
    torch.testing.assert_close(found.scores[0, :7], scores[0, :, 0].flip(0)[:7])
