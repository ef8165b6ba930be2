import numpy as np
import pytest
import torch
from helpers import fitted, same, trainer

from backbone import InputError
from data.attributes import AttributesDataModule
from tasks.face_attributes.metrics import choose_thresholds
from tasks.face_attributes.module import FaceAttributesModule

OF_DATA = ("unlabelled", "labelled_fraction")


class ShuffledLabels(AttributesDataModule):
    """The training images' labels dealt out anew."""

    def select(self, split):
        records = super().select(split)
        if split != "train":
            return records
        return records.with_columns(attributes=np.random.default_rng(1).permutation(records["attributes"]))


def build(root, data_class=AttributesDataModule, **settings):
    data = {"image_size": 32, "batch_size": 4, "num_workers": 0, "min_crop_area": 0.6}
    data |= {name: settings.pop(name) for name in OF_DATA if name in settings}
    datamodule = data_class(root=str(root), **data)
    torch.manual_seed(0)
    options = {"width_mult": 0.25, "warmup_steps": 2, "lr": 0.01, **settings}
    return FaceAttributesModule(datamodule.categories, datamodule.input_size, **options), datamodule


@pytest.fixture(scope="module")
def teacher(faces_root, tmp_path_factory):
    """A checkpoint of a net trained for two epochs."""
    folder = tmp_path_factory.mktemp("teacher")
    training, _ = fitted(folder, *build(faces_root), max_epochs=2)
    training.save_checkpoint(folder / "teacher.ckpt")
    return str(folder / "teacher.ckpt")


def fit(root, folder, **settings):
    module, data = build(root, **settings)
    trainer(folder, max_epochs=1).fit(module, data)
    return module


@pytest.mark.slow
def test_with_a_teacher_alone_the_labels_change_nothing(faces_root, teacher, tmp_path):
    def weights(**settings):
        return fit(faces_root, tmp_path, teacher=teacher, **settings).state_dict()

    assert same(weights(), weights(data_class=ShuffledLabels))
    assert not same(*(weights(teacher_weight=0.5, data_class=c) for c in (AttributesDataModule, ShuffledLabels)))


def test_thresholds_are_chosen_on_validation_and_travel_with_the_weights(faces_root, tmp_path):
    module, datamodule = build(faces_root)
    training, _ = fitted(tmp_path, module, datamodule, max_epochs=2, limit_val_batches=1.0)
    training.save_checkpoint(tmp_path / "end.ckpt")
    module.eval()
    batches = list(datamodule.val_dataloader())  # 4 and 2
    with torch.no_grad():
        logits = torch.cat([module(batch["images"]) for batch in batches]).numpy()
    expected = choose_thresholds(logits, torch.cat([batch["attributes"] for batch in batches]).numpy())
    assert module.head.thresholds == pytest.approx(expected, abs=1e-4)
    fresh, datamodule = build(faces_root)
    trainer(tmp_path).test(fresh, datamodule, ckpt_path=tmp_path / "end.ckpt", weights_only=True, verbose=False)
    assert np.array_equal(fresh.head.thresholds, module.head.thresholds)
    assert fresh.head.provenance == module.head.provenance
    assert fresh.head.provenance[0]["data"] == str(faces_root)


@pytest.mark.parametrize("alpha", ["mixup_alpha", "cutmix_alpha"])
@pytest.mark.parametrize("teacher_weight", [None, 0.5])
def test_labels_of_mixed_faces_are_refused(faces_root, teacher, alpha, teacher_weight):
    taught = {"teacher": teacher, "teacher_weight": teacher_weight} if teacher_weight else {}
    with pytest.raises(InputError, match=f"--model.{alpha} is 0.2"):
        build(faces_root, **{alpha: 0.2}, **taught)
    build(faces_root, **{alpha: 0.2}, teacher=teacher)


def test_labels_are_needed_where_they_count(faces_root, teacher, tmp_path):
    settings = {"labelled_fraction": 0.0, "unlabelled": str(faces_root / "unlabelled")}
    for taught in ({}, {"teacher": teacher, "teacher_weight": 0.9}):
        with pytest.raises(InputError, match="none of the 8 training images has a label"):
            fit(faces_root, tmp_path, **settings, **taught)
    module = fit(faces_root, tmp_path, **settings, teacher=teacher)  # the teacher needs none
    assert module.head.teachers == [teacher]
