import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Save, same, trainer
from lightning.pytorch.callbacks import Callback

from backbone import InputError
from data.coco import CocoDataModule
from tasks.detection.metrics import Detections, evaluate, to_coco_results
from tasks.detection.module import DetectionModule
from tasks.runs import read_checkpoint

SMALL = {"width_mult": 0.25, "warmup_steps": 2, "lr": 0.02}


def build(root, **settings):
    data = {"image_size": 96, "batch_size": 2, "num_workers": 0}
    data |= {name: settings.pop(name) for name in ("num_workers", "batch_size", "image_size") if name in settings}
    datamodule = CocoDataModule(str(root), **data)
    torch.manual_seed(0)
    return DetectionModule(datamodule.categories, datamodule.input_size, **{**SMALL, **settings}), datamodule


@pytest.fixture(scope="module")
def four_epochs(coco_root, tmp_path_factory):
    """Weights after four epochs without a stop, no workers."""
    module, datamodule = build(coco_root)
    trainer(tmp_path_factory.mktemp("whole")).fit(module, datamodule)
    return module.state_dict()


def test_two_workers_give_the_weights_of_none_bit_for_bit(coco_root, four_epochs, tmp_path):
    module, datamodule = build(coco_root, num_workers=2)
    trainer(tmp_path).fit(module, datamodule)
    assert same(module.state_dict(), four_epochs)


@pytest.mark.parametrize("workers", [0, 2])
def test_two_and_two_epochs_equal_four_bit_for_bit(coco_root, four_epochs, tmp_path, workers):
    path = tmp_path / "half.ckpt"
    module, datamodule = build(coco_root, num_workers=workers)
    trainer(tmp_path, callbacks=[Save(path, epoch=1)]).fit(module, datamodule)
    assert not same(module.state_dict(), four_epochs)
    module, datamodule = build(coco_root, num_workers=workers)
    trainer(tmp_path).fit(module, datamodule, ckpt_path=path, weights_only=True)
    assert same(module.state_dict(), four_epochs)


def test_a_run_interrupted_within_an_epoch_goes_on_to_the_same_weights(coco_root, four_epochs, tmp_path):
    path = tmp_path / "broken_off.ckpt"
    module, datamodule = build(coco_root)
    with pytest.raises(SystemExit):
        trainer(tmp_path, callbacks=[Save(path, epoch=2, batch=2)]).fit(module, datamodule)
    module, datamodule = build(coco_root)
    trainer(tmp_path).fit(module, datamodule, ckpt_path=path, weights_only=True)
    assert same(module.state_dict(), four_epochs)


def test_the_rate_asked_for_wins_over_the_checkpoints(coco_root, tmp_path):
    path = tmp_path / "half.ckpt"
    module, datamodule = build(coco_root)
    trainer(tmp_path, callbacks=[Save(path, epoch=1)]).fit(module, datamodule)
    seen = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    module, datamodule = build(coco_root, lr=0.002)
    trainer(tmp_path, callbacks=[Rates()]).fit(module, datamodule, ckpt_path=path, weights_only=True)
    # 16 steps, 2 of them warming up; the third epoch begins with step 8: 0.5 + 0.5 cos(pi (8 - 2) / 14)
    assert seen[0] == pytest.approx(0.002 * (0.5 + 0.5 * np.cos(np.pi * 6 / 14)))


def test_ground_truth_fed_back_through_resize_and_id_map_scores_one(coco_root):
    """Whatever the network would answer perfectly must come out as AP 1: pictures are 96 x 128, the input 96 x 96."""
    module, datamodule = build(coco_root)
    datamodule.setup("validate")
    results, ids = [], []
    for batch in datamodule.val_dataloader():
        for boxes, labels, image_id, (height, width) in zip(
            batch["boxes_xyxy"], batch["labels"], batch["image_ids"], batch["sizes"].tolist(), strict=True
        ):
            in_photograph = boxes.numpy() * np.tile([width / 96, height / 96], 2)
            found = Detections(in_photograph, np.ones(len(boxes)), module.category_ids[labels.numpy()])
            results += to_coco_results(image_id, found)
            ids.append(image_id)
    assert len(ids) == 4
    assert evaluate(datamodule.ground_truth("val"), results).figures["map"] == pytest.approx(1.0)


def test_a_loss_that_is_not_finite_stops_and_names_the_images(coco_root, tmp_path):
    module, datamodule = build(coco_root)
    torch.nn.init.constant_(module.model.box_heads[0][-1].bias, float("nan"))
    with pytest.raises(InputError, match=r"the loss is nan at step 0 on images \[\d+, \d+\]"):
        trainer(tmp_path).fit(module, datamodule)


def test_a_bad_image_is_skipped_counted_and_over_the_limit_stops(write_coco, tmp_path):
    root = write_coco(tmp_path / "data", {"train": 8, "val": 2})
    (root / "train" / "train_03.png").write_bytes(b"<html>quota exceeded</html>")
    module, datamodule = build(root)
    datamodule.bad_images.max_fraction = 0.2
    trainer(tmp_path, max_epochs=1).fit(module, datamodule)
    assert datamodule.bad_images.reasons == {
        str(root / "train" / "train_03.png"): "it is a web page or XML, not an image"
    }
    module, datamodule = build(root)
    with pytest.raises(InputError, match=r"1 of the 8 images .*train_03.png: it is a web page"):
        trainer(tmp_path, max_epochs=1).fit(module, datamodule)


def test_a_batch_of_bad_images_alone_is_passed_over(write_coco, tmp_path):
    root = write_coco(tmp_path / "data", {"train": 4, "val": 2})
    for i in (1, 2, 3):
        (root / "train" / f"train_{i:02}.png").write_bytes(b"")
    module, datamodule = build(root, batch_size=1)
    datamodule.bad_images.max_fraction = 1.0
    before = {name: value.clone() for name, value in module.named_parameters()}
    trainer(tmp_path, max_epochs=1).fit(module, datamodule)
    assert len(datamodule.bad_images.reasons) == 3
    assert all(value.isfinite().all() for value in module.state_dict().values())
    assert any(not torch.equal(value, before[name]) for name, value in module.named_parameters())


def test_a_frozen_trunk_keeps_weights_and_statistics_and_the_heads_learn(coco_root, tmp_path):
    module, datamodule = build(coco_root, trunk_lr_mult=0.0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer(tmp_path, max_epochs=1).fit(module, datamodule)
    for name, value in module.state_dict().items():
        if name.startswith("model.trunk."):
            assert torch.equal(value, before[name]), name
    assert not torch.equal(module.state_dict()["model.class_heads.0.0.bias"], before["model.class_heads.0.0.bias"])


def test_numerics_come_with_the_weights_into_the_checkpoint_and_the_file_is_not_read_again(coco_root, tmp_path):
    numerics = {
        "padding": "symmetric",
        "bn_eps": 1e-5,
        "activation": "relu",
        "preprocessing": {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.2), "channel_order": "bgr", "image_size": 160},
    }
    source, datamodule = build(coco_root, numerics=numerics)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(source, datamodule)
    run.save_checkpoint(tmp_path / "weights.ckpt")
    module, datamodule = build(coco_root, weights=str(tmp_path / "weights.ckpt"))
    assert same(module.model.trunk.state_dict(), source.model.trunk.state_dict())
    run = trainer(tmp_path, max_epochs=1)
    run.fit(module, datamodule)
    run.save_checkpoint(tmp_path / "tuned.ckpt")
    (tmp_path / "weights.ckpt").unlink()
    again = DetectionModule.load_from_checkpoint(tmp_path / "tuned.ckpt", weights_only=True)
    assert again.model.trunk.numerics.padding == "symmetric"
    assert again.model.trunk.preprocessing.mean == (0.4, 0.5, 0.6)
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    assert torch.equal(again.eval().model(images).class_logits, module.eval().model(images).class_logits)


def test_the_checkpoint_holds_the_average_and_the_live_weights(coco_root, tmp_path):
    module, datamodule = build(coco_root, ema_decay=0.5)
    path = tmp_path / "half.ckpt"
    trainer(tmp_path, callbacks=[Save(path, epoch=1)]).fit(module, datamodule)
    saved = read_checkpoint(path, "detection")
    name = "model.class_heads.0.0.weight"
    assert not torch.equal(saved["state_dict"][name], saved["current_model_state"][name])


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["multibox", "focal"])
def test_it_overfits_eight_pictures(coco_root, tmp_path, loss):
    """Trained on eight pictures without augmentation, it finds every object in them: AP over 0.9."""
    datamodule = CocoDataModule(str(coco_root), image_size=128, batch_size=8, num_workers=0, augment=False)
    torch.manual_seed(0)
    module = DetectionModule(
        datamodule.categories, datamodule.input_size, width_mult=0.25, lr=0.2, warmup_steps=10, ema_decay=0.9, loss=loss
    )
    trainer(tmp_path, max_epochs=200, gradient_clip_val=10.0).fit(module, datamodule)
    module.eval()
    results = []
    for batch in datamodule.train_dataloader():
        for image_id, found in zip(batch["image_ids"], module.detect(batch["images"], batch["sizes"]), strict=True):
            boxes, scores, labels = (value.numpy() for value in found)
            results += to_coco_results(image_id, Detections(boxes, scores, module.category_ids[labels]))
    assert evaluate(datamodule.ground_truth("train"), results).figures["map"] > 0.9


def test_metrics_file_is_flat_json(coco_root, tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    module, datamodule = build(coco_root)
    run = trainer(tmp_path, logger=CSVLogger(tmp_path, name="detection", version="one"), limit_val_batches=None)
    run.validate(module, datamodule, verbose=False)
    figures = json.loads((Path(run.log_dir) / "metrics.json").read_text())
    assert all(value is None or isinstance(value, float | int) for value in figures.values())
    assert {"val/map", "val/map_50", "val/mar_large", "val/ap/disc", "val/ap/bar"} <= set(figures)
