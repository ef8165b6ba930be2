import functools

import numpy as np
import pytest
import torch
from coco_content import annotation, coco_folder, content, odd_content, write
from helpers import data_module, image_file, names
from PIL import Image

from backbone.errors import InputError
from data.detection import DetectionDataModule, collate

module = functools.partial(data_module, DetectionDataModule, batch_size=2)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"image_size": [64]}, "--data.image_size"),
        ({"crop_probability": 2}, "--data.crop_probability"),
        ({"root": "nowhere"}, "--data"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options, named):
    with pytest.raises(InputError, match=f"^{named} "):
        _ = DetectionDataModule(**options).categories


# --- splits ---------------------------------------------------------------------------------------------------------


def test_without_validation_images_some_are_set_aside_which_stay_there_when_others_are_added(tmp_path, capsys):
    root = coco_folder(tmp_path, train=content(40))
    data = module(root, "fit", "test", val_fraction=0.25)
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
    more = module(coco_folder(tmp_path, train=content(44)), "fit", val_fraction=0.25)
    assert ids(more, "val") & set(range(1, 41)) == val
    three = module(root, "fit", "test", val_fraction=0.25, test_fraction=0.25)
    assert ids(three, "test")
    assert not ids(three, "test") & (ids(three, "train") | ids(three, "val"))


def test_a_file_of_several_ids_is_on_one_side_and_counted(tmp_path, capsys):
    data = content(20)
    write(tmp_path / "annotations/instances_train.json", data, tmp_path / "train")
    for image in data["images"]:
        image["file_name"] = f"{(image['id'] - 1) % 10 + 1:03}.png"
    write(tmp_path / "annotations/instances_train.json", data)
    for seed in range(4):
        images = module(tmp_path, "fit", seed=seed)
        train, val = (set(images.records(split).file_names.tolist()) for split in ("train", "val"))
        assert (len(train | val), train & val) == (10, set())
        assert len(images.records("train")) + len(images.records("val")) == 20
        assert len(images.records("val")) == 2 * len(val)
    assert "10 images are of a file that is listed before (first: 001.png)" in capsys.readouterr().out


def test_a_file_that_train_and_val_both_list_is_not_trained_on(tmp_path, capsys):
    for split, count in (("train", 9), ("val", 3)):
        write(tmp_path / f"annotations/instances_{split}.json", content(count), tmp_path / "images")
    data = module(tmp_path, "fit")
    assert data.records("train").file_names.tolist() == [f"{i:03}.png".encode() for i in range(4, 10)]
    assert data.records("train")["image_ids"].tolist() == [4, 5, 6, 7, 8, 9]
    assert len(data.records("val")) == 3
    assert "3 training images are of a file" in capsys.readouterr().out
    write(tmp_path / "annotations/instances_train.json", content(3))  # then there are no others
    assert len(module(tmp_path, "fit").records("train")) == 3


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
        data = module(root, "test", test_split=test_split)
        records = data.records("test")
        assert len(records) == len(records.boxes.labels) == count
        assert all(records.path(i).is_file() for i in range(count))


def test_splits_with_other_classes_are_refused(tmp_path):
    other = content(9, categories=[{"id": 2, "name": "dog"}, {"id": 7, "name": "tiger"}])
    for stage in ("fit", "validate", "test"):
        with pytest.raises(InputError, match=r"instances_train\.json.*instances_val\.json.*tiger.*cat"):
            module(coco_folder(tmp_path, train=other, val=content())).setup(stage)


def test_classes_are_those_of_all_splits_in_every_stage(tmp_path):
    every = [{"id": i, "name": name} for i, name in ((2, "dog"), (5, "owl"), (7, "cat"))]
    root = coco_folder(tmp_path, train=content(categories=every[1:], annotations=[annotation(1, 1, [5, 6, 9, 9], 7)]))
    coco_folder(tmp_path, val=content(categories=every[:1], annotations=[annotation(1, 1, [5, 6, 9, 9], 2)]))
    for stages in (["fit"], ["validate"], ["test"]):
        data = module(root, *stages)
        assert data.categories == {2: "dog", 5: "owl", 7: "cat"}
        for split, label in (("train", 2), ("val", 0), ("test", 0)):
            if split in data._splits:
                assert data.records(split).classes == ("dog", "owl", "cat")
                assert data.records(split).boxes.labels.tolist() == [label]


def test_classes_given_stand_for_those_that_the_data_do_not_list(tmp_path):
    root = coco_folder(tmp_path, val=content())  # as a checkpoint has them: a validation part alone lists fewer
    data = module(root, "validate", classes={1: "ant", 2: "dog", 7: "cat"})
    assert data.categories == data.hparams["classes"] == {1: "ant", 2: "dog", 7: "cat"}
    assert data.records("val").boxes.labels.tolist() == [2, 1, 2]
    other = module(root, classes={1: "ant", 2: "dog", 7: "tiger"})
    assert other.categories == {2: "dog", 7: "cat"}
    with pytest.raises(InputError, match=r"--data\.classes has not: \{7: 'cat'\}"):
        other.setup("validate")
    assert module(root).categories == {2: "dog", 7: "cat"}


@pytest.mark.parametrize("given", [{0: "dog", 1: "cat"}, {0: "ant", 1: "cat", 2: "dog"}, {7: "dog", 2: "cat"}])
def test_classes_of_the_same_names_are_the_same_whatever_their_ids(tmp_path, capsys, given):
    data = module(coco_folder(tmp_path, train=content(), val=content()), "validate", classes=dict(given))
    assert data.categories == data.hparams["classes"] == given
    records, names = data.records("val"), list(given.values())
    assert records.classes == tuple(names)
    assert [names[label] for label in records.boxes.labels] == ["cat", "dog", "cat"]
    ids = dict(zip(records.classes, records.class_ids, strict=True))  # for predictions beside the annotation file
    assert (ids["cat"], ids["dog"], len({*ids.values()})) == (7, 2, len(given))
    assert "known by their names" in capsys.readouterr().out
    assert module(tmp_path, classes=dict(given)).read().classes == tuple(names)


@pytest.mark.parametrize("given", [{0: "dog", 1: "bird"}, {0: "dog", 1: "cat", 2: "cat"}])
def test_classes_whose_names_are_unknown_or_come_twice_are_refused(tmp_path, given):
    with pytest.raises(InputError, match=r"--data\.classes"):
        module(coco_folder(tmp_path, val=content()), "validate", classes=given)


def yolo_folder(root, names):
    for i in range(3):
        (root / "images/val").mkdir(parents=True, exist_ok=True)
        (root / "labels/val").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(root / f"images/val/{i}.png")
        (root / f"labels/val/{i}.txt").write_text(f"{i % 2} 0.5 0.5 0.2 0.2\n")
    if names == "nc":
        (root / "data.yaml").write_text("val: images/val\nnc: 2\n")
    elif names:
        (root / "classes.txt").write_text("\n".join(names))
    return root


@pytest.mark.parametrize(
    ("names", "given", "labels", "note"),
    [
        ((), {0: "cat", 1: "dog"}, [0, 1, 0], "0 to 1 are taken as cat, dog"),
        ("nc", {0: "cat", 1: "dog"}, [0, 1, 0], "0 to 1 are taken as cat, dog"),
        ((), {4: "cat", 9: "dog", 7: "ant"}, [0, 1, 0], "0 to 1 are taken as cat, dog"),
        (("dog", "cat"), {0: "cat", 1: "dog"}, [1, 0, 1], "known by their names"),
        (("cat", "dog"), {0: "cat", 1: "dog"}, [0, 1, 0], ""),
    ],
)
def test_yolos_classes_are_those_given_by_name_or_else_by_number(tmp_path, capsys, names, given, labels, note):
    data = module(yolo_folder(tmp_path, names), "validate", classes=dict(given))
    assert (data.categories, data.records("val").boxes.labels.tolist()) == (given, labels)
    said = capsys.readouterr().out
    assert note in said
    assert ("taken as" in said or "known by" in said) == bool(note)


@pytest.mark.parametrize(("names", "given"), [((), {0: "cat"}), (("0", "1"), {0: "cat", 1: "dog"})])
def test_numbers_that_are_too_many_or_names_are_no_classes_given(tmp_path, names, given):
    with pytest.raises(InputError, match=r"--data\.classes"):
        module(yolo_folder(tmp_path, names), "validate", classes=given)


def test_where_every_object_is_a_crowd_region_the_sentence_says_so(tmp_path):
    crowd = content(annotations=[annotation(1, 1, [5, 5, 9, 9], iscrowd=1), annotation(2, 2, [5, 5, 9, 9], iscrowd=1)])
    with pytest.raises(InputError, match=r"only crowd regions \(2 annotations in 3 images\).*`iscrowd` 0"):
        module(coco_folder(tmp_path, train=crowd, val=crowd)).setup("fit")


def test_training_needs_a_usable_box_and_evaluation_does_not(tmp_path):
    data = content(annotations=[annotation(1, 1, [5, 5, 0, 5]), annotation(2, 2, [5, 5, 5, -5])])
    root = coco_folder(tmp_path, train=data, val=data)
    module(root).setup("validate")
    with pytest.raises(InputError, match=r"instances_train\.json.*2 annotations in 3 images, 2 of them"):
        module(root).setup("fit")


# --- samples and batches --------------------------------------------------------------------------------------------


def test_a_batch_has_the_boxes_in_input_pixels_and_the_annotated_sizes(tmp_path):
    root = coco_folder(tmp_path, train=odd_content(), val=odd_content())
    data = module(root, "fit", image_size=[60, 160], batch_size=3)
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
        data = module(root, "fit", num_workers=num_workers)
        loader = data.train_dataloader()
        drawn = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            drawn.append(list(loader))
        loader._iterator = None  # ends its workers here, and not in whichever test collects them
        return drawn

    alone, shared = epochs(0), epochs(2)
    assert equal(alone, shared)
    images = {image.numpy().tobytes() for epoch in alone for batch in epoch for image in batch["images"]}
    assert len(images) == 12


def test_bad_images_are_left_out_of_the_batch_and_named(tmp_path):
    root = coco_folder(tmp_path, train=content(10), val=content(3))
    (root / "train/001.png").write_bytes(b"")
    Image.new("RGB", (99, 30)).save(root / "train/002.png")
    data = module(root, "fit", augment=False)
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


def test_missing_files_count_as_bad_from_the_start(tmp_path):
    root = coco_folder(tmp_path, train=content(10), val=content())
    (root / "train/004.png").unlink()
    with pytest.raises(InputError, match=r"1 of the 10 images of the train split .*004\.png: there is no such file"):
        module(root, max_bad_fraction=0.0).setup("fit")
    lenient = module(root, "fit")
    assert lenient.bad_images.reasons == {str(root / "train/004.png"): "there is no such file"}
    assert len(lenient.train_dataloader().dataset) == 9
    lenient.bad_images.note([(str(root / f"train/{i:03}.png"), "it is empty") for i in (1, 2)])
    with pytest.raises(InputError, match="4 of the 10 images"):
        lenient.bad_images.note([(str(root / "train/003.png"), "it is empty")])


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
    data = module(root, "validate", image_size=[height * 2, width * 2])
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
    data = module(root, "validate", image_size=64)
    assert data.val_dataloader().dataset.at_least == (128, 128)
    batch = next(iter(data.val_dataloader()))
    y, x = np.nonzero(batch["images"][0, 0].numpy() > 127)
    np.testing.assert_allclose(batch["boxes_xyxy"][0][0], [x.min(), y.min(), x.max() + 1, y.max() + 1], atol=0.7)


@pytest.mark.parametrize(("stage", "split"), [("validate", "val"), ("test", "test")])
@pytest.mark.parametrize("layout", ["coco", "yolo", "voc", "csv"])
def test_boxes_of_one_split_are_scored_but_not_trained_on(tmp_path, layout, stage, split):
    if layout == "coco":
        coco_folder(tmp_path, **{split: content(3)})
    else:
        for i in range(3):
            folder = tmp_path / ("images/" * (layout == "yolo") + split)
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30)).save(folder / f"{i}.png")
            text = "0 0.5 0.5 0.2 0.2\n"
            if layout == "voc":
                box = "<xmin>3</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax>"
                text = f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
                (folder / f"{i}.xml").write_text(text)
            elif layout == "yolo":
                (tmp_path / "labels" / split).mkdir(parents=True, exist_ok=True)
                (tmp_path / "labels" / split / f"{i}.txt").write_text(text)
        if layout == "csv":
            rows = "".join(f"{split}/{i}.png,3,3,9,9,cat\n" for i in range(3))
            (tmp_path / f"{split}.csv").write_text(f"image,xmin,ymin,xmax,ymax,class\n{rows}")
    data = module(tmp_path, stage)
    assert len(data.records(split)) == 3
    with pytest.raises(InputError):
        module(tmp_path).setup("fit")


def test_images_whose_labels_cannot_be_used_are_neither_trained_on_nor_called_bad(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("cat\n")
    for i in range(20):
        image_file(tmp_path / "images" / f"{i:02}.png", i)
        text = "7 .5 .5 .2 .2\n" if i < 5 else "" if i < 8 else "0 .5 .5 .2 .2\n"
        (tmp_path / "labels" / f"{i:02}.txt").write_text(text)
    data = data_module(DetectionDataModule, tmp_path, "fit")  # 5 of 20 bad images would be refused
    kept = [name for split in ("train", "val") for name in names(data.records(split))]
    assert sorted(kept) == [f"images/{i:02}.png" for i in range(5, 20)]
    assert not data.bad_images.reasons
