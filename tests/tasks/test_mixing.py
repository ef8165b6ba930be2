import pytest
import torch

from tasks.mixing import mix


def test_mixup_blends_images_and_labels_by_one_and_the_same_part():
    """Images that show their label as a constant: the blend of pixels must be that of the targets, rounded."""
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 2, 3])
    values = torch.tensor([255.0, 0, 90, 7])
    images = values.to(torch.uint8)[:, None, None, None].expand(4, 3, 8, 8).clone()
    parts = set()
    for _ in range(20):
        mixed = mix(images, labels, 4, 0.5, 0.0)
        assert mixed.images.dtype == torch.uint8
        assert torch.allclose(mixed.targets.sum(1), torch.ones(4))
        own = mixed.targets[0, 0]
        for i in range(4):  # each with the one before it
            assert mixed.targets[i, i] == own
            assert mixed.targets[i, i - 1] == pytest.approx(1 - own.item())
        blended = own * values + (1 - own) * values.roll(1)
        assert ((mixed.images - blended[:, None, None, None]).abs() <= 0.5 + 1e-4).all()
        parts.add(round(own.item(), 6))
    assert len(parts) > 10
    assert (images[0] == 255).all()  # the images given are left as they were


def test_cutmix_pastes_one_rectangle_and_its_area_is_the_others_part():
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 2, 3])
    images = labels.to(torch.uint8)[:, None, None, None].expand(4, 3, 16, 20).clone()
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
    images = 80 * labels.to(torch.uint8)[:, None, None, None].expand(4, 3, 16, 16)
    kinds = set()
    for seed in range(20):
        torch.manual_seed(seed)
        first = mix(images, labels, 4, 0.4, 1.0)
        torch.manual_seed(seed)
        again = mix(images, labels, 4, 0.4, 1.0)
        assert torch.equal(first.images, again.images)
        assert torch.equal(first.targets, again.targets)
        kinds.add("cutmix" if (first.images % 80 == 0).all() else "mixup")
    assert kinds == {"cutmix", "mixup"}
    same = mix(images, labels, 4, 0.0, 0.0)
    assert same.images is images
    assert same.targets is labels
