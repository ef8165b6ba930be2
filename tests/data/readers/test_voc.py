import re

import pytest
from drawn_boxes import Drawn, assert_same, draw, expected, plain, voc, voc_roboflow, voc_two_folders, voc_xml, write

from backbone.errors import InputError
from data.readers.boxes import LOST
from data.readers.voc import read
from data.records import UNSPLIT

ONE = Drawn("a", "train", (40, 30), [("dog", 5, 6, 20, 10)])
LAUGHS = '<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">'


def folder(root, **files):
    """An image with an XML for each name."""
    for name, text in files.items():
        draw(root / f"{name}.png", (40, 30))
        (root / f"{name}.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def issues(records):
    return {issue.what: (issue.count, issue.first) for issue in records.issues}


def boxes(records):
    return records.boxes.xywh.tolist()


@pytest.mark.parametrize("layout", [voc, voc_roboflow])
def test_every_layout_gives_the_boxes_that_were_drawn(tmp_path, layout):
    layout(tmp_path)
    records = read(tmp_path)
    assert_same(plain(records), expected(), within=0)
    assert (records.classes, records.class_ids) == (("cat", "dog"), (0, 1))
    assert not [what for what in issues(records) if "without an XML" in what]  # as VOC's masks are


def test_two_folders_have_no_splits(tmp_path):
    voc_two_folders(tmp_path)
    records = read(tmp_path)
    assert_same(plain(records, splits=False), expected(splits=False), within=0)
    assert set(records["split"].tolist()) == {UNSPLIT}


def test_corners_count_from_1_unless_a_box_begins_at_0_or_most_have_parts_of_pixels(tmp_path):
    other = ONE._replace(name="b", boxes=[("dog", 0, 3, 7, 7)])
    records = read(folder(tmp_path / "1", a=voc_xml(ONE), b=voc_xml(other)))
    assert boxes(records) == [[5, 6, 20, 10], [0, 3, 7, 7]]
    assert "from 1" in records.notes[0]
    records = read(folder(tmp_path / "0", a=voc_xml(ONE, from_1=False), b=voc_xml(other, from_1=False)))
    assert boxes(records) == [[5, 6, 20, 10], [0, 3, 7, 7]]
    assert "from 0" in records.notes[0]
    records = read(folder(tmp_path / "parts", a=voc_xml(ONE, from_1=False).replace(">5<", ">5.25<")))
    assert boxes(records) == [[5.25, 6, 19.75, 10]]
    many = ONE._replace(boxes=[("dog", 5, 6, 20, 10)] * 20)
    records = read(folder(tmp_path / "one_part", a=voc_xml(many).replace(">6<", ">6.5<", 1)))  # as VOC2012 has some
    assert boxes(records)[:2] == [[5.5, 6, 19.5, 10], [5, 6, 20, 10]]


def test_whole_corners_with_a_decimal_point_count_from_0_where_all_are_so(tmp_path):
    with_points = re.sub(r"<([xy]m\w\w)>(\d+)<", r"<\1>\2.0<", voc_xml(ONE, from_1=False))
    assert ">5.0<" in with_points
    records = read(folder(tmp_path / "all", a=with_points, b="<annotation/>"))
    assert boxes(records)[0] == [5, 6, 20, 10]
    assert "from 0" in records.notes[0]
    records = read(folder(tmp_path / "some", a=with_points, b=voc_xml(ONE._replace(name="b"))))
    assert boxes(records)[0] == [4, 5, 21, 11]
    assert "from 1" in records.notes[0]


def test_difficult_objects_are_regions_that_are_not_searched(tmp_path):
    two = ONE._replace(boxes=[*ONE.boxes, ("cat", 1, 2, 3, 4)])
    records = read(folder(tmp_path, a=voc_xml(two, difficult=[1])))
    assert records.boxes.crowd.tolist() == [False, True]


@pytest.mark.parametrize(
    ("lists", "splits"),
    [
        ({"trainval": "a b"}, [UNSPLIT, UNSPLIT]),
        ({"trainval": "a b", "train": "a"}, [0, 1]),
        ({"trainval": "a b", "val": "a"}, [1, 0]),
        ({"Train": "Train/a.png", "Validation": '"b"'}, [0, 1]),
        ({"default": "a b"}, [UNSPLIT, UNSPLIT]),
        ({"dog_train": "a"}, [UNSPLIT, UNSPLIT]),
        ({"train": "a b", "val": "b"}, [0, 0]),
    ],
)
def test_lists_say_the_splits(tmp_path, lists, splits):
    folder(tmp_path, a=voc_xml(ONE), b=voc_xml(ONE))
    for name, entries in lists.items():
        write(tmp_path / f"ImageSets/Main/{name}.txt", entries.replace(" ", "\n"))
    assert read(tmp_path)["split"].tolist() == splits


def test_an_image_of_two_lists_is_counted(tmp_path):
    folder(tmp_path, a=voc_xml(ONE), b=voc_xml(ONE), c=voc_xml(ONE))
    write(tmp_path / "ImageSets/Main/trainval.txt", "a\nb\n")
    for test, count in (("c", 0), ("c\nb", 1), ("a\nb\nc", 2)):
        write(tmp_path / "ImageSets/Main/test.txt", test)
        records = read(tmp_path)
        assert records["split"].tolist() == [UNSPLIT, UNSPLIT, 2]
        found = [issue for issue in records.issues if "two splits" in issue.what]
        assert [issue.count for issue in found] == [count] * bool(count)
    write(tmp_path / "ImageSets/Main/train.txt", "a\n")
    records = read(tmp_path)
    assert records["split"].tolist() == [0, 1, 2]
    assert issues(records)["images are in the lists of two splits, and not in the later one"] == (2, "a.xml")


@pytest.mark.parametrize(
    "entry", ["my%20photo", "MY photo", r"JPEGImages\my photo.png", '"my photo.png"', "x/my photo"]
)
def test_lists_may_spell_names_otherwise_and_what_has_no_xml_is_named(tmp_path, entry):
    folder(tmp_path, **{"my photo": voc_xml(ONE), "b.1": voc_xml(ONE)})
    write(tmp_path / "ImageSets/Main/train.txt", f"{entry}\nmy photos\n")
    write(tmp_path / "ImageSets/Main/val.txt", "b.1\n")
    records = read(tmp_path)
    assert records.file_names.tolist() == [b"b.1.png", b"my photo.png"]
    assert records["split"].tolist() == [1, 0]
    assert len([note for note in records.notes if "otherwise" in note]) == (entry[:2] not in ('"m', "x/"))
    assert issues(records)["names in ImageSets/Main have no XML"] == (1, "train.txt: my photos")


def test_what_is_in_no_list_is_left_out_and_lists_of_others_are_refused(tmp_path):
    folder(tmp_path, a=voc_xml(ONE), b=voc_xml(ONE))
    write(tmp_path / "ImageSets/Main/test.txt", "b\n")
    records = read(tmp_path)
    assert records.file_names.tolist() == [b"b.png"]
    assert records.boxes.offsets.tolist() == [0, 1]
    assert any("1 XML files are in no list" in note for note in records.notes)
    write(tmp_path / "ImageSets/Main/test.txt", "other\n")
    with pytest.raises(InputError, match="ImageSets/Main"):
        read(tmp_path)


def test_same_names_in_several_folders_are_told_apart(tmp_path):
    for split, size in (("train", (40, 30)), ("valid", (50, 20))):
        draw(tmp_path / split / "images/1.png", size)
        write(tmp_path / split / "annotations/1.xml", voc_xml(ONE, size=False))
    records = read(tmp_path)
    assert records.file_names.tolist() == [b"train/images/1.png", b"valid/images/1.png"]
    assert records["sizes"].tolist() == [[30, 40], [20, 50]]
    assert records["split"].tolist() == [0, 1]


def test_masks_of_the_same_name_are_not_the_image(tmp_path):
    for file in ("images/a.jpg", "annotations/trimaps/a.png"):  # as Oxford's pets have them
        draw(tmp_path / file, (40, 30))
    write(tmp_path / "annotations/xmls/a.xml", voc_xml(ONE).replace("a.png", "a.jpg"))
    assert read(tmp_path).file_names.tolist() == [b"images/a.jpg"]


def test_an_image_is_called_as_its_xml_or_as_that_says(tmp_path):
    draw(tmp_path / "photo.png", (40, 30))
    write(tmp_path / "first.xml", voc_xml(ONE._replace(name=r"C:\them\photo")))
    draw(tmp_path / "renamed.png", (40, 30))
    write(tmp_path / "renamed.xml", voc_xml(ONE._replace(name="photo")))
    draw(tmp_path / "unlabelled.png", (40, 30))
    write(tmp_path / "lost.xml", voc_xml(ONE._replace(name="gone")))
    records = read(tmp_path)
    assert records.file_names.tolist() == [b"photo.png", b"gone.png", b"renamed.png"]
    assert [bool(problem) for problem in records["problem"].tolist()] == [False, True, False]
    found = issues(records)
    assert found["images without an XML, left out"] == (1, "unlabelled.png")
    assert found["images of the annotations are missing"] == (1, "gone")
    assert any("another image" in what and first == "renamed.xml" for what, (_, first) in found.items())


@pytest.mark.parametrize(
    "size", ["<size><width>0</width><height>0</height></size>", "<size><width>x</width></size>", ""]
)
def test_sizes_that_the_xml_does_not_say_are_the_images(tmp_path, size):
    text = voc_xml(ONE, size=False).replace("<segmented>", f"{size}<segmented>")
    assert read(folder(tmp_path, a=text))["sizes"].tolist() == [[30, 40]]


@pytest.mark.parametrize(("old", "new"), [(">6<", ">six<"), (">6<", ">nan<"), ("<xmin>6</xmin>", ""),
                                          ("<name>dog</name>", "<name/>"), ("bndbox>", "robndbox>")])  # fmt: skip
def test_an_object_that_cannot_be_used_is_dropped_and_counted(tmp_path, old, new):
    two = ONE._replace(boxes=[("cat", 1, 2, 3, 4), *ONE.boxes])
    text = voc_xml(two).replace("<xmin>3</xmin>", "")  # that of the parts
    at = text.index("<name>dog") if "dog" in old else text.rindex(old) if old == ">6<" else text.index("<name>dog")
    start = text[:at], text[at:]
    records = read(folder(tmp_path, a=start[0] + start[1].replace(old, new)))
    assert boxes(records) == [[1, 2, 3, 4]]
    dropped = [found for what, found in issues(records).items() if "dropped" in what]
    assert dropped == [(1, "a.xml, object 2")]


def test_an_image_whose_objects_are_all_dropped_is_not_one_without_objects(tmp_path):
    nameless = voc_xml(ONE).replace("<name>dog</name>", "<name/>")
    records = read(folder(tmp_path, a=voc_xml(ONE), b=nameless, c="<annotation/>"))
    assert records["problem"].tolist() == [b"", LOST, b""]
    counted = {found for what, found in issues(records).items() if what.startswith("image")}
    assert counted == {(1, "b.png"), (1, "c.png")}


def test_images_of_a_kind_that_cannot_be_read_are_counted(tmp_path):
    folder(tmp_path, a=voc_xml(ONE))
    (tmp_path / "z.psd").touch()
    assert [count for what, (count, _) in issues(read(tmp_path)).items() if what.startswith(".psd")] == [1]


@pytest.mark.parametrize(
    "text", ["<annotation>", "", b"\xff\xfe\x00", '<?xml version="1.0" encoding="nonsense"?><annotation/>']
)
def test_an_xml_that_cannot_be_read_is_a_problem_of_its_image(tmp_path, text):
    folder(tmp_path, a=voc_xml(ONE), b=text)
    records = read(tmp_path)
    assert records.file_names.tolist() == [b"a.png", b"b.png"]
    assert records["problem"].tolist()[0] == b""
    assert b"cannot be read" in records["problem"].tolist()[1]


def test_other_xml_is_left_out_and_nothing_else_is_refused(tmp_path):
    folder(tmp_path, a=voc_xml(ONE), settings="<settings/>")
    records = read(tmp_path)
    assert records.file_names.tolist() == [b"a.png"]
    write(tmp_path / "a.xml", voc_xml(ONE._replace(boxes=[])))
    with pytest.raises(InputError, match="has an object"):
        read(tmp_path)
    (tmp_path / "a.xml").unlink()
    with pytest.raises(InputError, match="no XML"):
        read(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "doctype", [f"<!DOCTYPE annotation [{LAUGHS}]>", '<!DOCTYPE annotation SYSTEM "file:///etc/passwd">']
)
def test_a_doctype_is_refused_before_an_entity_grows(tmp_path, doctype, encoding):
    text = f'<?xml version="1.0" encoding="{encoding}"?>{doctype}{voc_xml(ONE)}'.replace("Unspecified", "&c;" * 9)
    folder(tmp_path, a=text.encode(encoding))
    with pytest.raises(InputError, match=r"a\.xml has a DOCTYPE"):
        read(tmp_path)


def test_utf_16_is_read(tmp_path):
    text = '<?xml version="1.0" encoding="utf-16"?>' + voc_xml(ONE)
    assert boxes(read(folder(tmp_path, a=text.encode("utf-16")))) == [[5, 6, 20, 10]]
