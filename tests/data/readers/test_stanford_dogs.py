import errno
import hashlib
import math
import os

import numpy as np
import pytest
from helpers import DOGS, dog_file, dog_rows, names, one_sentence, tree, write_dog_list, write_dogs
from PIL import Image
from scipy.io import loadmat, savemat

from backbone.errors import InputError
from data.images import open_image
from data.readers import stanford_dogs
from data.readers.stanford_dogs import is_stanford_dogs, read

BEAGLE, HUSKY, POODLE = DOGS
TRAIN, TEST = dog_rows(1, 10), dog_rows(11, 14)


def xml(*boxes, size=(500, 375)):
    """An annotation as the data set has them; boxes xmin, ymin, xmax, ymax."""
    objects = "".join(
        "<object><name>beagle</name><pose>Unspecified</pose><bndbox>"
        + "".join(f"<{key}>{v}</{key}>" for key, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + "</bndbox></object>"
        for box in boxes
    )
    width, height = size
    image = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><folder>02088364</folder>{image}<segment>0</segment>{objects}</annotation>"


def write_xml(root, name, content):
    path = root / "Annotation" / name.removesuffix(".jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


# --- lists ----------------------------------------------------------------------------------------------------------


def test_the_lists_written_here_are_like_the_real_ones(tmp_path):
    content = loadmat(write_dogs(tmp_path) / "lists/train_list.mat")
    for key in ("file_list", "annotation_list"):
        assert (content[key].dtype, content[key].shape) == (object, (30, 1))
        assert (content[key][0, 0].shape, content[key][0, 0].dtype.kind) == ((1,), "U")
    assert content["file_list"][0][0] == "n02088364-beagle/n02088364_1.jpg"
    assert content["annotation_list"][0][0] == "n02088364-beagle/n02088364_1"
    assert (content["labels"].dtype, content["labels"].shape, content["labels"][0, 0]) == (np.uint8, (30, 1), 1)


@pytest.mark.parametrize("loose", [False, True])
def test_the_official_lists_are_the_splits(tmp_path, loose):
    root = write_dogs(tmp_path)
    if loose:  # lists.tar, unpacked into the root
        for path in list((root / "lists").iterdir()):
            path.rename(root / path.name)
        (root / "lists").rmdir()
    before = tree(root)
    records = read(root)
    for split, rows in (("train", TRAIN), ("test", TEST)):
        images = records.of_split(split)
        assert list(zip(names(images), (images["labels"] + 1).tolist(), strict=True)) == rows
        assert all(images.path(i).parent == root / "Images" / DOGS[label] for i, label in enumerate(images["labels"]))
    assert records.columns.keys() == {"labels", "split"}
    assert (records["labels"].dtype, records.file_names.dtype.kind) == (np.int64, "S")
    assert records.classes == ("beagle", "Siberian husky", "toy poodle")
    assert (records.issues, records.notes) == ((), ())
    assert tree(root) == before


def test_names_of_breeds_keep_their_own_dashes_and_labels_go_up_to_120(tmp_path):
    breeds = {"n02085620-Chihuahua": "Chihuahua", "n02089078-black-and-tan_coonhound": "black-and-tan coonhound"}
    breeds |= {f"n{2089079 + i:08}-breed_{i}": f"breed {i}" for i in range(117)} | {"no-number": "no-number"}
    records = read(write_dogs(tmp_path, dog_rows(1, 2, breeds), dog_rows(3, 3, breeds)))
    assert records.classes == tuple(breeds.values())
    assert records.of_split("test")["labels"].tolist() == list(range(120))


def test_files_that_no_list_has_are_counted_and_hidden_ones_passed_over(tmp_path):
    root = write_dogs(tmp_path)
    for extra in (f"{BEAGLE}/more.jpg", f"{POODLE}/Thumbs.db", f"{POODLE}/.DS_Store", ".DS_Store"):
        (root / "Images" / extra).write_bytes(b"x")
    (root / "Images/.ipynb_checkpoints").mkdir()
    records = read(root)
    assert [issue.count for issue in records.issues] == [1]
    assert len(records) == 42


def test_a_png_named_jpg_is_read_like_any_other(tmp_path):
    """As n02105855-Shetland_sheepdog/n02105855_2933.jpg is one."""
    root = write_dogs(tmp_path)
    Image.new("RGB", (9, 7), (1, 2, 3)).save(root / "Images" / dog_file(BEAGLE, 1), "PNG")
    assert (open_image(read(root).path(0)) == (1, 2, 3)).all()


@pytest.mark.parametrize("mark", ["Annotation", "lists", "train_list.mat", "test_list.mat"])
def test_the_layout_is_known_by_images_and_one_more(tmp_path, mark):
    for name, expected in ((".", False), ("Images", False), (mark, True)):
        (tmp_path / name).mkdir(exist_ok=True)
        assert is_stanford_dogs(tmp_path) is expected
    (tmp_path / "Images").rmdir()
    assert not is_stanford_dogs(tmp_path)


# --- copies ---------------------------------------------------------------------------------------------------------


def test_every_kind_of_copy_is_left_out_of_training_and_counted(tmp_path):
    content = {
        dog_file(BEAGLE, 1): b"also in test, with the same label",
        dog_file(BEAGLE, 10): b"also in test, with the same label",  # counts once, though a copy of 1 too
        dog_file(BEAGLE, 11): b"also in test, with the same label",
        dog_file(BEAGLE, 2): b"also in test, of another class",
        dog_file(HUSKY, 2): b"also in test, of another class",  # counts once, though of two classes in training too
        dog_file(HUSKY, 11): b"also in test, of another class",
        dog_file(BEAGLE, 3): b"thrice in training",
        dog_file(BEAGLE, 4): b"thrice in training",
        dog_file(BEAGLE, 9): b"thrice in training",
        dog_file(BEAGLE, 5): b"two classes",
        dog_file(BEAGLE, 6): b"two classes",
        dog_file(POODLE, 6): b"two classes",
        dog_file(POODLE, 12): b"twice in test, two classes",
        dog_file(HUSKY, 12): b"twice in test, two classes",
        dog_file(BEAGLE, 7): b"same size, other bytes: a",
        dog_file(BEAGLE, 8): b"same size, other bytes: b",
        dog_file(HUSKY, 1): b"",  # empty files are not copies of each other: opening them says that they are empty
        dog_file(POODLE, 1): b"",
    }
    records = read(write_dogs(tmp_path, content=content))
    left_out = {dog_file(BEAGLE, i) for i in (1, 2, 4, 9, 5, 6, 10)} | {dog_file(HUSKY, 2), dog_file(POODLE, 6)}
    assert names(records.of_split("train")) == [name for name, _ in TRAIN if name not in left_out]
    assert names(records.of_split("test")) == [name for name, _ in TEST]
    # of test images, of earlier training images, of several labels, of test images in the test list
    assert [issue.count for issue in records.issues] == [4, 2, 3, 1]


@pytest.mark.parametrize("seed", range(10))
def test_no_copy_is_on_two_sides_whatever_the_data(tmp_path, seed):
    """Brute force: 42 images of few different contents, all of one size."""
    rng = np.random.default_rng(seed)
    content = {name: rng.choice(list("abcdefghijklmnopqrstuvwxyz")).encode() for name, _ in [*TRAIN, *TEST]}
    content |= {dog_file(folder, 1): folder.encode().ljust(30) for folder in DOGS}  # each class keeps one
    of_test = {content[name] for name, _ in TEST}
    labels = {bytes_: {label for name, label in TRAIN if content[name] == bytes_} for bytes_ in content.values()}
    wanted = [
        name
        for i, (name, _) in enumerate(TRAIN)
        if content[name] not in of_test
        and len(labels[content[name]]) == 1
        and content[name] not in [content[earlier] for earlier, _ in TRAIN[:i]]
    ]
    assert names(read(write_dogs(tmp_path, content=content)).of_split("train")) == wanted


def test_only_files_of_one_size_are_read(tmp_path, monkeypatch):
    root = write_dogs(tmp_path, content={name: b"x" * i for i, (name, _) in enumerate([*TRAIN, *TEST])})
    (root / "Images" / dog_file(BEAGLE, 2)).write_bytes(b"y" * 41)  # as large as the last
    opened, digest = [], hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, *a: opened.append(os.fsdecode(file.name)) or digest(file, *a)
    )
    read(root)
    assert sorted(opened) == [str(root / "Images" / dog_file(*which)) for which in ((BEAGLE, 2), (POODLE, 14))]


def test_files_that_cannot_be_read_stay_for_the_loader_to_name(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    root = write_dogs(tmp_path, content={dog_file(BEAGLE, 1): b"same", dog_file(BEAGLE, 2): b"same"})
    assert len(read(root)) == 41
    monkeypatch.setattr(hashlib, "file_digest", fail)
    assert len(read(root)) == 42


# --- what is refused ------------------------------------------------------------------------------------------------


def changed(at, name=None, label=None):
    return [*TRAIN[:at], (name or TRAIN[at][0], TRAIN[at][1] if label is None else label), *TRAIN[at + 1 :]]


def cells(*texts):
    column = np.empty((len(texts), 1), dtype=object)
    column[:, 0] = texts
    return column


FILES = cells(*(name for name, _ in TRAIN))
LABELS = np.array([[label] for _, label in TRAIN], np.uint8)

REFUSED = {  # a training list by its lines, its variables or its bytes, and what the sentence must name beside it
    "label 0": (changed(12, label=0), [dog_file(HUSKY, 3), "is 0", "1 such"]),
    "label 121": (changed(29, label=121), [dog_file(POODLE, 10), "is 121"]),
    "other folder": (changed(12, label=3), [dog_file(HUSKY, 3), "is 3", "is 2"]),
    "labels in another order": ([(name, 4 - label) for name, label in TRAIN], ["20 such"]),
    "missing files": ([*TRAIN, *dog_rows(98, 99, [BEAGLE])], [dog_file(BEAGLE, 98), "2 of 32"]),
    "missing folder": ([*TRAIN, ("n1-cat/1.jpg", 4)], ["n1-cat/1.jpg", "1 of 31"]),
    "in both lists": ([*TRAIN, TEST[1], TEST[4]], ["test_list.mat", TEST[1][0], "2 such"]),
    "twice": ([*TRAIN, TRAIN[3]], [TRAIN[3][0], "1 such"]),
    "traversal": (changed(0, "../secret.jpg"), ["../secret.jpg"]),
    "absolute": (changed(1, "/etc/passwd"), ["/etc/passwd"]),
    "class without images": (TRAIN[:20], [f"Images/{POODLE}", "1 such"]),
    "nothing listed": ([], ["0 items"]),
    "no labels": ({"file_list": FILES}, ["`labels`"]),
    "no files": ({"other": LABELS}, ["`file_list`"]),
    "a label short": ({"file_list": FILES, "labels": LABELS[:-1]}, ["30 items and `labels` 29"]),
    "half a label": ({"file_list": FILES, "labels": LABELS + 0.5}, ["1.5"]),
    "labels that are NaN": ({"file_list": FILES, "labels": LABELS * math.nan}, ["nan"]),
    "labels of text": ({"file_list": FILES, "labels": FILES}, ["`labels`"]),
    "files of numbers": ({"file_list": LABELS, "labels": LABELS}, ["item 1 of `file_list`"]),
    "empty": (b"", ["MATLAB"]),
    "a web page": (b"<!DOCTYPE html><title>404</title>" + bytes(200), ["MATLAB"]),
    "half a file": (None, ["MATLAB"]),
}


@pytest.mark.parametrize(("train", "named"), REFUSED.values(), ids=REFUSED)
def test_a_list_that_cannot_be_used_is_refused_with_file_label_and_folder(tmp_path, train, named):
    path = write_dogs(tmp_path) / "lists/train_list.mat"
    if isinstance(train, list):
        write_dog_list(path, train)
    elif isinstance(train, dict):
        savemat(path, train)
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if train is None else train)
    with one_sentence(r"train_list\.mat") as raised:
        read(tmp_path)
    assert all(part in str(raised.value) for part in named)


def test_labels_of_any_number_type_are_read(tmp_path):
    root = write_dogs(tmp_path)
    savemat(root / "lists/train_list.mat", {"file_list": FILES, "labels": LABELS.astype(np.float64).T})
    assert np.bincount(read(root).of_split("train")["labels"]).tolist() == [10, 10, 10]


def test_a_list_with_backslashes_and_other_endings_is_of_the_same_images(tmp_path):
    root = write_dogs(tmp_path)
    expected = read(root)
    content = loadmat(root / "lists/train_list.mat")
    for cell in np.ravel(content["file_list"]):
        cell[0] = cell[0].replace("/", "\\").replace(".jpg", ".JPG")
    savemat(root / "lists/train_list.mat", {key: content[key] for key in ("file_list", "labels")})
    records = read(root)
    assert names(records) == names(expected)
    assert np.array_equal(records["labels"], expected["labels"])
    assert (len(expected.notes), len(records.notes)) == (0, 1)


def test_what_is_missing_is_named(tmp_path):
    root = write_dogs(tmp_path / "a")
    (root / "Images/n09-empty").mkdir()
    with pytest.raises(InputError, match="Images/n09-empty"):
        read(root)
    with pytest.raises(InputError, match=f"at least two.*{BEAGLE}"):
        read(write_dogs(tmp_path / "b", dog_rows(1, 5, [BEAGLE]), dog_rows(6, 6, [BEAGLE])))
    with pytest.raises(InputError, match="nowhere/Images"):
        read(tmp_path / "nowhere")
    with pytest.raises(InputError, match=rf"{HUSKY}.*train_list\.mat"):  # all are copies of test images
        read(write_dogs(tmp_path / "c", content={dog_file(HUSKY, i): b"the same" for i in range(1, 15)}))
    (write_dogs(tmp_path / "d") / "lists/test_list.mat").unlink()
    with pytest.raises(InputError, match=r"test_list\.mat.*d/lists/test_list\.mat and .*d/test_list\.mat"):
        read(tmp_path / "d")
    with pytest.raises(InputError, match=r"--data\.crop.*box"):
        read(tmp_path / "d", crop="box")


# --- boxes ----------------------------------------------------------------------------------------------------------

BOMB = (
    '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "]><annotation><object><bndbox><xmin>&i;</xmin></bndbox></object></annotation>"
)
BROKEN, NO_BOX = "with broken XML", "without a box inside the image"
BOXES = {
    "one": (xml((75, 56, 281, 498), size=(375, 500)), (75, 56, 282, 499)),
    "fills the image": (xml((0, 0, 499, 374)), (0, 0, 500, 375)),
    "largest of three": (xml((0, 0, 9, 9), (10, 10, 30, 50), (100, 5, 105, 105)), (10, 10, 31, 51)),
    "largest once clipped": (xml((0, 0, 60, 60), (490, 0, 5000, 300)), (0, 0, 61, 61)),
    "over every edge": (xml((-5, -6, 700, 800)), (0, 0, 500, 375)),
    "fractions": (xml(("1.5", " 2.25 ", "30.5", "40")), (1.5, 2.25, 31.5, 41)),
    "size 0 says nothing": (xml((5, 6, 700, 800), size=(0, 0)), (5, 6, 701, 801)),
    "size that is no number": (xml((5, 6, 700, 800), size=("", "nan")), (5, 6, 701, 801)),
    "inverted beside a good one": (xml((300, 300, 20, 20), (5, 6, 15, 16)), (5, 6, 16, 17)),
    "NaN beside a good one": (xml(("nan", 0, 400, 300), (5, 6, 15, 16)), (5, 6, 16, 17)),
    "infinite beside a good one": (xml((0, 0, "1e999", 300), (5, 6, 15, 16)), (5, 6, 16, 17)),
    "words beside a good one": (xml(("left", 0, 400, 300), (5, 6, 15, 16)), (5, 6, 16, 17)),
    "Latin-1": (
        b'<?xml version="1.0" encoding="latin-1"?><!-- \xe9 -->' + xml((5, 6, 15, 16)).encode(),
        (5, 6, 16, 17),
    ),
    "inverted": (xml((30, 30, 20, 20)), NO_BOX),
    "one pixel": (xml((30, 30, 30, 90)), NO_BOX),
    "outside the image": (xml((600, 10, 700, 90)), NO_BOX),
    "no object": (xml(), NO_BOX),
    "a corner short": (xml((30, 30, 60, 90)).replace("xmax", "xmux"), NO_BOX),
    "another XML": ("<html><body/></html>", NO_BOX),
    "empty": ("", BROKEN),
    "cut": (xml((30, 30, 60, 90))[:-20], BROKEN),
    "unknown encoding": ('<?xml version="1.0" encoding="klingon"?>' + xml((1, 1, 9, 9)), BROKEN),
    "bytes": (bytes(range(256)), BROKEN),
    "entities": (BOMB, BROKEN),  # expat itself limits how they grow
    "a file of the system": (
        "<!DOCTYPE a [<!ENTITY a SYSTEM 'file:///etc/hostname'>]><annotation>&a;</annotation>",
        BROKEN,
    ),
    "missing": (None, "without XML"),
}


def test_the_largest_box_of_each_image_and_a_count_of_those_without(tmp_path):
    """An image for each case, in the two lists by turns."""
    lines = [(dog_file(DOGS[i % 3], 100 + i), i % 3 + 1) for i in range(len(BOXES) + 3)]
    root = write_dogs(tmp_path, lines[1::2], lines[::2])
    expected = dict.fromkeys((name for name, _ in lines), "without XML")
    for (name, _), (content, box) in zip(lines, BOXES.values(), strict=False):
        expected[name] = box
        if content is not None:
            write_xml(root, name, content)
    records = read(root, crop="bbox")
    assert (records["crop_xyxy"].dtype, records["crop_xyxy"].shape) == (np.float32, (len(lines), 4))
    for name, box in zip(names(records), records["crop_xyxy"], strict=True):
        wanted = expected[name]
        np.testing.assert_array_equal(box, [np.nan] * 4 if isinstance(wanted, str) else wanted, err_msg=name)
    reasons = [box for box in expected.values() if isinstance(box, str)]
    counts = {reason: issue.count for issue in records.issues for reason in reasons if reason in issue.what}
    assert counts == {reason: reasons.count(reason) for reason in (BROKEN, NO_BOX, "without XML")}


def test_whole_images_need_no_xml_and_open_none(tmp_path, monkeypatch):
    root = write_dogs(tmp_path)
    with pytest.raises(InputError, match=r"Annotation .*42 without XML"):
        read(root, crop="bbox")
    write_xml(root, dog_file(BEAGLE, 1), xml((1, 2, 3, 4)))
    monkeypatch.setattr(stanford_dogs, "_largest_box", lambda path: pytest.fail(f"{path} was opened"))
    assert "crop_xyxy" not in read(root, crop="full").columns


def test_boxes_stay_with_their_images_when_copies_are_left_out(tmp_path):
    """Box i of each class begins at x = i, so that a shift of one image would show."""
    same = {dog_file(BEAGLE, 2): b"same", dog_file(BEAGLE, 3): b"same", dog_file(HUSKY, 11): b"same"}
    root = write_dogs(tmp_path, content=same)
    for name, _ in [*TRAIN, *TEST]:
        write_xml(root, name, xml((int(name.rpartition("_")[2].removesuffix(".jpg")), 0, 100, 100)))
    records = read(root, crop="bbox")
    assert [len(records.of_split(split)) for split in ("train", "test")] == [28, 12]
    numbers = [int(name.rpartition("_")[2].removesuffix(".jpg")) for name in names(records)]
    np.testing.assert_array_equal(records["crop_xyxy"][:, 0], numbers)
