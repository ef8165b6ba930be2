import os
import time
import unicodedata

import numpy as np
import pytest

from data.matching import match_files


def match(root, written, files, **options):
    """What match_files() finds of names in a folder of these files."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return match_files(root, np.array([os.fsencode(name) for name in written]), "list.csv", **options)


def called(matched):
    """What each name that is there is called on the disk; None for the others."""
    pairs = zip(matched.names.tolist(), matched.there.tolist(), strict=True)
    return [os.fsdecode(name) if there else None for name, there in pairs]


NFC, NFD = (unicodedata.normalize(form, "caf\u00e9 1.png") for form in ("NFC", "NFD"))
FOUND = {
    "as written": ("a/x.jpg", "a/x.jpg", ""),
    "backslashes": (r"a\b\x.jpg", "a/b/x.jpg", r"with / for \\"),
    "a dot and backslashes": (r".\a\x.jpg", "a/x.jpg", r"with / for \\"),
    "backslashes on the disk": ("a/x.jpg", r"a\x.jpg", r"with / for \\"),
    "percent": ("my%20picture%20%C3%A9.png", "my picture \u00e9.png", "percent-decoded"),
    "percent on the disk": ("my picture.png", "my%20picture.png", "percent-decoded"),
    "composed": (NFC, NFD, "up to another Unicode form"),
    "decomposed": (NFD, NFC, "up to another Unicode form"),
    "percent, decomposed": (r"a\cafe%CC%81.png", "a/caf\u00e9.png", "up to another Unicode form"),
    "ending": ("IMG_1.jpg", "IMG_1.JPG", "up to another case"),
    "all of them": ("a\\Cafe%CC%81.jpg", "a/caf\u00e9.JPG", "up to another case"),
    "folder": ("Images/a.jpg", "images/A.JPG", "up to another case"),
    "another folder": ("images/1/x.jpg", "images/x.jpg", "by base name"),
    "another machine": ("/home/her/set/cat/x.jpg", "cat/x.jpg", "by the end of the path"),
    "a drive": (r"C:\Users\her\x.JPG", "deep/down/x.jpg", "by base name"),
    "a signed address": ("https://x.org/a/IMG%20%231.jpg?key=a/b.jpg#top", "IMG #1.jpg", "by base name"),
    "an address of one slash": ("s3:/x/b/a.jpg?key=1", "deep/b/a.jpg", "by the end of the path"),
    "a drive with a #": (r"C:\Set\#1\a.jpg", "#1/a.jpg", "by the end of the path"),
    "folders above": ("cat/x.jpg", "train/cat/x.jpg", "by the end of the path"),
}


@pytest.mark.parametrize(("written", "file", "needed"), FOUND.values(), ids=FOUND)
def test_a_name_is_found_however_it_is_written(tmp_path, written, file, needed):
    matched = match(tmp_path, [written, "other.png"], [file, "other.png"])
    assert called(matched) == [file, "other.png"]
    if needed:
        assert matched.note.startswith("1 file name of list.csv ")
        assert f": 1 {needed} (" in matched.note.replace("\\", "\\\\")
    else:
        assert matched.note == ""
    assert matched.nearest == ""


def test_the_end_of_a_path_tells_files_of_one_base_name(tmp_path):
    files = ["cat/1.jpg", "dog/1.jpg", "dog/2.jpg"]
    matched = match(tmp_path, [f"/kaggle/input/{file}" for file in files], files)
    assert called(matched) == files
    assert "3 by the end of the path" in matched.note


def test_what_may_be_two_files_or_two_images_is_not_guessed(tmp_path):
    both = match(tmp_path / "both", ["x/1.jpg"], ["cat/1.jpg", "dog/1.jpg"])
    assert called(both) == [None]
    assert both.nearest == "x/1.jpg; it may be cat/1.jpg or dog/1.jpg"
    assert called(match(tmp_path / "images", ["1/x.jpg", "2/x.jpg"], ["x.jpg"])) == [None, None]
    assert called(match(tmp_path / "case", ["a.jpg", "A.jpg"], ["a.jpg"])) == ["a.jpg", None]
    assert called(match(tmp_path / "cases", ["a.JPG"], ["a.jpg", "A.jpg"])) == [None]
    assert called(match(tmp_path / "same", ["a/x.jpg", r"a\x.jpg"], ["a/x.jpg"])) == ["a/x.jpg", "a/x.jpg"]


@pytest.mark.parametrize(
    ("written", "file", "nearest"),
    [
        ("a.png", "a.jpg", "a.png; the nearest is a.jpg, which differs in its ending"),
        ("image_1.jpg", "image_2.jpg", "image_1.jpg; the nearest is image_2.jpg, which is called otherwise"),
        (
            "photo \uff11.jpg",
            "photo 1.jpg",
            "photo \uff11.jpg; the nearest is photo 1.jpg, which differs in its Unicode form",
        ),
        ("kite.jpg", "0123.jpg", "kite.jpg"),
    ],
)
def test_what_is_not_there_is_named_with_the_nearest_file(tmp_path, written, file, nearest):
    matched = match(tmp_path, ["there.jpg", written], ["there.jpg", file])
    assert called(matched) == ["there.jpg", None]
    assert matched.nearest == nearest


def test_files_that_are_not_usable_are_not_taken(tmp_path):
    matched = match(tmp_path, ["x.jpg"], ["val/x.jpg"], usable=lambda file: not file.startswith(b"val/"))
    assert called(matched) == [None]


def test_hidden_files_are_not_there(tmp_path):
    assert called(match(tmp_path, ["._a.jpg", "a.jpg", "@eaDir/a.jpg"], ["._a.jpg", "a.jpg"])) == [None, "a.jpg", None]


@pytest.mark.slow
def test_a_hundred_thousand_names_take_seconds():
    files = np.array([b"train/class %d/image %06d.JPG" % (i % 100, i) for i in range(100_000)])
    written = np.char.replace(np.char.replace(files, b"/", b"\\"), b"JPG", b"jpg")
    start = time.process_time()
    matched = match_files("nowhere", written, "list.csv", files)
    assert matched.names.tolist() == files.tolist()
    assert time.process_time() - start < 10
