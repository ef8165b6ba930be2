import math

import numpy as np
import pytest
from coco_content import CATEGORIES, annotation, coco_folder, content, odd_content, write
from helpers import one_sentence

from backbone.errors import InputError
from data.readers.coco import clip_boxes, find_splits, parse_annotations, parse_results, read

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


def with_image(**fields):
    return content(annotations=[]) | {"images": [content()["images"][0] | fields]}


REFUSED = {  # for training: content, and what the message names
    "words": ("not json", "JSON"),
    "a list": ([1, 2], "top level"),
    "no images": ({"annotations": [], "categories": []}, "`images`.*`annotations`, `categories`"),
    "not objects": (content(categories=["dog"]), r"categories\[0\] is 'dog'"),
    "no categories": (content(annotations=[], categories=[]), "`categories`"),
    "empty images": (content(images=0), "`images`"),
    "unknown category": (change(category_id=5), r"annotations\[1\] \(id 2\): `category_id` 5"),
    "unknown image": (change(image_id=99), r"annotations\[1\] \(id 2\): `image_id` 99"),
    "duplicate image": (content(annotations=[]) | {"images": content()["images"][:1] * 2}, "images: `id` 1 .* 2 times"),
    "duplicate annotation": (change(id=3), "annotations: `id` 3 .* 2 times"),
    "duplicate category": (content(categories=[*CATEGORIES, CATEGORIES[0]]), "categories: `id` 7 .* 2 times"),
    "nan": (change(bbox=[math.nan, 1, 2, 3]), r"\(id 2\): `bbox` is \[nan, 1, 2, 3\]"),
    "infinite": (change(bbox=[0, 1, math.inf, 3]), r"\(id 2\): `bbox` is \[0, 1, inf, 3\]"),
    "three numbers": (change(bbox=[0, 1, 2]), r"\(id 2\): `bbox` is \[0, 1, 2\]"),
    "text in a box": (change(bbox=["0", 1, 2, 3]), r"\(id 2\): `bbox` is \['0'"),
    "truth in a box": (change(bbox=[True, 1, 2, 3]), r"\(id 2\): `bbox` is \[True"),
    "no box": (without("annotations", "bbox"), r"\(id 2\): `bbox` is missing"),
    "nan area": (change(area=math.nan), r"\(id 2\): `area` is nan"),
    "text area": (change(area="9"), r"\(id 2\): `area` is '9'"),
    "text crowd": (change(iscrowd="0"), r"\(id 2\): `iscrowd` is '0'"),
    "text id": (change(id="2"), r"annotations\[1\] \(id '2'\): `id` is '2'"),
    "true as an id": (change(id=True), r"annotations\[1\] \(id True\): `id` is True"),
    "half an id": (change(id=2.5), r"annotations\[1\] \(id 2.5\): `id` is 2.5"),
    "huge id": (change(id=2**63), r"`id` is 9223372036854775808"),
    "no id": (without("annotations", "id"), r"annotations\[1\]: `id` is missing"),
    "no image id": (without("annotations", "image_id"), r"\(id 2\): `image_id` is missing"),
    "no file name": (without("images", "file_name"), r"images\[1\] \(id 2\): `file_name` is missing"),
    "no name": (without("categories", "name"), r"categories\[1\] \(id 2\): `name` is missing"),
    "odd height": (with_image(height="30"), r"images\[0\] \(id 1\): `height` is '30'"),
    "no height": (with_image(height=0), r"images\[0\] \(id 1\): `height` is 0"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_used_is_refused_with_item_field_and_value(tmp_path, data, message):
    write(tmp_path / "annotations" / "instances_train.json", data)
    with one_sentence(rf"instances_train\.json.*{message}"):
        read(tmp_path)


NOT_NEEDED = {"no file name", "no name", "no id", "text id", "duplicate annotation", "true as an id", "half an id"}
NOT_NEEDED |= {"huge id", "odd height", "no height", "empty images", "no categories"}


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


def test_splits_with_different_categories_are_refused_with_the_differences(tmp_path):
    other = content(categories=[CATEGORIES[1], {"id": 7, "name": "tiger"}])
    with pytest.raises(InputError, match=r"instances_val\.json: .*here \[\(7, 'tiger'\)\].*there \[\(7, 'cat'\)\]"):
        read(coco_folder(tmp_path, train=content(9), val=other))


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
        "annotations with an id that is 0, missing or repeated (numbered anew)": (1, "annotations[0] (id 0)"),
        "crowd regions, which are not searched for objects": (1, "002.png"),
        "images without annotations": (3, "004.png"),
        "boxes of zero or negative size, not trained on": (2, "002.png"),
        "boxes over the edge, clipped": (1, "001.png"),
        "boxes under 1 px within the image, not trained on": (1, "001.png"),
        "images of the annotations are missing": (1, str(root / "train/005.png")),
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
    for image, ending in zip(data["images"][2:5], ("HEIC", "heic", "dng"), strict=True):
        image["file_name"] = f"{image['id']:03}.{ending}"
        (tmp_path / "train" / image["file_name"]).write_bytes(b"ftypheic")
    write(path, data)
    records = read(tmp_path)
    assert records["image_ids"].tolist() == [1, 2, 6]
    assert np.diff(records.boxes.offsets).tolist() == [1, 1, 1]
    left_out = [str(issue) for issue in records.issues if "left out" in issue.what]
    assert [line[:7] for line in left_out] == ["2 .heic", "1 .dng "]
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


def test_for_scoring_ids_that_are_missing_0_or_repeated_are_numbered_anew():
    data = content(5)
    del data["annotations"][0]["id"], data["categories"][0]["name"], data["images"][0]["file_name"]
    for i, number in ((1, 0), (2, "x"), (3, "x")):
        data["annotations"][i]["id"] = number
    records = parse_annotations(data, "x.json", for_scoring=True)
    assert list(counts(records).values()) == [(4, "annotations[0]")]
    assert records.classes == ("dog", "category 7")


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
        ([row(BOX, "0.5")], r"results\[0\]: `score` is '0\.5'"),
        ([row(BOX, None)], r"results\[0\]: `score` is None"),
        ([row(BOX, 0.5, image_id="7")], r"results\[0\]: `image_id` is '7'"),
        ([row(BOX, 0.5, image_id=7.5)], r"results\[0\]: `image_id` is 7\.5"),
        ([["a"]], r"results\[0\] is \['a'\]"),
        ({"annotations": []}, "R is not COCO results.*dict"),
    ],
)
def test_results_that_cannot_be_scored_are_refused_with_row_field_and_value(results, message):
    with pytest.raises(InputError, match=message):
        parse_results(results, truth(), "R", "A")


def test_boxes_given_by_corners_are_counted_and_right_ones_are_not():
    generator = np.random.default_rng(0)
    xy, wh = generator.uniform(0, 150, (50, 2)), generator.uniform(10, 50, (50, 2))
    corners = [row([*a, *(a + b)], 0.5) for a, b in zip(xy, wh, strict=True)]
    [issue] = parse_results(corners, truth(), "R", "A")[1]
    assert issue.count > 25
    assert parse_results([row([*a, *b], 0.5) for a, b in zip(xy, wh, strict=True)], truth(), "R", "A")[1] == ()
