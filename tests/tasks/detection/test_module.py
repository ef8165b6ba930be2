import json

import numpy as np
import pytest
import torch
from helpers import data_module, fit_eager_and_compiled, same, trainer
from lightning.pytorch.callbacks import Checkpoint
from PIL import Image
from torch.nn.functional import avg_pool2d

from data.detection import DetectionDataModule
from data.readers.coco_file import Detections
from tasks.detection.head import DetectionHead
from tasks.detection.metrics import evaluate, stack_detections
from tasks.detection.module import DetectionModule


def build(root, **options):
    data = {"image_size": 96, "batch_size": 2, "num_workers": 0}
    data |= {name: options.pop(name) for name in (*data, "max_bad_fraction", "augment") if name in options}
    datamodule = DetectionDataModule(root=str(root), **data)
    torch.manual_seed(0)
    options = {"width_mult": 0.25, "warmup_steps": 2, "lr": 0.02, **options}
    return DetectionModule(datamodule.categories, datamodule.input_size, **options), datamodule


class SaveOnce(Checkpoint):  # not a Callback: Lightning runs those that save last
    """Saves a checkpoint where the hook runs for the nth time."""

    def __init__(self, path, hook, after):
        self.path, self.after, self.count = path, after, 0
        setattr(self, hook, self._save)

    def _save(self, trainer, *_, **__):
        self.count += 1
        if self.count == self.after:
            trainer.save_checkpoint(self.path)


MOMENTS = [  # of four epochs of four batches; with so many workers
    ("on_train_epoch_end", 2, 0),
    ("on_validation_end", 2, 2),  # where a checkpoint that watches a validation metric is saved
    ("on_train_batch_end", 6, 2),  # in mid-epoch
    ("on_train_batch_end", 8, 0),  # on the last batch of an epoch
    ("on_train_batch_start", 7, 2),  # where an interrupt saves: batch 7 was fetched but not trained on
]


@pytest.fixture(scope="module")
def uninterrupted(coco_root, tmp_path_factory):
    """The weights of a run without workers, and the folder of the checkpoints saved on its way."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    module, datamodule = build(coco_root)
    saves = [SaveOnce(folder / f"{hook}_{after}.ckpt", hook, after) for hook, after, _ in MOMENTS]
    trainer(folder, callbacks=saves, limit_val_batches=None, enable_checkpointing=True).fit(module, datamodule)
    return module.state_dict(), folder


@pytest.mark.slow
@pytest.mark.parametrize(("hook", "after", "workers"), MOMENTS)
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(
    coco_root, uninterrupted, tmp_path, hook, after, workers
):
    weights, folder = uninterrupted
    module, datamodule = build(coco_root, num_workers=workers)
    path = folder / f"{hook}_{after}.ckpt"
    trainer(tmp_path, limit_val_batches=None).fit(module, datamodule, ckpt_path=path, weights_only=True)
    assert same(module.state_dict(), weights)


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


def write_uneven(root, seed):
    """Images with a square in the middle, for training 200 of one class and 2 of another, whose colours overlap."""
    generator, classes = np.random.default_rng(seed), {1: "often", 2: "seldom"}
    (root / "annotations").mkdir(parents=True)
    for split, counts in (("train", (200, 2)), ("val", (30, 30))):
        (root / split).mkdir()
        content = {"images": [], "annotations": [], "categories": [{"id": k, "name": n} for k, n in classes.items()]}
        for i, label in enumerate(np.repeat([1, 2], counts).tolist()):
            pixels = np.full((64, 64, 3), 30, np.uint8)
            pixels[8:56, 8:56] = generator.normal((90 + 50 * label, 128, 128), 15)
            Image.fromarray(pixels).save(root / split / f"{i}.png")
            content["images"].append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 64})
            row = {"id": i, "image_id": i, "category_id": label, "bbox": [8, 8, 48, 48], "area": 2304, "iscrowd": 0}
            content["annotations"].append(row)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def outputs_of(head, batch):
    pixels = batch["images"] / 12 - 10
    return head({16: avg_pool2d(pixels, 16), 32: avg_pool2d(pixels, 32)})


def recalls(root, seed, *, weighted=False, balanced=False):
    """Of each class, of a head on mean colours that is trained as a fit trains: whether the likeliest box says it."""
    options = {"image_size": 64, "augment": False, "balanced": balanced, "seed": seed}
    data = data_module(DetectionDataModule, root, "fit", **options)
    torch.manual_seed(seed)
    head = DetectionHead({16: 3, 32: 3}, data.categories, (64, 64), weighted=weighted)
    head.start(data)
    loader, optimizer = data.train_dataloader(), torch.optim.Adam(head.parameters(), 0.1)
    samples = [loader.dataset[0, i] for i in range(len(loader.dataset))]  # opened once
    for epoch in range(10):
        loader.sampler.set_epoch(epoch)
        order = [i for _, i in loader.sampler]
        for start in range(0, len(order), 20):
            batch = loader.collate_fn([samples[i] for i in order[start : start + 20]])
            optimizer.zero_grad()
            sum(head.loss(outputs_of(head, batch), batch).values()).backward()
            optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.9
    right = {"often": [], "seldom": []}
    with torch.no_grad():
        for batch in data.val_dataloader():
            found = head.eval().predict(outputs_of(head, batch), batch["sizes"].tolist())
            for result, labels in zip(found, batch["labels"], strict=True):
                name = ("often", "seldom")[labels[0]]
                right[name].append(result.names[:1] == [name])
    return np.array([np.mean(of_class) for of_class in right.values()])


@pytest.mark.slow
def test_of_100_to_1_the_rare_class_is_found_with_weights_and_with_balanced_sampling(tmp_path):
    figures = {"plain": [], "weighted": [], "balanced": []}
    for seed in range(2):
        root = write_uneven(tmp_path / str(seed), seed)
        for way, of_seed in figures.items():
            of_seed.append(recalls(root, seed, **({} if way == "plain" else {way: True})))
    mean = {way: np.mean(of_seeds, axis=0) for way, of_seeds in figures.items()}
    assert mean["plain"][1] < 0.2  # of the rare class
    for way in ("weighted", "balanced"):
        assert mean[way].mean() > mean["plain"].mean() + 0.1
        assert all(own[1] > plain[1] for own, plain in zip(figures[way], figures["plain"], strict=True))


@pytest.mark.slow
def test_a_compiled_trunk_takes_the_same_steps_and_leaves_the_same_checkpoint(coco_root, tmp_path, monkeypatch):
    fit_eager_and_compiled(lambda **options: build(coco_root, **options), tmp_path, monkeypatch)
