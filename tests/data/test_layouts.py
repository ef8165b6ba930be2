import unicodedata

import drawn_boxes
import pytest
from drawn_boxes import assert_same, expected, plain, write
from helpers import data_module

from backbone.errors import InputError
from data.detection import DetectionDataModule
from data.layouts import boxes_reader, read_boxes
from data.readers.coco import find_splits
from data.readers.coco import read as read_coco

ALL = [
    "ultralytics", "roboflow", "yolo_lists", "darknet", "plain_yolo", "label_studio", "voc", "voc_roboflow",
    "voc_two_folders", "csv_retinanet", "csv_tensorflow", "csv_open_images", "csv_via", "csv_sizes",
]  # fmt: skip
COCO = [
    "coco", "coco_cvat_subsets", "coco_roboflow", "coco_fiftyone_splits",
    "coco_cvat", "coco_label_studio", "coco_label_studio_windows", "coco_roboflow_undivided", "coco_via",
    "coco_fiftyone", "coco_above", "coco_beside",
]  # fmt: skip
UNDIVIDED = COCO[4:]
WITHOUT_SPLITS = {"label_studio", "voc_two_folders", "csv_via", "csv_sizes", *UNDIVIDED}
WITHOUT_BACKGROUND = {"csv_tensorflow", "csv_open_images"}


@pytest.mark.parametrize("layout", ALL)
def test_every_layout_is_recognised_and_gives_what_was_drawn(tmp_path, layout):
    getattr(drawn_boxes, layout)(tmp_path)
    records = read_boxes(tmp_path)
    splits, background = layout not in WITHOUT_SPLITS, layout not in WITHOUT_BACKGROUND
    assert_same(plain(records, splits), expected(splits, background))
    assert (records.classes, records.class_ids) == (("cat", "dog"), (0, 1))


@pytest.mark.parametrize("layout", COCO)
def test_every_tools_coco_is_recognised_and_gives_what_was_drawn(tmp_path, layout):
    getattr(drawn_boxes, layout)(tmp_path)
    assert boxes_reader(tmp_path) is None
    records = read_boxes(tmp_path)
    splits = layout not in WITHOUT_SPLITS
    assert_same(plain(records, splits), expected(splits), within=0)
    assert splits or set(records["split"].tolist()) == {0}
    assert records.classes == ("cat", "dog")
    assert len(records.notes) == (layout in ("coco_label_studio_windows", "coco_above"))


NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
SPELLINGS = {  # how the names of labels and lists begin, and how those of the images on the disk do
    "in another Unicode form": (NFC, NFD),
    "percent-decoded": ("my%20", "my "),
    "in another case": ("img_", "IMG_"),
}


def spelt_otherwise(root, monkeypatch, layout, written, on_disk):
    """The layout with labels whose names begin as `written`, and images whose names begin as `on_disk`."""
    drawn = [one._replace(name=f"{written}{i}") for i, one in enumerate(drawn_boxes.DRAWN)]
    monkeypatch.setattr(drawn_boxes, "DRAWN", drawn)
    getattr(drawn_boxes, layout)(root)
    for path in list(root.rglob("*.png")):
        path.rename(path.with_name(path.name.replace(written, on_disk)))


@pytest.mark.parametrize("how", SPELLINGS)
@pytest.mark.parametrize("layout", [*ALL, *COCO])
def test_names_may_be_written_otherwise_and_are_counted(tmp_path, monkeypatch, layout, how):
    written, on_disk = SPELLINGS[how]
    spelt_otherwise(tmp_path, monkeypatch, layout, written, on_disk)
    records = read_boxes(tmp_path)
    splits, background = layout not in WITHOUT_SPLITS, layout not in WITHOUT_BACKGROUND
    wanted = {name.replace(written, on_disk): of for name, of in expected(splits, background).items()}
    assert_same(plain(records, splits), wanted)
    notes = sum(int(note.split()[0]) for note in records.notes if "otherwise" in note)
    texts = sum(issue.count for issue in records.issues if "otherwise" in issue.what)
    no_texts = layout.startswith(("voc", "csv", "coco"))
    assert notes == (len(wanted) if no_texts or layout in ("yolo_lists", "darknet") else 0)
    assert texts == (0 if no_texts else 6 if layout == "roboflow" else 5)


def test_a_background_image_does_not_take_the_text_of_another_folder_or_name(tmp_path):
    for name in ("train/a", "train/c", "val/b"):
        drawn_boxes.draw(tmp_path / f"images/{name}.png", (10, 10))
    write(tmp_path / "labels/train/a.txt", "0 .5 .5 .2 .2\n")
    write(tmp_path / "labels/val/b.txt", "0 .5 .5 .2 .2\n")
    write(tmp_path / "labels/val/c.txt", "0 .5 .5 .2 .2\n")  # of an image that is not there
    write(tmp_path / "labels/train/cc.txt", "0 .5 .5 .2 .2\n")
    records = read_boxes(tmp_path)
    assert records.file_names.tolist() == [b"images/train/a.png", b"images/train/c.png", b"images/val/b.png"]
    assert records.boxes.offsets.tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize("layout", ["ultralytics", "voc", "csv_retinanet"])
def test_cocos_files_are_preferred_where_they_are_there(tmp_path, layout):
    getattr(drawn_boxes, layout)(tmp_path)
    drawn_boxes.coco(tmp_path)
    assert boxes_reader(tmp_path) is None
    assert_same(plain(read_coco(tmp_path)), expected(), within=0)


def test_a_folder_of_none_is_refused_with_what_was_looked_for(tmp_path):
    drawn_boxes.images(tmp_path, "images/{name}")
    write(tmp_path / "readme.txt", "nothing")
    write(tmp_path / "notes.xml", "<notes/>")
    write(tmp_path / "labels.csv", "path,label\na.png,cat\n")
    with pytest.raises(InputError) as error:
        boxes_reader(tmp_path)
    for name in ("instances_train", "data.yaml", "Pascal VOC", "labels.csv has no columns for xmin, ymin, xmax, ymax"):
        assert name in str(error.value)


def test_a_list_of_names_alone_does_not_make_it_yolo(tmp_path):
    drawn_boxes.voc(tmp_path)
    write(tmp_path / "settings.yaml", "names: [cat]\n")
    assert_same(plain(read_boxes(tmp_path)), expected())


def test_a_version_is_of_cocos_files_alone(tmp_path):
    drawn_boxes.voc(tmp_path)
    with pytest.raises(InputError, match=r"--data\.version 2017"):
        boxes_reader(tmp_path, "2017")


# --- through the data module ------------------------------------------------------------------------------------------


def data_of(root, layout, **options):
    getattr(drawn_boxes, layout)(root)
    return data_module(DetectionDataModule, root, batch_size=2, **options)


@pytest.mark.parametrize("layout", ["ultralytics", "voc", "csv_retinanet"])
def test_fit_and_test_use_the_splits_that_the_layout_says(tmp_path, layout, capsys):
    data = data_of(tmp_path, layout)
    for stage in ("fit", "test"):
        data.setup(stage)
    assert [len(data.records(split)) for split in ("train", "val", "test")] == [3, 2, 1]
    assert data.categories == {0: "cat", 1: "dog"}
    batch = next(iter(data.val_dataloader()))
    assert batch["sizes"].tolist() == [[57, 33], [30, 40]]
    assert [labels.tolist() for labels in batch["labels"]] == [[1], [1, 0]]  # one is under a pixel of the input
    printed = capsys.readouterr().out
    assert "testing on its validation images" not in printed
    assert len(data.all_records) == 6


@pytest.mark.parametrize("layout", sorted(WITHOUT_SPLITS))
def test_splits_that_no_layout_says_are_drawn(tmp_path, layout, capsys):
    data = data_of(tmp_path, layout, val_fraction=0.3)
    for stage in ("fit", "test"):
        data.setup(stage)
    train, val, test = ({*data.records(split).file_names.tolist()} for split in ("train", "val", "test"))
    assert len(train | val) == 6
    assert not train & val
    assert test == val
    printed = capsys.readouterr().out
    assert printed.count("--data.val_fraction") == 1
    assert "testing on its validation images" in printed


def test_a_description_stands_for_its_folder_and_is_the_one_that_is_meant(tmp_path):
    drawn_boxes.ultralytics(tmp_path)
    (tmp_path / "drawn.yaml").rename(tmp_path / "data.yaml")
    write(tmp_path / "dataset.yaml", "train: images/val\nnames: [cat, dog]\n")
    with pytest.raises(InputError, match=r"data\.yaml and dataset\.yaml"):
        data_module(DetectionDataModule, tmp_path, "fit")
    data = data_module(DetectionDataModule, tmp_path / "data.yaml", "fit")
    assert [len(data.records(split)) for split in ("train", "val")] == [3, 2]
    write(tmp_path / "x.yaml", "a: b\n")
    for name in ("x.yaml", "images"):
        with pytest.raises(InputError):
            data_module(DetectionDataModule, tmp_path / name, "fit")


def test_a_list_of_boxes_may_itself_be_the_root(tmp_path):
    drawn_boxes.csv_tensorflow(tmp_path)
    lists = sorted(tmp_path.rglob("*.csv"))
    whole = plain(read_boxes(tmp_path))
    for file in lists:
        records = read_boxes(file)
        assert 0 < len(records) < len(whole)
        assert records.layout == "a CSV of boxes"


@pytest.mark.parametrize("layout", ["coco", "coco_fiftyone", "coco_roboflow"])
def test_a_coco_file_may_itself_be_the_root(tmp_path, layout):
    getattr(drawn_boxes, layout)(tmp_path)
    splits = find_splits(tmp_path)
    for split, files in splits.items():
        assert find_splits(files.annotations).keys() == {split}
        of_file, of_folder = (read_coco(root, splits=(split,)) for root in (files.annotations, tmp_path))
        assert of_file.boxes.xywh.tolist() == of_folder.boxes.xywh.tolist()
        assert [of_file.path(i).samefile(of_folder.path(i)) for i in range(len(of_file))] == [True] * len(of_folder)


def test_a_coco_file_of_another_split_is_refused(tmp_path):
    drawn_boxes.coco(tmp_path)
    file = find_splits(tmp_path)["val"].annotations
    with pytest.raises(InputError, match="another split than train"):
        data_module(DetectionDataModule, file, "fit")


def test_validation_images_alone_can_be_validated_on(tmp_path):
    drawn_boxes.ultralytics(tmp_path)
    write(tmp_path / "drawn.yaml", "val: images/val\nnames: [cat, dog]\n")
    data = data_module(DetectionDataModule, tmp_path)
    data.setup("validate")
    assert len(data.records("val")) == 2
    with pytest.raises(InputError, match="train split"):
        data.setup("fit")


def test_bad_images_are_counted_and_lines_are_told_once(tmp_path, capsys):
    data = data_of(tmp_path, "ultralytics", max_bad_fraction=0.5)
    write(tmp_path / "labels/train/b.txt", "0 .5 .5 .2 .2\n7 .5 .5 .1 .1\n")
    (tmp_path / "images/train/a 1.png").write_bytes(b"")
    data.setup("fit")
    assert len(data.records("train")) == 2
    assert capsys.readouterr().out.count("labels/train/b.txt, line 2") == 1


def test_a_checkpoints_classes_are_found_by_name(tmp_path):
    data = data_of(tmp_path, "voc", classes={1: "bird", 5: "dog", 7: "cat"})
    data.setup("validate")
    assert data.categories == {1: "bird", 5: "dog", 7: "cat"}
    labels = data.records("val").boxes.labels.tolist()
    assert labels == [1, 1, 1, 2]
    with pytest.raises(InputError, match="cat"):
        data_module(DetectionDataModule, tmp_path, "validate", classes={1: "dog"})


def test_training_images_without_a_box_are_refused(tmp_path):
    drawn_boxes.draw(tmp_path / "images/train/a.png", (9, 9))
    drawn_boxes.draw(tmp_path / "images/val/b.png", (9, 9))
    write(tmp_path / "labels/train/a.txt", "0 .5 .5 0 .1\n")
    write(tmp_path / "labels/val/b.txt", "0 .5 .5 .9 .9\n")
    with pytest.raises(InputError, match="no usable box") as error:
        data_module(DetectionDataModule, tmp_path, "fit")
    assert "bbox" not in str(error.value)
