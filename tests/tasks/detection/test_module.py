import numpy as np
import pytest
import torch
from helpers import Save, same, trainer

from data.detection import DetectionDataModule
from data.readers.coco import Detections
from tasks.detection.metrics import evaluate, stack_detections
from tasks.detection.module import DetectionModule


def build(root, **options):
    data = {"image_size": 96, "batch_size": 2, "num_workers": 0}
    data |= {name: options.pop(name) for name in (*data, "max_bad_fraction", "augment") if name in options}
    datamodule = DetectionDataModule(root=str(root), **data)
    torch.manual_seed(0)
    options = {"width_mult": 0.25, "warmup_steps": 2, "lr": 0.02, **options}
    return DetectionModule(datamodule.categories, datamodule.input_size, **options), datamodule


@pytest.mark.parametrize(("epoch", "batch", "workers"), [(1, None, 0), (1, None, 2), (2, 2, 0)])
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one_bit_for_bit(coco_root, tmp_path, epoch, batch, workers):
    path = tmp_path / "stopped.ckpt"
    whole, datamodule = build(coco_root)
    trainer(tmp_path).fit(whole, datamodule)
    module, datamodule = build(coco_root, num_workers=workers)
    run = trainer(tmp_path, callbacks=[Save(path, epoch=epoch, batch=batch)])
    if batch is None:
        run.fit(module, datamodule)
    else:
        with pytest.raises(SystemExit):
            run.fit(module, datamodule)
    assert not same(module.state_dict(), whole.state_dict())
    module, datamodule = build(coco_root, num_workers=workers)
    trainer(tmp_path).fit(module, datamodule, ckpt_path=path, weights_only=True)
    assert same(module.state_dict(), whole.state_dict())


def test_ground_truth_fed_back_through_the_resize_scores_one(coco_root):
    """What a perfect network would say must come out as AP 1: images are 96 x 128, the input 96 x 96."""
    _, datamodule = build(coco_root)
    datamodule.setup("validate")
    found = []
    for batch in datamodule.val_dataloader():
        for boxes, labels, size in zip(batch["boxes_xyxy"], batch["labels"], batch["sizes"].tolist(), strict=True):
            in_image = boxes.numpy() * np.tile([size[1] / 96, size[0] / 96], 2)
            found.append((in_image, np.ones(len(boxes)), labels.numpy()))
    truth = datamodule.records("val")
    assert len(found) == len(truth) == 4
    assert evaluate(truth, stack_detections(*zip(*found, strict=True))).figures["map"] == pytest.approx(1.0)


def test_a_batch_of_bad_images_alone_is_passed_over_and_the_readable_are_scored(write_coco, tmp_path):
    root = write_coco(tmp_path / "data", {"train": 4, "val": 2})
    for name in ("train/train_01.png", "train/train_02.png", "train/train_03.png", "val/val_00.png"):
        (root / name).write_bytes(b"")
    module, datamodule = build(root, batch_size=1, max_bad_fraction=1.0)
    before = {name: value.clone() for name, value in module.named_parameters()}
    trainer(tmp_path, max_epochs=1, limit_val_batches=None).fit(module, datamodule)
    assert len(datamodule.bad_images.reasons) == 4
    assert all(value.isfinite().all() for value in module.state_dict().values())
    assert any(not torch.equal(value, before[name]) for name, value in module.named_parameters())
    assert module.head.positions.tolist() == [1]
    assert isinstance(module.head.detections, Detections)
    assert module.head.truth["image_ids"].tolist() == [13]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["multibox", "focal"])
def test_it_overfits_eight_images(coco_root, tmp_path, loss):
    """Trained on eight images without augmentation, it finds every object in them: AP over 0.9."""
    options = {"image_size": 128, "batch_size": 8, "augment": False, "lr": 0.2, "warmup_steps": 10, "ema_decay": 0.9}
    module, datamodule = build(coco_root, loss=loss, **options)
    trainer(tmp_path, max_epochs=200, gradient_clip_val=10.0).fit(module, datamodule)
    module.eval()
    with torch.no_grad():
        for batch in datamodule.train_dataloader():
            module.head.update(module(batch["images"]), batch)
    assert module.head.compute(datamodule.records("train"), "train")["map"] > 0.9
