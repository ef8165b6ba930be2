import json

import pytest
from drawn_boxes import (
    assert_same,
    csv_open_images,
    csv_retinanet,
    csv_tensorflow,
    csv_via,
    draw,
    expected,
    plain,
    write,
)

from backbone.errors import InputError
from data.readers.boxes import LOST
from data.readers.boxes_csv import read
from data.records import UNSPLIT

HEADER = "image,xmin,ymin,xmax,ymax,class\n"


def listed(root, text, name="boxes.csv", images=("a", "b")):
    for image in images:
        draw(root / f"{image}.png", (40, 30))
    write(root / name, text)
    return root


def issues(records):
    return {issue.what: (issue.count, issue.first) for issue in records.issues}


def boxes(records):
    return records.boxes.xywh.tolist()


@pytest.mark.parametrize("layout", [csv_retinanet, csv_tensorflow, csv_open_images])
def test_every_layout_gives_the_boxes_that_were_drawn(tmp_path, layout):
    layout(tmp_path)
    records = read(tmp_path)
    assert_same(plain(records), expected(background=layout is csv_retinanet), within=1e-3)
    assert (records.classes, records.class_ids) == (("cat", "dog"), (0, 1))


def test_vias_list_has_no_splits(tmp_path):
    csv_via(tmp_path)
    records = read(tmp_path)
    assert_same(plain(records, splits=False), expected(splits=False), within=0)
    assert set(records["split"].tolist()) == {UNSPLIT}


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "a.png,1,2,11,22,cat\n",
        "CLASS;YMax;Image;XMin;XMax;YMin\ncat;22,0;a.png;1,0;11;2\n",
        "\ufefflabel\tfilename\tx1\ty1\tx2\ty2\tremark\ncat\t.\\a.png\t1\t2\t11\t22\t\n",
        "a.png,1,2,11,22,cat\n",
        "file_name,left,top,right,bottom,category\n/elsewhere/images/a.png,1,2,11,22,cat\n",
        'Image,xmin,ymin,xmax,ymax,class,split\n"a.png",1,2,11,22,"cat",train\n',
    ],
)
def test_columns_may_stand_in_any_order_under_the_common_names(tmp_path, text):
    records = read(listed(tmp_path, text))
    assert records.file_names.tolist() == [b"a.png"]
    assert boxes(records) == [[1, 2, 10, 20]]
    assert records.classes == ("cat",)
    assert records["split"].tolist() == [0 if "split" in text else UNSPLIT]


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("filename,x,y,w,h,class\na.png,1,2,10,20,cat\n", (30, 40)),
        ("filename,X,Y,Width,Height,class\na.png,1,2,10,20,cat\n", (30, 40)),
        ("filename,width,height,x,y,w,h,class\na.png,80,60,1,2,10,20,cat\n", (60, 80)),
        ("image,xmin,ymin,width,height,image_width,image_height,class\na.png,1,2,10,20,80,60,cat\n", (60, 80)),
        ("image_id,x_1,y_1,width,height,name\na.png,1,2,10,20,cat\n", (30, 40)),
        ('image_id,width,height,bbox,class\na,80,60,"[1.0, 2, 10, 20]",cat\n', (60, 80)),
        ("image_id;bbox;class\na;(1 2 10 20);cat\n", (30, 40)),
        ("image,x,y,w,h,class\na.png,0.025,0.066667,0.25,0.666667,cat\n", (30, 40)),
    ],
)
def test_boxes_may_be_given_by_width_and_height(tmp_path, text, sizes):
    records = read(listed(tmp_path, text))
    assert boxes(records) == [[1, 2, 10, 20]]
    assert records["sizes"].tolist() == [list(sizes)]
    assert records.classes == ("cat",)


def test_without_a_class_all_boxes_are_of_one(tmp_path):
    rows = 'a,40,30,"[1.0, 2.0, 10.0, 20.0]",usask\nb,40,30,,usask\n'  # as the wheat of Kaggle
    records = read(listed(tmp_path, f"image_id,width,height,bbox,source\n{rows}", "train.csv"))
    assert records.file_names.tolist() == [b"a.png", b"b.png"]
    assert (boxes(records), records.boxes.offsets.tolist()) == ([[1, 2, 10, 20]], [0, 1, 1])
    assert records.classes == ("object",)
    assert any("no column for the class" in note for note in records.notes)
    (tmp_path / "train.csv").unlink()
    records = read(listed(tmp_path, "image,xmin,ymin,xmax,ymax\na.png,1,2,11,22\n"))
    assert (boxes(records), records.classes) == ([[1, 2, 10, 20]], ("object",))


@pytest.mark.parametrize("cell", ["[1, 2, 3]", "[1, 2, 3, x]", "[1, 2, 3, nan]", "[1, 2, 3, 4, 5]"])
def test_a_box_that_is_not_four_numbers_is_counted_and_its_image_has_a_problem(tmp_path, cell):
    records = read(listed(tmp_path, f'image,bbox,class\na.png,"[1, 2, 3, 4]",cat\nb.png,"{cell}",cat\n'))
    assert records.boxes.offsets.tolist() == [0, 1, 1]
    assert records["problem"].tolist() == [b"", LOST]
    assert [found for what, found in issues(records).items() if "usable" in what] == [(1, "boxes.csv, line 3")]


def test_corners_for_width_and_height_are_refused(tmp_path):
    rows = "".join(f"a.png,{x},15,{x + 8},25,cat\n" for x in range(16, 31))
    with pytest.raises(InputError, match=r"boxes\.csv.*\(x1, y1, x2, y2\)"):
        read(listed(tmp_path, f"image,x,y,width,height,class\n{rows}"))
    assert len(read(listed(tmp_path, f"{HEADER}{rows}")).boxes.labels) == 15


@pytest.mark.parametrize("row", ["b.png,1,x,3,4,cat", "b.png,1,2,3,4,", "b.png,1,nan,3,4,cat", "b.png,1,,3,4,cat"])
def test_a_row_that_cannot_be_used_is_counted_and_its_image_stays_with_others(tmp_path, row):
    records = read(listed(tmp_path, f"{HEADER}a.png,1,2,3,4,cat\n\n{row}\n"))
    assert records.file_names.tolist() == [b"a.png", b"b.png"]
    assert records.boxes.offsets.tolist() == [0, 1, 1]
    assert records["problem"].tolist() == [b"", LOST]  # else it would be trained on as without objects
    assert [found for what, found in issues(records).items() if "usable" in what] == [(1, "boxes.csv, line 4")]
    records = read(listed(tmp_path, f"{HEADER}a.png,1,2,3,4,cat\n{row}\nb.png,1,2,3,4,cat\n"))
    assert records.boxes.offsets.tolist() == [0, 1, 2]
    assert records["problem"].tolist() == [b"", b""]


@pytest.mark.parametrize("rest", ["b.png,1,2,3,4,cat\n", 'b.png,1,2,3,4,"cat"\n'])
def test_a_quote_that_is_not_closed_does_not_take_the_lines_after_it(tmp_path, rest):
    with pytest.raises(InputError, match=r"boxes\.csv, line [35]: .*quote"):
        read(listed(tmp_path, f'{HEADER}a.png,1,2,3,4,"cat\n{rest}{rest}{rest}'))


def test_a_row_without_an_image_is_dropped_and_counted(tmp_path):
    records = read(listed(tmp_path, f"{HEADER}a.png,1,2,3,4,cat\n,1,2,3,4,cat\n"))
    assert len(records) == len(boxes(records)) == 1
    assert issues(records)["rows without an image, dropped"] == (1, "boxes.csv, line 3")


def test_empty_boxes_are_images_without_objects(tmp_path):
    records = read(listed(tmp_path, "b.png,,,,,\na.png,1,2,3,4,cat\n"))
    assert records.boxes.offsets.tolist() == [0, 1, 1]
    assert not [what for what in issues(records) if "usable" in what]


def test_parts_of_the_image_are_known_and_pixels_are_not_taken_for_them(tmp_path):
    text = "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\na,/m/1,0.25,0.5,0,1,1\nb,/m/1,0.5,1,0.5,1.0000001,-1\n"
    records = read(listed(tmp_path, text))
    assert_boxes = [[10, 0, 10, 30], [20, 15, 20, 15]]
    assert [[round(one, 3) for one in box] for box in boxes(records)] == assert_boxes
    assert records.boxes.crowd.tolist() == [True, False]
    assert len(records.notes) == 1
    assert boxes(read(listed(tmp_path, f"{HEADER}a.png,0,0,1,1,cat\nb.png,0,0,2,1,cat\n"))) == [
        [0, 0, 1, 1],
        [0, 0, 2, 1],
    ]


def test_the_lists_numbers_order_the_classes(tmp_path):
    listed(tmp_path, "a.png,1,2,3,4,cat\nb.png,1,2,3,4,dog\n")
    write(tmp_path / "classes.csv", "class,id\nzebra,0\ndog,1\ncat,2\n")
    records = read(tmp_path)
    assert (records.classes, records.boxes.labels.tolist()) == (("zebra", "dog", "cat"), [2, 1])


def test_the_same_name_in_two_folders_is_told_apart_by_the_list(tmp_path):
    for split, x in (("train", 1), ("val", 2)):
        draw(tmp_path / split / "1.png", (40, 30))
        draw(tmp_path / split / "2.png", (40, 30))
        write(tmp_path / split / "_annotations.csv", f"{HEADER}1.png,{x},2,10,10,cat\n")
        write(tmp_path / f"{split}_labels.csv", f"{HEADER}2.png,{x},2,10,10,cat\n")
    records = read(tmp_path)
    assert records.file_names.tolist() == [b"train/1.png", b"train/2.png", b"val/1.png", b"val/2.png"]
    assert [box[0] for box in boxes(records)] == [1, 1, 2, 2]
    assert records["split"].tolist() == [0, 0, 1, 1]


def test_of_two_files_of_a_name_the_one_with_the_listed_folder_is_meant(tmp_path):
    for folder in ("deep/x", "deep/y"):
        draw(tmp_path / folder / "1.png", (40, 30))
    records = read(listed(tmp_path, f"{HEADER}y/1.png,1,2,3,4,cat\n"))
    assert records.file_names.tolist() == [b"deep/y/1.png"]
    records = read(listed(tmp_path, f"{HEADER}1.png,1,2,3,4,cat\na.png,1,2,3,4,cat\n"))
    assert [bool(problem) for problem in records["problem"].tolist()] == [True, False]


def test_an_image_that_a_split_lacks_is_not_taken_from_another_unless_all_lie_there(tmp_path):
    for name in ("train/1", "val/2", "val/3"):
        draw(tmp_path / f"{name}.png", (40, 30))
    listed(tmp_path, f"{HEADER}1.png,1,2,3,4,cat\n2.png,1,2,3,4,cat\n", "train.csv", images=())
    records = read(tmp_path)
    assert records.file_names.tolist() == [b"2.png", b"train/1.png"]
    assert [bool(problem) for problem in records["problem"].tolist()] == [True, False]
    listed(tmp_path, f"{HEADER}2.png,1,2,3,4,cat\n3.png,1,2,3,4,cat\n", "train.csv", images=())
    assert read(tmp_path).file_names.tolist() == [b"val/2.png", b"val/3.png"]


def test_an_id_is_of_the_only_image_that_is_called_so_with_an_ending(tmp_path):
    draw(tmp_path / "deep/a.jpg", (40, 30))
    for ending in ("jpg", "png"):
        draw(tmp_path / f"b.{ending}", (40, 30))
    records = read(listed(tmp_path, f"{HEADER}A,1,2,3,4,cat\nb,1,2,3,4,cat\n", images=()))
    assert records.file_names.tolist() == [b"b", b"deep/a.jpg"]
    assert [bool(problem) for problem in records["problem"].tolist()] == [True, False]


def test_lists_of_splits_go_before_others_of_which_there_may_be_one(tmp_path):
    listed(tmp_path, f"{HEADER}b.png,1,2,3,4,cat\n", "all.csv")
    listed(tmp_path, "path,label\na.png,cat\n", "labels.csv")  # no boxes
    assert read(tmp_path).file_names.tolist() == [b"b.png"]
    listed(tmp_path, f"{HEADER}a.png,1,2,3,4,cat\n", "again.csv")
    with pytest.raises(InputError, match=r"again\.csv, all\.csv"):
        read(tmp_path)
    listed(tmp_path, f"{HEADER}a.png,1,2,3,4,cat\n", "my_val.csv")
    listed(tmp_path, f"{HEADER}b.png,1,2,3,4,cat\na.png,1,2,3,4,cat\n", "my_train.csv")
    records = read(tmp_path)
    assert records["split"].tolist() == [0, 0]  # an image of two lists is trained on
    assert records.boxes.offsets.tolist() == [0, 1, 2]
    assert any("another split" in what and first == "a.png" for what, (_, first) in issues(records).items())
    assert any("all.csv" in note for note in records.notes)


def test_missing_images_are_known_and_none_at_all_is_refused(tmp_path):
    records = read(listed(tmp_path, f"{HEADER}gone.png,1,2,3,4,cat\na.png,1,2,3,4,cat\n"))
    assert records.file_names.tolist() == [b"a.png", b"gone.png"]
    assert [bool(problem) for problem in records["problem"].tolist()] == [False, True]
    count, first = issues(records)["images of the annotations are missing"]
    assert (count, first.partition(";")[0]) == (1, "gone.png")
    with pytest.raises(InputError, match=r"boxes\.csv.*aa\.png; the nearest is a\.png"):
        read(listed(tmp_path, f"{HEADER}aa.png,1,2,3,4,cat\n"))


@pytest.mark.parametrize("text", [f"{HEADER}a.png,1,2\n", f"{HEADER}a.png,a,b,c,d,cat\n", HEADER])
def test_a_list_that_cannot_be_used_is_one_sentence(tmp_path, text):
    with pytest.raises(InputError, match=r"boxes\.csv"):
        read(listed(tmp_path, text))


def test_the_lists_sizes_are_taken_and_else_the_images(tmp_path):
    text = "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,80,60,cat,1,2,3,4\nb.png,0,,cat,1,2,3,4\n"
    assert read(listed(tmp_path, text))["sizes"].tolist() == [[60, 80], [30, 40]]


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ({"name": "polygon", "all_points_x": [3, 9, 5], "all_points_y": [4, 8, 20]}, [3, 4, 6, 16]),
        ({"name": "circle", "cx": 10, "cy": 12, "r": 2.5}, [7.5, 9.5, 5, 5]),
        ({"name": "ellipse", "cx": 10, "cy": 12, "rx": 5, "ry": 2}, [5, 10, 10, 4]),
    ],
)
def test_vias_other_shapes_become_boxes(tmp_path, shape, box):
    quoted = json.dumps(shape).replace('"', '""')
    rows = f'a.png,"{quoted}","{{""kind"":""cat""}}"\nb.png,"{quoted}","{{""kind"":{{""dog"":true,""cat"":false}}}}"\n'
    rows += 'b.png,"{""name"":""point"",""cx"":1}","{}"\n'
    records = read(listed(tmp_path, "filename,region_shape_attributes,region_attributes\n" + rows))
    assert boxes(records) == [box, box]
    assert records.classes == ("cat", "dog")
    assert records.boxes.labels.tolist() == [0, 1]
    assert [found for what, found in issues(records).items() if "usable" in what] == [(1, "boxes.csv, line 4")]


# Corners of objects all over 40 x 30 px.
CORNERS = [(x, y, x + 6, y + 5) for x in (1, 12, 23, 33) for y in (1, 12, 24)]


def rows_of(boxes, image="a.png"):
    return "".join(f"{image},{','.join(map(str, box))},cat\n" for box in boxes)


@pytest.mark.parametrize("divisors", [(1, 1), (40, 30)])
def test_sizes_under_the_names_of_corners_are_refused(tmp_path, divisors):
    across, down = divisors
    sized = [(x / across, y / down, (right - x) / across, (low - y) / down) for x, y, right, low in CORNERS]
    with pytest.raises(InputError, match=r"boxes\.csv.*x, y, width, height"):
        read(listed(tmp_path, HEADER + rows_of(sized)))


def test_one_size_under_the_names_of_corners_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"boxes\.csv.*x, y, width, height"):
        read(listed(tmp_path, HEADER + rows_of([(20, 3, 10, 20)])))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("image,xmax,ymax,xmin,ymin,class\n" + rows_of(CORNERS), len(CORNERS)),
        ("image,xmin,ymax,xmax,ymin,class\n" + rows_of(CORNERS), len(CORNERS)),
        (HEADER + rows_of([(7, 1, 1, 6), *CORNERS[1:]]), 1),
    ],
)
def test_corners_in_the_other_order_are_put_in_order_and_counted(tmp_path, text, count):
    records = read(listed(tmp_path, text))
    assert records.boxes.xyxy.tolist() == [list(box) for box in CORNERS]
    assert issues(records)["boxes whose corners were swapped, put in order"] == (count, "a.png")


def test_most_boxes_without_use_are_told_and_none_with_use_is_refused(tmp_path):
    bad = "b.png,1,x,3,4,cat\n" + rows_of([(50, 50, 60, 60)])  # no number, and outside of the image
    records = read(listed(tmp_path, HEADER + rows_of(CORNERS[:1]) + bad))
    assert ["2 of its 3" in note for note in records.notes] == [True]
    assert read(listed(tmp_path, HEADER + rows_of(CORNERS[:2]) + bad)).notes == ()
    with pytest.raises(InputError, match="not one of its 2"):
        read(listed(tmp_path, HEADER + bad))


def test_a_box_that_is_listed_twice_is_one(tmp_path):
    box, other, moved = (1, 2, 11, 22), (3, 4, 11, 22), (1, 2, 11, 22.5)
    rows = rows_of([box, other, box, moved, box]) + rows_of([box], "b.png") + "a.png,1,2,11,22,dog\n"
    records = read(listed(tmp_path, HEADER + rows))
    assert records.boxes.xyxy.tolist() == [list(one) for one in (box, other, moved, box, box)]
    assert (records.boxes.offsets.tolist(), records.boxes.labels.tolist()) == ([0, 4, 5], [0, 0, 0, 1, 0])
    assert issues(records)["boxes that repeat another, left out"] == (2, "a.png")


def test_images_that_the_list_does_not_name_are_counted(tmp_path):
    records = read(listed(tmp_path, HEADER + rows_of(CORNERS), images=("a", "b", "c")))
    assert records.file_names.tolist() == [b"a.png"]
    assert issues(records) == {"images that the list does not name, left out": (2, "b.png")}


@pytest.mark.parametrize("line", ["a.png,1,2,3", "a.png,1,2,3,4,cat,5", "a.png"])
def test_a_line_of_another_number_of_values_is_dropped_and_counted(tmp_path, line):
    records = read(listed(tmp_path, f"{HEADER}{rows_of(CORNERS[:2])}{line}\n{rows_of(CORNERS[2:3])}"))
    assert records.boxes.xyxy.tolist() == [list(box) for box in CORNERS[:3]]
    assert issues(records)["rows of too few or too many values, dropped"] == (1, "boxes.csv, line 4")


def test_a_list_of_such_lines_is_refused_with_the_first(tmp_path):
    with pytest.raises(InputError, match=r"line 3: it has 10 values"):
        read(listed(tmp_path, HEADER + rows_of(CORNERS[:1]) + "a.png,1,5,2,5,11,5,22,5,cat\n" * 2))


def test_makesenses_list_has_no_header(tmp_path):
    records = read(listed(tmp_path, "dog,1,2,10,20,b.png,80,60\ncat,3,4,5,6,a.png,40,30\n", "labels_x.csv"))
    assert records.file_names.tolist() == [b"a.png", b"b.png"]
    assert (boxes(records), records.boxes.labels.tolist()) == ([[3, 4, 5, 6], [1, 2, 10, 20]], [0, 1])
    assert (records.classes, records["sizes"].tolist()) == (("cat", "dog"), [[30, 40], [60, 80]])


def test_a_list_itself_may_be_named(tmp_path):
    listed(tmp_path, HEADER + rows_of(CORNERS[:1]), "one.csv")
    write(tmp_path / "two.csv", HEADER + rows_of(CORNERS[1:2], "b.png"))
    with pytest.raises(InputError, match="several lists"):
        read(tmp_path)
    assert read(tmp_path / "two.csv").boxes.xyxy.tolist() == [list(CORNERS[1])]
    write(tmp_path / "three.csv", "image,xmin\na.png,1\n")
    with pytest.raises(InputError, match=r"three\.csv has no columns for ymin, xmax, ymax "):
        read(tmp_path / "three.csv")
