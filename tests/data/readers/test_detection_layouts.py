import drawn_boxes
import pytest
from drawn_boxes import assert_same, expected, plain, write

from backbone.errors import InputError
from data.readers.coco import read as read_coco
from data.readers.detection_layouts import reader_of

ALL = [
    "ultralytics", "roboflow", "yolo_lists", "darknet", "plain_yolo", "label_studio", "voc", "voc_roboflow",
    "voc_two_folders", "csv_retinanet", "csv_tensorflow", "csv_open_images", "csv_via",
]  # fmt: skip
WITHOUT_SPLITS = {"label_studio", "voc_two_folders", "csv_via"}
WITHOUT_BACKGROUND = {"csv_tensorflow", "csv_open_images"}


@pytest.mark.parametrize("layout", ALL)
def test_every_layout_is_recognised_and_gives_what_was_drawn(tmp_path, layout):
    getattr(drawn_boxes, layout)(tmp_path)
    records = reader_of(tmp_path)(tmp_path)
    splits, background = layout not in WITHOUT_SPLITS, layout not in WITHOUT_BACKGROUND
    assert_same(plain(records, splits), expected(splits, background))
    assert (records.classes, records.class_ids) == (("cat", "dog"), (0, 1))


@pytest.mark.parametrize("layout", ["ultralytics", "voc", "csv_retinanet"])
def test_cocos_files_are_preferred_where_they_are_there(tmp_path, layout):
    getattr(drawn_boxes, layout)(tmp_path)
    drawn_boxes.coco(tmp_path)
    assert reader_of(tmp_path) is None
    assert_same(plain(read_coco(tmp_path)), expected(), within=0)


def test_a_folder_of_none_is_refused_with_what_was_looked_for(tmp_path):
    drawn_boxes.images(tmp_path, "images/{name}")
    write(tmp_path / "readme.txt", "nothing")
    write(tmp_path / "notes.xml", "<notes/>")
    write(tmp_path / "labels.csv", "path,label\na.png,cat\n")
    with pytest.raises(InputError) as error:
        reader_of(tmp_path)
    for name in ("instances_train", "data.yaml", "Pascal VOC", "xmin"):
        assert name in str(error.value)


def test_a_version_is_of_cocos_files_alone(tmp_path):
    drawn_boxes.voc(tmp_path)
    with pytest.raises(InputError, match=r"--data\.version 2017"):
        reader_of(tmp_path, "2017")
