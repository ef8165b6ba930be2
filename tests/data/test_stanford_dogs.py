import contextlib
import errno
import hashlib
import io
import math
import shutil
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from backbone.errors import InputError
from data import stanford_dogs
from data.image_folder import stratified_part
from data.images import open_image
from data.stanford_dogs import ARCHIVES, is_stanford_dogs, main, read_stanford_dogs

BEAGLE, HUSKY, POODLE = FOLDERS = ("n02088364-beagle", "n02110185-Siberian_husky", "n02113624-toy_poodle")


def file(folder, number):
    return f"{folder}/{folder[:9]}_{number}.jpg"


def rows(first, last, folders=FOLDERS):
    """Lines of a list: (file, label from 1) of the images `first` to `last` of each class."""
    return [(file(folder, i), label) for label, folder in enumerate(folders, 1) for i in range(first, last + 1)]


def write_list(path, lines):
    """A list in the true format: a column of cells with a text each, and a column of bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = np.empty((len(lines), 1), dtype=object)
    names[:, 0] = [name for name, _ in lines]
    stems = np.empty((len(lines), 1), dtype=object)
    stems[:, 0] = [name.removesuffix(".jpg") for name, _ in lines]
    labels = np.array([[label] for _, label in lines], np.uint8)
    savemat(path, {"file_list": names, "annotation_list": stems, "labels": labels})


def write_dogs(root, train=None, test=None, content=None):
    """The layout with a file for each line, of bytes of its own where `content` has none; returns root."""
    train = rows(1, 10) if train is None else train
    test = rows(11, 14) if test is None else test
    for name, _ in [*train, *test]:
        path = root / "Images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((content or {}).get(name, name.encode()))
    write_list(root / "lists" / "train_list.mat", train)
    write_list(root / "lists" / "test_list.mat", test)
    return root


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


def names(images):
    return [name.decode() for name in images.file_names]


def train_and_val(data):
    return sorted(names(data.splits["train"]) + names(data.splits["val"]))


# --- the splits -----------------------------------------------------------------------------------------------------


def test_the_lists_written_here_are_like_the_real_ones(tmp_path):
    content = loadmat(write_dogs(tmp_path) / "lists/train_list.mat")
    for key in ("file_list", "annotation_list"):
        assert (content[key].dtype, content[key].shape) == (object, (30, 1))
        assert (content[key][0, 0].shape, content[key][0, 0].dtype.kind) == ((1,), "U")
    assert content["file_list"][0][0] == "n02088364-beagle/n02088364_1.jpg"
    assert content["annotation_list"][0][0] == "n02088364-beagle/n02088364_1"
    assert (content["labels"].dtype, content["labels"].shape, content["labels"][0, 0]) == (np.uint8, (30, 1), 1)


@pytest.mark.parametrize("loose", [False, True])
def test_the_official_lists_are_the_splits_and_a_part_of_training_is_validation(tmp_path, loose):
    root = write_dogs(tmp_path)
    if loose:  # lists.tar, unpacked into the root
        for path in list((root / "lists").iterdir()):
            path.rename(root / path.name)
        (root / "lists").rmdir()
    data = read_stanford_dogs(root, val_fraction=0.2, seed=3)
    assert names(data.splits["test"]) == [name for name, _ in rows(11, 14)]
    np.testing.assert_array_equal(data.splits["test"].labels, np.repeat([0, 1, 2], 4))
    listed = np.array([name for name, _ in rows(1, 10)])
    aside = stratified_part(np.repeat([0, 1, 2], 10), listed.astype("S"), 0.2, 3)
    assert names(data.splits["train"]) == listed[~aside].tolist()
    assert names(data.splits["val"]) == listed[aside].tolist()
    np.testing.assert_array_equal(np.bincount(data.splits["val"].labels), [2, 2, 2])
    for images in data.splits.values():
        assert images.labels.dtype == np.int64
        assert images.file_names.dtype.kind == "S"
        assert images.boxes_xyxy is None
        for i, label in enumerate(images.labels):
            assert images.path(i).is_file()
            assert images.path(i).parent == root / "Images" / FOLDERS[label]
    assert data.class_folders == FOLDERS
    assert data.class_names == ("beagle", "Siberian husky", "toy poodle")
    assert data.notes == (
        f"{root} has no validation part: 6 of its 30 training images, drawn with seed 3, are set aside for validation "
        "(--data.val_fraction)",
    )


def test_names_of_breeds_keep_their_own_dashes(tmp_path):
    folders = (
        "n02085620-Chihuahua",
        "n02089078-black-and-tan_coonhound",
        "n02097658-silky_terrier",
        "n02105855-Shetland_sheepdog",
        "n02107312-miniature_pinscher",
        "no-number",
    )
    data = read_stanford_dogs(write_dogs(tmp_path, rows(1, 2, folders), rows(3, 3, folders)))
    assert data.class_names == (
        "Chihuahua",
        "black-and-tan coonhound",
        "silky terrier",
        "Shetland sheepdog",
        "miniature pinscher",
        "no-number",
    )


def test_all_120_classes_and_labels_up_to_120(tmp_path):
    folders = [f"n{2085620 + i:08}-breed_{i}" for i in range(120)]
    data = read_stanford_dogs(write_dogs(tmp_path, rows(1, 2, folders), rows(3, 3, folders)))
    np.testing.assert_array_equal(data.splits["test"].labels, np.arange(120))
    assert data.class_folders == tuple(folders)


def test_the_split_depends_on_the_seed_alone(tmp_path):
    root = write_dogs(tmp_path)
    a, b, c = (read_stanford_dogs(root, seed=seed) for seed in (0, 0, 1))
    assert names(a.splits["val"]) == names(b.splits["val"]) != names(c.splits["val"])
    assert train_and_val(a) == train_and_val(c)


def test_files_that_no_list_has_are_counted_and_hidden_ones_ignored(tmp_path):
    root = write_dogs(tmp_path)
    for extra in (f"{BEAGLE}/more.jpg", f"{POODLE}/Thumbs.db", f"{POODLE}/.DS_Store", ".DS_Store"):
        (root / "Images" / extra).write_bytes(b"x")
    (root / "Images/.ipynb_checkpoints").mkdir()
    data = read_stanford_dogs(root)
    assert data.notes[0] == f"2 files in {root / 'Images'} are in neither list and left out"
    assert len(train_and_val(data)) == 30


def test_a_png_named_jpg_is_read_like_any_other(tmp_path):
    """As n02105855-Shetland_sheepdog/n02105855_2933.jpg is one."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    name = file(BEAGLE, 11)
    data = read_stanford_dogs(write_dogs(tmp_path, content={name: png.getvalue()}))
    np.testing.assert_array_equal(open_image(data.splits["test"].path(0)), pixels)


def test_the_data_is_only_read(tmp_path):
    root = write_dogs(tmp_path)
    write_xml(root, file(BEAGLE, 1), xml((1, 2, 30, 40)))
    before = [(path, path.stat().st_mtime_ns) for path in sorted(root.rglob("*"))]
    read_stanford_dogs(root, crop="bbox")
    assert [(path, path.stat().st_mtime_ns) for path in sorted(root.rglob("*"))] == before


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (("Images", "Annotation"), True),
        (("Images", "lists"), True),
        (("Images", "train_list.mat"), True),
        (("Images", "test_list.mat"), True),
        (("Images",), False),
        (("lists",), False),
        ((), False),
    ],
)
def test_the_layout_is_known_by_images_and_one_more(tmp_path, there, expected):
    for name in there:
        (tmp_path / name).touch() if name.endswith(".mat") else (tmp_path / name).mkdir()
    assert is_stanford_dogs(tmp_path) is expected
    assert not is_stanford_dogs(tmp_path / "nowhere")


# --- copies ---------------------------------------------------------------------------------------------------------


def test_every_kind_of_copy_is_left_out_of_training_and_counted(tmp_path):
    content = {
        file(BEAGLE, 1): b"also in test, with the same label",
        file(BEAGLE, 10): b"also in test, with the same label",  # counts once, though a copy of 1 too
        file(BEAGLE, 11): b"also in test, with the same label",
        file(BEAGLE, 2): b"also in test, of another class",
        file(HUSKY, 2): b"also in test, of another class",  # counts once, though of two classes in training too
        file(HUSKY, 11): b"also in test, of another class",
        file(BEAGLE, 3): b"thrice in training",
        file(BEAGLE, 4): b"thrice in training",
        file(BEAGLE, 9): b"thrice in training",
        file(BEAGLE, 5): b"two classes",
        file(BEAGLE, 6): b"two classes",
        file(POODLE, 6): b"two classes",
        file(POODLE, 12): b"twice in test, two classes",
        file(HUSKY, 12): b"twice in test, two classes",
        file(BEAGLE, 7): b"same size, other bytes: a",
        file(BEAGLE, 8): b"same size, other bytes: b",
        file(HUSKY, 1): b"",  # empty files are not copies of each other: opening them says that they are empty
        file(POODLE, 1): b"",
    }
    data = read_stanford_dogs(write_dogs(tmp_path, content=content))
    left_out = {file(BEAGLE, i) for i in (1, 2, 4, 9, 5, 6, 10)} | {file(HUSKY, 2), file(POODLE, 6)}
    assert train_and_val(data) == sorted({name for name, _ in rows(1, 10)} - left_out)
    assert names(data.splits["test"]) == [name for name, _ in rows(11, 14)]
    assert data.notes[:2] == (
        "9 training images are left out as copies, byte for byte: 4 of test images, 2 of earlier training images, "
        "3 that have several labels",
        "1 test images are copies of other test images; the official test list is kept whole",
    )


@pytest.mark.parametrize("seed", range(20))
def test_no_copy_is_on_two_sides_whatever_the_data(tmp_path, seed):
    """Brute force: 42 images of few different contents, all of one size."""
    rng = np.random.default_rng(seed)
    train, test = rows(1, 10), rows(11, 14)
    content = {name: rng.choice(list("abcdefghijklmnopqrstuvwxyz")).encode() for name, _ in [*train, *test]}
    content |= {file(folder, 1): folder.encode().ljust(30) for folder in FOLDERS}  # each class keeps one
    data = read_stanford_dogs(write_dogs(tmp_path, train, test, content), val_fraction=0.3, seed=seed)
    kept = train_and_val(data)
    of_test = {content[name] for name, _ in test}
    labels = {bytes_: {label for name, label in train if content[name] == bytes_} for bytes_ in content.values()}
    wanted = [
        name
        for i, (name, _) in enumerate(train)
        if content[name] not in of_test
        and len(labels[content[name]]) == 1
        and content[name] not in [content[earlier] for earlier, _ in train[:i]]
    ]
    assert kept == sorted(wanted)
    assert len({content[name] for name in kept}) == len(kept)


def test_only_files_of_one_size_are_read(tmp_path, monkeypatch):
    root = write_dogs(tmp_path, content={name: b"x" * i for i, (name, _) in enumerate([*rows(1, 10), *rows(11, 14)])})
    (root / "Images" / file(BEAGLE, 2)).write_bytes(b"y" * 41)  # as large as the last
    read = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda opened, *a: read.append(opened.name) or digest(opened, *a))
    read_stanford_dogs(root)
    assert sorted(read) == [str(root / "Images" / file(BEAGLE, 2)), str(root / "Images" / file(POODLE, 14))]


def test_files_that_cannot_be_read_are_kept_for_the_loader_to_name(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    root = write_dogs(tmp_path, content={file(BEAGLE, 1): b"same", file(BEAGLE, 2): b"same"})
    assert len(train_and_val(read_stanford_dogs(root))) == 29
    monkeypatch.setattr(hashlib, "file_digest", fail)
    assert len(train_and_val(read_stanford_dogs(root))) == 30


def test_settings_that_make_no_sense_and_too_few_images_are_refused(tmp_path):
    root = write_dogs(tmp_path, rows(1, 1), rows(2, 2))
    with pytest.raises(InputError, match=r"train_list\.mat has one image of each class, and none to set aside"):
        read_stanford_dogs(root)
    with pytest.raises(InputError, match=r"--data\.val_fraction is 1\.5; it must be above 0 and below 1"):
        read_stanford_dogs(root, val_fraction=1.5)
    with pytest.raises(InputError, match=r"--data\.crop is box; it must be full or bbox"):
        read_stanford_dogs(root, crop="box")


def test_a_class_whose_images_are_all_copies_of_test_images_is_refused(tmp_path):
    same = {file(HUSKY, i): b"the same" for i in range(1, 15)}
    with pytest.raises(InputError, match=rf"{HUSKY} has no image to train on in .*train_list\.mat, copies aside \(1 "):
        read_stanford_dogs(write_dogs(tmp_path, content=same))


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_missing_list_is_named_with_the_places(tmp_path):
    root = write_dogs(tmp_path)
    (root / "lists/test_list.mat").unlink()
    with pytest.raises(
        InputError, match=rf"no test_list\.mat; looked for {root}/lists/test_list\.mat and {root}/test_"
    ):
        read_stanford_dogs(root)
    (root / "lists/train_list.mat").unlink()
    with pytest.raises(InputError, match=r"no train_list\.mat"):
        read_stanford_dogs(root)


def changed(lines, at, name=None, label=None):
    return [*lines[:at], (name or lines[at][0], lines[at][1] if label is None else label), *lines[at + 1 :]]


TRAIN = rows(1, 10)
REFUSED = {
    "label 0": (changed(TRAIN, 12, label=0), r"n02110185_3\.jpg is 0, not from 1 to 3, .*\(1 such labels\)"),
    "label 121": (changed(TRAIN, 29, label=121), r"n02113624_10\.jpg is 121, not from 1 to 3"),
    "other folder": (
        changed(TRAIN, 12, label=3),
        rf"{HUSKY}/n02110185_3\.jpg is 3, but folder 3 is {POODLE} in the sorted order of .*Images \(1 such",
    ),
    "labels in another order": ([(name, 4 - label) for name, label in TRAIN], r"is 3, but folder 3 is .*\(20 such"),
    "missing files": (
        [*TRAIN, (file(BEAGLE, 98), 1), (file(BEAGLE, 99), 1)],
        r"lists n02088364-beagle/n02088364_98\.jpg, which is not in .*Images \(2 of 32 images are missing\)",
    ),
    "missing folder": ([*TRAIN, ("n1-cat/1.jpg", 4)], r"lists n1-cat/1\.jpg, which is not in .*\(1 of 31"),
    "in both lists": (
        [*TRAIN, (file(BEAGLE, 12), 1), (file(HUSKY, 11), 2)],
        r"test_list\.mat both list n02088364-beagle/n02088364_12\.jpg \(2 such images\)",
    ),
    "twice": ([*TRAIN, TRAIN[3]], r"lists n02088364-beagle/n02088364_4\.jpg more than once \(1 such"),
    "traversal": (
        changed(TRAIN, 0, "../secret.jpg"),
        r"item 1 of `file_list` is '\.\./secret\.jpg'; it must be a class",
    ),
    "traversal deep": (changed(TRAIN, 2, f"{BEAGLE}/../../secret.jpg"), "item 3 of `file_list` is"),
    "parent": (changed(TRAIN, 2, f"{BEAGLE}/.."), "item 3 of `file_list` is"),
    "absolute": (changed(TRAIN, 1, "/etc/passwd"), "item 2 of `file_list` is '/etc/passwd'"),
    "absolute, short": (changed(TRAIN, 1, "/passwd"), "item 2 of `file_list` is '/passwd'"),
    "no folder": (changed(TRAIN, 1, "n02088364_2.jpg"), r"item 2 of `file_list` is 'n02088364_2\.jpg'"),
    "class without images": (TRAIN[:20], rf"Images/{POODLE} has no image to train on in .*\(1 such folders\)"),
    "nothing listed": ([], "`file_list` has 0 items and `labels` 0"),
}


@pytest.mark.parametrize(("train", "message"), REFUSED.values(), ids=REFUSED)
def test_lists_that_do_not_fit_are_refused_with_file_label_and_folder(tmp_path, train, message):
    root = write_dogs(tmp_path)
    write_list(root / "lists/train_list.mat", train)
    with pytest.raises(InputError, match=rf"train_list\.mat.*{message}|{message}") as error:
        read_stanford_dogs(root)
    assert "\n" not in str(error.value)
    assert "train_list.mat" in str(error.value)


def cells(*texts):
    column = np.empty((len(texts), 1), dtype=object)
    column[:, 0] = texts
    return column


FILES = cells(*(name for name, _ in TRAIN))
LABELS = np.array([[label] for _, label in TRAIN], np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"file_list": FILES}, r"has no `labels` \(found `file_list`\)"),
        ({"labels": LABELS}, r"has no `file_list` \(found `labels`\)"),
        ({"other": LABELS}, r"has no `file_list` \(found `other`\)"),
        ({"file_list": FILES, "labels": LABELS[:-1]}, "`file_list` has 30 items and `labels` 29"),
        ({"file_list": FILES, "labels": LABELS + 0.5}, r"`labels` must be whole numbers from 1 \(found float64\)"),
        ({"file_list": FILES, "labels": LABELS * math.nan}, "`labels` must be whole numbers"),
        ({"file_list": FILES, "labels": FILES}, "`labels` must be whole numbers"),
        ({"file_list": LABELS, "labels": LABELS}, "item 1 of `file_list` is not a text"),
        ({"file_list": cells(FILES, 5.0), "labels": LABELS[:2]}, "item 1 of `file_list` is not a text"),
        (b"", "cannot be read as a MATLAB file"),
        (b"<!DOCTYPE html><title>404</title>" + bytes(200), "cannot be read as a MATLAB file"),
        ("half", "cannot be read as a MATLAB file"),
    ],
)
def test_a_list_that_is_not_one_is_refused(tmp_path, content, message):
    path = write_dogs(tmp_path) / "lists/train_list.mat"
    if content == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        savemat(path, content)
    with pytest.raises(InputError, match=rf"train_list\.mat:? {message}") as error:
        read_stanford_dogs(tmp_path)
    assert "\n" not in str(error.value)


def test_labels_of_any_number_type_are_read(tmp_path):
    root = write_dogs(tmp_path)
    savemat(root / "lists/train_list.mat", {"file_list": FILES, "labels": LABELS.astype(np.float64).T})
    assert np.bincount(read_stanford_dogs(root).splits["train"].labels).tolist() == [9, 9, 9]


def test_folders_that_cannot_be_classes_are_refused(tmp_path):
    root = write_dogs(tmp_path / "a")
    (root / "Images/n09-empty").mkdir()
    with pytest.raises(InputError, match=r"Images/n09-empty holds no image"):
        read_stanford_dogs(root)
    with pytest.raises(InputError, match=rf"at least two; it has only {BEAGLE}"):
        read_stanford_dogs(write_dogs(tmp_path / "b", rows(1, 5, [BEAGLE]), rows(6, 6, [BEAGLE])))
    (tmp_path / "c/Images").mkdir(parents=True)
    with pytest.raises(InputError, match="at least two; it has none"):
        read_stanford_dogs(tmp_path / "c")
    with pytest.raises(InputError, match=r"nowhere/Images cannot be listed \(No such file"):
        read_stanford_dogs(tmp_path / "nowhere")


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
    "huge": (xml((30, 30, 60, 90)) + " " * 100_000, BROKEN),
    "entities": (BOMB, BROKEN),
    "entities in UTF-16": (BOMB.encode("utf-16"), BROKEN),
    "a harmless entity": ("<!DOCTYPE a [<!ENTITY a '1'>]>" + xml((30, 30, 60, 90)), BROKEN),
    "a file of the system": (
        "<!DOCTYPE a [<!ENTITY a SYSTEM 'file:///etc/hostname'>]><annotation>&a;</annotation>",
        BROKEN,
    ),
    "missing": (None, "without XML"),
}


def test_the_largest_box_of_each_image_and_a_count_of_those_without(tmp_path):
    """An image for each case, in the three splits by turns."""
    lines = [(file(FOLDERS[i % 3], 100 + i), i % 3 + 1) for i in range(len(BOXES) + 3)]
    train, test = [line for i, line in enumerate(lines) if i % 2], [line for i, line in enumerate(lines) if not i % 2]
    root = write_dogs(tmp_path, train, test)
    expected = {name: box for (name, _), (_, box) in zip(lines, BOXES.values(), strict=False)}
    for (name, _), (content, _) in zip(lines, BOXES.values(), strict=False):
        if content is not None:
            write_xml(root, name, content)
    data = read_stanford_dogs(root, val_fraction=0.3, crop="bbox")
    seen = 0
    for images in data.splits.values():
        assert images.boxes_xyxy.dtype == np.float32
        assert images.boxes_xyxy.shape == (len(images), 4)
        for name, box in zip(names(images), images.boxes_xyxy, strict=True):
            wanted = expected.get(name, "without XML")
            case = dict(zip((n for n, _ in lines), BOXES, strict=False)).get(name, "no file")
            np.testing.assert_array_equal(box, [np.nan] * 4 if isinstance(wanted, str) else wanted, err_msg=case)
            seen += 1
    assert seen == len(lines)
    without = sum(isinstance(box, str) for _, box in BOXES.values()) + 3
    broken, no_box = (sum(box == reason for _, box in BOXES.values()) for reason in (BROKEN, NO_BOX))
    assert data.notes[0] == (
        f"{without} of {len(lines)} images have no box and are used whole: "
        f"{broken} with broken XML, 4 without XML, {no_box} without a box inside the image"
    )


def test_whole_pictures_need_no_xml_and_open_none(tmp_path, monkeypatch):
    root = write_dogs(tmp_path)
    assert read_stanford_dogs(root).splits["train"].boxes_xyxy is None
    write_xml(root, file(BEAGLE, 1), xml((1, 2, 3, 4)))
    monkeypatch.setattr(stanford_dogs, "_largest_box", lambda path: pytest.fail(f"{path} was opened"))
    assert read_stanford_dogs(root, crop="full").splits["train"].boxes_xyxy is None


def test_boxes_that_are_asked_for_but_not_there_at_all_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"Annotation has no box for any of 42 images \(42 without XML\); unpack annot"
    ):
        read_stanford_dogs(write_dogs(tmp_path), crop="bbox")


def test_boxes_stay_with_their_images_when_copies_are_left_out(tmp_path):
    """Box i of each class begins at x = i, so that a shift of one image would show."""
    root = write_dogs(tmp_path, content={file(BEAGLE, 2): b"same", file(BEAGLE, 3): b"same", file(HUSKY, 11): b"same"})
    for folder in FOLDERS:
        for i in range(1, 15):
            write_xml(root, file(folder, i), xml((i, 0, 100, 100)))
    data = read_stanford_dogs(root, crop="bbox")
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [25, 3, 12]
    for images in data.splits.values():
        numbers = [int(name.rpartition("_")[2].removesuffix(".jpg")) for name in names(images)]
        np.testing.assert_array_equal(images.boxes_xyxy[:, 0], numbers)


# --- the command ----------------------------------------------------------------------------------------------------


def pack(folder, archive, inside):
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, inside)
    return archive


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small data set, packed as the real one is and served here; what was asked for; how to close the server."""
    root = write_dogs(tmp_path / "original")
    for name, _ in [*rows(1, 10), *rows(11, 14)]:
        write_xml(root, name, xml((1, 2, 30, 40)))
    served = tmp_path / "served"
    served.mkdir()
    packed = [
        pack(root / "Images", served / "images.tar", "Images"),
        pack(root / "Annotation", served / "annotation.tar", "Annotation"),
        pack(root / "lists", served / "lists.tar", "."),
    ]
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(self.path)

        def copyfile(self, *arguments):
            with contextlib.suppress(ConnectionError):  # whoever has seen enough hangs up
                super().copyfile(*arguments)

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=served)) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        archives = tuple(
            real._replace(
                url=f"{address}/{path.name}",
                size=path.stat().st_size,
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for real, path in zip(ARCHIVES, packed, strict=True)
        )
        monkeypatch.setattr(stanford_dogs, "ARCHIVES", archives)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield root, asked
        server.shutdown()
        thread.join()


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_command_fetches_unpacks_and_reads_the_data_set(published, tmp_path, capsys):
    original, asked = published
    folder = tmp_path / "new" / "dogs"
    assert main([str(folder)]) == 0
    printed = capsys.readouterr()
    assert "research only" in printed.out
    assert "3 breeds, 30 images to train on and 12 to test on" in printed.out
    assert printed.out.splitlines()[-1] == str(folder)
    assert printed.err == ""
    assert sorted(path.name for path in folder.iterdir()) == [
        "Annotation",
        "Images",
        "annotation.tar",
        "images.tar",
        "lists",
        "lists.tar",
    ]
    for part in ("Images", "Annotation", "lists"):
        assert contents(folder / part) == contents(original / part)
    data, expected = (read_stanford_dogs(root, crop="bbox") for root in (folder, original))
    assert train_and_val(data) == train_and_val(expected)
    np.testing.assert_array_equal(data.splits["test"].boxes_xyxy, [[1, 2, 31, 41]] * 12)

    assert len(asked) == 3
    for archive in folder.glob("*.tar"):
        archive.unlink()
    assert main([str(folder)]) == 0  # complete: nothing is asked for
    assert len(asked) == 3


def test_the_command_takes_up_what_is_there(published, tmp_path, capsys):
    folder = tmp_path / "dogs"
    folder.mkdir()
    served = tmp_path / "served"
    shutil.copy(served / "images.tar", folder)
    (folder / "lists.tar.part").write_bytes((served / "lists.tar").read_bytes()[:700])
    assert main([str(folder)]) == 0
    assert published[1] == ["/annotation.tar", "/lists.tar"]
    assert not list(folder.glob("*.part"))


def test_the_command_exits_with_2_and_one_sentence(published, tmp_path, capsys, monkeypatch):
    real = stanford_dogs.ARCHIVES
    folder = tmp_path / "dogs"
    for changed_archive, message in (
        (real[0]._replace(sha256="0" * 64), "the file there has changed, do not use it"),
        (real[0]._replace(size=5), "the server offers "),
        (real[0]._replace(url=real[0].url + "x"), "HTTP 404"),
    ):
        monkeypatch.setattr(stanford_dogs, "ARCHIVES", (changed_archive, *real[1:]))
        assert main([str(folder)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert message in error
        assert list(folder.iterdir()) == []
    monkeypatch.setattr(stanford_dogs, "ARCHIVES", real)

    (folder / "thesis.txt").write_text("mine")
    assert main([str(folder)]) == 2
    assert "holds thesis.txt, which is not of Stanford Dogs; give a new" in capsys.readouterr().err
    assert contents(folder) == {"thesis.txt": b"mine"}
    assert main([str(folder / "thesis.txt")]) == 2
    assert "thesis.txt cannot be written" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "see python -m data.stanford_dogs --help" in capsys.readouterr().err
    assert published[1].count("/images.tar") == 2


def test_the_command_that_is_stopped_says_how_to_go_on(published, tmp_path, capsys, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(stanford_dogs, "download", stop)
    assert main([str(tmp_path / "dogs")]) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"


def test_help_says_the_size_and_asks_nobody(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "816 MB to fetch, 1.6 GB on disk" in " ".join(capsys.readouterr().out.split())
    assert [archive.size for archive in ARCHIVES] == [793_579_520, 21_852_160, 481_280]
    assert {len(archive.sha256) for archive in ARCHIVES} == {64}
