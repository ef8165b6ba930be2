import contextlib
import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_content import annotation, coco_folder, content, odd_content
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbone.errors import InputError
from data.detection import DetectionDataModule, collate


def module(root, **arguments):
    return DetectionDataModule(root=str(root), **({"image_size": 32, "batch_size": 2, "num_workers": 0} | arguments))


def digest(folder):
    files = sorted(p for p in folder.rglob("*"))
    stats = [(str(p), p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 31}, "31 px"),
        ({"image_size": [64]}, r"--data\.image_size is \[64\]"),
        ({"crop_probability": 2}, r"--data\.crop_probability is 2"),
        ({"root": "nowhere"}, r"--data\.root nowhere"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        _ = DetectionDataModule(**arguments).categories


def test_the_input_size_follows_the_resolution_multiplier():
    assert DetectionDataModule(image_size=320, resolution_mult=0.5).input_size == (160, 160)
    assert DetectionDataModule(image_size=[200, 320]).input_size == (200, 320)


# --- splits ---------------------------------------------------------------------------------------------------------


def test_without_validation_images_some_are_set_aside_which_stay_there_when_others_are_added(tmp_path, capsys):
    root = coco_folder(tmp_path, train=content(40))
    data = module(root, val_fraction=0.25)
    data.setup("fit")
    data.setup("test")
    printed = capsys.readouterr().out
    assert printed.count("--data.val_fraction") == 1
    assert "testing on its validation images" in printed

    def ids(data, split):
        return set(data.records(split)["image_ids"].tolist())

    train, val, test = (ids(data, split) for split in ("train", "val", "test"))
    assert train | val == set(range(1, 41))
    assert not train & val
    assert test == val
    assert 3 <= len(val) <= 17
    more = module(coco_folder(tmp_path, train=content(44)), val_fraction=0.25)
    more.setup("fit")
    assert ids(more, "val") & set(range(1, 41)) == val
    three = module(root, val_fraction=0.25, test_fraction=0.25)
    three.setup("fit")
    three.setup("test")
    assert ids(three, "test")
    assert not ids(three, "test") & (ids(three, "train") | ids(three, "val"))


def test_too_few_images_for_a_validation_split_are_refused(tmp_path):
    with pytest.raises(InputError, match="too few images"):
        module(coco_folder(tmp_path, train=content(1))).setup("fit")


def test_only_the_annotations_of_the_split_in_use_are_read(tmp_path):
    root = coco_folder(tmp_path, train=content(9), val=content())
    (root / "annotations/instances_train.json").write_text("x" * 9999)
    data = module(root)
    assert data.categories == {2: "dog", 7: "cat"}
    for stage in ("validate", "test"):
        data.setup(stage)
    assert len(data.val_dataloader()) == 2
    with pytest.raises(InputError, match=r"instances_train\.json is not valid JSON"):
        data.setup("fit")
    (root / "annotations/instances_train.json").unlink()
    with pytest.raises(InputError, match=r"instances_train\*\.json"):
        module(root).setup("fit")


def test_test_may_score_any_split_or_all(tmp_path):
    root = coco_folder(tmp_path, train=content(4), val=content(3), test=content(2))
    for test_split, count in (("train", 4), ("val", 3), ("test", 2), ("all", 9)):
        data = module(root, test_split=test_split)
        data.setup("test")
        records = data.records("test")
        assert len(records) == len(records.boxes.labels) == count
        assert all(records.path(i).is_file() for i in range(count))


def test_splits_with_other_classes_are_refused(tmp_path):
    other = content(9, categories=[{"id": 2, "name": "dog"}, {"id": 7, "name": "tiger"}])
    with pytest.raises(InputError, match=r"instances_train\.json.*tiger.*cat"):
        module(coco_folder(tmp_path, train=other, val=content())).setup("fit")


def test_training_needs_a_usable_box_and_evaluation_does_not(tmp_path):
    data = content(annotations=[annotation(1, 1, [5, 5, 0, 5]), annotation(2, 2, [5, 5, 5, -5])])
    root = coco_folder(tmp_path, train=data, val=data)
    module(root).setup("validate")
    with pytest.raises(InputError, match=r"instances_train\.json.*2 annotations in 3 images, 2 of them"):
        module(root).setup("fit")


# --- the records as the truth that is scored ------------------------------------------------------------------------


def as_coco(records):
    """What pycocotools wants, from the records alone."""
    image = np.repeat(records["image_ids"], np.diff(records.boxes.offsets)).tolist()
    boxes = records.boxes
    columns = image, boxes.labels.tolist(), boxes.xywh.tolist(), boxes.areas.tolist(), boxes.crowd.tolist()
    rows = [
        annotation(i, image, box, records.class_ids[label], area=area, iscrowd=int(crowd))
        for i, (image, label, box, area, crowd) in enumerate(zip(*columns, strict=True), 1)
    ]
    return {
        "images": [{"id": i} for i in records["image_ids"].tolist()],
        "annotations": rows,
        "categories": [{"id": i} for i in records.class_ids],
    }


def test_boxes_fed_back_to_pycocotools_score_one_though_an_annotation_had_id_0(tmp_path):
    data = content()
    data["annotations"][0]["id"] = 0
    dataset = module(coco_folder(tmp_path, train=data, val=data))
    dataset.setup("validate")
    truth = as_coco(dataset.records("val"))
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = truth
        reference.createIndex()
        results = [{**a, "score": 0.9} for a in truth["annotations"]]
        evaluation = COCOeval(reference, reference.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == 1.0


# --- samples and batches --------------------------------------------------------------------------------------------


def test_a_batch_has_the_boxes_in_input_pixels_and_the_annotated_sizes(tmp_path):
    data = module(coco_folder(tmp_path, train=odd_content(), val=odd_content()), image_size=[60, 160], batch_size=3)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert (batch["images"].shape, batch["images"].dtype) == ((3, 3, 60, 160), torch.uint8)
    assert batch["positions"].tolist() == [0, 1, 2]
    assert batch["sizes"].tolist() == [[30, 40]] * 3
    torch.testing.assert_close(batch["boxes_xyxy"][0], torch.tensor([[20.0, 12, 100, 32], [120, 40, 160, 60]]))
    assert [labels.tolist() for labels in batch["labels"]] == [[1, 0], [], [0, 1]]
    assert [crowd.tolist() for crowd in batch["crowd_xyxy"]] == [[], [[0, 0, 160, 60]], []]
    assert [boxes.shape for boxes in batch["boxes_xyxy"]] == [(2, 4), (0, 4), (2, 4)]
    assert {t.dtype for key in ("boxes_xyxy", "crowd_xyxy") for t in batch[key]} == {torch.float32}
    assert {t.dtype for t in batch["labels"]} == {batch["sizes"].dtype} == {torch.int64}
    assert batch["bad"] == []
    pixels = np.random.default_rng(1).integers(0, 256, (30, 40, 3), np.uint8)
    shown = batch["images"][0].permute(1, 2, 0).float().mean((0, 1)).numpy()
    np.testing.assert_allclose(shown, pixels.mean((0, 1)), atol=3)  # RGB in this order


def equal(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second) and first.dtype == second.dtype
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


def test_two_workers_give_what_none_gives_and_epochs_and_samples_differ(tmp_path):
    root = coco_folder(tmp_path, train=content(6), val=content())

    def epochs(num_workers):
        data = module(root, num_workers=num_workers)
        data.setup("fit")
        loader = data.train_dataloader()
        drawn = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            drawn.append(list(loader))
        return drawn

    alone, shared = epochs(0), epochs(2)
    assert equal(alone, shared)
    images = {image.numpy().tobytes() for epoch in alone for batch in epoch for image in batch["images"]}
    assert len(images) == 12


def test_a_batch_is_the_same_after_crossing_from_a_worker(tmp_path):
    data = module(coco_folder(tmp_path, train=odd_content(), val=odd_content()))
    data.setup("fit")
    for batch in data.val_dataloader():
        assert equal(pickle.loads(pickle.dumps(batch)), dict(batch))


def test_bad_images_are_left_out_of_the_batch_noted_and_stop_the_run_when_too_many(tmp_path):
    root = coco_folder(tmp_path, train=content(10), val=content(3))
    for name in ("001.png", "003.png", "004.png"):
        (root / "train" / name).write_bytes(b"")
    Image.new("RGB", (99, 30)).save(root / "train/002.png")
    data = module(root, max_bad_fraction=0.3, augment=False, batch_size=4)
    data.setup("fit")
    dataset = data.train_dataloader().dataset
    mixed = collate([dataset[0, 4], dataset[0, 0], dataset[0, 5]])
    assert mixed["images"].shape[0] == len(mixed["sizes"]) == len(mixed["labels"]) == 2
    assert mixed["positions"].tolist() == [4, 5]
    assert mixed["bad"] == [(str(root / "train/001.png"), "it is empty (0 bytes)")]
    none_left = collate([dataset[0, 0], dataset[0, 1]])
    assert none_left["images"].shape[0] == 0
    assert none_left["sizes"].shape == (0, 2)
    assert "99 x 30" in none_left["bad"][1][1]
    assert "40 x 30" in none_left["bad"][1][1]
    for bad in (none_left["bad"], none_left["bad"], collate([dataset[0, 2]])["bad"]):  # the same again counts once
        data.bad_images.note(bad)
    assert [Path(file).name for file in data.bad_images.reasons] == ["001.png", "002.png", "003.png"]
    with pytest.raises(InputError, match=r"4 of the 10 images of the train split.*0\.3.*001\.png"):
        data.bad_images.note(collate([dataset[0, 3]])["bad"])


def test_missing_files_count_as_bad_from_the_start(tmp_path):
    root = coco_folder(tmp_path, train=content(10), val=content())
    (root / "train/004.png").unlink()
    with pytest.raises(InputError, match=r"1 of the 10 images of the train split .*004\.png: there is no such file"):
        module(root).setup("fit")
    lenient = module(root, max_bad_fraction=0.1)
    lenient.setup("fit")
    assert lenient.bad_images.reasons == {str(root / "train/004.png"): "there is no such file"}
    assert len(lenient.train_dataloader().dataset) == 9
    with pytest.raises(InputError, match="2 of the 10 images"):
        lenient.bad_images.note([(str(root / "train/001.png"), "it is empty")])


@pytest.mark.parametrize("annotated", ["upright", "stored"])
def test_boxes_meet_their_pixels_whichever_way_the_annotator_saw_the_image(tmp_path, annotated):
    stored = np.zeros((30, 40, 3), np.uint8)
    stored[5:15, 10:30] = 255  # xywh 10 5 20 10 as stored; upright, turned clockwise, 15 10 10 20
    exif = Image.Exif()
    exif[0x0112] = 6
    box, width, height = ([15, 10, 10, 20], 30, 40) if annotated == "upright" else ([10, 5, 20, 10], 40, 30)
    data = content(1, [annotation(1, 1, box)])
    data["images"][0] |= {"width": width, "height": height}
    root = coco_folder(tmp_path, train=data, val=data)
    Image.fromarray(stored).save(root / "val/001.png", exif=exif)
    data = module(root, image_size=[height * 2, width * 2])
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    assert batch["sizes"].tolist() == [[height, width]]
    assert data.image("val", 0).shape == (height, width, 3)
    x1, y1, x2, y2 = batch["boxes_xyxy"][0][0].int().tolist()
    white = batch["images"][0, 0].float()
    assert white[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].min() > 200
    assert white.sum() / 255 == pytest.approx((x2 - x1) * (y2 - y1), rel=0.02)


def test_boxes_meet_their_pixels_in_a_jpeg_that_was_decoded_smaller(tmp_path):
    pixels = np.zeros((602, 801, 3), np.uint8)
    pixels[120:360, 200:600] = 255
    data = content(1, [annotation(1, 1, [200, 120, 400, 240])])
    data["images"][0] |= {"width": 801, "height": 602, "file_name": "001.jpg"}
    root = coco_folder(tmp_path, train=data, val=data)
    Image.fromarray(pixels).save(root / "val/001.jpg", quality=95)
    data = module(root, image_size=64)
    data.setup("validate")
    assert data.val_dataloader().dataset.at_least == (128, 128)
    batch = next(iter(data.val_dataloader()))
    y, x = np.nonzero(batch["images"][0, 0].numpy() > 127)
    np.testing.assert_allclose(batch["boxes_xyxy"][0][0], [x.min(), y.min(), x.max() + 1, y.max() + 1], atol=0.7)


def test_opening_and_drawing_from_a_data_folder_changes_nothing_in_it(tmp_path):
    root = coco_folder(tmp_path, train=odd_content(), val=odd_content())
    (root / "train/005.png").unlink()
    (root / "train/004.png").write_bytes(b"")
    before = digest(root)
    data = module(root, max_bad_fraction=1.0)
    for stage in ("fit", "validate", "test"):
        data.setup(stage)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            data.bad_images.note(batch["bad"])
    assert digest(root) == before


def test_without_a_root_the_sample_is_drawn_once(tmp_path, monkeypatch, capsys):
    from data.samples import detection

    monkeypatch.setattr(detection, "IMAGES", {"train": 8, "val": 1, "test": 1})
    assert list(DetectionDataModule().categories.values()) == ["circle", "square", "triangle", "star", "ring"]
    assert "datasets/sample_detection" in capsys.readouterr().out
    before = digest(tmp_path / "datasets")
    assert list(DetectionDataModule().categories) == [1, 3, 4, 7, 9]
    assert "drawing" not in capsys.readouterr().out
    assert digest(tmp_path / "datasets") == before


# --- resuming -------------------------------------------------------------------------------------------------------


class Recorder(LightningModule):
    """Trains nothing much, and writes down what it was given."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append((self.current_epoch, batch["positions"].tolist(), batch["images"].float().sum().item()))
        return self.layer(torch.ones(1)).sum()

    def validation_step(self, batch, _):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveOnce(Callback):
    """Saves a checkpoint at one moment: after so many batches, or where the given hook runs for the nth time."""

    def __init__(self, path, hook, after):
        self.path, self.after, self.count = path, after, 0
        setattr(self, hook, self._save)

    def _save(self, trainer, *_, **__):
        self.count += 1
        if self.count == self.after:
            trainer.save_checkpoint(self.path)


def fit(root, epochs, num_workers=0, callbacks=(), resume=None):
    recorder = Recorder()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), num_sanity_val_steps=0, **quiet)
    trainer.fit(recorder, datamodule=module(root, num_workers=num_workers), ckpt_path=resume)
    return recorder.seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("hook", "after", "batches", "num_workers"),
    [
        ("on_train_epoch_end", 2, 6, 2),
        ("on_validation_end", 2, 6, 0),  # where a checkpoint that watches a validation metric is saved
        ("on_validation_end", 2, 6, 2),
        ("on_train_batch_end", 5, 5, 2),  # in mid-epoch
        ("on_train_batch_end", 6, 6, 0),  # on the last batch of an epoch
        ("on_train_batch_start", 5, 4, 2),  # where an interrupt saves: batch 5 was fetched but not trained on
    ],
)
def test_a_resumed_run_is_given_exactly_what_the_uninterrupted_one_was(tmp_path, hook, after, batches, num_workers):
    root = coco_folder(tmp_path / "data", train=content(6), val=content(2))
    path = tmp_path / "a.ckpt"
    whole = fit(root, 4, callbacks=[SaveOnce(path, hook, after)])
    assert len(whole) == 12
    assert len({total for _, _, total in whole}) == 12
    resumed = fit(root, 4, num_workers, resume=path)
    assert resumed == whole[batches:]
