import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import data_module, one_sentence, trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tasks.loggers
from data.classification import ClassificationDataModule
from tasks.classification.head import ClassificationHead, Classified
from tasks.classification.module import ClassificationModule
from tasks.detection.head import DetectionHead, DetectionResult
from tasks.face_attributes.head import AttributesHead, FaceAttributes
from tasks.geolocalization.head import GeolocalizationHead
from tasks.loggers import ValidationImages, logger_of, said_of_loggers
from tasks.module import evaluation_images
from tasks.plotting import class_color


def test_tensorboard_writes_into_the_run_and_the_end_says_how_to_look(tmp_path):
    [logger] = logger_of("tensorboard", tmp_path / "run")
    assert isinstance(logger, TensorBoardLogger)
    assert said_of_loggers([logger]) == [f"curves and images: tensorboard --logdir {tmp_path / 'run' / 'tensorboard'}"]
    assert logger_of("csv", tmp_path) == []


@pytest.mark.parametrize(("given", "mode"), [(None, "offline"), ("online", "online")])
def test_wandb_stays_on_this_machine_unless_told_otherwise(tmp_path, monkeypatch, given, mode):
    """The package is not here: a stub takes what Lightning's own logger would."""
    made = []
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if given:
        monkeypatch.setenv("WANDB_MODE", given)
    monkeypatch.setattr(tasks.loggers, "WandbLogger", lambda **options: made.append(options) or "logger")
    assert logger_of("wandb", tmp_path / "run") == ["logger"]
    assert tasks.loggers.os.environ["WANDB_MODE"] == mode
    [options] = made
    assert set(options) <= set(inspect.signature(WandbLogger.__init__).parameters)
    assert options["save_dir"] == tmp_path / "run"


@pytest.mark.parametrize("word", ["tensorboard", "wandb"])
def test_a_missing_package_is_said_with_how_to_install_it(tmp_path, monkeypatch, word):
    def missing(*args, **options):
        raise ModuleNotFoundError(word)

    for name in ("TensorBoardLogger", "WandbLogger"):
        monkeypatch.setattr(tasks.loggers, name, missing)
    with one_sentence(f"--trainer.logger {word} .*: pip install {word}$"):
        logger_of(word, tmp_path)


def test_tensorboard_gets_eight_validation_images_every_five_epochs(tmp_path, write_classes):
    data = data_module(ClassificationDataModule, write_classes(tmp_path / "signs", {"train": 4, "val": 6}), "fit")
    module = ClassificationModule(data.categories, data.input_size, width_mult=0.25, lr=0.02, warmup_steps=0)
    seen = []
    module.head.drawn = lambda image, result: (seen.append((image.shape, result)) or image, "a caption")
    [logger] = logger_of("tensorboard", tmp_path / "run")
    given = {"max_epochs": 8, "limit_train_batches": 1, "limit_val_batches": 1.0, "check_val_every_n_epoch": 2}
    trainer(tmp_path, callbacks=[ValidationImages()], **given | {"logger": logger}).fit(module, data)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert [event.step for event in events.Images("val/pictures")] == [2, 8]  # validated after epochs 2, 4, 6, 8
    assert [shape for shape, _ in seen] == [(240, 240, 3)] * 16
    images = torch.cat(list(evaluation_images(data, "val", 8)))
    with torch.no_grad():  # after a fit, the weights are the averaged ones
        expected = module.head.predict(module.eval()(images), [(32, 32)] * 8)
    for (_, result), other in zip(seen[8:], expected, strict=True):
        assert result.names == other.names
        assert np.allclose(result.probabilities, other.probabilities, atol=1e-5)


def test_other_loggers_cost_no_image(tmp_path, classes_root, monkeypatch):
    monkeypatch.setattr(tasks.loggers, "evaluation_images", lambda *args: pytest.fail("images were opened"))
    data = data_module(ClassificationDataModule, classes_root, "fit")
    module = ClassificationModule(data.categories, data.input_size, width_mult=0.25)
    given = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "logger": CSVLogger(tmp_path)}
    trainer(tmp_path, callbacks=[ValidationImages()], **given).fit(module, data)


GREY = np.full((60, 80, 3), 128, np.uint8)


def test_boxes_are_drawn_where_they_are_and_in_their_classes_colour():
    boxes, ids = np.array([[10.0, 20, 30, 50]]), np.array([7])
    result = DetectionResult(boxes, np.array([0.9]), ["cat"], ids)
    tile, caption = DetectionHead.drawn(SimpleNamespace(categories={3: "dog", 7: "cat"}), GREY, result)
    assert caption == "1 object"
    changed = np.argwhere((tile != GREY).any(axis=2))
    assert tuple(tile[50, 20]) == class_color(1)
    assert changed[:, 0].max() == 50
    assert (GREY == 128).all()


def test_captions_say_classes_attributes_and_places():
    classes = Classified(["a", "b", "c", "d"], np.array([0.5, 0.25, 0.125, 0.0625]))
    assert ClassificationHead.drawn(None, GREY, classes) == (GREY, "a 0.50\nb 0.25\nc 0.12")
    faces = FaceAttributes(("Hat", "Bald", "Smiling"), np.array([0.9, 0.1, 0.7]), np.array([True, False, True]))
    assert AttributesHead.drawn(None, GREY, faces) == (GREY, "Hat, Smiling")
    place = SimpleNamespace(latlng=np.array([48.857, 2.352]), half_radius_km=1234.5)
    assert GeolocalizationHead.drawn(None, GREY, place) == (GREY, "48.86° N, 2.35° E\nhalf within 1,234 km")
