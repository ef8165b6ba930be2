import math

import pytest
import torch

from tasks.classification.loss import cross_entropy, mix


def test_smoothed_cross_entropy_worked_by_hand():
    """Softmax of (ln 1, ln 2, ln 5) is (1/8, 2/8, 5/8); 0.3 of the target over three classes is 0.1 each."""
    logits = torch.tensor([[math.log(1), math.log(2), math.log(5)]])
    plain = -math.log(5 / 8)
    smooth = -0.1 * math.log(1 / 8) - 0.1 * math.log(2 / 8) - 0.8 * math.log(5 / 8)
    assert cross_entropy(logits, torch.tensor([2]), 0.0).item() == pytest.approx(plain)
    assert cross_entropy(logits, torch.tensor([2]), 0.3).item() == pytest.approx(smooth)
    half = torch.tensor([[0.5, 0.0, 0.5]])  # mixed: smoothed to 0.45, 0.1, 0.45
    mixed = -0.45 * math.log(1 / 8) - 0.1 * math.log(2 / 8) - 0.45 * math.log(5 / 8)
    assert cross_entropy(logits, half, 0.3).item() == pytest.approx(mixed)
    both = torch.cat([logits, logits])
    assert cross_entropy(both, torch.tensor([2, 0]), 0.0).item() == pytest.approx((plain + math.log(8)) / 2)


def test_the_loss_is_float32_whatever_the_logits():
    assert cross_entropy(torch.zeros(2, 3, dtype=torch.bfloat16), torch.tensor([0, 1]), 0.1).dtype == torch.float32


def test_without_an_alpha_nothing_changes():
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    mixed = mix(images, labels, 3, 0.0, 0.0)
    assert mixed.images is images
    assert mixed.targets is labels


def test_mixup_blends_pictures_and_labels_by_one_and_the_same_part():
    """Pictures that show their label as a constant: the blend of pixels must be that of the targets."""
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 2, 3])
    images = (10.0 ** labels.float())[:, None, None, None].expand(4, 3, 8, 8).clone()
    parts = set()
    for _ in range(20):
        mixed = mix(images, labels, 4, 0.5, 0.0)
        assert torch.allclose(mixed.targets.sum(1), torch.ones(4))
        assert ((mixed.targets > 0).sum(1) <= 2).all()
        expected = mixed.targets @ (10.0 ** torch.arange(4.0))
        torch.testing.assert_close(mixed.images, expected[:, None, None, None].expand(4, 3, 8, 8))
        parts.add(round(mixed.targets.max(1).values[0].item(), 6))
    assert len(parts) > 10
    assert torch.equal(images[0], torch.ones(3, 8, 8))  # the pictures given are left as they were


def test_cutmix_pastes_one_rectangle_and_its_area_is_the_others_part():
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 2, 3])
    images = labels.float()[:, None, None, None].expand(4, 3, 16, 20).clone()
    seen = 0
    for _ in range(20):
        mixed = mix(images, labels, 4, 0.0, 1.0)
        for image, target, own in zip(mixed.images, mixed.targets, labels.tolist(), strict=True):
            for label in range(4):
                assert (image[0] == label).float().mean().item() == pytest.approx(target[label].item(), abs=1e-6)
            foreign = image[0] != own
            rows, columns = foreign.any(1).nonzero(), foreign.any(0).nonzero()
            if len(rows):
                seen += 1
                box = foreign[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                assert box.all()
                assert torch.equal(image[0], image[2])
    assert seen > 40


def test_both_take_turns_and_depend_on_the_seed_alone():
    labels = torch.tensor([0, 1, 2, 3])
    images = labels.float()[:, None, None, None].expand(4, 3, 16, 16).clone()
    kinds = set()
    for seed in range(20):
        torch.manual_seed(seed)
        first = mix(images, labels, 4, 0.4, 1.0)
        torch.manual_seed(seed)
        again = mix(images, labels, 4, 0.4, 1.0)
        assert torch.equal(first.images, again.images)
        assert torch.equal(first.targets, again.targets)
        kinds.add("cutmix" if (first.images == first.images.round()).all() else "mixup")
    assert kinds == {"cutmix", "mixup"}
