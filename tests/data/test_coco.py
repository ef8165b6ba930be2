import contextlib
import copy
import hashlib
import io
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbone.errors import InputError
from data.coco import CocoDataModule, collate, index_split
from data.coco_files import find_split, read_coco

CATEGORIES = [{"id": 7, "name": "cat", "supercategory": "animal"}, {"id": 2, "name": "dog", "supercategory": "animal"}]


def annotation(number, image, box, category=2, **fields):
    defaults = {"area": max(box[2], 0) * max(box[3], 0), "iscrowd": 0}
    return {"id": number, "image_id": image, "category_id": category, "bbox": box} | defaults | fields


def content(images=3, annotations=None, **keys):
    """COCO JSON of 40 x 30 px images with the ids 1 to `images`, one annotation on each unless told otherwise."""
    listed = [{"id": i, "file_name": f"{i:03d}.png", "width": 40, "height": 30} for i in range(1, images + 1)]
    if annotations is None:
        annotations = [annotation(i, i, [5.0, 6.0, 20.0, 10.0], category=(2, 7)[i % 2]) for i in range(1, images + 1)]
    return copy.deepcopy({"images": listed, "annotations": annotations, "categories": CATEGORIES} | keys)


def write(path, data, image_folder=None):
    """Writes the JSON, and for each image it lists a file of its own colour into `image_folder`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    if image_folder is not None:
        image_folder.mkdir(parents=True, exist_ok=True)
        for image in data["images"]:
            pixels = np.random.default_rng(image["id"]).integers(0, 256, (30, 40, 3), np.uint8)
            Image.fromarray(pixels).save(image_folder / image["file_name"])
    return path


def coco_folder(root, **splits):
    """COCO's own layout with the given contents."""
    for split, data in splits.items():
        write(root / "annotations" / f"instances_{split}.json", data, root / split)
    return root


def module(root, **arguments):
    return CocoDataModule(root=str(root), **({"image_size": 32, "batch_size": 2, "num_workers": 0} | arguments))


def digest(folder):
    files = sorted(p for p in folder.rglob("*"))
    stats = [(str(p), p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


# --- finding the files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/instances_train.json", "train"),
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/instances_train.json", "images"),
        ("annotations/instances_train.json", "."),
        ("train/_annotations.coco.json", "train"),
    ],
)
def test_every_layout_is_found_with_its_images(tmp_path, annotations, images):
    write(tmp_path / annotations, content(), tmp_path / images)
    files = find_split(tmp_path, "train")
    assert files.annotations == tmp_path / annotations
    index = index_split(read_coco(files.annotations), "train", files.image_folders)
    assert [index.path(i) for i in range(3)] == [tmp_path / images / f"{i:03d}.png" for i in (1, 2, 3)]
    assert find_split(tmp_path, "val") is None


@pytest.mark.parametrize("name", ["valid", "val"])
def test_tools_may_call_the_validation_folder_either_way(tmp_path, name):
    path = write(tmp_path / name / "_annotations.coco.json", content())
    assert find_split(tmp_path, "val").annotations == path


def test_several_files_for_one_split_are_named_with_the_remedy_and_the_version_decides(tmp_path):
    for year in (2014, 2017):
        write(tmp_path / "annotations" / f"instances_val{year}.json", content())
    with pytest.raises(InputError, match=r"instances_val2014\.json, .*instances_val2017\.json.*--data\.version 2014"):
        find_split(tmp_path, "val")
    assert find_split(tmp_path, "val", "2017").annotations.name == "instances_val2017.json"
    assert find_split(tmp_path, "val", "2020") is None


def test_no_folder_and_no_annotations_are_refused_with_what_was_tried(tmp_path):
    with pytest.raises(InputError, match=r"--data\.root .*nowhere does not exist"):
        _ = module(tmp_path / "nowhere").categories
    write(tmp_path / "annotations" / "other.json", "{}")
    tried = r"tried .*annotations/instances_train\*\.json.*valid/_annotations\.coco\.json.*found only annotations/other"
    with pytest.raises(InputError, match=tried):
        _ = module(tmp_path).categories
    with pytest.raises(InputError, match=r"other\.json is not a folder"):
        _ = module(tmp_path / "annotations" / "other.json").categories


# --- what is refused ------------------------------------------------------------------------------------------------


def change(**fields):
    """COCO content whose second annotation has these fields."""
    data = content()
    data["annotations"][1] |= fields
    return data


def without(kind, key):
    data = content()
    del data[kind][1][key]
    return data


REFUSED = {
    "words": ("not json", "is not JSON"),
    "a list": ([1, 2], "its top level is a list"),
    "results": ([{"image_id": 1}], "its top level is a list"),
    "no images": ({"annotations": [], "categories": []}, r"no list `images` \(found `annotations`, `categories`\)"),
    "not objects": (content(categories=["dog"]), "`categories` holds 'dog'"),
    "no categories": (content(categories=[]), "`categories` is empty"),
    "empty images": (content(images=0), "`images` is empty"),
    "unknown category": (change(category_id=5), "annotation 2: `category_id` 5 is not among `categories`"),
    "unknown image": (change(image_id=99), "annotation 2: `image_id` 99 is not among `images`"),
    "duplicate image": (
        content(images=2, annotations=[]) | {"images": content()["images"][:1] * 2},
        "image id 1 occurs 2",
    ),
    "duplicate annotation": (change(id=3), "annotation id 3 occurs 2 times"),
    "duplicate category": (content(categories=[*CATEGORIES, CATEGORIES[0]]), "category id 7 occurs 2 times"),
    "nan": (change(bbox=[math.nan, 1, 2, 3]), r"annotation 2: `bbox` is \[nan, 1, 2, 3\] \(1 such"),
    "infinite": (change(bbox=[0, 1, math.inf, 3]), r"annotation 2: `bbox` is \[0, 1, inf, 3\]"),
    "three numbers": (change(bbox=[0, 1, 2]), r"annotation 2: `bbox` is \[0, 1, 2\]; it must be"),
    "text in a box": (change(bbox=["0", 1, 2, 3]), "annotation 2: `bbox` is"),
    "no box": (without("annotations", "bbox"), "annotation 2: `bbox` is missing"),
    "nan area": (change(area=math.nan), "annotation 2: `area` is nan"),
    "text id": (change(id="2"), "annotation '2': `id` is '2'; it must be an integer"),
    "no id": (without("annotations", "id"), "an annotation without `id`: `id` is missing"),
    "no file name": (without("images", "file_name"), "image 2: `file_name` is missing"),
    "no name": (without("categories", "name"), "category 2: `name` is missing"),
    "odd height": (content() | {"images": [content()["images"][0] | {"height": "30"}]}, "image 1: `height` is '30'"),
}
REFUSED["odd height"][0]["annotations"] = []


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_used_is_refused_with_file_id_and_field(tmp_path, data, message):
    path = write(tmp_path / "bad.json", data)
    with pytest.raises(InputError, match=rf"bad\.json.*{message}") as error:
        read_coco(path)
    assert "\n" not in str(error.value)


def test_all_images_missing_names_the_folders_looked_in(tmp_path):
    write(tmp_path / "annotations/instances_train.json", content())
    files = find_split(tmp_path, "train")
    with pytest.raises(InputError, match=rf"none of its 3 images is there \(the first: 001\.png\).*{tmp_path}/train, "):
        index_split(read_coco(files.annotations), "train", files.image_folders)


def test_a_split_whose_boxes_are_all_invalid_is_refused(tmp_path):
    data = content(annotations=[annotation(1, 1, [5, 5, 0, 5]), annotation(2, 2, [5, 5, 5, -5])])
    with pytest.raises(InputError, match=r"no usable box \(2 annotations in 3 images, 2 of them with zero or negative"):
        module(coco_folder(tmp_path, train=data, val=data)).setup("fit")


def test_splits_with_different_categories_are_refused_with_the_differences(tmp_path):
    other = content(categories=[CATEGORIES[1], {"id": 7, "name": "tiger"}])
    root = coco_folder(tmp_path, train=content(9), val=other)
    with pytest.raises(
        InputError, match=r"instances_train\.json: .*only here \[\(7, 'cat'\)\].*there \[\(7, 'tiger'\)\]"
    ):
        module(root).setup("fit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 31}, "31 px"),
        ({"image_size": [64]}, r"--data\.image_size is \[64\]"),
        ({"batch_size": 0}, r"--data\.batch_size is 0; it must be 1 or more"),
        ({"num_workers": -1}, r"--data\.num_workers is -1"),
        ({"val_fraction": 1.0}, r"--data\.val_fraction is 1\.0; it must be above 0 and below 1"),
        ({"max_bad_fraction": 2}, r"--data\.max_bad_fraction is 2; it must be from 0 to 1"),
        ({"seed": -1}, r"--data\.seed is -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        CocoDataModule(**arguments)


# --- what is survived -----------------------------------------------------------------------------------------------


def odd_content():
    """One of everything that is survived: see the counts in the test below."""
    data = content(
        7,
        [
            annotation(0, 1, [5, 6, 20, 10], category=7),  # id 0
            annotation(11, 1, [30, 20, 20, 20]),  # over the edge: clipped to 30 20 40 30
            annotation(12, 1, [39.5, 5, 20, 10]),  # over the edge with half a pixel left: dropped
            annotation(13, 2, [10, 10, 0, 5]),  # zero
            annotation(14, 2, [10, 10, -5, 5]),  # inverted
            annotation(15, 2, [0, 0, 40, 30], iscrowd=1),
            annotation(16, 3, [1, 1, 8, 8]),
            annotation(17, 3, [20.5, 1.25, 10, 10.5], category=7),
            annotation(18, 5, [2, 2, 6, 6]),
        ],
    )
    del data["annotations"][6]["area"], data["annotations"][6]["iscrowd"], data["annotations"][7]["iscrowd"]
    del data["images"][2]["width"]  # image 3: the size comes from its header
    return data  # images 4, 6 and 7 have no annotations; the test removes the file of 5


def test_everything_odd_is_survived_and_counted_in_one_line(tmp_path):
    root = coco_folder(tmp_path, train=odd_content())
    (root / "train/005.png").unlink()
    index = index_split(read_coco(root / "annotations/instances_train.json"), "train", [root / "train"])
    assert index.counts == {
        "crowd regions": 1,
        "images without annotations": 3,
        "boxes of zero or negative size dropped": 2,
        "boxes over the edge clipped": 1,
        "boxes under 1 px inside the image dropped": 1,
        "annotations without area": 1,
        "annotations without iscrowd": 2,
        "annotations with id 0": 1,
        "placeholder category `` left out": 0,
        "missing image files": 1,
    }
    assert index.summary() == (
        f"train: 6 images, 4 boxes of 2 classes in {root}/train (1 crowd regions; 3 images without annotations; "
        "2 boxes of zero or negative size dropped; 1 boxes over the edge clipped; "
        "1 boxes under 1 px inside the image dropped; 1 annotations without area; 2 annotations without iscrowd; "
        "1 annotations with id 0; 1 missing image files)"
    )
    assert index.categories == {2: "dog", 7: "cat"}
    assert index.image_ids.tolist() == [1, 2, 3, 4, 6, 7]
    assert index.sizes.tolist() == [[30, 40]] * 6
    assert index.offsets.tolist() == [0, 2, 3, 5, 5, 5, 5]
    assert index.boxes_xyxy.tolist() == [
        [5, 6, 25, 16],
        [30, 20, 40, 30],
        [0, 0, 40, 30],
        [1, 1, 9, 9],
        [20.5, 1.25, 30.5, 11.75],
    ]
    assert index.labels.tolist() == [1, 0, 0, 0, 1]
    assert index.crowd.tolist() == [False, False, True, False, False]
    assert index.bad == {str(root / "train/005.png"): "there is no such file"}


def test_annotations_in_any_order_reach_their_images(tmp_path):
    data = content(4, [annotation(10 + i, 1 + i % 4, [i, 1, 5, 5]) for i in range(12)])
    data["images"].reverse()
    root = coco_folder(tmp_path, train=data)
    index = index_split(read_coco(root / "annotations/instances_train.json"), "train", [root / "train"])
    assert index.image_ids.tolist() == [4, 3, 2, 1]
    for row, image in enumerate(index.image_ids):
        expected = [i for i in range(12) if 1 + i % 4 == image]
        assert index.boxes_xyxy[index.offsets[row] : index.offsets[row + 1], 0].tolist() == expected


def test_the_placeholder_category_of_annotation_tools_is_left_out(tmp_path):
    heads = {"id": 0, "name": "animal", "supercategory": "none"}
    path = write(tmp_path / "a.json", content(categories=[heads, *CATEGORIES]))
    assert read_coco(path).categories == {2: "dog", 7: "cat"}
    used = content(categories=[heads, *CATEGORIES])
    used["annotations"][0]["category_id"] = 0
    assert read_coco(write(tmp_path / "b.json", used)).categories == {0: "animal", 2: "dog", 7: "cat"}
    only = content(categories=[CATEGORIES[1] | {"supercategory": "none"}], annotations=[])
    assert read_coco(write(tmp_path / "c.json", only)).categories == {2: "dog"}


# --- ground truth ---------------------------------------------------------------------------------------------------


def average_precision(truth):
    """COCO's AP of the ground truth (crowds and odd boxes aside) fed back as detections."""
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = truth
        reference.createIndex()
        results = [
            {key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
            for a in truth["annotations"]
            if not a["iscrowd"]
        ]
        evaluation = COCOeval(reference, reference.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def test_the_ground_truth_is_the_files_but_for_area_iscrowd_and_id_0(tmp_path):
    truth = module(coco_folder(tmp_path, train=odd_content(), val=odd_content())).ground_truth("val")
    original = odd_content()["annotations"]
    assert [a["bbox"] for a in truth["annotations"]] == [a["bbox"] for a in original]
    assert [a["id"] for a in truth["annotations"]] == list(range(1, 10))
    assert [a["iscrowd"] for a in truth["annotations"]] == [0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert truth["annotations"][6]["area"] == 64.0  # 8 x 8, where the file says nothing
    assert [a["image_id"] for a in truth["annotations"]] == [a["image_id"] for a in original]
    assert [i["id"] for i in truth["images"]] == [1, 2, 3, 4, 5, 6, 7]
    assert truth["categories"] == [{"id": 2, "name": "dog"}, {"id": 7, "name": "cat"}]


def test_the_ground_truth_fed_back_scores_one_though_an_annotation_had_id_0(tmp_path):
    data = content()
    data["annotations"][0]["id"] = 0
    truth = module(coco_folder(tmp_path, train=data, val=data)).ground_truth("val")
    assert average_precision(truth) == 1.0
    truth["annotations"][0]["id"] = 0  # what would happen without the repair
    assert average_precision(truth) < 1.0


def test_ids_without_a_zero_stay_as_they_are(tmp_path):
    truth = module(coco_folder(tmp_path, train=content(), val=content())).ground_truth("val")
    assert [a["id"] for a in truth["annotations"]] == [1, 2, 3]


# --- samples and batches --------------------------------------------------------------------------------------------


def test_a_batch_has_the_boxes_in_input_pixels_and_keeps_the_original_ids_and_sizes(tmp_path):
    data = module(coco_folder(tmp_path, train=odd_content(), val=odd_content()), image_size=[60, 160], batch_size=3)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert (batch["images"].shape, batch["images"].dtype) == ((3, 3, 60, 160), torch.uint8)
    assert batch["image_ids"] == [1, 2, 3]
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
    pictures = {image.numpy().tobytes() for epoch in alone for batch in epoch for image in batch["images"]}
    assert len(pictures) == 12


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
    assert mixed["image_ids"] == [5, 6]
    assert mixed["bad"] == [(str(root / "train/001.png"), "it is empty (0 bytes)")]
    none_left = collate([dataset[0, 0], dataset[0, 1]])
    assert none_left["images"].shape[0] == 0
    assert none_left["sizes"].shape == (0, 2)
    assert none_left["bad"][1][1] == "the image is 99 x 30 px but its annotation says 40 x 30 px"

    data.bad_images.note(none_left["bad"])
    data.bad_images.note(none_left["bad"])  # the same again counts once
    data.bad_images.note(collate([dataset[0, 2]])["bad"])
    assert [Path(file).name for file in data.bad_images.reasons] == ["001.png", "002.png", "003.png"]
    message = r"4 of the 10 images of the train split .*max_bad_fraction 0\.3.*001\.png: it is empty.*--data\.max_bad_"
    with pytest.raises(InputError, match=message):
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


@pytest.mark.parametrize("annotated", ["upright", "stored"])
def test_boxes_meet_their_pixels_whichever_way_the_annotator_saw_the_photograph(tmp_path, annotated):
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
    module_ = module(root, image_size=64)
    module_.setup("validate")
    assert module_.val_dataloader().dataset.at_least == (128, 128)
    batch = next(iter(module_.val_dataloader()))
    y, x = np.nonzero(batch["images"][0, 0].numpy() > 127)
    np.testing.assert_allclose(batch["boxes_xyxy"][0][0], [x.min(), y.min(), x.max() + 1, y.max() + 1], atol=0.7)


# --- the data module ------------------------------------------------------------------------------------------------


def test_without_a_validation_part_a_seeded_one_is_set_aside_and_it_says_so(tmp_path, capsys):
    root = coco_folder(tmp_path, train=content(20))
    data = module(root, val_fraction=0.25)
    data.setup("fit")
    data.setup("test")
    said = capsys.readouterr().out
    assert "has no validation part: 5 of its 20 training images, drawn with seed 0" in said
    assert "has no test part: testing on its validation images" in said
    train, val, test = (
        set(loader.dataset.index.image_ids.tolist())
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    )
    assert (len(train), len(val)) == (15, 5)
    assert train | val == set(range(1, 21))
    assert test == val == {image["id"] for image in data.ground_truth("val")["images"]}
    assert {a["image_id"] for a in data.ground_truth("val")["annotations"]} == val
    assert {a["image_id"] for a in data.ground_truth("train")["annotations"]} == train

    def val_of(seed):
        again = module(root, val_fraction=0.25, seed=seed)
        again.setup("validate")
        return set(again.val_dataloader().dataset.index.image_ids.tolist())

    assert val_of(0) == val
    assert len({frozenset(val_of(seed)) for seed in range(4)}) > 1


def test_a_validation_part_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--data\.val_fraction 0\.1 of 1 images leaves none to train on"):
        module(coco_folder(tmp_path, train=content(1))).setup("fit")


def test_a_folder_with_only_a_validation_part_can_be_evaluated_but_not_trained_on(tmp_path):
    data = module(coco_folder(tmp_path, val=content()))
    assert data.categories == {2: "dog", 7: "cat"}
    data.setup("validate")
    assert len(data.val_dataloader()) == 2
    with pytest.raises(InputError, match=r"no annotation file; tried .*instances_train\*\.json"):
        data.setup("fit")


def test_the_input_size_follows_the_resolution_multiplier():
    assert CocoDataModule(image_size=300).input_size == (300, 300)
    assert CocoDataModule(image_size=320, resolution_mult=0.5).input_size == (160, 160)
    assert CocoDataModule(image_size=[200, 320]).input_size == (200, 320)


def test_without_a_root_the_sample_is_drawn_once(tmp_path, monkeypatch, capsys):
    from data.samples import detection

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(detection, "IMAGES", {"train": 8, "val": 1, "test": 1})
    assert list(CocoDataModule().categories.values()) == ["circle", "square", "triangle", "star", "ring"]
    assert "drawing the built-in sample into datasets/sample_detection" in capsys.readouterr().out
    before = digest(tmp_path / "datasets")
    again = CocoDataModule()
    assert list(again.categories) == [1, 3, 4, 7, 9]
    assert "drawing" not in capsys.readouterr().out
    assert digest(tmp_path / "datasets") == before


class Recorder(LightningModule):
    """Trains nothing much, and writes down what it was given."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append((self.current_epoch, batch["image_ids"], batch["images"].float().sum().item()))
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
        if trainer.sanity_checking:
            return
        self.count += 1
        if self.count == self.after:
            trainer.save_checkpoint(self.path)


def fit(root, epochs, num_workers=0, callbacks=(), resume=None):
    recorder = Recorder()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
    )
    trainer.fit(recorder, datamodule=module(root, num_workers=num_workers), ckpt_path=resume)
    return recorder.seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("hook", "after", "batches", "num_workers"),
    [
        ("on_train_epoch_end", 2, 6, 0),
        ("on_train_epoch_end", 2, 6, 2),
        ("on_validation_end", 2, 6, 0),  # where a checkpoint that watches a validation metric is saved
        ("on_validation_end", 2, 6, 2),
        ("on_train_batch_end", 5, 5, 0),  # in mid-epoch
        ("on_train_batch_end", 5, 5, 2),
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
    data.ground_truth("train")
    assert digest(root) == before


def test_the_index_holds_arrays_and_no_python_objects_per_image(tmp_path):
    root = coco_folder(tmp_path, train=content(50))
    index = index_split(read_coco(root / "annotations/instances_train.json"), "train", [root / "train"])
    arrays = [value for value in vars(index).values() if isinstance(value, np.ndarray)]
    assert all(array.dtype != object for array in arrays)
    assert not any(isinstance(value, list | tuple) for value in vars(index).values())
    assert sum(array.nbytes for array in arrays) < 50 * 150
