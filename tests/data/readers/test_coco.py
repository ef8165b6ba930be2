import json
import math

import numpy as np
import pytest
from coco_content import CATEGORIES, annotation, coco_folder, content, odd_content, write
from helpers import one_sentence
from PIL import Image
from pycocotools.mask import encode

from backbone.errors import InputError
from data.readers.box_checks import clip_boxes
from data.readers.coco import NoAnnotations, classes_of, find_splits, read
from data.readers.coco_file import parse_annotations, parse_results

# --- finding the files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/instances_train.json", "train"),
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/instances_Train.json", "images"),
        ("annotations/instances_train.json", "."),
        ("train/_annotations.coco.json", "train"),
        ("Training/_annotations.coco.json", "Training"),
        ("annotations/instances_Train.json", "images/Train"),
        ("annotations/instances_train.json", "images/Training"),
        ("annotations/train.json", "Train"),
        ("Annotations/train2017.json", "Images"),
        ("train.json", "images"),
        ("annotations/Instances_TRAIN.json", "train"),
        ("annotations/instances_default.json", "images/default"),
        ("annotations/instances_default.json", "images"),
        ("result.json", "images"),
        ("labels.json", "data"),
        ("_annotations.coco.json", "."),
    ],
)
def test_every_layout_is_found_with_its_images(tmp_path, annotations, images):
    write(tmp_path / annotations, content(), tmp_path / images)
    files = find_splits(tmp_path)
    assert list(files) == ["train"]
    assert files["train"].annotations == tmp_path / annotations
    records = read(tmp_path)
    assert [records.path(i) for i in range(3)] == [tmp_path / images / f"{i:03d}.png" for i in (1, 2, 3)]
    assert records["split"].tolist() == [0, 0, 0]


def test_parts_of_other_names_are_found_with_their_images(tmp_path):
    for name, folder in (("Train", "Train/Data"), ("Validation", "Valid/Data"), ("testing", "TEST/Data")):
        data = content()
        for image in data["images"]:
            image["file_name"] = f"Data/{image['file_name']}"
        write(tmp_path / "annotations" / f"instances_{name}.json", content(), tmp_path / "images" / folder)
        write(tmp_path / "annotations" / f"instances_{name}.json", data)
    records = read(tmp_path)
    assert records["split"].tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert [records.path(i) for i in (0, 3, 6)] == [
        tmp_path / "images" / folder / "Data/001.png" for folder in ("Train", "Valid", "TEST")
    ]
    assert (records["problem"] == b"").all()


def test_of_several_files_for_one_split_the_version_decides(tmp_path):
    for year in (2014, 2017):
        write(tmp_path / "annotations" / f"instances_val{year}.json", content())
    with pytest.raises(InputError, match=r"instances_val2014\.json, .*instances_val2017\.json.*--data\.version 2014"):
        find_splits(tmp_path)
    assert find_splits(tmp_path, "2017")["val"].annotations.name == "instances_val2017.json"
    with pytest.raises(InputError, match=r"instances_val2020\.json"):
        find_splits(tmp_path, "2020")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a.json", "photos/b.json"), r"several .*/a\.json, .*photos/b\.json"),
        (("._a.json",), "has no annotation file"),
        (("result.json", "photos/labels.json"), r"several .*/result\.json, .*photos/labels\.json"),
    ],
)
def test_files_of_other_names_are_none_where_they_are_several_or_hidden(tmp_path, names, message):
    for name in names:
        write(tmp_path / name, content(), tmp_path / "photos")
    with pytest.raises(NoAnnotations, match=message):
        find_splits(tmp_path)
    write(tmp_path / "annotations/instances_train.json", content())
    assert find_splits(tmp_path)["train"].annotations.name == "instances_train.json"


def test_a_file_among_the_images_does_not_contest_one_that_is_called_after_the_split(tmp_path):
    root = coco_folder(tmp_path, train=content())
    write(root / "train/annotations.json", content(1))
    assert find_splits(root)["train"].annotations.name == "instances_train.json"
    write(root / "train/_annotations.coco.json", content(1))
    with pytest.raises(InputError, match="several annotation files for the train split"):
        find_splits(root)


def test_files_of_single_images_are_not_judged(tmp_path):
    for i in range(21):
        write(tmp_path / f"photos/{i}.json", content(1))
    with pytest.raises(InputError, match="has no annotation file"):
        find_splits(tmp_path)
    write(tmp_path / "boxes.json", content(), tmp_path / "photos")
    assert len(read(tmp_path)) == 3


def test_a_file_that_is_called_as_tools_call_it_goes_before_others(tmp_path):
    write(tmp_path / "a.json", "{}")
    write(tmp_path / "old.json", content(1))
    write(tmp_path / "result.json", content(), tmp_path / "images")
    assert len(read(tmp_path)) == 3


def test_no_annotations_are_refused_with_what_was_looked_for(tmp_path):
    write(tmp_path / "annotations" / "other.json", "{}")
    looked_for = r"annotations/instances_train\*\.json.*valid/_annotations\.coco\.json.*annotations/other\.json"
    with pytest.raises(InputError, match=looked_for):
        read(tmp_path)


@pytest.mark.parametrize(
    ("written", "on_disk", "folder"),
    [
        ("images\\{}.png", "{}.png", "images"),
        ("images/1/{}.png", "{}.png", "images"),
        ("/home/annotator/pictures/{}.png", "{}.png", "train"),
        ("C:\\pictures\\{}.PNG", "{}.png", "train2017"),
        ("caf\u00e9 {}.png", "cafe\u0301 {}.png", "train"),
        ("IMG_{}.png", "IMG_{}.PNG", "images/train"),
        ("my%20picture%20{}.png", "my picture {}.png", "train"),
        ("{}.png", "more/{}.png", "Train"),
    ],
)
def test_images_are_found_however_their_names_are_written(tmp_path, written, on_disk, folder):
    data = content(8)
    for image in data["images"]:
        image["file_name"] = on_disk.format(image["id"])
        (tmp_path / folder / image["file_name"]).parent.mkdir(parents=True, exist_ok=True)
    path = write(tmp_path / "annotations" / "instances_train.json", data, tmp_path / folder)
    for image in data["images"]:
        image["file_name"] = written.format(image["id"])
    write(path, data)
    records = read(tmp_path)
    assert [records.path(i) for i in range(8)] == [tmp_path / folder / on_disk.format(i + 1) for i in range(8)]
    assert records["image_ids"].tolist() == list(range(1, 9))
    assert (records["problem"] == b"").all()
    assert len(records.notes) == 1
    assert records.notes[0].startswith(f"8 file names of {path} ")
    assert not [issue for issue in records.issues if "missing" in issue.what]


def test_an_image_that_train_lacks_is_not_taken_from_val(tmp_path):
    data = content()
    for image, name in zip(data["images"], ("002.png", "004.png", "005.png"), strict=True):
        image["file_name"] = name
    root = coco_folder(tmp_path, train=content(), val=data)
    (root / "train/002.png").unlink()
    records = read(root)
    assert [bool(problem) for problem in records["problem"]] == [False, True, False, False, False, False]
    assert [str(path) for path in map(records.path, (0, 3))] == [f"{root}/train/001.png", f"{root}/val/002.png"]


def test_a_file_name_that_no_file_can_have_is_that_of_a_missing_image(tmp_path):
    data, path = content(), tmp_path / "annotations" / "instances_train.json"
    write(path, data, tmp_path / "train")
    for image, name in zip(data["images"][1:], ("\ud800.png", "a\0b/c.png"), strict=True):
        image["file_name"] = name
    write(path, data)
    records = read(tmp_path)
    assert [bool(problem) for problem in records["problem"]] == [False, True, True]


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


def with_image(*, more=(), **fields):
    return content(annotations=[]) | {"images": [content()["images"][0] | fields, *more]}


REFUSED = {  # for training: content, and what the message names
    "words": ("not json", "JSON"),
    "a number of 5,000 digits": ('{"images": [' + "1" * 5000 + "]}", "has a number too long to read"),
    "a list": ([1, 2], "top level"),
    "no images": ({"annotations": [], "categories": []}, "`images`.*`annotations`, `categories`"),
    "not objects": (content(categories=["dog"]), r"categories\[0\] is 'dog'"),
    "no categories": (content(annotations=[], categories=[]), "`categories`"),
    "empty images": (content(images=0), "`images`"),
    "unknown category": (change(category_id=5), r"annotations\[1\] \(id 2\): `category_id` 5"),
    "unknown image": (change(image_id=99), r"annotations\[1\] \(id 2\): `image_id` 99"),
    "duplicate image": (
        with_image(id=2, more=content()["images"]),
        r"images: `id` 2 .* 2 times.*images\[0\] and \[2\]",
    ),
    "duplicate category": (
        content(categories=[*CATEGORIES, {"id": 7, "name": "dog"}]),
        "categories: `id` 7 .* 2 times",
    ),
    "nan": (change(bbox=[math.nan, 1, 2, 3]), r"\(id 2\): `bbox` is \[nan, 1, 2, 3\]"),
    "infinite": (change(bbox=[0, 1, math.inf, 3]), r"\(id 2\): `bbox` is \[0, 1, inf, 3\]"),
    "three numbers": (change(bbox=[0, 1, 2]), r"\(id 2\): `bbox` is \[0, 1, 2\]"),
    "text in a box": (change(bbox=["x", 1, 2, 3]), r"\(id 2\): `bbox` is \['x'"),
    "truth in a box": (change(bbox=[True, 1, 2, 3]), r"\(id 2\): `bbox` is \[True"),
    "no box": (without("annotations", "bbox"), r"\(id 2\): `bbox` is missing"),
    "nan area": (change(area=math.nan), r"\(id 2\): `area` is nan"),
    "text area": (change(area="9 px"), r"\(id 2\): `area` is '9 px'"),
    "text crowd": (change(iscrowd="no"), r"\(id 2\): `iscrowd` is 'no'"),
    "infinity in quotes": (change(bbox=["inf", 1, 2, 3]), r"\(id 2\): `bbox` is \['inf'"),
    "beyond floats": (change(bbox=[10**400, 1, 2, 3]), r"\(id 2\): `bbox` is \[1000.* four finite numbers"),
    "area beyond floats": (change(area=-(10**400)), r"\(id 2\): `area` is -1000.*finite"),
    "word as an id": (change(image_id="two"), r"annotations\[1\] \(id 2\): `image_id` is 'two'"),
    "true as an id": (change(image_id=True), r"annotations\[1\] \(id 2\): `image_id` is True"),
    "half an id": (change(category_id=2.5), r"annotations\[1\] \(id 2\): `category_id` is 2.5"),
    "large float as an id": (change(image_id=2.0**60), r"`image_id` is 1.152.*as a float it has lost its last digits"),
    "no image of an id": (with_image(id=None), r"images\[0\] \(id None\): `id` is None"),
    "no image id": (without("annotations", "image_id"), r"\(id 2\): `image_id` is missing"),
    "no file name": (without("images", "file_name"), r"images\[1\] \(id 2\): `file_name` is missing"),
    "no name": (without("categories", "name"), r"categories\[1\] \(id 2\): `name` is missing"),
    "odd height": (with_image(height="tall"), r"images\[0\] \(id 1\): `height` is 'tall'"),
    "half a height": (with_image(height=30.5), r"images\[0\] \(id 1\): `height` is 30.5"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_used_is_refused_with_item_field_and_value(tmp_path, data, message):
    write(tmp_path / "annotations" / "instances_train.json", data)
    with one_sentence(rf"instances_train\.json.*{message}"):
        read(tmp_path)


NOT_NEEDED = {"no file name", "no name", "odd height", "half a height", "empty images", "no categories"}


@pytest.mark.parametrize("case", [name for name, (data, _) in REFUSED.items() if isinstance(data, dict)])
def test_scoring_refuses_the_same_but_for_what_only_training_needs(case):
    data, message = REFUSED[case]
    if case in NOT_NEEDED:
        parse_annotations(data, "x.json", for_scoring=True)
    else:
        with one_sentence(rf"x\.json.*{message}"):
            parse_annotations(data, "x.json", for_scoring=True)


def test_all_images_missing_names_the_folders_looked_in(tmp_path):
    write(tmp_path / "annotations/instances_train.json", content())
    with pytest.raises(InputError, match=rf"none of its 3 images.*001\.png.*{tmp_path}/train, "):
        read(tmp_path)


def named(**ids):
    """COCO content with these categories, of which the first is used."""
    used = next(iter(ids.values()))
    categories = [{"id": number, "name": name.rstrip("_")} for name, number in ids.items()]
    return content(1, [annotation(1, 1, [5, 6, 20, 10], category=used)], categories=categories)


CONTRADICTIONS = {  # of train, of val, and what the sentence names
    "one id for two": (named(cat=7), named(dog=7), "category 7 is 'cat' in the first and 'dog' in the second"),
    "two that changed places": (named(A=0, B=1, C=2), named(A=0, C=1, B=2), "category [12] is "),
    "two ids for one": (named(cat=7), named(cat=8), "'cat' has the id 7 in the first and 8 in the second"),
    "two ids for one among others": (named(cat=7, cat_=8), named(cat=8, cat_=9), "'cat' has the id 7 .* and 9 in"),
}


@pytest.mark.parametrize(("train", "val", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_categories_that_contradict_are_refused_with_both_files(tmp_path, train, val, message):
    root = coco_folder(tmp_path, train=train, val=val)
    for splits in ((), ("train",), ("val",)):
        with one_sentence(rf"instances_train\.json and .*instances_val\.json contradict: {message}"):
            read(root, splits=splits)


ABC = {0: "A", 1: "B", 2: "C"}
UNIONS = {
    "fewer in val": (named(A=0, B=1, C=2), named(B=1)),
    "fewer in train": (named(A=0), named(C=2, B=1, A=0)),
    "in another order": (named(A=0, B=1, C=2), named(C=2, A=0, B=1)),
    "some in each": (named(C=2, B=1), named(A=0, B=1)),
    "in quotes": (named(A="0", B="1"), named(C="2")),
}


@pytest.mark.parametrize(("train", "val"), UNIONS.values(), ids=UNIONS)
def test_the_classes_are_those_that_any_split_lists(tmp_path, train, val):
    root = coco_folder(tmp_path, train=train, val=val)
    files = [root / f"annotations/instances_{split}.json" for split in ("train", "val")]
    assert list(classes_of(files).items()) == list(ABC.items())
    labels = [int(data["annotations"][0]["category_id"]) for data in (train, val)]
    for splits, expected in (((), labels), (("train",), labels[:1]), (("val",), labels[1:])):
        records = read(root, splits=splits)
        assert dict(zip(records.class_ids, records.classes, strict=True)) == ABC
        assert records.boxes.labels.tolist() == expected


def test_a_split_may_use_classes_that_only_another_lists_and_they_are_counted(tmp_path):
    val = named(A=0)
    val["annotations"][0]["category_id"] = 2
    root = coco_folder(tmp_path, train=named(B=1, C=2), val=val)
    for splits, labels in (((), [1, 2]), (("val",), [2])):
        records = read(root, splits=splits)
        assert dict(zip(records.class_ids, records.classes, strict=True)) == ABC
        assert records.boxes.labels.tolist() == labels
        assert counts(records)["annotations of a class that only another split's file lists"] == (
            1,
            "annotations[0] (id 1)",
        )
    assert "another split" not in str(read(root, splits=("train",)).issues)
    val["annotations"][0]["category_id"] = 3
    write(root / "annotations/instances_val.json", val)
    with one_sentence(r"instances_val\.json: annotations\[0\] \(id 1\): `category_id` 3 is not among `categories`"):
        read(root)


def test_the_classes_of_a_file_are_found_wherever_they_stand_in_it(tmp_path):
    long = [{"id": number, "name": f"class {number} \u00e9" * 20} for number in range(2000)]
    expected = {one["id"]: one["name"] for one in long}
    within = {"info": {"categories": [{"id": 1, "name": "no"}]}} | content(0, categories=long)
    path = tmp_path / "x.json"
    for data in (content(0, categories=long), {"categories": long} | content(0, categories=long), within):
        for indent in (None, 2):
            path.write_text(json.dumps(data, indent=indent, ensure_ascii=False))
            assert classes_of([path]) == expected


def test_a_broken_file_has_no_say_in_the_classes_but_where_it_is_alone(tmp_path):
    (tmp_path / "a.json").write_text("")
    write(tmp_path / "b.json", named(A=0))
    assert classes_of([tmp_path / "a.json", tmp_path / "b.json"]) == {0: "A"}
    assert classes_of([tmp_path / "b.json", tmp_path / "a.json"]) == {0: "A"}
    with one_sentence(r"a\.json is not valid JSON"):
        classes_of([tmp_path / "a.json"])


# --- what is used and counted ---------------------------------------------------------------------------------------


def counts(records):
    return {issue.what: (issue.count, issue.first) for issue in records.issues}


def test_everything_odd_is_used_and_counted(tmp_path):
    root = coco_folder(tmp_path, train=odd_content())
    (root / "train/005.png").unlink()
    (root / "train/006.png").write_bytes(b"")
    records = read(root)
    assert counts(records) == {
        "annotations without area (taken as width x height)": (1, "annotations[6] (id 16)"),
        "annotations without iscrowd (taken as 0)": (2, "annotations[6] (id 16)"),
        "crowd regions, which are not searched for objects": (1, "002.png"),
        "images without annotations": (3, "004.png"),
        "boxes of zero or negative size, not trained on": (2, "002.png"),
        "boxes over the edge, clipped": (1, "001.png"),
        "boxes under 1 px within the image, not trained on": (1, "001.png"),
        "images of the annotations are missing": (1, str(root / "train/005.png")),
        "images without width and height (read from their files)": (1, str(root / "train/003.png")),
    }
    assert (records.classes, records.class_ids) == (("dog", "cat"), (2, 7))
    assert records["image_ids"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert records["sizes"].tolist() == [[30, 40]] * 7  # image 3's from its header
    assert records["problem"].tolist() == [b"", b"", b"", b"", b"there is no such file", b"", b""]
    boxes, clipped = records.boxes, clip_boxes(records)
    assert boxes.offsets.tolist() == [0, 3, 6, 8, 8, 9, 9, 9]
    assert boxes.xywh.tolist() == [one["bbox"] for one in odd_content()["annotations"]]
    assert boxes.labels.tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 0]
    assert boxes.crowd.tolist() == [False] * 5 + [True] + [False] * 3
    assert boxes.areas[6] == 64  # 8 x 8, where the file says nothing
    assert clipped.xyxy[clipped.usable].tolist() == [
        [5, 6, 25, 16],
        [30, 20, 40, 30],
        [0, 0, 40, 30],
        [1, 1, 9, 9],
        [20.5, 1.25, 30.5, 11.75],
        [2, 2, 8, 8],
    ]


def test_images_of_kinds_that_cannot_be_read_are_left_out_and_counted(tmp_path):
    data = content(6)
    path = write(tmp_path / "annotations/instances_train.json", data, tmp_path / "train")
    for image, ending in zip(data["images"][2:5], ("DJVU", "djvu", "dng"), strict=True):
        image["file_name"] = f"{image['id']:03}.{ending}"
        (tmp_path / "train" / image["file_name"]).write_bytes(b"ftypdjvu")
    write(path, data)
    records = read(tmp_path)
    assert records["image_ids"].tolist() == [1, 2, 6]
    assert np.diff(records.boxes.offsets).tolist() == [1, 1, 1]
    left_out = [str(issue) for issue in records.issues if "left out" in issue.what]
    assert [line[:7] for line in left_out] == ["2 .djvu", "1 .dng "]
    assert all("JPEG" in line for line in left_out)


def test_an_image_whose_size_is_nowhere_to_be_read_has_a_problem(tmp_path):
    data = content()
    del data["images"][1]["width"]
    root = coco_folder(tmp_path, train=data)
    (root / "train/002.png").write_bytes(b"<html>")
    assert [bool(problem) for problem in read(root)["problem"]] == [False, True, False]


def test_annotations_in_any_order_reach_their_images(tmp_path):
    data = content(4, [annotation(10 + i, 1 + i % 4, [i, 1, 5, 5]) for i in range(12)])
    data["images"].reverse()
    records = read(coco_folder(tmp_path, train=data))
    assert records["image_ids"].tolist() == [4, 3, 2, 1]
    for position, image in enumerate(records["image_ids"]):
        expected = [i for i in range(12) if 1 + i % 4 == image]
        assert records.boxes.xywh[records.boxes.rows(position), 0].tolist() == expected


def test_whole_floats_and_truth_values_are_understood():
    data = content()
    data["annotations"][0] |= {"id": 1.0, "image_id": 3.0, "category_id": 7.0, "iscrowd": True}
    records = parse_annotations(data, "x.json")
    assert records.boxes.offsets.tolist() == [0, 0, 1, 3]
    assert records.boxes.labels[1:].tolist() == [1, 1]
    assert records.boxes.crowd.tolist() == [False, True, False]


@pytest.mark.parametrize("for_scoring", [False, True])
def test_annotations_whose_ids_are_missing_or_repeated_are_numbered_anew_and_0_is_one(for_scoring):
    data = content(6)
    del data["annotations"][0]["id"]
    for i, number in ((1, 0), (2, "x"), (3, "x"), (4, 2.5)):
        data["annotations"][i]["id"] = number
    records = parse_annotations(data, "x.json", for_scoring=for_scoring)
    assert list(counts(records).values()) == [(3, "x.json: annotations[0]")]
    assert np.diff(records.boxes.offsets).tolist() == [1] * 6
    data["annotations"][5]["id"] = 0
    assert list(counts(parse_annotations(data, "x.json", for_scoring=for_scoring)).values()) == [
        (5, "x.json: annotations[0]")
    ]
    for i, one in enumerate(data["annotations"]):
        one["id"] = i
    assert parse_annotations(data, "x.json", for_scoring=for_scoring).issues == ()


def test_boxes_that_repeat_another_are_one_to_train_and_as_many_as_listed_to_score(tmp_path):
    data = content(2)
    again = {**data["annotations"][0], "id": 100}
    moved = {**again, "id": 101, "bbox": [again["bbox"][0] + 0.25, *again["bbox"][1:]]}
    data["annotations"] += [again, moved, {**again, "id": 102, "category_id": 2}]
    root = coco_folder(tmp_path, train=data)
    records = read(root)
    assert records.boxes.xywh[:3].tolist() == [again["bbox"], moved["bbox"], again["bbox"]]
    assert (records.boxes.offsets.tolist(), records.boxes.labels[:3].tolist()) == ([0, 3, 4], [1, 1, 0])
    assert counts(records) == {"boxes that repeat another, left out": (1, "001.png")}
    assert parse_annotations(data, "x.json", for_scoring=True).boxes.offsets.tolist() == [0, 4, 5]


def test_of_a_file_that_is_listed_with_and_without_boxes_the_entry_with_boxes_is_kept(tmp_path):
    data = content(2)
    first = data["images"][0]
    data["images"] = [{**first, "id": 50}, *data["images"], {**first, "id": 51}]
    root = coco_folder(tmp_path, train=data)
    records = read(root)
    assert records["image_ids"].tolist() == [1, 2]
    assert records.boxes.offsets.tolist() == [0, 1, 2]
    assert counts(records) == {
        "images without boxes whose file is listed with boxes too, left out": (2, first["file_name"])
    }
    data["annotations"].append({**data["annotations"][0], "id": 100, "image_id": 51})
    write(root / "annotations/instances_train.json", data)
    records = read(root)
    assert records["image_ids"].tolist() == [1, 2, 51]
    assert counts(records)["images are of a file that is listed before"] == (1, first["file_name"])


def test_for_scoring_names_may_be_missing():
    data = content()
    del data["categories"][0]["name"], data["images"][0]["file_name"]
    assert parse_annotations(data, "x.json", for_scoring=True).classes == ("dog", "category 7")


def test_entries_that_only_repeat_another_are_left_out(tmp_path):
    data = content()
    data["images"].insert(1, data["images"][0] | {"license": 3})
    data["categories"].append(CATEGORIES[0])
    records = read(coco_folder(tmp_path, train=data))
    assert (records["image_ids"].tolist(), records.class_ids) == ([1, 2, 3], (2, 7))
    assert records.boxes.offsets.tolist() == [0, 1, 2, 3]
    assert counts(records) == {
        "repeated entries of `images`, left out": (1, "images[1] (id 1)"),
        "repeated entries of `categories`, left out": (1, "categories[2] (id 7)"),
    }


LARGE = [2**53 + 1, 2**53 + 2, 2**63 + 1, 2**64 + 1, -(2**70), 5]


@pytest.mark.parametrize("for_scoring", [False, True])
@pytest.mark.parametrize("ids", [LARGE[:2], LARGE])
def test_ids_may_be_of_any_size_and_none_is_taken_for_its_neighbour(ids, for_scoring):
    data = content(len(ids), [annotation(2**66 + i, one, [i, 1, 5, 5], category=ids[0]) for i, one in enumerate(ids)])
    data["categories"] = [{"id": number, "name": f"n{number}"} for number in ids]
    for image, number in zip(data["images"], ids, strict=True):
        image["id"] = number
    data["annotations"].reverse()
    records = parse_annotations(data, "x.json", for_scoring=for_scoring)
    assert records["image_ids"].tolist() == ids
    assert records.boxes.xywh[:, 0].tolist() == list(range(len(ids)))
    assert records.class_ids == tuple(sorted(ids))
    assert set(records.boxes.labels.tolist()) == {sorted(ids).index(ids[0])}
    results = [row([i, 1, 5, 5], 0.5, one, ids[-1]) for i, one in enumerate(ids)]
    detections, _ = parse_results(results, records, "R", "A")
    assert detections.images.tolist() == list(range(len(ids)))
    assert set(detections.labels.tolist()) == {sorted(ids).index(ids[-1])}


def test_digits_in_quotes_are_ids_among_numbers_and_counted():
    data = content(4)
    data["images"][0]["id"], data["annotations"][1]["image_id"], data["categories"][0]["id"] = "1", " 002", "7"
    data["annotations"][3] |= {"image_id": "4", "category_id": "2"}
    data["images"][1]["width"] = "40"
    records = parse_annotations(data, "x.json")
    assert (records["image_ids"].tolist(), records.class_ids) == ([1, 2, 3, 4], (2, 7))
    assert records["sizes"].tolist() == [[30, 40]] * 4
    assert records.boxes.offsets.tolist() == [0, 1, 2, 3, 4]
    assert records.boxes.labels.tolist() == [1, 0, 1, 0]
    assert counts(records) == {
        "`id` given as text (taken as integers)": (1, "categories[0] (id '7')"),
        "`image_id` given as text (taken as integers)": (2, "annotations[1] (id 2)"),
        "`category_id` given as text (taken as integers)": (1, "annotations[3] (id 4)"),
        "`width` given as text (taken as numbers)": (1, "images[1] (id 2)"),
    }
    detections, issues = parse_results([row([1, 2, 9, 9], 0.5, "2", "7")], records, "R", "A")
    assert (detections.images.tolist(), detections.labels.tolist()) == ([1], [1])
    assert [issue.count for issue in issues] == [1, 1]


@pytest.mark.parametrize("for_scoring", [False, True])
def test_numbers_in_quotes_are_numbers_and_counted(for_scoring):
    data = content(3)
    data["annotations"][1] |= {"bbox": ["5", " 6.5", "2e1", ".5"], "area": "7.", "iscrowd": "1"}
    data["images"][1] |= {"height": "30", "width": "40.0"}
    records = parse_annotations(data, "x.json", for_scoring=for_scoring)
    assert records.boxes.xywh[1].tolist() == [5, 6.5, 20, 0.5]
    assert (records.boxes.areas[1], records.boxes.crowd.tolist()) == (7, [False, True, False])
    assert records["sizes"].tolist() == [[30, 40]] * 3
    texts = {what: count for what, (count, _) in counts(records).items() if "as text" in what}
    fields = ("bbox", "area", "iscrowd", "height", "width")
    assert texts == {f"`{field}` given as text (taken as numbers)": 1 for field in fields}
    detections, issues = parse_results([row(["1", 2, 3, 4], "0.25", 1, "7")], records, "R", "A")
    assert (detections.xywh.tolist(), detections.scores.tolist()) == ([[1, 2, 3, 4]], [0.25])
    assert {issue.what.split()[0] for issue in issues} == {"`bbox`", "`score`", "`category_id`"}


UNKNOWN = {
    "empty": "",
    "missing": None,
    "zero": 0,
    "minus one": -1,
    "minus one in full": -1.0,
    "not a number": math.nan,
}


@pytest.mark.parametrize("value", UNKNOWN.values(), ids=UNKNOWN)
def test_a_size_that_is_unknown_is_read_from_the_image_and_counted(tmp_path, value):
    data = content()
    data["images"][1]["width"] = value
    data["images"][2] |= {"width": value, "height": value}
    root = coco_folder(tmp_path, train=data)
    Image.new("RGB", (50, 60)).save(root / "train/003.png")
    records = read(root)
    assert records["sizes"].tolist() == [[30, 40], [30, 40], [60, 50]]
    assert counts(records) == {
        "images without width and height (read from their files)": (2, str(root / "train/002.png"))
    }
    assert parse_annotations(data, "A", for_scoring=True)["sizes"].tolist() == [[30, 40], [0, 0], [0, 0]]


# --- boxes in another form ------------------------------------------------------------------------------------------


def boxes_of(count, seed=0, size=(300, 240)):
    """Random boxes (x, y, width, height) in images of one size."""
    generator = np.random.default_rng(seed)
    xy = generator.uniform(0, np.subtract(size, 50), (count, 2))
    return np.concatenate([xy, generator.uniform(10, 50, (count, 2))], axis=1)


def as_corners(xywh):
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def boxed(xywh, size=(300, 240)):
    """COCO content of an image for each box."""
    data = content(len(xywh), [annotation(i, i, box, area=9) for i, box in enumerate(xywh.tolist(), 1)])
    for image in data["images"]:
        image["width"], image["height"] = size
    return data


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [12, 200])
def test_corners_for_sizes_are_refused_to_train_and_to_score_and_boxes_are_not(tmp_path, count, seed):
    xywh = boxes_of(count, seed)
    wrong, right = boxed(as_corners(xywh)), boxed(xywh)
    for data in (wrong, right):
        for image in data["images"][: count // 4]:
            image["width"] = image["height"] = -1  # what is not known does not keep it from being seen
    folder = tmp_path / "wrong"
    write(folder / "annotations/instances_train.json", wrong)
    (folder / "train").mkdir()
    for image in wrong["images"]:
        Image.new("RGB", (300, 240)).save(folder / "train" / image["file_name"])
    for call in (lambda: read(folder), lambda: parse_annotations(wrong, "instances_train.json", for_scoring=True)):
        with one_sentence(r"instances_train\.json.*\(x1, y1, x2, y2\)"):
            call()
    assert parse_annotations(right, "A", for_scoring=True).issues == ()


def test_one_box_over_the_edge_or_a_few_large_ones_are_not_taken_for_corners():
    over = boxes_of(30)
    over[0] = [100, 100, 220, 150]
    assert parse_annotations(boxed(over), "A", for_scoring=True).issues == ()
    one = np.array([[100.0, 100, 220, 150]])  # a detector may see all of what the picture has in part
    assert [issue.count for issue in parse_annotations(boxed(one), "A", for_scoring=True).issues] == [1]
    records = parse_annotations(boxed(boxes_of(1)), "A", for_scoring=True)
    assert [issue.count for issue in parse_results([row(one[0].tolist(), 0.5, 1, 2)], records, "R", "A")[1]] == [1]
    for tile in ([-20.0, -10, 400, 300], [-20.0, 50, 100, 239]):  # over the edges, as where large pictures were cut up
        assert len(parse_annotations(boxed(np.array([tile] * 20)), "A", for_scoring=True).boxes.labels) == 20


def test_corners_of_objects_that_mostly_lie_high_and_left_are_seen_too():
    corners = np.array([[10.0, 10, 60, 60]] * 15 + [[200, 100, 280, 200]] * 5)  # a fourth leaves the image as sizes
    with one_sentence(r"A: .*\(x1, y1, x2, y2\)"):
        parse_annotations(boxed(corners), "A", for_scoring=True)


def test_boxes_of_one_pixel_are_not_taken_for_parts():
    pixels = [[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]]
    assert parse_annotations(boxed(np.array(pixels)), "A", for_scoring=True).boxes.xywh.tolist() == pixels


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_boxes_from_0_to_1_are_refused_to_train_and_to_score(tmp_path, corners, known):
    parts = (as_corners(boxes_of(20)) if corners else boxes_of(20)) / [300, 240, 300, 240]
    data = boxed(parts)
    root = coco_folder(tmp_path, train=data)
    with one_sentence(r"instances_train\.json.*parts of the image, 0 to 1"):
        read(root)
    for image in () if known else data["images"]:
        del image["width"], image["height"]
    with one_sentence("A: .*parts of the image, 0 to 1"):
        parse_annotations(data, "A", for_scoring=True)
    results = [row(box, 0.5) for box in parts.tolist()]
    with one_sentence("R: .*parts of the image, 0 to 1"):
        parse_results(results, truth(), "R", "A")


# --- boxes around masks ---------------------------------------------------------------------------------------------


def masked(segmentation, size=(30, 40), **fields):
    """COCO content of one image of (height, width) `size` with one object without bbox."""
    one = annotation(1, 1, [0, 0, 0, 0], **fields) | {"segmentation": segmentation}
    data = content(1, [{name: value for name, value in one.items() if name != "bbox"} | fields])
    data["images"][0]["height"], data["images"][0]["width"] = size
    return data


def bits_of(x, y, width, height, size=(30, 40)):
    bits = np.zeros(size, np.uint8, order="F")
    bits[y : y + height, x : x + width] = 1
    return bits


def runs_of(bits):
    """Run-length encoding, column by column, zeros first."""
    flat = bits.ravel(order="F")
    ends = np.flatnonzero(np.append(flat[1:] != flat[:-1], True)) + 1
    runs = np.diff(ends, prepend=0).tolist()
    return {"counts": [0, *runs] if flat[0] else runs, "size": list(bits.shape)}


PACKED = encode(bits_of(5, 6, 20, 10))
MASKS = {
    "runs": runs_of(bits_of(5, 6, 20, 10)),
    "packed": {"size": [30, 40], "counts": PACKED["counts"].decode()},
    "packed in bytes": PACKED,
    "list of runs": [runs_of(bits_of(5, 6, 3, 10)), runs_of(bits_of(20, 8, 5, 2)), runs_of(bits_of(0, 0, 0, 0))],
    "empty runs": {"counts": [50, 0, 106, 10, 0, 0, 540, 0, 20, 10, 464, 0], "size": [30, 40]},
    "polygon": [[5, 6, 25, 6, 25, 16, 5, 16]],
    "polygon of three points": [[5, 6, 25, 11, 6, 16]],
    "two parts": [[5, 6, 10, 6, 10, 9], [20, 10, 25, 10, 24, 16]],
    "a part on a line": [[5, 6, 25, 6, 25, 16, 5, 16], [0, 0, 30, 30, 10, 10], [1, 1, 2, 2], []],
    "one flat polygon": [5.0, 6, 25, 6, 25, 16, 5, 16],
    "points": [[5, 6], [25, 6], [25, 16], [5, 16]],
    "points in a part": [[[5, 6], [25, 6], [25, 16]], [[5, 10], [6, 10], [6, 11]]],
}


@pytest.mark.parametrize("for_scoring", [False, True])
@pytest.mark.parametrize("fields", [{}, {"bbox": None}, {"bbox": []}], ids=["missing", "null", "empty"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_where_there_is_no_box_it_is_around_the_mask(mask, fields, for_scoring):
    records = parse_annotations(masked(mask, area=7, **fields), "x.json", for_scoring=for_scoring)
    assert records.boxes.xywh.tolist() == [[5, 6, 20, 10]]
    assert records.boxes.areas.tolist() == [7]
    assert counts(records) == {"objects without `bbox` (taken from their masks)": (1, "annotations[0] (id 1)")}
    results = [{"image_id": 1, "category_id": 2, "segmentation": mask, "score": 0.5} | fields]
    detections, [issue] = parse_results(results, records, "R", "A")
    assert detections.xywh.tolist() == [[5, 6, 20, 10]]
    assert issue.count == 1


def test_random_masks_have_the_box_of_their_pixels():
    generator = np.random.default_rng(0)
    for _ in range(100):
        size = tuple(generator.integers(1, 12, 2).tolist())
        bits = np.asfortranarray(generator.random(size) < generator.choice([0.03, 0.3, 0.9]), dtype=np.uint8)
        y, x = np.nonzero(bits)
        expected = [[x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]] if len(x) else []
        packed = encode(bits)
        for mask in (runs_of(bits), packed, packed | {"counts": packed["counts"].decode()}):
            assert parse_annotations(masked(mask, size), "x", for_scoring=True).boxes.xywh.tolist() == expected


NO_AREA = {
    "no runs": {"counts": [1200], "size": [30, 40]},
    "an empty run": {"counts": [1200, 0], "size": [30, 40]},
    "packed": encode(bits_of(0, 0, 0, 0)),
    "no polygon": [],
    "an empty polygon": [[]],
    "a line": [[1, 1, 9, 9, 4, 4]],
    "two points": [[1, 1, 9, 9]],
}


@pytest.mark.parametrize("mask", NO_AREA.values(), ids=NO_AREA)
def test_a_mask_without_area_is_an_object_without_a_box_and_left_out(mask):
    data = masked(mask)
    data["annotations"].append(annotation(2, 1, [1, 2, 3, 4], category=7))
    records = parse_annotations(data, "x.json")
    assert records.boxes.xywh.tolist() == [[1, 2, 3, 4]]
    assert (records.boxes.labels.tolist(), records.boxes.offsets.tolist()) == ([1], [0, 1])
    assert counts(records) == {
        "objects without a box, left out: their masks have no area": (1, "annotations[0] (id 1)")
    }


NO_MASK = {
    "neither": None,
    "a word": "circle",
    "a number": 3,
    "odd numbers": [[1, 2, 3, 4, 5, 6, 7]],
    "not finite": [[1, 2, math.nan, 4, 5, 6]],
    "beyond floats": [[1, 2, 10**400, 4, 5, 6]],
    "no size": {"counts": [1200]},
    "too few runs": {"counts": [100, 10], "size": [30, 40]},
    "a run below 0": {"counts": [1300, -100], "size": [30, 40]},
    "sides in the other order": runs_of(bits_of(5, 6, 20, 10).T),
    "a side of 0": {"counts": [], "size": [0, 40]},
    "not COCO's letters": {"counts": "zzz~~~", "size": [30, 40]},
    "cut off": {"counts": PACKED["counts"][:1].decode() + "o", "size": [30, 40]},
    "more pixels than there are": {"counts": encode(bits_of(5, 100, 9, 9, (200, 300)))["counts"], "size": [30, 40]},
}


@pytest.mark.parametrize("mask", NO_MASK.values(), ids=NO_MASK)
def test_a_mask_that_cannot_be_read_is_refused(mask):
    with one_sentence(r"x\.json: annotations\[0\] \(id 1\): `(bbox|segmentation)` is"):
        parse_annotations(masked(mask), "x.json")


def test_the_placeholder_category_of_annotation_tools_is_left_out(tmp_path):
    heads = {"id": 3, "name": "animal", "supercategory": "none"}

    def read_with(name, **keys):
        return read(coco_folder(tmp_path / name, train=content(**keys)))

    records = read_with("a", categories=[heads, *CATEGORIES])
    assert (records.classes, records.class_ids) == (("dog", "cat"), (2, 7))
    assert records.boxes.labels.tolist() == [1, 0, 1]
    used = content(categories=[heads, *CATEGORIES])
    used["annotations"][0]["category_id"] = 3
    assert read(coco_folder(tmp_path / "b", train=used)).class_ids == (2, 3, 7)
    val = content(1, [annotation(1, 1, [5, 6, 20, 10], category=3)], categories=[heads, *CATEGORIES])
    both = coco_folder(tmp_path / "d", train=content(categories=[heads, *CATEGORIES]), val=val)
    assert read(both, splits=("train",)).class_ids == (2, 3, 7)  # one split uses it
    only = read_with("c", categories=[CATEGORIES[1] | {"supercategory": "none"}], annotations=[])
    assert only.class_ids == (2,)


def test_records_hold_arrays_and_no_python_objects_per_image(tmp_path):
    records = read(coco_folder(tmp_path, train=content(50)))
    arrays = [records.file_names, *records.columns.values(), *vars(records.boxes).values()]
    assert all(array.dtype != object for array in arrays)
    assert sum(array.nbytes for array in arrays) < 50 * 150


# --- results --------------------------------------------------------------------------------------------------------


def row(box, score, image_id=7, category_id=3, **fields):
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score} | fields


def truth():
    categories = [{"id": 3, "name": "dog"}]
    images = [{"id": 9, "width": 200, "height": 200}, {"id": 7, "width": 200, "height": 200}]
    one = annotation(1, 7, [0, 0, 40, 40], category=3)
    return parse_annotations({"images": images, "categories": categories, "annotations": [one]}, "A", for_scoring=True)


def test_results_become_columns():
    results = [row([1, 2, 3, 4.5], 0.5), row((5, 6, 7, 8), np.float32(0.25), 9.0), row(np.arange(4), 1, np.int64(7))]
    detections, issues = parse_results(results, truth(), "R", "A")
    assert detections.images.tolist() == [1, 0, 1]
    assert detections.labels.tolist() == [0, 0, 0]
    assert detections.xywh.tolist() == [[1, 2, 3, 4.5], [5, 6, 7, 8], [0, 1, 2, 3]]
    assert detections.scores.tolist() == [0.5, 0.25, 1.0]
    assert issues == ()
    assert len(parse_results([], truth(), "R", "A")[0].scores) == 0


BOX = [0, 0, 9, 9]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([row(BOX, 0.5), row(BOX, math.nan)], r"R: results\[1\]: `score` is nan"),
        ([row(BOX, math.inf)], r"results\[0\]: `score` is inf"),
        ([row([0, math.nan, 9, 9], 0.5)], r"results\[0\]: `bbox` is \[0, nan, 9, 9\]"),
        ([row(BOX, 0.5, image_id=8)], r"results\[0\]: `image_id` 8 .*2 images of A"),
        ([row(BOX, 0.5, category_id=1)], r"results\[0\]: `category_id` 1 .*1 categories of A \(3\)"),
        ([row(BOX, 0.5), {"image_id": 7, "category_id": 3, "bbox": BOX}], r"results\[1\]: `score` is missing"),
        ([{"image_id": 7, "category_id": 3, "score": 1}], r"results\[0\]: `bbox` is missing"),
        ([row(BOX, 0.5), row([0, 0, 9], 0.5)], r"results\[1\]: `bbox` is \[0, 0, 9\]"),
        ([row(BOX, "50 %")], r"results\[0\]: `score` is '50 %'"),
        ([row(BOX, None)], r"results\[0\]: `score` is None"),
        ([row(BOX, 0.5, image_id="seven")], r"results\[0\]: `image_id` is 'seven'"),
        ([row(BOX, 0.5, image_id=1e300)], r"results\[0\]: `image_id` is 1e\+300"),
        ([row([0, 0, 9, 10**400], 0.5)], r"results\[0\]: `bbox` is \[0, 0, 9, 1000"),
        ([row(BOX, 0.5, image_id=7.5)], r"results\[0\]: `image_id` is 7\.5"),
        ([["a"]], r"results\[0\] is \['a'\]"),
        ({"annotations": []}, "R is not COCO results.*dict"),
    ],
)
def test_results_that_cannot_be_scored_are_refused_with_row_field_and_value(results, message):
    with pytest.raises(InputError, match=message):
        parse_results(results, truth(), "R", "A")


def test_results_given_by_corners_are_refused_and_right_ones_are_not():
    generator = np.random.default_rng(0)
    xy, wh = generator.uniform(0, 150, (50, 2)), generator.uniform(10, 50, (50, 2))
    corners = [row([*a, *(a + b)], 0.5) for a, b in zip(xy, wh, strict=True)]
    with one_sentence(r"R: its boxes are corners, \(x1, y1, x2, y2\).* of 50 leave their image"):
        parse_results(corners, truth(), "R", "A")
    [issue] = parse_results([*corners, row([5, 9, 5, 9], 0.5)], truth(), "R", "A")[1]  # not certain
    assert issue.count > 25
    assert parse_results([row([*a, *b], 0.5) for a, b in zip(xy, wh, strict=True)], truth(), "R", "A")[1] == ()
