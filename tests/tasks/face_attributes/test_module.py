import numpy as np
import pytest
import torch
from helpers import Save, same, trainer
from lightning.pytorch.callbacks import Callback

from backbone import InputError
from data.attributes import AttributesDataModule
from tasks.distillation.teachers import Teacher
from tasks.face_attributes.module import FaceAttributesModule

OF_DATA = ("views", "unlabelled", "labelled_fraction", "shuffle_labels", "num_workers", "batch_size")


def build(root, **settings):
    data = {"image_size": 32, "batch_size": 4, "num_workers": 0, "min_crop_area": 0.6}
    data |= {name: settings.pop(name) for name in OF_DATA if name in settings}
    datamodule = AttributesDataModule(str(root), **data)
    torch.manual_seed(0)
    options = {"width_mult": 0.25, "warmup_steps": 2, "lr": 0.01, **settings}
    return FaceAttributesModule(datamodule.categories, datamodule.input_size, **options), datamodule


class Losses(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(outputs["loss"].item())


@pytest.fixture(scope="module")
def teacher(faces_root, tmp_path_factory):
    """A checkpoint of a net trained for two epochs."""
    folder = tmp_path_factory.mktemp("teacher")
    module, datamodule = build(faces_root)
    training = trainer(folder, max_epochs=2)
    training.fit(module, datamodule)
    training.save_checkpoint(folder / "teacher.ckpt")
    return str(folder / "teacher.ckpt")


def taught(root, folder, **settings):
    losses = Losses()
    module, datamodule = build(root, **settings)
    trainer(folder, callbacks=[losses]).fit(module, datamodule)
    return module.state_dict(), losses.seen


def test_with_a_teacher_alone_the_labels_change_nothing(faces_root, teacher, tmp_path):
    straight, _ = taught(faces_root, tmp_path, teacher=teacher)
    shuffled, _ = taught(faces_root, tmp_path, teacher=teacher, shuffle_labels=True)
    assert same(straight, shuffled)
    mixed = [
        taught(faces_root, tmp_path, teacher=teacher, teacher_weight=0.5, shuffle_labels=s)[0] for s in (False, True)
    ]
    assert not same(*mixed)  # or the shuffling would show nothing


@pytest.mark.parametrize("workers", [0, 2])
def test_kept_answers_give_the_losses_of_asking(faces_root, teacher, tmp_path, workers):
    settings = {"teacher": teacher, "views": 2, "unlabelled": str(faces_root / "unlabelled"), "num_workers": workers}
    settings["lr"] = 1e-7  # or the rounding of float16 would grow from step to step
    _, losses = taught(faces_root, tmp_path, **settings)
    kept, kept_losses = taught(faces_root, tmp_path, cache=str(tmp_path / "cache"), **settings)
    assert len(losses) == 16  # 4 epochs of 16 pictures
    assert kept_losses == pytest.approx(losses, rel=1e-2, abs=1e-4)  # float16
    again, again_losses = taught(faces_root, tmp_path, cache=str(tmp_path / "cache"), cache_only=True, **settings)
    assert again_losses == kept_losses
    assert same(kept, again)
    assert len({round(loss, 5) for loss in losses}) > 12  # or the order would not matter


def test_a_cache_serves_a_resumed_run_as_well(faces_root, teacher, tmp_path):
    settings = {"teacher": teacher, "views": 2, "cache": str(tmp_path / "cache")}
    whole, _ = taught(faces_root, tmp_path, **settings)
    module, datamodule = build(faces_root, **settings)
    trainer(tmp_path, callbacks=[Save(tmp_path / "half.ckpt", epoch=1)]).fit(module, datamodule)
    module, datamodule = build(faces_root, **settings)
    trainer(tmp_path).fit(module, datamodule, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert same(module.state_dict(), whole)


def test_another_teacher_or_transform_is_refused_by_name(faces_root, teacher, tmp_path):
    settings = {"teacher": teacher, "views": 2, "cache": str(tmp_path / "cache")}
    taught(faces_root, tmp_path, **settings)
    changed = torch.load(teacher, weights_only=True)
    changed["state_dict"]["model.head.bias"] += 1
    torch.save(changed, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="is of something else: the teacher"):
        taught(faces_root, tmp_path, **{**settings, "teacher": str(tmp_path / "other.ckpt")})
    with pytest.raises(InputError, match="is of something else: the number of views"):
        taught(faces_root, tmp_path, **{**settings, "views": 3})
    with pytest.raises(InputError, match="is of something else: the number of pictures"):
        taught(faces_root, tmp_path, **settings, unlabelled=str(faces_root / "unlabelled"))


def test_the_teacher_is_in_no_checkpoint_and_no_optimizer(faces_root, teacher, tmp_path):
    module, datamodule = build(faces_root, teacher=teacher)
    training = trainer(tmp_path, max_epochs=1)
    training.fit(module, datamodule)
    training.save_checkpoint(tmp_path / "student.ckpt")
    alone, _ = build(faces_root)
    state = torch.load(tmp_path / "student.ckpt", weights_only=True)["state_dict"]
    assert state.keys() == alone.state_dict().keys()
    optimized = sum(p.numel() for group in training.optimizers[0].param_groups for p in group["params"])
    assert optimized == sum(p.numel() for p in alone.parameters())


def test_a_student_that_is_its_teacher_has_nothing_to_learn(faces_root, teacher):
    from tasks.distillation.lessons import build_teacher
    from tasks.distillation.losses import binary_kl

    module, datamodule = build(faces_root)
    module.load_state_dict(torch.load(teacher, weights_only=True)["state_dict"])
    datamodule.setup("validate")
    batch = next(iter(datamodule.val_dataloader()))
    logits = module.eval().model(batch["images"])
    loss = binary_kl(logits, build_teacher(teacher, ("Disc", "Bar"), "sigmoid")(batch["images"]), 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert max(p.grad.abs().max().item() for p in module.parameters()) < 1e-3
    # and in the order the student has them
    swapped = build_teacher(teacher, ("bar", "disc"), "sigmoid")(batch["images"])
    assert torch.allclose(swapped.flip(1), logits, atol=1e-5)


def test_thresholds_are_chosen_on_validation_and_travel_with_the_weights(faces_root, tmp_path):
    from tasks.face_attributes.metrics import choose_thresholds

    module, datamodule = build(faces_root)
    training = trainer(tmp_path, max_epochs=2, limit_val_batches=1.0)
    training.fit(module, datamodule)
    training.save_checkpoint(tmp_path / "end.ckpt")
    module.eval()
    batches = list(datamodule.val_dataloader())  # 4 and 2
    with torch.no_grad():
        logits = torch.cat([module.model(batch["images"]) for batch in batches]).numpy()
    expected = choose_thresholds(logits, torch.cat([batch["targets"] for batch in batches]).numpy())
    assert module.thresholds == pytest.approx(expected, abs=1e-4)
    fresh, datamodule = build(faces_root)
    trainer(tmp_path).test(fresh, datamodule, ckpt_path=tmp_path / "end.ckpt", weights_only=True, verbose=False)
    assert np.array_equal(fresh.thresholds, module.thresholds)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "--model.temperature is 0.0; it must be above 0"),
        ({"teacher_weight": 1.5, "teacher": "TEACHER"}, "--model.teacher_weight is 1.5"),
        ({"cache": "c"}, "there is no --model.teacher to ask"),
        ({"cache": "c", "teacher": "TEACHER"}, "--data.views is 0"),
        ({"cache": "c", "teacher": "TEACHER", "views": 2, "mixup_alpha": 0.2}, "no answers about mixed pictures"),
        ({"cache_only": True, "teacher": "TEACHER"}, "there is no --model.cache"),
        ({"mixup_alpha": 0.2}, "it needs a --model.teacher"),
        ({"teacher": "none.ckpt"}, "none.ckpt does not exist"),
        ({"teacher": "TEACHER", "cache": "c", "views": 2, "cache_only": True}, "the cache c does not exist"),
    ],
)
def test_options_that_contradict_each_other_are_one_sentence(faces_root, teacher, tmp_path, settings, message):
    settings = {name: teacher if value == "TEACHER" else value for name, value in settings.items()}
    with pytest.raises(InputError, match=message):
        taught(faces_root, tmp_path, **settings)


def test_labels_are_needed_where_they_count(write_faces, faces_root, teacher, tmp_path):
    pool = str(faces_root / "unlabelled")
    for settings in ({}, {"teacher": teacher, "teacher_weight": 0.9}):
        with pytest.raises(InputError, match="none of the 8 training images has a label"):
            taught(faces_root, tmp_path, labelled_fraction=0.0, unlabelled=pool, **settings)
    taught(faces_root, tmp_path, labelled_fraction=0.0, unlabelled=pool, teacher=teacher)  # the teacher needs none


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_answer_that_is_not_finite_names_its_picture_in_an_evaluation_too(
    faces_root, teacher, tmp_path, monkeypatch, split
):
    module, datamodule = build(faces_root, teacher=teacher)
    answer = Teacher._answer
    monkeypatch.setattr(Teacher, "_answer", lambda self, images: answer(self, images) * torch.nan)
    training = trainer(tmp_path, limit_val_batches=1.0)
    with pytest.raises(InputError) as error:
        (training.validate if split == "val" else training.test)(module, datamodule, verbose=False)
    assert f"not finite for the picture {datamodule.file(split, 0)}; look at it" in str(error.value)
