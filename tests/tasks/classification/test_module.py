import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Save, same, trainer
from lightning.pytorch.callbacks import Callback

from backbone import InputError
from data.classification import ClassificationDataModule
from tasks.classification.module import ClassificationModule
from tasks.runs import read_checkpoint

SMALL = {"width_mult": 0.25, "warmup_steps": 2, "lr": 0.01}
OF_DATA = ("num_workers", "batch_size", "image_size", "augment", "random_erasing")


def build(root, **settings):
    data = {"image_size": 32, "batch_size": 4, "num_workers": 0, "random_erasing": 0.5}
    data |= {name: settings.pop(name) for name in OF_DATA if name in settings}
    datamodule = ClassificationDataModule(str(root), **data)
    torch.manual_seed(0)
    module = ClassificationModule(datamodule.categories, datamodule.input_size, **{**SMALL, **settings})
    return module, datamodule


# dropout and mixing draw numbers too: a resumed run must draw the same ones
DRAWING = {"dropout": 0.3, "mixup_alpha": 0.2, "cutmix_alpha": 1.0, "head_steps": 1}


@pytest.fixture(scope="module")
def four_epochs(classes_root, tmp_path_factory):
    """Weights after four epochs without a stop, no workers."""
    module, datamodule = build(classes_root, **DRAWING)
    trainer(tmp_path_factory.mktemp("whole")).fit(module, datamodule)
    return module.state_dict()


def test_two_workers_give_the_weights_of_none_bit_for_bit(classes_root, four_epochs, tmp_path):
    module, datamodule = build(classes_root, num_workers=2, **DRAWING)
    trainer(tmp_path).fit(module, datamodule)
    assert same(module.state_dict(), four_epochs)


def test_two_and_two_epochs_equal_four_bit_for_bit(classes_root, four_epochs, tmp_path):
    path = tmp_path / "half.ckpt"
    module, datamodule = build(classes_root, **DRAWING)
    trainer(tmp_path, callbacks=[Save(path, epoch=1)]).fit(module, datamodule)
    assert not same(module.state_dict(), four_epochs)
    torch.manual_seed(99)
    module, datamodule = build(classes_root, **DRAWING)
    torch.rand(7)  # the global generator stands elsewhere
    trainer(tmp_path).fit(module, datamodule, ckpt_path=path, weights_only=True)
    assert same(module.state_dict(), four_epochs)


def test_a_run_interrupted_within_an_epoch_goes_on_to_the_same_weights(classes_root, four_epochs, tmp_path):
    path = tmp_path / "broken_off.ckpt"
    module, datamodule = build(classes_root, **DRAWING)
    with pytest.raises(SystemExit):
        trainer(tmp_path, callbacks=[Save(path, epoch=2, batch=2)]).fit(module, datamodule)
    module, datamodule = build(classes_root, **DRAWING)
    trainer(tmp_path).fit(module, datamodule, ckpt_path=path, weights_only=True)
    assert same(module.state_dict(), four_epochs)


class Watch(Callback):
    """What the trunk was like after each batch."""

    def __init__(self):
        self.norms_learn, self.weights, self.statistics = [], [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        trunk = pl_module.model.trunk
        self.norms_learn.append(trunk.stem[1].training)
        self.weights.append(trunk.blocks[12][3].weight.detach().clone())
        self.statistics.append(trunk.stem[1].running_mean.clone())


def test_the_head_warms_up_alone_and_then_the_trunk_joins_in(classes_root, tmp_path):
    watch = Watch()
    module, datamodule = build(classes_root, head_steps=2, ema_decay=0.0)  # 12 steps: 2 are at most a fifth
    before, head = module.model.trunk.blocks[12][3].weight.detach().clone(), module.model.head.weight.detach().clone()
    trainer(tmp_path, callbacks=[watch]).fit(module, datamodule)
    assert watch.norms_learn == [False, False] + [True] * 10
    assert all(torch.equal(weight, before) for weight in watch.weights[:2])
    assert torch.equal(watch.statistics[0], watch.statistics[1])
    assert not torch.equal(watch.weights[3], before)
    assert not torch.equal(watch.statistics[2], watch.statistics[1])
    assert not torch.equal(module.model.head.weight, head)


def test_a_frozen_trunk_keeps_weights_and_statistics_and_the_head_learns(classes_root, tmp_path):
    module, datamodule = build(classes_root, trunk_lr_mult=0.0)
    before = {name: value.clone() for name, value in module.model.trunk.state_dict().items()}
    head = module.model.head.weight.detach().clone()
    trainer(tmp_path).fit(module, datamodule)
    assert all(torch.equal(value, before[name]) for name, value in module.model.trunk.state_dict().items())
    assert not torch.equal(module.model.head.weight, head)


def test_frozen_norms_keep_their_statistics_while_all_weights_learn(classes_root, tmp_path):
    module, datamodule = build(classes_root, freeze_norms=True, ema_decay=0.0)
    before = {name: value.clone() for name, value in module.model.trunk.state_dict().items()}
    trainer(tmp_path, limit_val_batches=1).fit(module, datamodule)
    after = module.model.trunk.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if "running" in name or "tracked" in name)
    # the last block's; from random weights without norms that follow, no more reaches the blocks before it
    assert not any(torch.equal(after[name], before[name]) for name in ("blocks.12.3.weight", "blocks.12.4.weight"))


def test_labels_are_those_of_the_folders_on_every_way_to_the_loss(classes_root, tmp_path):
    module, datamodule = build(classes_root, augment=False)
    datamodule.setup("fit")
    for batch in datamodule.train_dataloader():
        for label, position in zip(batch["labels"].tolist(), batch["positions"].tolist(), strict=True):
            assert Path(datamodule.file("train", position)).parent.name == module.class_names[label]


def test_the_temperature_is_fitted_on_validation_and_travels_with_the_weights(classes_root, tmp_path):
    from tasks.classification.metrics import fit_temperature

    module, datamodule = build(classes_root)
    path = tmp_path / "end.ckpt"
    fitting = trainer(tmp_path, max_epochs=2, limit_val_batches=1.0)
    fitting.fit(module, datamodule)
    fitting.save_checkpoint(path)
    batches = list(datamodule.val_dataloader())
    module.eval()
    with torch.no_grad():
        logits = torch.cat([module.model(batch["images"]) for batch in batches]).numpy()
    labels = torch.cat([batch["labels"] for batch in batches]).numpy()
    expected = fit_temperature(logits, labels)
    assert module.temperature == pytest.approx(expected, rel=1e-3)
    assert read_checkpoint(path, "classification")["temperature"] == module.temperature
    fresh, datamodule = build(classes_root)
    assert fresh.temperature is None
    trainer(tmp_path).test(fresh, datamodule, ckpt_path=path, weights_only=True, verbose=False)
    assert fresh.temperature == module.temperature


def test_logged_figures_are_those_of_all_images_with_a_last_small_batch(classes_root, tmp_path):
    module, datamodule = build(classes_root)
    testing = trainer(tmp_path)
    [logged] = testing.test(module, datamodule, verbose=False)
    right = []
    module.eval()
    for batch in datamodule.test_dataloader():  # batches of 4 and 2
        with torch.no_grad():
            right += (module.model(batch["images"]).argmax(1) == batch["labels"]).tolist()
    assert len(right) == 6
    assert logged["test/top1"] == pytest.approx(np.mean(right))
    assert logged["test/images"] == 6


def test_a_loss_that_is_not_finite_stops_and_names_the_images(classes_root, tmp_path):
    module, datamodule = build(classes_root)
    torch.nn.init.constant_(module.model.head.bias, float("nan"))
    with pytest.raises(InputError, match=r"the loss is nan at step 0 on images \['train/"):
        trainer(tmp_path).fit(module, datamodule)


def test_a_bad_image_is_skipped_counted_and_over_the_limit_stops(write_classes, tmp_path):
    root = write_classes(tmp_path / "data", {"train": 4, "val": 2})
    spoilt = root / "train" / "disc" / "train_01.png"
    spoilt.write_bytes(b"<html>")
    module, datamodule = build(root)
    datamodule.bad_images.max_fraction = 0.1
    trainer(tmp_path, max_epochs=1).fit(module, datamodule)
    assert datamodule.bad_images.reasons == {str(spoilt): "it is a web page or XML, not an image"}
    module, datamodule = build(root)
    with pytest.raises(InputError, match=r"1 of the 12 images .*train_01.png: it is a web page"):
        trainer(tmp_path, max_epochs=1).fit(module, datamodule)


def test_accumulated_batches_draw_each_their_own(classes_root, tmp_path, monkeypatch):
    seen = []
    module, datamodule = build(classes_root, dropout=0.5)
    classify = module.model.classify
    monkeypatch.setattr(module.model, "classify", lambda x: seen.append(torch.rand(1).item()) or classify(x))
    trainer(tmp_path, max_epochs=2, accumulate_grad_batches=3).fit(module, datamodule)
    assert len(seen) == len(set(seen)) == 6


@pytest.mark.slow
def test_it_overfits_twelve_pictures(classes_root, tmp_path):
    module, datamodule = build(
        classes_root, augment=False, random_erasing=0.0, batch_size=12, image_size=64, ema_decay=0.9, lr=0.005
    )
    # enough steps for the norms' averages to forget where they began, 0.97 ** 300
    trainer(tmp_path, max_epochs=300).fit(module, datamodule)
    datamodule.hparams["test_split"] = "train"
    [logged] = trainer(tmp_path).test(module, datamodule, verbose=False)
    assert logged["test/top1"] == 1.0


def test_metrics_file_is_flat_json(classes_root, tmp_path):
    module, datamodule = build(classes_root)
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path, name="x", version="y")
    trainer(tmp_path, logger=logger).test(module, datamodule, verbose=False)
    figures = json.loads((tmp_path / "x" / "y" / "metrics.json").read_text())
    assert all(isinstance(value, int | float | None) for value in figures.values())
    assert figures["test/imagenet_overlap"] == 0.0
    assert figures["test/imagenet_pretrained"] == 0.0
    assert {"test/top1", "test/top1_low", "test/top1_high", "test/ece", "test/ece_calibrated"} <= figures.keys()
