import csv
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import drawn_boxes
import numpy as np
import pytest
import webdataset
from drawn_boxes import write
from helpers import completed, data_module, dog_rows, faces, figures, image_file, largest_file, lfw, tree, write_dogs
from PIL import Image

from backbone.errors import InputError
from data import shard
from data.attributes import AttributesDataModule
from data.classification import ClassificationDataModule
from data.detection import DetectionDataModule
from data.face_pairs import FacePairsDataModule
from data.geotagged import GeotaggedDataModule
from data.images import ImageError
from data.readers import shards
from data.records import SPLITS, joined

TASKS = {
    "boxes": DetectionDataModule,
    "classes": ClassificationDataModule,
    "attributes": AttributesDataModule,
    "faces": FacePairsDataModule,
    "places": GeotaggedDataModule,
}


def write_list(root, header, rows):
    for i, row in enumerate(rows):
        image_file(root / row[0], i)
    with (root / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return root


def dogs(root):
    write_dogs(root)
    for number, (name, _) in enumerate(dog_rows(1, 14)):
        box = f"<bndbox><xmin>{number}</xmin><ymin>2</ymin><xmax>{number + 9}</xmax><ymax>30</ymax></bndbox>"
        file = root / "Annotation" / name.removesuffix(".jpg")
        write(file, f"<annotation><object><name>dog</name>{box}</object></annotation>")


def class_list(root):
    write_list(root, ("path", "label"), [(f"images/{i}.PNG", "abc"[i % 3]) for i in range(30)])


def places_list(root):
    rows = [(f"{i}.png", i / 2 - 10, i / 4, f"author {i // 3}") for i in range(30)]
    write_list(root, ("path", "latitude", "longitude", "author"), rows)


LAYOUTS = {
    **{name: ("boxes", getattr(drawn_boxes, name)) for name in ("coco", "roboflow", "voc", "csv_retinanet")},
    "class folders": ("classes", None),
    "dogs": ("classes", dogs),
    "a CSV of classes": ("classes", class_list),
    "CelebA": ("attributes", None),
    "attributes.csv": ("attributes", faces),
    "people": ("faces", lambda root: lfw(root, {"Ann": 4, "Bo": 9, "Cy": 3})),
    "a CSV of places": ("places", places_list),
    "EXIF": ("places", None),
}


def alike(root):
    """Images of the first days on other days too, so that some to train on look like some that are scored."""
    for i in range(12):
        with Image.open(root / f"photo_{i + 12:03}.jpg") as other, Image.open(root / f"photo_{i:03}.jpg") as image:
            image.save(root / f"photo_{i + 12:03}.jpg", exif=other.getexif(), quality=95)


def draw(layout, root, write_classes, write_faces, write_places):
    """A data set in a layout; its targets."""
    drawn = {
        "class folders": lambda root: write_classes(root, {"": 10}),
        "CelebA": lambda root: write_faces(root, {"train": 8, "val": 3, "test": 3}),
        "EXIF": lambda root: alike(write_places(root, {"": 24})),
    }
    targets, write_layout = LAYOUTS[layout]
    (write_layout or drawn[layout])(root)
    return targets


@pytest.fixture
def source(request, tmp_path, write_classes, write_faces, write_places):
    """A data set and its targets."""
    return tmp_path / "src", draw(request.param, tmp_path / "src", write_classes, write_faces, write_places)


def sharded(root, *args, code=0):
    assert shard.main([str(root), str(root.parent / "dst"), "--shard_mb", "0.01", *args]) == code
    return root.parent / "dst"


def by_name(records):
    """The records in the order of their names, without the shards' part of these, and the names."""
    starts = records["member"][:, 0] + 1 if "member" in records.columns else np.zeros(len(records), int)
    names = np.array([name[start:] for name, start in zip(records.file_names.tolist(), starts.tolist(), strict=True)])
    order = np.argsort(names)
    return records.take(order), names[order].tolist()


def taken(data, targets):
    """All images of a folder that a fit trains on or scores."""
    if targets == "places":
        return joined([data.select(split) for split in SPLITS])
    records = data.all_records
    return records.take(records["problem"] == b"") if "problem" in records.columns else records


@pytest.mark.parametrize("source", LAYOUTS, indirect=True)
@pytest.mark.parametrize("option", ["root", "shards"])
def test_records_of_shards_equal_those_of_the_files(source, option):
    """In every column and box, of all splits as a fit takes them, and to the byte of every image."""
    root, targets = source
    before = tree(root)
    more = {"crop": "bbox"} if (root / "Annotation").exists() else {}
    target = sharded(root, "--targets", targets)
    assert tree(root) == before
    kind = TASKS[targets]
    whole = kind(root=str(root), **more)
    data = kind(**{option: str(target)}, **more)
    (loose, names), (packed, packed_names) = by_name(taken(whole, targets)), by_name(data.all_records)
    assert packed_names == names
    assert len(names) > 5
    columns = {name: rows for name, rows in packed.columns.items() if name != "member"}
    assert columns.keys() == loose.columns.keys()
    for name, rows in columns.items():
        assert rows.dtype.kind == loose[name].dtype.kind
        assert np.array_equal(rows, loose[name], equal_nan=rows.dtype.kind == "f"), name
    assert (packed.boxes is None) == (loose.boxes is None)
    if packed.boxes:
        assert all(np.array_equal(rows, getattr(loose.boxes, name)) for name, rows in vars(packed.boxes).items())
    assert (packed.classes, packed.class_ids) == (loose.classes, loose.class_ids)
    assert (packed.grouped_by, packed.layout) == (whole.all_records.grouped_by, f"shards of {whole.all_records.layout}")
    for i in range(len(packed)):
        assert shards.image_bytes(packed, i) == loose.path(i).read_bytes()
        assert packed.path(i).parts[len(target.parts)].startswith(SPLITS[packed["split"][i]])
    order = [name for name in data.all_records.file_names.tolist() if name.startswith(b"train")]
    assert len(order) < 8 or order != sorted(order)  # mixed


@pytest.mark.parametrize(
    ("layout", "targets"),
    [
        ("coco", "boxes"),
        ("voc", "boxes"),
        ("csv_retinanet", "boxes"),
        ("class folders", "classes"),
        ("dogs", "classes"),
        ("a CSV of classes", "classes"),
        ("CelebA", "attributes"),
        ("attributes.csv", "attributes"),
        ("a CSV of places", "places"),
        ("EXIF", "places"),
        ("plain", "faces"),
    ],
)
def test_the_layout_tells_the_targets(tmp_path, layout, targets, write_classes, write_faces, write_places):
    root = tmp_path / "src"
    if layout == "plain":
        image_file(root / "a/b.png", 0)
    else:
        draw(layout, root, write_classes, write_faces, write_places)
    assert shard._targets(root) == targets


def test_classes_with_places_are_asked_about(tmp_path, write_photo, capsys):
    for name in ("a/1.jpg", "b/2.jpg"):
        write_photo(tmp_path / "src" / name, np.zeros((9, 9, 3), np.uint8), (1, 2))
    sharded(tmp_path / "src", code=2)
    assert "--targets classes or --targets places" in capsys.readouterr().err
    assert not (tmp_path / "dst").exists()


def test_webdataset_reads_the_shards(tmp_path, write_classes):
    """Keys, bytes, labels and JSON; keys are the images' numbers, each once."""
    root = write_classes(tmp_path / "src", {"train": 8, "val": 3})
    target = sharded(root)
    records = ClassificationDataModule(root=str(root)).all_records
    files = sorted(target.glob("*.tar"))
    samples = list(webdataset.tariterators.tarfile_samples([{"url": str(file)} for file in files]))
    assert sorted(sample["__key__"] for sample in samples) == [f"{i:09}" for i in range(len(records))]
    for sample in samples:
        i = int(sample["__key__"])
        known = json.loads(sample["json"])
        assert sample["png"] == records.path(i).read_bytes()
        assert int(sample["cls"]) == known["label"] == records["labels"][i]
        assert known["class"] == records.classes[known["label"]]
        assert known["file"] == os.fsdecode(records.file_names[i])
    index = json.loads((target / "index.json").read_text())
    assert index["__kind__"] == "wids-shard-index-v1"
    for one in index["shardlist"]:
        assert one["filesize"] == (target / one["url"]).stat().st_size
        assert one["nsamples"] == len([s for s in samples if s["__url__"].endswith(one["url"])])
    assert all(size > 10_000 for size in [one["filesize"] for one in index["shardlist"]])
    assert sum(one["split"] == "train" for one in index["shardlist"]) > 3
    found = [
        (key, name, content, known["file"]) for file in files for key, name, content, known in shards.members(file)
    ]
    assert [(s["__key__"], f"{s['__key__']}.png", s["png"], json.loads(s["json"])["file"]) for s in samples] == found


def test_what_is_missing_of_shards_that_were_written_is_written_again(tmp_path, write_classes):
    dst = sharded(write_classes(tmp_path / "src", {"": 10}))
    before = tree(dst)
    (dst / "train-000001.tar").unlink()
    (dst / "train-000002.tar").write_bytes(b"")
    assert tree(sharded(tmp_path / "src")) == before


# --- a stop, and other faults ---------------------------------------------------------------------------------------


def killed_at(call, monkeypatch, root, step):
    """Write in a process of its own, which is killed by SIGKILL before the `step`-th call; whether it was."""
    module, name = call
    done, real = [], getattr(module, name)

    def counted(*args, **given):
        done.append(1)
        if len(done) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **given)

    with monkeypatch.context() as patched:
        patched.setattr(module, name, counted)
        process = multiprocessing.get_context("fork").Process(
            target=lambda: os._exit(len(os.fspath(sharded(root))) < 1)
        )
        process.start()
        process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "steps"),
    [
        ((shard, "_add"), (1, 14, 40, 2, 25)),
        ((np, "savez"), (1, 3, 1)),
        ((shard, "write_whole"), (1, 1)),
        ((shard, "_finished"), (2, 5)),
    ],
)
def test_a_killed_command_goes_on_and_ends_in_the_same_bytes(tmp_path, monkeypatch, write_classes, call, steps):
    root = write_classes(tmp_path / "src", {"": 10})
    expected = tree(sharded(root).rename(tmp_path / "expected"))
    assert len(expected) > 9
    for step in steps:
        assert killed_at(call, monkeypatch, root, step)
        assert not (tmp_path / "dst/index.json").exists()
    finished = {path: path.stat().st_ino for path in (tmp_path / "dst").glob("[tv]*.npz")}
    assert tree(sharded(root)) == expected
    assert all(path.stat().st_ino == inode for path, inode in finished.items())  # none was written again
    sharded(root)  # once more changes nothing
    assert tree(tmp_path / "dst") == expected


def test_a_shard_that_is_not_what_was_written_is_written_again(tmp_path, monkeypatch, write_classes):
    root = write_classes(tmp_path / "src", {"": 10})
    target = sharded(root)
    expected = tree(target.rename(tmp_path / "expected"))
    assert killed_at((np, "savez"), monkeypatch, root, 6)
    cut = target / "train-000001.tar"
    cut.write_bytes(cut.read_bytes()[:-1])
    shutil.copy(target / "train-000000.npz", target / "train-000003.npz")
    (target / "train-000004.npz").write_bytes(b"")
    assert tree(sharded(root)) == expected


def test_other_data_and_options_are_refused_in_what_was_begun(tmp_path, monkeypatch, write_classes, capsys):
    root = write_classes(tmp_path / "src", {"": 6})
    assert killed_at((np, "savez"), monkeypatch, root, 2)
    before = tree(tmp_path / "dst")
    for args in (["--seed", "1"], ["--shard_mb", "0.02"], ["--val_fraction", "0.4"]):
        sharded(root, *args, code=2)
        assert "was begun with other options" in capsys.readouterr().err
    image_file(root / "foo/new.png", 1)
    sharded(root, code=2)
    assert tree(tmp_path / "dst") == before
    (root / "foo/new.png").unlink()
    sharded(root)
    sharded(root, "--seed", "1", code=2)
    capsys.readouterr()
    for target in (root, root / "new", root.parent, root / "foo/train_00.png"):
        assert shard.main([str(root), str(target)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (root / "new").exists()


def test_images_that_cannot_be_read_stay_out_and_are_counted(tmp_path, monkeypatch, write_classes, capsys):
    """Missing, empty or a pipe when their turn comes; the shards are those of the others, after a kill too."""
    root = write_classes(tmp_path / "src", {"train": 20, "val": 4})
    records = ClassificationDataModule(root=str(root)).all_records
    names = [os.fsdecode(name) for name in records.file_names if name.startswith(b"train")]
    real = shard._read_ahead

    def then_damaged(*given):
        (root / names[3]).unlink(missing_ok=True)
        (root / names[17]).write_bytes(b"")
        (root / names[30]).unlink(missing_ok=True)
        os.mkfifo(root / names[30])
        return real(*given)

    monkeypatch.setattr(shard, "_read_ahead", then_damaged)
    assert killed_at((np, "savez"), monkeypatch, root, 20)
    for name in (names[3], names[30]):
        (root / name).unlink(missing_ok=True)
        (root / name).write_bytes(b"there when it is listed")
    target = sharded(root)
    index = json.loads((target / "index.json").read_text())
    ((what, count, first, more),) = index["issues"]
    assert (what, count) == ("images left out of the shards", 3)
    assert {line.partition(": ")[0] for line in (first, *more)} == {names[3], names[17], names[30]}
    read = shards.read(str(target))
    left = set(map(os.fsdecode, records.file_names)) - {names[3], names[17], names[30]}
    assert {os.fsdecode(name).partition("/")[2] for name in read.file_names} == left
    assert shard.main(["--verify", str(target)]) == 0
    shutil.rmtree(target)
    for name in (names[3], names[30]):
        (root / name).unlink(missing_ok=True)
        (root / name).write_bytes(b"there when it is listed")
    capsys.readouterr()
    sharded(root, "--max_bad_fraction", "0", code=2)
    assert "1 of the 60 images of the train split cannot be used" in capsys.readouterr().err
    assert not (target / "index.json").exists()


def test_verify_finds_every_changed_byte(tmp_path, write_classes, capsys):
    target = sharded(write_classes(tmp_path / "src", {"": 10}))
    assert shard.main(["--verify", str(target)]) == 0
    for path in sorted(target.iterdir()):
        whole = path.read_bytes()
        if path.name != "index.json":
            for content in (
                whole[:-1],
                whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :],
            ):
                path.write_bytes(content)
                assert shard.main(["--verify", str(target)]) == 2
                assert path.name in capsys.readouterr().err
        path.unlink()
        assert shard.main(["--verify", str(target)]) == 2
        path.write_bytes(whole)
    index = json.loads((target / "index.json").read_text())
    index["shardlist"][0]["nsamples"] += 1
    (target / "index.json").write_text(json.dumps(index))
    assert shard.main(["--verify", str(target)]) == 2


def test_a_full_disk_is_one_sentence_and_the_command_goes_on(tmp_path, write_classes, capsys):
    root = write_classes(tmp_path / "src", {"": 10})
    expected = tree(sharded(root).rename(tmp_path / "expected"))
    capsys.readouterr()
    with largest_file(8000):
        sharded(root, code=2)
    error = capsys.readouterr().err
    assert "cannot be written" in error
    assert error.count("\n") == 1
    assert tree(sharded(root)) == expected


# --- what reads them ------------------------------------------------------------------------------------------------


def test_what_is_wrong_with_an_index_is_one_sentence(tmp_path, write_classes):
    target = sharded(write_classes(tmp_path / "src", {"": 10}))
    whole = (target / "index.json").read_bytes()
    index = json.loads(whole)
    no_class = {key: value for key, value in index.items() if key != "classes"}
    elsewhere = {**index, "shardlist": [{**index["shardlist"][0], "url": "../src/a.tar"}]}
    fewer = {**index, "shardlist": [{**index["shardlist"][0], "nsamples": 1}]}
    gone = {**index, "shardlist": [{**index["shardlist"][0], "url": "train-9.tar"}]}
    for wrong, message in (
        (no_class, "classes"),
        (elsewhere, "not a name"),
        (fewer, "should have 1"),
        (gone, "missing"),
    ):
        (target / "index.json").write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=message):
            shards.read(str(target))
    (target / "index.json").write_bytes(whole)
    with pytest.raises(InputError, match=r"without boxes, .*--targets boxes"):
        shards.read(str(target), "boxes")
    table = target / "train-000000.npz"
    table.write_bytes(table.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"train-000000\.npz cannot be read"):
        shards.read(str(target))


def test_some_of_the_shards_are_named(tmp_path, write_classes):
    target = sharded(write_classes(tmp_path / "src", {"": 20}))
    every = shards.read(str(target))
    for pattern, starts in (
        ("train-*.tar", (b"train",)),
        ("{train,val}-000000.tar", (b"train-000000", b"val-000000")),
        (f"train-000001.tar,{target}/test-00000?.tar", (b"train-000001", b"test")),
    ):
        some = shards.read(f"{target}/{pattern}")
        expected = [i for i, name in enumerate(every.file_names.tolist()) if name.startswith(starts)]
        assert 0 < len(expected) < len(every)
        assert np.array_equal(some.file_names, every.file_names[expected])
        assert np.array_equal(some["labels"], every["labels"][expected])
    with pytest.raises(InputError, match=r"has no shard train-000099\.tar"):
        shards.read(f"{target}/train-000099.tar")
    sizes = shards.shard_sizes(every)
    assert sizes.tolist() == [one["nsamples"] for one in json.loads((target / "index.json").read_text())["shardlist"]]
    assert shards.shard_names(every) == [
        one["url"] for one in json.loads((target / "index.json").read_text())["shardlist"]
    ]


def test_an_image_in_a_shard_that_is_cut_off_is_bad(tmp_path, write_classes):
    target = sharded(write_classes(tmp_path / "src", {"": 10}))
    records = shards.read(str(target))
    shard_file = target / "train-000000.tar"
    assert shards.image_bytes(records, 0)
    shard_file.write_bytes(shard_file.read_bytes()[: records["member"][1, 1] + 5])
    for position in (0, 1):  # of what is not as long as the index says nothing is where it says
        with pytest.raises(ImageError, match="by its index"):
            shards.image_bytes(records, position)
    (target / "index.json").unlink()
    assert shards.image_bytes(records, 0)
    with pytest.raises(ImageError, match="it is cut off"):
        shards.image_bytes(records, 1)


def in_order(loader, records):
    """{name in the source: (pixels, label)} of an epoch."""
    found = {}
    for batch in loader:
        for i, image, label in zip(batch["positions"].tolist(), batch["images"], batch["labels"].tolist(), strict=True):
            name = records.file_names[i][records["member"][i, 0] + 1 if "member" in records.columns else 0 :]
            assert name not in found
            found[name] = image.numpy().tobytes(), label
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_of_shards_has_every_image_of_the_files_once(tmp_path, write_classes, workers):
    """Training images too, which are then in another order."""
    root = write_classes(tmp_path / "src", {"train": 15, "val": 4})
    target = sharded(root)
    loaders = []
    for where in ({"root": str(root)}, {"shards": str(target)}, {"root": str(target)}):
        data = data_module(
            ClassificationDataModule, where.pop("root", None), **where, num_workers=workers, augment=False
        )
        data.setup("fit")
        loaders.append((data.train_dataloader(), data.records("train"), data.val_dataloader(), data.records("val")))
    expected = in_order(*loaders[0][2:])
    for loader, records, val, val_records in loaders[1:]:
        assert in_order(val, val_records) == expected
        once = in_order(loader, records)
        assert len(once) == 45
        for name, (_, label) in once.items():
            assert (
                ClassificationDataModule(root=str(root)).all_records.classes[label] == os.fsdecode(name).split("/")[1]
            )
    assert loaders[1][0].sampler.__class__.__name__ == "ShardSampler"


def test_boxes_are_cut_out_of_images_in_shards(tmp_path):
    root = tmp_path / "src"
    dogs(root)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for number, (name, _) in enumerate(dog_rows(1, 14)):
        Image.fromarray(pixels + np.uint8(number)).save(root / "Images" / name, format="png")
    target = sharded(root)
    for crop in ("bbox", "full"):
        loose, packed = (ClassificationDataModule(root=str(one), crop=crop) for one in (root, target))
        for data in (loose, packed):
            data.setup("test")
        names = by_name(packed.records("test"))[1]
        assert sorted(loose.records("test").file_names.tolist()) == names
        for i, name in enumerate(loose.records("test").file_names.tolist()):
            other = [n.endswith(name) for n in packed.records("test").file_names.tolist()].index(True)
            assert np.array_equal(loose.image("test", i), packed.image("test", other))
            assert (loose.image("test", i).shape == (40, 60, 3)) == (crop == "full")


def test_unlabelled_images_and_shards_are_trained_on_together(tmp_path):
    target = sharded(faces(tmp_path / "src"))
    for i in range(5):
        image_file(tmp_path / f"more/{i}.png", 100 + i)
    data = data_module(AttributesDataModule, None, shards=str(target), unlabelled=str(tmp_path / "more"))
    data.setup("fit")
    records = data.records("train")
    assert (records["member"][:, 2] >= 0).tolist() == [True] * 12 + [False] * 5
    batches = list(data.train_dataloader())
    assert [len(batch["bad"]) for batch in batches] == [0] * 4
    assert data.image("train", 0).shape == data.image("train", 16).shape == (30, 40, 3)
    assert len({*data.train_keys()}) == 17


def test_near_duplicates_in_shards_are_found(tmp_path):
    for i in range(12):
        image_file(tmp_path / f"src/train/{'ab'[i % 2]}/{i}.png", i, (60, 60))
        image_file(tmp_path / f"src/test/{'ab'[i % 2]}/{i}.png", 20 + i, (60, 60))
        image_file(tmp_path / f"web/{'ab'[i % 2]}/{i}.png", 40 + i if i else 20, (60, 60))
    target = sharded(tmp_path / "src")
    assert shard.main([str(tmp_path / "web"), str(tmp_path / "of_web"), "--test_fraction", "0"]) == 0
    lengths = []
    for root, other in ((tmp_path / "web", tmp_path / "src"), (tmp_path / "of_web", target)):
        data = ClassificationDataModule(root=str(root), without_near_duplicates_of=str(other), test_fraction=0.0)
        data.setup("fit")
        lengths.append(sorted(name.rpartition(b"/")[2] for name in data.records("train").file_names.tolist()))
    assert lengths[0] == lengths[1]
    assert b"0.png" not in lengths[0]
    assert len(lengths[0]) > 8


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classification", "detection"])
def test_evaluation_on_shards_equals_that_on_the_files(tmp_path, task, capsys, write_classes, write_coco):
    """The figures of `test`, to the last bit, of a net that was trained on the shards; and a resumed fit goes on."""
    main = importlib.import_module(f"tasks.{task}.__main__").main
    root, size = tmp_path / "src", "32" if task == "classification" else "96"
    write = write_classes if task == "classification" else write_coco
    write(root, {"train": 8, "val": 4, "test": 6})
    target = sharded(root)
    small = ["--model.width_mult", "0.25", "--data.image_size", size, "--data.batch_size", "4", "--data.num_workers"]
    small += ["0", "--trainer.precision", "32-true", "--trainer.enable_progress_bar", "false"]
    _, run = completed(main, capsys, "fit", "--data.shards", str(target), *small, "--trainer.max_epochs", "1")
    found = []
    for where in (["--data", str(root)], ["--data.shards", str(target)], ["--data", str(target)], []):
        printed, scored = completed(main, capsys, "test", "--weights", str(run), *where)
        found.append((figures(scored), printed.count("read as shards of")))
    assert [count for _, count in found] == [0, 1, 1, 1]
    assert all(figures_of == found[0][0] for figures_of, _ in found)
    completed(main, capsys, "fit", "--resume", str(run), "--trainer.max_epochs", "2")


def test_images_of_boxes_that_cannot_be_used_stay_out(tmp_path):
    root = tmp_path / "src"
    drawn_boxes.coco(root)
    next(root.rglob("b.png")).unlink()
    target = sharded(root)
    names = by_name(shards.read(str(target)))[1]
    assert len(names) == 5
    assert not any(name.endswith(b"b.png") for name in names)
    issues = {
        what: (count, first) for what, count, first, _ in json.loads((target / "index.json").read_text())["issues"]
    }
    count, first = issues["images left out of the shards"]
    assert count == 1
    assert first.endswith("b.png: there is no such file")


def test_the_help_needs_no_torch():
    code = "import sys, data.shard; assert not {'torch', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
