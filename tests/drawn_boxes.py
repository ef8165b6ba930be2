"""One drawn data set in the true form of each layout of boxes, for the tests of the readers and of `data.convert`."""

import csv
import json
from typing import NamedTuple

import numpy as np
from PIL import Image

CLASSES = ["cat", "dog"]


class Drawn(NamedTuple):
    name: str  # without ending
    split: str
    size: tuple[int, int]  # width, height
    boxes: list[tuple[str, int, int, int, int]]  # class, x, y, width, height


DRAWN = [
    Drawn("a 1", "train", (40, 30), [("dog", 5, 6, 20, 10), ("cat", 0, 0, 40, 30)]),
    Drawn("b", "train", (64, 48), [("cat", 10, 20, 11, 12)]),
    Drawn("background", "train", (40, 30), []),
    Drawn("c", "val", (33, 57), [("dog", 1, 1, 31, 55)]),
    Drawn("d", "val", (40, 30), [("dog", 39, 29, 1, 1), ("dog", 2, 3, 4, 5), ("cat", 7, 8, 9, 10)]),
    Drawn("e", "test", (100, 20), [("cat", 50, 0, 50, 20)]),
]


def draw(path, size, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def images(root, place, ending=".png"):
    """The images at `place`, of {split} and {name}."""
    for number, one in enumerate(DRAWN):
        draw(root / (place.format(**one._asdict()) + ending), one.size, number)


def yolo_lines(one):
    width, height = one.size
    rows = [
        (CLASSES.index(c), (x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
        for c, x, y, w, h in one.boxes
    ]
    return "".join(f"{row[0]} {row[1]:.6f} {row[2]:.6f} {row[3]:.6f} {row[4]:.6f}\n" for row in rows)


def yolo_texts(root, place):
    for one in DRAWN:
        if one.boxes:  # a missing text is an image without objects
            write(root / (place.format(**one._asdict()) + ".txt"), yolo_lines(one))


# --- layouts: each writes all of it into a folder ---------------------------------------------------------------------


def coco_content(drawn, place="{name}.png", first=1, **more):
    """COCO's JSON with ids from `first`; `more` are fields of each image, each annotation and each category."""
    boxes = [(i, *box) for i, one in enumerate(drawn, first) for box in one.boxes]
    images = [
        {"id": i, "file_name": place.format(**one._asdict()), "width": one.size[0], "height": one.size[1]}
        for i, one in enumerate(drawn, first)
    ]
    annotations = [
        {
            "id": n,
            "image_id": i,
            "category_id": CLASSES.index(c),
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for n, (i, c, *box) in enumerate(boxes, first)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES)]
    lists = {"images": images, "annotations": annotations, "categories": categories}
    return {key: [one | more.get(key, {}) for one in items] for key, items in lists.items()}


def of_split(split):
    return [one for one in DRAWN if one.split == split]


def coco(root):
    images(root, "{split}/{name}")
    for split in ("train", "val", "test"):
        write(root / f"annotations/instances_{split}.json", json.dumps(coco_content(of_split(split))))


_CVAT = {
    "images": {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0},
    "annotations": {"segmentation": [], "attributes": {"occluded": False}},
    "categories": {"supercategory": ""},
}


def coco_cvat(root):
    """CVAT's "COCO 1.0" of a task, which has no subsets."""
    images(root, "images/default/{name}")
    licences = {"licenses": [{"name": "", "id": 0, "url": ""}], "info": {"contributor": "", "year": ""}}
    write(root / "annotations/instances_default.json", json.dumps(licences | coco_content(DRAWN, **_CVAT)))


def coco_cvat_subsets(root):
    names = {"train": "Train", "val": "Validation", "test": "Test"}
    for number, one in enumerate(DRAWN):
        draw(root / "images" / names[one.split] / f"{one.name}.png", one.size, number)
    for split, name in names.items():
        write(root / f"annotations/instances_{name}.json", json.dumps(coco_content(of_split(split), **_CVAT)))


def coco_label_studio(root, slash="/"):
    """Ids from 0, and paths from the file; on Windows, with backslashes."""
    images(root, "images/{name}")
    content = coco_content(DRAWN, f"images{slash}{{name}}.png", 0, annotations={"segmentation": [], "ignore": 0})
    info = {"year": 2024, "version": "1.0", "description": "", "contributor": "Label Studio", "url": ""}
    write(root / "result.json", json.dumps(content | {"info": info}, indent=2))


def coco_label_studio_windows(root):
    coco_label_studio(root, "\\")


def _with_placeholder(content):
    """Roboflow's class 0, which heads the others, which count from 1."""
    for one in content["categories"]:
        one |= {"id": one["id"] + 1, "supercategory": "animals"}
    for one in content["annotations"]:
        one["category_id"] += 1
    content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    return json.dumps(content)


def coco_roboflow(root):
    folders = {"train": "train", "val": "valid", "test": "test"}
    for number, one in enumerate(DRAWN):
        draw(root / folders[one.split] / f"{one.name}.png", one.size, number)
    for split, folder in folders.items():
        content = coco_content(of_split(split), first=0, images={"license": 1, "extra": {"name": "x.png"}})
        write(root / folder / "_annotations.coco.json", _with_placeholder(content))
        write(root / folder / "README.roboflow.txt", "exported")


def coco_roboflow_undivided(root):
    images(root, "{name}")
    write(root / "_annotations.coco.json", _with_placeholder(coco_content(DRAWN, first=0)))


def coco_via(root):
    """VGG Image Annotator's, saved beside the images."""
    images(root, "{name}")
    more = {
        "images": {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": ""},
        "categories": {"supercategory": "type"},
    }
    content = coco_content(DRAWN, **more)
    for one in content["annotations"]:
        x, y, w, h = one["bbox"]
        one["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    info = {"year": 2024, "version": "1.0", "description": "VIA project exported to COCO format", "contributor": ""}
    licences = [{"id": 0, "name": "Unknown License", "url": ""}]
    write(root / "via_project_5Mar2024_coco.json", json.dumps({"info": info, "licenses": licences} | content))
    write(root / "via_project_5Mar2024.json", json.dumps({"_via_settings": {}, "_via_img_metadata": {}}))


def coco_fiftyone(root):
    images(root, "data/{name}")
    more = {"images": {"license": None, "coco_url": None}, "categories": {"supercategory": None}}
    write(
        root / "labels.json",
        json.dumps({"info": {"description": "Exported from FiftyOne"}} | coco_content(DRAWN, **more)),
    )


def coco_fiftyone_splits(root):
    """A folder for each split, each as FiftyOne exports it."""
    images(root, "{split}/data/{name}")
    for split in ("train", "val", "test"):
        write(root / split / "labels.json", json.dumps(coco_content(of_split(split))))


def coco_above(root):
    """A file of any name, and the images in a folder of any name."""
    images(root, "photos/{name}")
    write(root / "my_boxes.json", json.dumps(coco_content(DRAWN)))


def coco_beside(root):
    images(root, "photos/{name}")
    write(root / "photos/my boxes.json", json.dumps(coco_content(DRAWN)))


def ultralytics(root):
    images(root, "images/{split}/{name}")
    yolo_texts(root, "labels/{split}/{name}")
    write(
        root / "drawn.yaml",
        "path: ../datasets/drawn # moved\ntrain: images/train\nval: images/val\ntest: images/test\n"
        "\nnames:\n  0: cat\n  1: dog\n",
    )


def roboflow(root):
    folders = {"train": "train", "val": "valid", "test": "test"}
    for number, one in enumerate(DRAWN):
        folder = root / folders[one.split]
        draw(folder / "images" / f"{one.name}.png", one.size, number)
        write(folder / "labels" / f"{one.name}.txt", yolo_lines(one))  # empty where nothing is there
    write(
        root / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cat', 'dog']\n",
    )


def yolo_lists(root):
    """Texts of paths, as CVAT's Ultralytics export and Ultralytics' COCO have them."""
    images(root, "images/{split}/{name}")
    yolo_texts(root, "labels/{split}/{name}")
    for split in ("train", "val", "test"):
        lines = [f"./images/{split}/{one.name}.png\n" for one in DRAWN if one.split == split]
        write(root / f"{split}.txt", "".join(lines))
    write(root / "data.yaml", "path: .\ntrain: train.txt\nval: val.txt\ntest: [test.txt]\nnames: {0: cat, 1: dog}\n")


def darknet(root):
    """CVAT's "YOLO 1.1", with the paths of Darknet's own folder."""
    images(root, "obj_{split}_data/{name}")
    yolo_texts(root, "obj_{split}_data/{name}")
    write(root / "obj.names", "cat\ndog\n")
    write(
        root / "obj.data",
        "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\ntest = data/test.txt\n"
        "names = data/obj.names\nbackup = backup/\n",
    )
    for split, file in (("train", "train"), ("val", "valid"), ("test", "test")):
        lines = [f"data/obj_{split}_data/{one.name}.png\n" for one in DRAWN if one.split == split]
        write(root / f"{file}.txt", "".join(lines))


def plain_yolo(root):
    images(root, "images/{split}/{name}")
    yolo_texts(root, "labels/{split}/{name}")
    write(root / "labels/classes.txt", "cat\ndog\n")


def label_studio(root):
    images(root, "images/{name}")
    yolo_texts(root, "labels/{name}")
    write(root / "classes.txt", "cat\ndog\n")
    write(root / "notes.json", '{"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}], "info": {}}')


def voc_xml(one, folder="JPEGImages", from_1=True, difficult=(), size=True):
    """As VOC2012 has it, its parts included; with corners from 1, or as edges from 0."""
    objects = ""
    for number, (name, x, y, w, h) in enumerate(one.boxes):
        corners = (x + from_1, y + from_1, x + w, y + h)
        box = "".join(
            f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        )
        objects += f"""
    <object>
        <part><name>head</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part>
        <name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>
        <difficult>{int(number in difficult)}</difficult>
        <bndbox>{box}</bndbox>
    </object>"""
    sides = f"<size><width>{one.size[0]}</width><height>{one.size[1]}</height><depth>3</depth></size>" * size
    return f"""<annotation>
    <folder>{folder}</folder><filename>{one.name}.png</filename>
    <source><database>The VOC2007 Database</database></source>
    {sides}<segmented>0</segmented>{objects}
</annotation>
"""


def voc(root):
    images(root, "JPEGImages/{name}")
    images(root, "SegmentationClass/{name}")
    for one in DRAWN:
        write(root / f"Annotations/{one.name}.xml", voc_xml(one))
    for key, splits in {"train": ["train"], "val": ["val"], "trainval": ["train", "val"], "test": ["test"]}.items():
        names = [one.name for one in DRAWN if one.split in splits]
        write(root / f"ImageSets/Main/{key}.txt", "".join(f"{name}\n" for name in names))
        write(root / f"ImageSets/Main/cat_{key}.txt", "".join(f"{name} -1\n" for name in names))


def voc_roboflow(root):
    """Images and XML side by side in a folder for each split, sizes from the header, corners from 0."""
    images(root, "{split}/{name}")
    for one in DRAWN:
        write(root / f"{one.split}/{one.name}.xml", voc_xml(one, folder="", from_1=False, size=one.name != "c"))


def voc_two_folders(root):
    """As labelImg's users have it; nothing says the splits."""
    images(root, "images/{name}")
    for one in DRAWN:
        write(root / f"annotations/{one.name}.xml", voc_xml(one))


def csv_rows(split=None):
    """Each image with each of its boxes, None where it has none."""
    return [(one, box) for one in DRAWN if split in (None, one.split) for box in one.boxes or [None]]


def csv_retinanet(root):
    """No header, empty cells for images without objects, and the classes' numbers in a second list."""
    images(root, "images/{name}")
    for split in ("train", "val", "test"):
        rows = [(f"images/{one.name}.png", box) for one, box in csv_rows(split)]
        lines = [f"{p},{b[1]},{b[2]},{b[1] + b[3]},{b[2] + b[4]},{b[0]}\n" if b else f"{p},,,,,\n" for p, b in rows]
        write(root / f"{split}.csv", "".join(lines))
    write(root / "classes.csv", "cat,0\ndog,1\n")


def csv_tensorflow(root):
    """A list beside the images of each split, as Roboflow writes it; images without objects are not in it."""
    images(root, "{split}/{name}")
    for split in ("train", "val", "test"):
        lines = [
            f"{one.name}.png,{one.size[0]},{one.size[1]},{b[0]},{b[1]},{b[2]},{b[1] + b[3]},{b[2] + b[4]}\n"
            for one, b in csv_rows(split)
            if b
        ]
        write(root / f"{split}/_annotations.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n" + "".join(lines))


def csv_open_images(root):
    """Ids without endings, parts of the image, classes by ids that another list names."""
    images(root, "{split}/{name}")
    for split, key in (("train", "train"), ("val", "validation"), ("test", "test")):
        lines = [
            f"{one.name},xclick,/m/{'10' if b[0] == 'dog' else '20'},1,{b[1] / one.size[0]:.6f},"
            f"{(b[1] + b[3]) / one.size[0]:.6f},{b[2] / one.size[1]:.6f},{(b[2] + b[4]) / one.size[1]:.6f},-1,-1,0,-1\n"
            for one, b in csv_rows(split)
            if b
        ]
        header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"
        write(root / f"{key}-annotations-bbox.csv", f"{header},IsDepiction\n" + "".join(lines))
    write(root / "class-descriptions-boxable.csv", "/m/10,dog\n/m/20,cat\n/m/30,other\n")


def csv_sizes(root):
    """x, y, width, height in columns; nothing says the splits."""
    images(root, "images/{name}")
    lines = [
        f"{one.name}.png,{','.join(map(str, b[1:]))},{b[0]}\n" if b else f"{one.name}.png,,,,,\n"
        for one, b in csv_rows()
    ]
    write(root / "annotations.csv", "image_name,x,y,width,height,label\n" + "".join(lines))


def csv_via(root):
    """VGG Image Annotator's; nothing says the splits."""
    images(root, "{name}")
    with (root / "via_export_csv.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        header = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
        file.write(f"{header}\r\n")
        for one, box in csv_rows():
            shape = dict(zip(("x", "y", "width", "height"), box[1:], strict=True)) | {"name": "rect"} if box else {}
            region = {"class": box[0]} if box else {}
            writer.writerow([f"{one.name}.png", 99, "{}", len(one.boxes), 0, json.dumps(shape), json.dumps(region)])


# --- what is compared -------------------------------------------------------------------------------------------------


def plain(records, splits=True):
    """What records say, by the image's last name: the split, the size, and the boxes in order, by class name."""
    found = {}
    for i in range(len(records)):
        assert records.path(i).is_file()
        rows = records.boxes.rows(i)
        labels = [records.classes[label] for label in records.boxes.labels[rows].tolist()]
        boxes = zip(labels, records.boxes.xywh[rows].tolist(), records.boxes.crowd[rows].tolist(), strict=True)
        split = int(records["split"][i]) if splits else None
        found[records.path(i).stem] = (split, records["sizes"][i].tolist(), sorted(boxes))
    assert len(found) == len(records)
    return found


def expected(splits=True, background=True):
    found = {}
    for one in DRAWN:
        if one.boxes or background:
            boxes = sorted((c, [float(x), float(y), float(w), float(h)], False) for c, x, y, w, h in one.boxes)
            split = ("train", "val", "test").index(one.split) if splits else None
            found[one.name] = (split, [one.size[1], one.size[0]], boxes)
    return found


def assert_same(found, wanted, within=0.5):
    """To half a pixel."""
    assert found.keys() == wanted.keys()
    for name, (split, size, boxes) in wanted.items():
        assert found[name][:2] == (split, size), name
        assert [(c, crowd) for c, _, crowd in found[name][2]] == [(c, crowd) for c, _, crowd in boxes], name
        for (_, ours, _), (_, theirs, _) in zip(found[name][2], boxes, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=within)
