from dataclasses import replace

import numpy as np
import pytest
import torch

from backbone import InputError
from tasks.geolocalization import s2
from tasks.geolocalization.cells import partitions_of
from tasks.geolocalization.hierarchy import CellHierarchy
from tasks.geolocalization.module import five_crops
from tasks.geolocalization.sphere import haversine_km


@pytest.fixture(scope="module")
def partitions():
    draw = np.random.default_rng(0)
    latlng = np.concatenate([centre + draw.normal(0, 3, (200, 2)) for centre in ((48, 2), (40, -74), (-33, 151))])
    return partitions_of(s2.leaf_ids(latlng), [20, 200], min_images=5)


def test_the_product_down_the_hierarchy_may_choose_another_cell(partitions):
    fine, coarse = partitions
    cells, parents = CellHierarchy(partitions[::-1]), coarse.lookup(fine.latlng)  # in any order
    first, other = 0, int(np.flatnonzero(parents != parents[0])[0])
    fine_logits, coarse_logits = torch.zeros(1, 1, len(fine)), torch.zeros(1, 1, len(coarse))
    fine_logits[..., first], fine_logits[..., other] = 2.0, 1.5
    coarse_logits[..., parents[other]] = 3.0
    logits = torch.cat([fine_logits, coarse_logits], -1)
    probabilities, latlng = cells.decode(logits, "f_star")
    product = fine_logits[0, 0].double().softmax(0).numpy() * coarse_logits[0, 0].double().softmax(0).numpy()[parents]
    np.testing.assert_allclose(probabilities[0], product / product.sum(), rtol=1e-5)
    assert np.array_equal(latlng[0], fine.latlng[other])
    assert np.array_equal(cells.decode(logits, "best")[1][0], fine.latlng[first])


def test_a_sure_prediction_is_as_wide_as_its_cell(partitions):
    fine = partitions[0]
    cells, logits = CellHierarchy([fine]), torch.zeros(1, 1, len(fine))
    k = int(s2.levels(fine.ids).argmin())
    logits[..., k] = 50.0
    [radius] = cells.half_radius_km(*cells.decode(logits, "best"))
    draw = np.random.default_rng(0).uniform((-90, -180), (90, 180), (400_000, 2))
    inside = draw[fine.lookup(draw) == k]
    assert len(inside) > 50
    assert 0.8 * radius < haversine_km(inside, fine.latlng[k]).max() <= radius


@pytest.mark.parametrize(("change", "value"), [("total", 601), ("min_images", 4)])
def test_partitions_that_were_not_made_together_are_no_hierarchy(partitions, change, value):
    """Though nested, a coarse one of other images or options is not the fine one's."""
    fine, coarse = partitions
    with pytest.raises(InputError, match=f"{value}.*not nested"):
        CellHierarchy([fine, replace(coarse, **{change: value})])


def test_five_crops_are_the_corners_and_the_centre():
    images = torch.arange(7 * 9, dtype=torch.uint8).reshape(1, 1, 7, 9).expand(2, 3, 7, 9)
    crops = five_crops(images, (3, 5))
    assert crops.shape == (2, 5, 3, 3, 5)
    assert crops[0, :, 0, 0, 0].tolist() == [0, 4, 36, 40, 20]
    assert crops[0, 3, 0, -1, -1] == 62
    assert five_crops(images, (7, 9)).shape == (2, 1, 3, 7, 9)
    with pytest.raises(InputError, match="8 x 9"):
        five_crops(images, (8, 9))
