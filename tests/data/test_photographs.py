from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers import trainer

from data.classification import ClassificationDataModule
from data.image_list import ImageList
from data.transforms import apply_to_image, build_classification_train


@dataclass(frozen=True)
class Dated(ImageList):
    years: np.ndarray
    places: np.ndarray | None = None


def test_a_part_of_a_list_has_the_rows_of_its_images():
    images = Dated(Path("photos"), np.array([b"a.jpg", b"b.jpg", b"c.jpg"]), np.array([1, 2, 3]))
    part = images.take(np.array([2, 0]))
    assert type(part) is Dated
    assert [part.path(0), part.path(1)] == [Path("photos/c.jpg"), Path("photos/a.jpg")]
    assert part.years.tolist() == [3, 1]
    assert part.places is None
    assert images.take(np.array([False, True, False])).years.tolist() == [2]
    assert "photos/c.jpg" in part
    assert "photos/b.jpg" not in part


def test_pictures_are_mirrored_only_where_asked():
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (64, 64, 3)).copy()
    for mirror, expected in ((True, {True, False}), (False, {False})):
        transform = build_classification_train((32, 32), 0.5, 0.0, mirror=mirror)
        views = [apply_to_image(transform, ramp, seed=i).astype(int) for i in range(20)]
        assert {bool(view[:, 0].mean() > view[:, -1].mean()) for view in views} == expected


def test_colours_keep_their_hue_where_asked():
    """A red picture may grow brighter or paler by contrast, but without `hue` it has no more green than blue."""
    red = np.zeros((40, 40, 3), np.uint8) + np.array([200, 60, 60], np.uint8)
    for hue, expected in ((True, {True, False}), (False, {True})):
        transform = build_classification_train((32, 32), 0.5, 0.0, hue=hue)
        views = [apply_to_image(transform, red, seed=i).astype(int) for i in range(20)]
        assert {bool((view[..., 1] == view[..., 2]).all()) for view in views} == expected


def loaded(root, **options):
    data = ClassificationDataModule(str(root), image_size=32, batch_size=5, num_workers=0, **options)
    data.trainer = trainer(root, max_epochs=1)
    data.setup("fit")
    return data


def test_views_kept_are_the_views_trained_on(classes_root):
    data = loaded(classes_root, views=3)
    for epoch in (0, 4):
        data.trainer.fit_loop.epoch_progress.current.processed = epoch
        data.trainer.fit_loop.epoch_progress.current.ready = epoch
        seen = 0
        for batch in data.train_dataloader():
            assert set(batch["view"].tolist()) == {epoch % 3}
            (kept,) = data.train_views(epoch % 3, batch["positions"].tolist())
            assert kept["images"].equal(batch["images"])
            assert kept["labels"].equal(batch["labels"])
            seen += len(batch["images"])
        assert seen == 10  # of 12: the last, smaller batch is left out in training
    (other,) = data.train_views(2, batch["positions"].tolist())
    assert not other["images"].equal(batch["images"])


@pytest.mark.parametrize("options", [{"min_crop_area": 0.5}, {"seed": 1}, {"views": 4}, {"image_size": 40}])
def test_what_changes_a_view_changes_its_name(classes_root, options):
    one = loaded(classes_root, views=3)
    other = ClassificationDataModule(str(classes_root), **{"image_size": 32, "views": 3, **options})
    other.setup("fit")
    assert one.train_view_transform_id() != other.train_view_transform_id()
    assert one.train_keys() == other.train_keys()
    assert one.train_keys()[0] == one.file("train", 0) == "train/bar/train_00.png"
