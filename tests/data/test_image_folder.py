import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from backbone.errors import InputError
from data import cache, image_folder
from data.image_folder import LabelledImages, read_image_folder, stratified_part


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def tree(root, folders):
    """Empty files: of each folder their names, or how many images there are."""
    for folder, files in folders.items():
        (root / folder).mkdir(parents=True)
        for name in [f"{i:03}.jpg" for i in range(files)] if isinstance(files, int) else files:
            (root / folder / name).touch()
    return root


def files(images):
    return [str(images.path(i)) for i in range(len(images))]


def by_class(data, split):
    return np.bincount(data.splits[split].labels, minlength=len(data.class_names)).tolist()


def same(one, other):
    """Whether both read the same, but for what the notes say of the listing."""
    assert (one.class_names, one.class_folders) == (other.class_names, other.class_folders)
    assert one.splits.keys() == other.splits.keys()
    for split, images in one.splits.items():
        assert files(images) == files(other.splits[split])
        assert images.labels.tolist() == other.splits[split].labels.tolist()
    notes = [[note for note in data.notes if "last listed" not in note] for data in (one, other)]
    assert notes[0] == notes[1]
    return True


# --- what is found --------------------------------------------------------------------------------------------------


def test_images_and_labels_are_those_of_torchvision_in_its_order(tmp_path):
    odd = {
        "n02088364": ["b.JPEG", "a.jpg", "c d.PnG"],
        "11": 2,
        "2": 3,
        "toy poodle": 4,
        "Ärzte 猫": ["ü.webp", "z.tif"],
    }
    deep = {"2/more": 2, "2/more/still": 1, "2-b": 1, "2/A": 1, "11/x": 1}
    root = tree(tmp_path / "set", {f"train/{folder}": n for folder, n in (odd | deep).items()})
    tree(root, {f"validation/{folder}": 2 for folder in odd})
    data = read_image_folder(root)
    for split, folder in (("train", "train"), ("val", "validation")):
        if split == "val":
            tree(root, {"validation/2-b": 1})  # torchvision numbers each split's classes by themselves
            data = read_image_folder(root)
        expected = ImageFolder(str(root / folder))
        assert list(data.class_names) == list(data.class_folders) == expected.classes
        images = data.splits[split]
        assert list(zip(files(images), images.labels.tolist(), strict=True)) == expected.samples
        assert images.labels.dtype == np.int64
        assert images.file_names.dtype.kind == "S"
    assert data.notes == ()


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "VALID", "Test"), ("train", "validation", None)])
def test_splits_are_found_under_their_usual_names(tmp_path, names):
    train, val, test = names
    root = tree(tmp_path / "set", {f"{train}/a": 3, f"{train}/b": 2, f"{val}/a": 1, f"{val}/b": 2})
    if test:
        tree(root, {f"{test}/a": 1, f"{test}/b": 4})
    data = read_image_folder(root)
    assert by_class(data, "train") == [3, 2]
    assert by_class(data, "val") == [1, 2]
    assert (by_class(data, "test") == [1, 4]) if test else ("test" not in data.splits)
    assert data.splits["val"].folder == root / val
    assert data.notes == ()


def test_what_is_no_image_is_passed_over_or_counted(tmp_path):
    junk = [".hidden.jpg", "._001.jpg", "Thumbs.db", "a.txt", "b.TXT", "c.heic", "README"]
    root = tree(tmp_path / "set", {"a": ["1.jpg", *junk], "b": ["1.jpg", "2.avif"], "b/.git": 3, "b/__MACOSX": 3})
    tree(root, {".ipynb_checkpoints": 2, "__MACOSX/a": 2})
    (root / "a" / "folder.jpg").mkdir()
    (root / "a" / "folder.jpg" / "2.jpg").touch()
    (root / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (root / "a" / "round.jpg").symlink_to("round.jpg")
    (root / "labels.csv").touch()
    (root / "stray.jpg").touch()
    data = read_image_folder(root, seed=1)
    assert data.class_names == ("a", "b")
    found = sorted(name for images in data.splits.values() for name in files(images))
    assert found == [str(root / name) for name in ("a/1.jpg", "a/folder.jpg/2.jpg", "b/1.jpg", "b/2.avif")]
    counted, loose = (next(n for n in data.notes if word in n) for word in ("by their names", "right in"))
    assert counted.startswith("6 files")
    assert "2 .txt" in counted
    assert "1 .heic" in counted
    assert "2 links to" in counted
    assert loose.startswith("1 images right in")


def test_names_that_are_not_utf8_are_kept(tmp_path):
    root = tree(tmp_path / "set", {"train/a": 2, "val/a": 1, "train/b": 1})
    for split in ("train", "val"):
        folder = root / split / os.fsdecode(b"caf\xe9")
        folder.mkdir()
        (folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"here")
    data = read_image_folder(root)
    assert data.class_names == ("a", "b", "caf\ufffd")
    images = data.splits["train"]
    assert images.path(3).read_bytes() == b"here"
    assert str(images.path(3)) in images
    assert os.fsencode(data.class_folders[2]) == b"caf\xe9"
    "".join((*data.class_names, *data.notes)).encode()  # can be printed


def test_labelled_images_give_paths_parts_and_membership(tmp_path, monkeypatch):
    boxes = np.arange(12, dtype=np.float32).reshape(3, 4)
    names = np.array([b"a/1.jpg", b"a/2.jpg", b"b/1.jpg"])
    images = LabelledImages(tmp_path / "set", names, np.array([0, 0, 1]), boxes)
    assert len(images) == 3
    assert images.path(2) == tmp_path / "set/b/1.jpg"
    assert str(tmp_path / "set/a/2.jpg") in images
    assert "a/2.jpg" not in images
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path / "set")
    assert "a/2.jpg" in images
    assert "a/3.jpg" not in images
    for part in (np.array([2, 0]), np.array([True, False, True])):
        taken = images.take(part)
        order = [2, 0] if part.dtype != bool else [0, 2]
        assert files(taken) == [files(images)[i] for i in order]
        assert taken.labels.tolist() == images.labels[order].tolist()
        assert taken.boxes_xyxy.tolist() == boxes[order].tolist()


# --- dividing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "fraction", "aside"),
    [
        (1, 0.5, 0),
        (1, 0.9, 0),
        (2, 0.1, 1),
        (2, 0.9, 1),
        (3, 0.1, 1),
        (3, 0.99, 2),
        (10, 0.1, 1),
        (14, 0.1, 1),
        (16, 0.1, 2),
        (100, 0.1, 10),
        (100, 0.25, 25),
        (100, 0.001, 1),
        (100, 0.999, 99),
    ],
)
def test_of_each_class_the_wanted_part_is_set_aside_and_one_image_stays(size, fraction, aside):
    labels = np.random.default_rng(0).permutation(np.repeat([4, 7, 9], [size, 50, size]))  # labels with gaps
    part = stratified_part(labels, np.arange(len(labels)).astype("S"), fraction, seed=3)
    assert [int(part[labels == label].sum()) for label in (4, 9)] == [aside, aside]


def test_the_part_is_drawn_by_the_seed_and_evenly():
    labels = np.repeat(np.arange(3), 20)
    names = np.arange(60).astype("S")
    parts = [stratified_part(labels, names, 0.25, seed) for seed in range(400)]
    order = np.random.default_rng(0).permutation(60)
    assert (stratified_part(labels[order], names[order], 0.25, 7) == parts[7][order]).all()
    assert (parts[7] != parts[8]).any()
    # each image is drawn with probability 1/4: in 400 draws 100 times, standard deviation 8.7
    assert np.abs(np.sum(parts, axis=0) - 100).max() < 40


def test_a_picture_that_is_added_leaves_the_others_nearly_where_they_are(tmp_path):
    """30 of a class, 3 and 3 of them set aside: one more may at most push one picture over each of two limits."""
    root = tree(tmp_path / "set", {"a": 30, "b": 30})
    before = {name: split for split, images in read_image_folder(root).splits.items() for name in files(images)}
    (root / "a" / "new.jpg").touch()
    after = {name: split for split, images in read_image_folder(root).splits.items() for name in files(images)}
    moved = [name for name, split in before.items() if after[name] != split]
    assert len(moved) <= 2
    assert not any(before[name] == "train" for name in moved)  # what was trained on is tested by nobody


def test_one_folder_is_divided_into_parts_that_share_no_image(tmp_path):
    root = tree(tmp_path / "set", {"a": 40, "b": 10, "one": 1, "two": 2, "three": 3})
    data = read_image_folder(root, val_fraction=0.2, test_fraction=0.3, seed=5)
    # by hand: a 8 and 12, b 2 and 3; a single image is trained on, of two the second validated, of three one of each
    # labels: a, b, one, three, two
    assert by_class(data, "val") == [8, 2, 0, 1, 1]
    assert by_class(data, "test") == [12, 3, 0, 1, 0]
    assert by_class(data, "train") == [20, 5, 1, 1, 1]
    found = [name for images in data.splits.values() for name in files(images)]
    assert sorted(found) == sorted(map(str, root.glob("*/*.jpg")))
    assert any("12 and 16 of its 56 images, drawn with seed 5" in note for note in data.notes)
    assert "val has no image of 1 of the 5 classes (first: one)" in data.notes
    assert "test has no image of 2 of the 5 classes (first: one)" in data.notes
    assert same(data, read_image_folder(root, val_fraction=0.2, test_fraction=0.3, seed=5))
    other = read_image_folder(root, val_fraction=0.2, test_fraction=0.3, seed=6)
    assert files(other.splits["val"]) != files(data.splits["val"])


def test_without_val_a_part_of_train_is_set_aside_and_test_stays_as_it_is(tmp_path):
    root = tree(tmp_path / "set", {"train/a": 20, "train/b": 30, "test/a": 7, "test/b": 1})
    data = read_image_folder(root)
    assert [by_class(data, split) for split in ("train", "val", "test")] == [[18, 27], [2, 3], [7, 1]]
    assert data.splits["val"].folder == root / "train"
    assert not set(files(data.splits["val"])) & set(files(data.splits["train"]))
    assert ["5 of its 50 training images, drawn with seed 0" in note for note in data.notes] == [True]
    no_test = read_image_folder(tree(tmp_path / "other", {"train/a": 20, "train/b": 30}))
    assert [by_class(no_test, split) for split in no_test.splits] == [[18, 27], [2, 3]]


# --- the layout -----------------------------------------------------------------------------------------------------


def test_a_class_may_be_called_train(tmp_path):
    data = read_image_folder(tree(tmp_path / "set", {"bus": 10, "train": 10, "test": 10}))
    assert data.class_names == ("bus", "test", "train")
    assert by_class(data, "val") == [1, 1, 1]


def test_an_unlabelled_test_folder_and_what_lies_beside_the_splits_are_left_out_and_named(tmp_path):
    root = tree(tmp_path / "set", {"train/a": 5, "train/b": 5, "val/a": 1, "test": 9, "extra/c": 5})
    data = read_image_folder(root)
    assert data.splits.keys() == {"train", "val"}
    assert any(note == f"{root / 'test'} has no images in class folders and is left out" for note in data.notes)
    assert any(note.endswith("has extra: left out") for note in data.notes)
    assert "val has no image of 1 of the 2 classes (first: b)" in data.notes


TWO = {"train/a": 2, "train/b": 2}
REFUSED = {
    "empty": ({}, r"set has no class folders, and it holds no images; wanted are train/<class>/, .* or <class>/ alone"),
    "pictures in the root": ({".": 3}, r"set has no class folders, and 3 images lie right in it; wanted"),
    "pictures in train": ({"train": 3, "val/a": 1}, r"set/train has no class folders, and 3 images lie right in it"),
    "one class": ({"a": 5}, r"set has the one class folder 'a', and there must be two; wanted"),
    "one folder too high": (
        {"dogs/train/a": 1, "dogs/train/b": 1},
        r"class folder 'dogs'.*is \S*set/dogs the data set",
    ),
    "a class without images": ({"a": 2, "b": ["x.heic"], "c": 0}, r"set: the class folder 'b' holds no image \(nor 1 "),
    "val without train": ({"val/a": 1, "test/a": 1}, r"set has val/ but no train/; wanted"),
    "test beside classes": ({"a": 2, "b": 2, "test/a": 1}, r"set has test/ but no train/; wanted"),
    "val twice": (TWO | {"val/a": 1, "valid/a": 1}, r"set has both val/ and valid/"),
    "a class of val alone": (TWO | {"val/A": 1}, r"set/val has the class folder 'A', which \S*set/train has not"),
    "classes of test alone": (
        TWO | {"test/x": 1, "test/y": 1},
        r"set/test has the class folder 'x' and 1 others, which",
    ),
    "val without classes": (TWO | {"val": 4}, r"set/val has 4 images but none in a class folder; sort them"),
    "empty val": (TWO | {"val": 0}, r"set/val has no images but none|set/val has no images"),
    "single images": ({"a": 1, "b": 1}, r"set has one image of each class, and none to set aside"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_sentence(tmp_path, case):
    folders, message = REFUSED[case]
    root = tmp_path / "set"
    root.mkdir()
    if "." in folders:
        for i in range(folders["."]):
            (root / f"{i}.jpg").touch()
    else:
        tree(root, folders)
    with pytest.raises(InputError, match=message) as refusal:
        read_image_folder(root)
    assert "\n" not in str(refusal.value)


def test_a_root_that_is_no_folder_and_fractions_that_leave_nothing_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        read_image_folder(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file is not a folder"):
        read_image_folder(tmp_path / "file")
    root = tree(tmp_path / "set", {"a": 9, "b": 9})
    for fractions in ({"val_fraction": 0.0}, {"val_fraction": 1.0}, {"test_fraction": 1.0}, {"test_fraction": -0.1}):
        ((name, value),) = fractions.items()
        with pytest.raises(InputError, match=rf"--data\.{name} is {value}; it must be above 0 and below 1"):
            read_image_folder(root, **fractions)
    with pytest.raises(InputError, match=r"val_fraction 0\.5 and --data\.test_fraction 0\.5 together leave nothing"):
        read_image_folder(root, val_fraction=0.5, test_fraction=0.5)


# --- links ----------------------------------------------------------------------------------------------------------


def test_links_to_folders_are_followed_without_going_round(tmp_path):
    elsewhere = tree(tmp_path / "disk", {"cats": 3, "cats/more": 2})
    root = tree(tmp_path / "set", {"train/dog": 4, "train/dog/deep": 1, "val/cat": 1, "val/dog": 1})
    (root / "train" / "cat").symlink_to(elsewhere / "cats")
    (elsewhere / "cats" / "more" / "up").symlink_to(elsewhere / "cats")  # a loop
    (root / "train" / "dog" / "all").symlink_to(root)  # another, around the class
    (root / "train" / "dog" / "self").symlink_to(root / "train" / "dog")
    (root / "train" / "dog" / "again").symlink_to(root / "train" / "dog" / "deep")  # there already
    data = read_image_folder(root)
    assert data.class_names == ("cat", "dog")
    assert by_class(data, "train") == [5, 5]
    found = [os.path.realpath(name) for name in files(data.splits["train"])]
    assert len(set(found)) == 10


@pytest.mark.parametrize("link", ["symbolic", "hard", "folder", "split"])
def test_a_file_that_is_trained_on_cannot_be_in_another_split(tmp_path, link):
    root = tree(tmp_path / "set", {"train/a": 5, "train/b": 5})
    if link == "split":
        (root / "test").symlink_to(root / "train")
    else:
        tree(root, {"test/a": ["x.jpg"]})
        if link == "folder":
            (root / "test" / "b").symlink_to(root / "train" / "b")
        elif link == "hard":
            os.link(root / "train" / "b" / "003.jpg", root / "test" / "a" / "y.jpg")
        else:
            (root / "test" / "a" / "y.jpg").symlink_to(root / "train" / "b" / "003.jpg")
    tree(root, {"val/a": 1})
    with pytest.raises(InputError, match=r"set/test/\S+ of the test split is the same file as \S+set/train/\S+, which"):
        read_image_folder(root)


def test_splits_of_links_into_one_pool_are_fine(tmp_path):
    pool = tree(tmp_path / "pool", {".": []} | {"all": 8})
    root = tree(tmp_path / "set", {f"{split}/{name}": 0 for split in ("train", "val") for name in "ab"})
    for i in range(8):
        (root / ("train", "val")[i % 2] / "ab"[i // 4] / f"{i}.jpg").symlink_to(pool / "all" / f"{i:03}.jpg")
    data = read_image_folder(root)
    assert by_class(data, "train") == by_class(data, "val") == [2, 2]


# --- the kept listing -----------------------------------------------------------------------------------------------


@pytest.fixture
def listed(monkeypatch):
    """Everything is worth keeping, an hour has passed since the files were made; the names of the folders listed."""
    monkeypatch.setattr(cache, "WORTH_KEEPING", 0.0)
    now = time.time_ns
    monkeypatch.setattr(image_folder.time, "time_ns", lambda: now() + 3600 * 10**9)
    names, list_folder = [], image_folder._list

    def noted(folder, stamps):
        names.append(folder.name)
        return list_folder(folder, stamps)

    monkeypatch.setattr(image_folder, "_list", noted)
    return names


def example(root):
    return tree(root, {"a": 3, "a/b": ["Ä 1.jpg", "n.txt"], "sp ace": 4, "c": ["x.txt", "1.PNG"], "c/d/e": 2})


def test_only_folders_that_have_changed_are_listed_again(tmp_path, listed):
    root = example(tmp_path / "set")
    first = read_image_folder(root)
    assert sorted(listed) == sorted(["set", "a", "b", "sp ace", "c", "d", "e"])
    listed.clear()
    second = read_image_folder(root)
    assert listed == []
    assert same(first, second)
    assert any("7 of 7 folders are unchanged" in note and str(tmp_path / "cache") in note for note in second.notes)

    (root / "c" / "d" / "e" / "new.jpg").touch()
    third = read_image_folder(root)
    assert listed == ["e"]
    found = {name for images in third.splits.values() for name in files(images)}
    assert found == {str(path) for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".png")}
    listed.clear()
    assert same(third, read_image_folder(root))
    assert listed == []

    (root / "a" / "000.jpg").unlink()
    (root / "sp ace").rename(root / "spaced")
    tree(root, {"new": 2})
    fourth = read_image_folder(root)
    assert fourth.class_names == ("a", "c", "new", "spaced")
    assert sorted(listed) == ["a", "new", "set", "spaced"]
    found = {name for images in fourth.splits.values() for name in files(images)}
    assert found == {str(path) for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".png")}


def test_a_time_stamp_that_was_set_back_hides_no_change(tmp_path, listed):
    """As unpacking an archive over the folder does, which gives it the time in the archive."""
    root = example(tmp_path / "set")
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        os.utime(folder, (1e9, 1e9))
    read_image_folder(root)
    (root / "a" / "new.jpg").touch()
    os.utime(root / "a", (1e9, 1e9))
    listed.clear()
    data = read_image_folder(root)
    assert listed == ["a"]
    assert str(root / "a" / "new.jpg") in [name for images in data.splits.values() for name in files(images)]


def test_a_folder_changed_just_before_it_was_listed_is_not_trusted(tmp_path, listed, monkeypatch):
    root = example(tmp_path / "set")
    changed = (root / "a").stat()
    newest = max(changed.st_mtime_ns, changed.st_ctime_ns)
    monkeypatch.setattr(image_folder.time, "time_ns", lambda: newest + image_folder._RACY)
    read_image_folder(root)
    listed.clear()
    monkeypatch.setattr(image_folder.time, "time_ns", lambda: newest + image_folder._RACY + 1)
    read_image_folder(root)
    assert "a" in listed  # it could have changed since, within the same tick
    listed.clear()
    read_image_folder(root)
    assert "a" not in listed


def test_a_quick_listing_is_not_kept(tmp_path):
    read_image_folder(example(tmp_path / "set"))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("where", ["a file", "relative", "no home"])
def test_without_a_cache_folder_all_is_listed_each_time(tmp_path, monkeypatch, listed, where):
    root = example(tmp_path / "set")
    (tmp_path / "taken").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", {"a file": str(tmp_path / "taken"), "relative": "here"}.get(where, ""))
    monkeypatch.setenv("HOME", str(tmp_path / "taken"))
    if where == "no home":

        def no_home():
            raise RuntimeError("no home")

        monkeypatch.setattr(Path, "home", no_home)
    first = read_image_folder(root)
    listed.clear()
    assert same(first, read_image_folder(root))
    assert len(listed) == 7
    assert not (tmp_path / "here").exists()


def test_a_damaged_cache_is_made_anew(tmp_path, listed):
    root = example(tmp_path / "set")
    first = read_image_folder(root)
    kept = cache.file("listings-1", root)
    good = kept.read_bytes()
    with np.load(kept) as arrays:
        arrays = dict(arrays)

    def pickled():
        np.savez(kept, **arrays | {"folders": np.array([{"a": 1}], dtype=object)})

    damages = [lambda n=n: kept.write_bytes(good[:n]) for n in (0, 10, len(good) // 2, len(good) - 1)]
    for at in range(0, len(good), 97):  # one byte anywhere
        damages.append(lambda at=at: kept.write_bytes(good[:at] + bytes([good[at] ^ 0x5A]) + good[at + 1 :]))
    damages += [pickled, lambda: kept.write_text("<html>")]
    for damage in damages:
        damage()
        assert same(first, read_image_folder(root))
    assert same(first, read_image_folder(root))
    listed.clear()
    read_image_folder(root)
    assert listed == []
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]  # nothing half-written stays


def test_an_interrupted_listing_goes_on_where_it_was(tmp_path, listed, monkeypatch):
    root = example(tmp_path / "set")
    whole = image_folder._list
    monkeypatch.setattr(image_folder, "_THREADS", 1)

    def interrupted(folder, stamps):
        if folder.name == "d":
            raise KeyboardInterrupt
        return whole(folder, stamps)

    monkeypatch.setattr(image_folder, "_list", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_image_folder(root)
    monkeypatch.setattr(image_folder, "_list", whole)
    listed.clear()
    data = read_image_folder(root)
    assert sorted(listed) == ["d", "e"]
    assert sum(len(images) for images in data.splits.values()) == len([*root.rglob("*.jpg"), *root.rglob("*.PNG")])


def test_a_refused_folder_is_listed_again_only_where_it_was_repaired(tmp_path, listed):
    root = tree(tmp_path / "set", {"a": 5, "b": 5, "c": 0})
    with pytest.raises(InputError, match="'c' holds no image"):
        read_image_folder(root)
    tree(root / "c", {"more": 5})
    listed.clear()
    assert read_image_folder(root).class_names == ("a", "b", "c")
    assert sorted(listed) == ["c", "more"]


def test_the_data_folder_is_only_read(tmp_path, listed):
    root = example(tmp_path / "set")

    def digest():
        state = sorted((str(path), path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in root.rglob("*"))
        return hashlib.sha256(repr((state, root.stat().st_mtime_ns)).encode()).hexdigest()

    before = digest()
    read_image_folder(root)
    read_image_folder(root)
    assert digest() == before


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    root = example(tmp_path / "set")
    scandir = os.scandir

    def denied(path):
        if os.fsdecode(path).endswith("sp ace"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(image_folder.os, "scandir", denied)
    with pytest.raises(InputError, match=r"set/sp ace cannot be listed \(Permission denied\); make it readable"):
        read_image_folder(root)
