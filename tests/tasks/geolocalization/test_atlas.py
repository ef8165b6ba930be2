from dataclasses import replace

import numpy as np
import pytest
import torch

from backbone import InputError
from tasks.geolocalization.atlas import Atlas, five_crops
from tasks.geolocalization.cells import build_hierarchy, parent_of
from tasks.geolocalization.sphere import haversine_km


@pytest.fixture(scope="module")
def partitions():
    draw = np.random.default_rng(0)
    latlng = np.concatenate([centre + draw.normal(0, 3, (200, 2)) for centre in ((48, 2), (40, -74), (-33, 151))])
    return build_hierarchy(latlng, [20, 200], min_photos=5)


def logits_of(*levels):
    return torch.cat([torch.as_tensor(level, dtype=torch.float32) for level in levels], -1)


def test_the_answer_of_plain_logits_is_the_point_of_the_best_cell_of_the_finest(partitions):
    atlas = Atlas(partitions, "best", 200)
    fine, coarse = (torch.randn(6, 2, size) for size in atlas.sizes)
    located = atlas.locate(logits_of(fine, coarse))
    expected = fine.softmax(2).mean(1)
    np.testing.assert_allclose(located.probabilities, expected.numpy(), rtol=1e-6)
    assert np.array_equal(located.latlng, partitions[0].latlng[expected.argmax(1).numpy()])


def test_the_product_down_the_hierarchy_may_choose_another_cell(partitions):
    fine, coarse = partitions
    atlas = Atlas(partitions, "f_star", 200)
    parents = coarse.lookup(fine.latlng)
    first, other = 0, int(np.flatnonzero(parents != parents[0])[0])
    fine_logits, coarse_logits = torch.zeros(1, 1, len(fine)), torch.zeros(1, 1, len(coarse))
    fine_logits[..., first], fine_logits[..., other] = 2.0, 1.5
    coarse_logits[..., parents[other]] = 3.0
    located = atlas.locate(logits_of(fine_logits, coarse_logits))
    product = fine_logits[0, 0].double().softmax(0).numpy() * coarse_logits[0, 0].double().softmax(0).numpy()[parents]
    np.testing.assert_allclose(located.probabilities[0], product / product.sum(), rtol=1e-5)
    assert np.array_equal(located.latlng[0], fine.latlng[other])
    assert np.array_equal(
        Atlas(partitions, "best", 200).locate(logits_of(fine_logits, coarse_logits)).latlng[0], fine.latlng[first]
    )


def test_the_expected_place_lies_among_the_cells_of_the_top_mode(partitions):
    fine = partitions[0]
    atlas = Atlas(partitions[:1], "expected", 300)
    best = int(np.argmin(haversine_km(fine.latlng, np.array([48.0, 2.0]))))
    near = haversine_km(fine.latlng, fine.latlng[best]) <= 300
    assert 2 < near.sum() < len(fine)
    logits = torch.full((1, 1, len(fine)), -20.0)
    logits[..., near] = 0.0
    logits[..., best] = 0.1
    logits[..., ~near] = -1.0  # much is said of elsewhere, and none of it counts
    weights = logits[0, 0].double().softmax(0).numpy() * near
    mean = weights @ fine.points
    latitude = np.degrees(np.arctan2(mean[2], np.hypot(mean[0], mean[1])))
    located = atlas.locate(logits)
    np.testing.assert_allclose(located.latlng[0], [latitude, np.degrees(np.arctan2(mean[1], mean[0]))], rtol=1e-6)


def test_a_sure_answer_is_as_wide_as_its_cell(partitions):
    fine = partitions[0]
    atlas = Atlas(partitions[:1], "best", 200)
    logits = torch.zeros(1, 1, len(fine))
    logits[..., 3] = 50.0
    radius = atlas.half_radius_km(atlas.locate(logits))
    draw = np.random.default_rng(0).uniform((-90, -180), (90, 180), (400_000, 2))
    inside = draw[fine.lookup(draw) == 3]
    if len(inside):
        assert haversine_km(inside, fine.latlng[3]).max() <= radius[0] + 1e-6
    assert 0 < radius[0] < 3000


def test_cells_of_other_photographs_are_no_hierarchy(partitions):
    others = build_hierarchy(np.random.default_rng(1).uniform((-60, 60), (60, 120), (600, 2)), [200], min_photos=5)
    with pytest.raises(InputError, match="not nested"):
        Atlas([partitions[0], *others], "best", 200)


@pytest.mark.parametrize(
    ("number", "least", "deepest", "message"),
    [
        (601, 5, 18, r"of 600 and 601 photographs"),
        (600, 4, 18, r"min_photos 5 and 4"),
        (600, 5, 17, r"max_level 18 and 17"),
    ],
)
def test_partitions_that_were_not_made_together_are_no_hierarchy(partitions, number, least, deepest, message):
    """Though nested, a coarse one of other photographs or options is not the fine one's."""
    fine, coarse = partitions
    other = replace(coarse, total=number, min_photos=least, max_level=deepest)
    parent_of(fine, other)  # is nested
    with pytest.raises(InputError, match=message + r".*build them together"):
        Atlas([fine, other], "best", 200)


def test_five_crops_are_the_corners_and_the_centre():
    images = torch.arange(7 * 9, dtype=torch.uint8).reshape(1, 1, 7, 9).expand(2, 3, 7, 9)
    crops = five_crops(images, (3, 5))
    assert crops.shape == (2, 5, 3, 3, 5)
    assert crops[0, :, 0, 0, 0].tolist() == [0, 4, 36, 40, 20]
    assert crops[0, 3, 0, -1, -1] == 62
    assert five_crops(images, (7, 9)).shape == (2, 1, 3, 7, 9)
    with pytest.raises(InputError, match="no crops of 8 x 9"):
        five_crops(images, (8, 9))
