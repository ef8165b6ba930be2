import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import one_sentence, trainer

from data import loading
from data.classification import ClassificationDataModule
from data.loading import worker_count
from data.module import part_of, with_unlabelled
from data.records import Records
from data.transforms import apply_to_image, build_classification_train


def test_colours_keep_their_hue_where_asked():
    """A red image may grow brighter or paler by contrast, but without `hue` it has no more green than blue."""
    red = np.zeros((40, 40, 3), np.uint8) + np.array([200, 60, 60], np.uint8)
    for hue, expected in ((True, {True, False}), (False, {True})):
        transform = build_classification_train((32, 32), 0.5, 0.0, hue=hue)
        views = [apply_to_image(transform, red, seed=i).astype(int) for i in range(20)]
        assert {bool((view[..., 1] == view[..., 2]).all()) for view in views} == expected


def loaded(root, **options):
    data = ClassificationDataModule(root=str(root), image_size=32, batch_size=5, num_workers=0, **options)
    data.trainer = trainer(root, max_epochs=1)
    data.setup("fit")
    return data


def test_fixed_views_are_the_views_trained_on(classes_root):
    data = loaded(classes_root, views=3)
    for epoch in (0, 4):
        data.trainer.fit_loop.epoch_progress.current.processed = epoch
        data.trainer.fit_loop.epoch_progress.current.ready = epoch
        seen = 0
        for batch in data.train_dataloader():
            assert set(batch["view"].tolist()) == {epoch % 3}
            (cached,) = data.train_views(epoch % 3, batch["positions"].tolist())
            assert cached["images"].equal(batch["images"])
            assert cached["labels"].equal(batch["labels"])
            seen += len(batch["images"])
        assert seen == 10  # of 12: the last, smaller batch is left out in training
    (other,) = data.train_views(2, batch["positions"].tolist())
    assert not other["images"].equal(batch["images"])


@pytest.mark.parametrize("options", [{"min_crop_area": 0.5}, {"seed": 1}, {"views": 4}, {"image_size": 40}])
def test_what_changes_a_view_changes_its_name(classes_root, options):
    one = loaded(classes_root, views=3)
    other = ClassificationDataModule(root=str(classes_root), **{"image_size": 32, "views": 3, **options})
    other.setup("fit")
    assert one.train_view_transform_id() != other.train_view_transform_id()
    assert one.train_keys() == other.train_keys()
    assert one.train_keys()[0] == one.file("train", 0) == "train/bar/train_00.png"


def test_images_without_labels_follow_the_others_with_unknown_targets(tmp_path):
    labelled = Records(
        tmp_path / "a", np.array([b"1.jpg"]), {"attributes": np.ones((1, 3), np.int8)}, classes=("x", "y", "z")
    )
    pool = Records(tmp_path / "b", np.array([b"2.jpg", b"3.jpg"]))
    both = with_unlabelled(labelled, pool)
    assert both["attributes"].tolist() == [[1, 1, 1], [-1, -1, -1], [-1, -1, -1]]
    assert both["attributes"].dtype == np.int8
    assert [both.path(i) for i in range(3)] == [tmp_path / "a/1.jpg", tmp_path / "b/2.jpg", tmp_path / "b/3.jpg"]
    assert both.classes == ("x", "y", "z")


def test_a_smaller_part_is_within_a_larger_one():
    parts = [set(part_of(50, fraction, seed=3).tolist()) for fraction in (0.0, 0.01, 0.3, 1.0)]
    assert [len(part) for part in parts] == [0, 1, 15, 50]
    assert parts[1] < parts[2] < parts[3]
    assert set(part_of(50, 0.3, seed=4).tolist()) != parts[2]


def test_the_number_of_workers_is_that_of_the_cores_at_hand(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(3)), raising=False)
    assert worker_count("auto") == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert worker_count("auto") == 8
    assert worker_count(0) == 0


def test_shared_memory_is_looked_at_before_the_start_and_never_after_a_fit(classes_root, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loading, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=64 << 10))

    def module(num_workers):
        return ClassificationDataModule(root=str(classes_root), image_size=64, batch_size=4, num_workers=num_workers)

    auto = module("auto")
    assert auto.num_workers == 2
    auto.setup("fit")
    assert auto.num_workers == auto.train_dataloader().num_workers == 0
    assert capsys.readouterr().out.count("--data.num_workers 0") == 1
    for stage in ("fit", "validate", "test"):
        with one_sentence("--data.num_workers 0"):
            module(2).setup(stage)
    # 12 training and 6 validation images, which 2 processes have all at once
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=18 * (3 * 64 * 64 + 16384)))
    roomy = module(2)
    roomy.setup("fit")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))  # its loaders have it
    roomy.setup("validate")
    roomy.setup("test")
    assert roomy.num_workers == 2


def test_a_mistake_in_the_limit_of_an_image_is_told_before_the_start(classes_root, monkeypatch):
    monkeypatch.setenv("MOBILENET_TASKS_MAX_IMAGE_MB", "many")
    with one_sentence("MOBILENET_TASKS_MAX_IMAGE_MB is 'many'"):
        ClassificationDataModule(root=str(classes_root)).setup("fit")
