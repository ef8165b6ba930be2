import csv
import functools
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import data_module, trainer, write_shards
from lightning.pytorch.demos.boring_classes import BoringModel
from PIL import Image

from backbone import InputError
from data import near_duplicates
from data.coordinates import IssueCounts
from data.geotagged import GeotaggedDataModule, training_records
from data.images import open_image
from data.layouts import read_places
from data.readers.coordinates_csv import Columns, training_coordinates
from data.readers.exif_folder import exif_position
from data.records import SPLITS
from data.splits import assign_splits

module = functools.partial(data_module, GeotaggedDataModule)


def scene(i, size=(60, 80)):
    """An image of its own for each `i`, far from all others by its hash."""
    small = np.random.default_rng(i).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


def write_csv(root, rows, header=("path", "latitude", "longitude", "author")):
    """A list in `root`, and the image of each row."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    for row in rows:
        Image.fromarray(scene(zlib.crc32(str(row[0]).encode()))).save(root / row[0])
    return root


def split_of(root, **settings):
    """{split: names} of what is trained on and scored."""
    read = read_places(root)
    assigned = assign_splits(read, **{"val_fraction": 0.2, "test_fraction": 0.2, "seed": 0, **settings}, source=root)
    parts = [training_records(read, assigned, root), assigned.of_split("val"), assigned.of_split("test")]
    return {split: {n.decode() for n in part.file_names.tolist()} for split, part in zip(SPLITS, parts, strict=True)}


# --- splits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", ["paths", "in full", "empty authors", "no val", "no test", "neither", "few", "dates"])
def test_a_partition_takes_the_places_of_the_training_images_and_no_others(tmp_path, monkeypatch, case, seed):
    """However the list is written; a classifier's cells must not be made of what it is scored on."""
    count = 3 if case == "few" else 40
    rows = [(f"{i:03}.png", i / 2 - 40, i + 0.5, f"author {i % count if case == 'few' else i // 3}") for i in range(60)]
    header = ["path", "latitude", "longitude", "author"]
    monkeypatch.setattr(near_duplicates, "without_near_duplicates", lambda images, of: (images, 0))
    if case == "paths":
        rows, header = [(f"./{row[0]}" if i % 2 else row[0], *row[1:3]) for i, row in enumerate(rows)], header[:3]
    elif case == "in full":
        rows, header = [(f"{tmp_path}/{row[0]}", *row[1:3]) for row in rows], header[:3]
    elif case == "empty authors":
        rows = [(f"./{row[0]}", *row[1:3], "" if i % 3 else "one") for i, row in enumerate(rows)]
    elif case in ("no val", "no test", "neither"):
        given = {"no val": ("train", "test"), "no test": ("Train", "validation"), "neither": ("train", "train")}[case]
        rows, header = [(*row, given[i % 3 == 0]) for i, row in enumerate(rows)], [*header, "split"]
    elif case == "dates":
        rows = [(f"./{row[0]}", *row[1:3], f"{1 + i // 3:02}/05/2020 0{i % 3}:00") for i, row in enumerate(rows[:54])]
        header = [*header[:3], "taken"]
    file = write_csv(tmp_path, rows, header) / "images.csv"
    settings = {"val_fraction": 0.2, "test_fraction": 0.2, "seed": seed}
    taken = np.concatenate(list(training_coordinates(file, Columns(), IssueCounts("row"), **settings)))
    trained = module(file, **settings).train_latlng()
    assert sorted(taken.tolist()) == sorted(trained.tolist())
    assert 0 < len(trained) < len(rows)


def test_what_looks_like_a_scored_image_is_not_trained_on(tmp_path, write_photo):
    for i in range(40):
        write_photo(tmp_path / f"{i:02}.jpg", scene(i), (i, i + 1), f"2021:01:{1 + i % 28:02} 00:00:00")
    before = split_of(tmp_path)
    copies = {}
    for i, name in enumerate(sorted(before["val"] | before["test"])):  # on another day, brighter and mirrored
        image = scene(int(name[:2]))[:, ::-1].astype(int) * 9 // 10 + 20
        copies[f"copy_{i:02}.jpg"] = name
        write_photo(tmp_path / f"copy_{i:02}.jpg", image.astype(np.uint8), (1, 2), f"2022:02:{1 + i:02} 00:00:00")
    after = split_of(tmp_path)
    for copy, name in copies.items():
        assert {copy, name} & (after["val"] | after["test"])
        assert not {copy, name} & after["train"]
    data = module(tmp_path, "fit", val_fraction=0.2, test_fraction=0.2)
    removed = len(copies) - len(set(copies) & (after["val"] | after["test"]))
    assert len(data.records("train")) == len(after["train"])
    assert data.records("train").notes[-1].startswith(f"{removed} of ")


def test_all_is_all_even_of_one_day_and_of_images_that_look_alike(tmp_path, write_photo, capsys):
    for i in range(6):
        write_photo(tmp_path / "alike" / f"{i}.jpg", scene(0), (i + 1, i), f"2021:01:{1 + i:02} 00:00:00")
        write_photo(tmp_path / "one day" / f"{i}.jpg", scene(i), (i + 1, i), "2021:01:01 00:00:00")
    write_csv(tmp_path / "one author", [(f"{i}.png", i + 1, i, "me") for i in range(6)])
    for name in ("alike", "one day", "one author"):
        with pytest.raises(InputError, match=r"too few images \(by (day|author)\)|looks like one that is set aside"):
            module(tmp_path / name).setup("fit")
        data = module(tmp_path / name, "test", test_split="all")
        assert sorted(data.file("test", i)[0] for i in range(len(data.test_dataloader().dataset))) == list("012345")
        assert data.tests_on_validation
        assert "set aside" not in capsys.readouterr().out


# --- batches --------------------------------------------------------------------------------------------------------


def test_batches_have_the_pixels_and_the_place(places_root):
    data = module(places_root, "fit", "test", augment=False)
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    for split, count, loader in zip(SPLITS, (12, 6, 6), loaders, strict=True):
        seen = []
        for batch in loader:
            assert batch["latlng"].dtype == torch.float64
            for position, latlng in zip(batch["positions"].tolist(), batch["latlng"], strict=True):
                path = places_root / data.file(split, position)
                assert latlng.tolist() == list(exif_position(path)) == data.records(split)["latlng"][position].tolist()
                assert np.array_equal(data.image(split, position), open_image(path))
                seen.append(position)
        assert sorted(seen) == list(range(count))
    assert data.train_latlng().tolist() == data.records("train")["latlng"].tolist()
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert (moved["images"].device.type, moved["latlng"].device.type) == ("meta", "cpu")
    for split, count in (("train", 12), ("val", 6), ("all", 24)):
        data = module(places_root, "test", test_split=split)
        assert len(data.test_dataloader().dataset) == count


def test_images_are_mirrored_only_when_asked(tmp_path, write_photo):
    """Left dark and right bright: what is not cropped from one side alone says which way round it is."""
    pixels = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 1, 3))
    for i in range(32):
        for split in SPLITS:
            write_photo(tmp_path / split / f"{i}.jpg", pixels, (i + 1, i))
    for mirror in (False, True):
        data = module(tmp_path, "fit", mirror=mirror, batch_size=32)
        images = next(iter(data.train_dataloader()))["images"].float()
        rising = (images[..., 16:].mean((1, 2, 3)) > images[..., :16].mean((1, 2, 3))).tolist()
        assert all(rising) != mirror
    assert 4 < sum(rising) < 28


# --- shards ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pattern(tmp_path):
    """40 images in 5 shards."""
    return write_shards(tmp_path / "shards", [8, 4, 12, 0, 16])


def rows_of(batches):
    """Of each image its colour, which is its number, its position and its place, by batch."""
    columns = ((batch["images"][:, 0, 16, 16], batch["positions"], batch["latlng"]) for batch in batches)
    return [list(zip(*(column.tolist() for column in three), strict=True)) for three in columns]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_of_shards_comes_once_an_epoch_with_its_place(pattern, places_root, workers):
    data = module(places_root, "fit", shards=pattern, num_workers=workers, augment=False)
    assert len(data.records("val")) == 18  # all of the root but its test split
    loader = data.train_dataloader()
    epochs = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        epochs.append(rows_of(loader))
        rows = [row for batch in epochs[-1] for row in batch]
        assert sorted(number for number, *_ in rows) == list(range(40))
        for number, position, latlng in rows:
            assert position == number
            assert latlng == [number / 4 - 60, number / 2 - 100] == data.train_latlng()[position].tolist()
    assert epochs[0] != epochs[1]
    assert rows_of(data.train_views(0, [3, 1]))[0] == [(3, 3, [-59.25, -98.5]), (1, 1, [-59.75, -99.5])]


class Net(BoringModel):
    def __init__(self):
        super().__init__()
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch["positions"].tolist()))
        if len(self.seen) == 14:
            self.trainer.save_checkpoint(Path(self.trainer.default_root_dir) / "middle.ckpt")
        return self.layer.weight.sum()


def test_training_on_shards_resumes_where_it_was(pattern, places_root, tmp_path):
    nets = Net(), Net()
    for net, workers in zip(nets, (0, 2), strict=True):  # with another number of workers, too
        data = module(places_root, shards=pattern, num_workers=workers)
        checkpoint = None if net is nets[0] else tmp_path / "middle.ckpt"
        trainer(tmp_path, max_epochs=3).fit(net, datamodule=data, ckpt_path=checkpoint)
    whole, resumed = (net.seen for net in nets)
    assert [epoch for epoch, _ in whole] == [0] * 10 + [1] * 10 + [2] * 10
    for epoch in range(3):
        assert sorted(n for at, batch in whole if at == epoch for n in batch) == list(range(40))
    assert resumed == whole[13:]


def test_shards_give_the_pixels_of_files_and_corrupt_images_are_left_out(tmp_path):
    rows = [(f"{i}.png", i + 1, i, "train") for i in range(8)] + [(f"{split}.png", 1, 2, split) for split in SPLITS[1:]]
    write_csv(tmp_path / "files", rows, ("path", "latitude", "longitude", "split"))
    content = [(tmp_path / "files" / f"{i}.png").read_bytes() for i in range(8)]
    at = content[5].index(b"IDAT")
    content[5] = content[5][: at + 4] + b"\0" * 20 + content[5][at + 24 :]
    shards = write_shards(tmp_path / "shards", [8], images=content)
    batches = []
    for given in (None, shards):
        data = module(tmp_path / "files", "fit", shards=given, batch_size=8)
        (batch,) = data.train_dataloader()
        batches.append(batch)
    files, streamed = (dict(zip(b["positions"].tolist(), b["images"], strict=True)) for b in batches)
    assert sorted(files) == list(range(8))
    assert sorted(streamed) == [0, 1, 2, 3, 4, 6, 7]
    assert all(torch.equal(streamed[i], files[i]) for i in streamed)
    ((file, reason),) = batches[1]["bad"]
    assert file == str(data.records("train").path(5))
    assert "decoded" in reason


def test_what_is_known_of_the_shards_photographers_is_said(tmp_path, places_root, capsys):
    root = write_csv(tmp_path / "root", [(f"{i}.png", i, i + 1, "ABC"[i % 3]) for i in range(12)])
    authors = ["A", "B", "A", "D", None, 7]
    given = [{"lat": 1, "lng": i} | ({} if author is None else {"Author": author}) for i, author in enumerate(authors)]
    shards = write_shards(tmp_path / "known", [4, 2], positions=given.__getitem__)
    bare = write_shards(tmp_path / "bare", [4])
    for pattern, scored, words in (
        (shards, root, "3 of 6 are of 2 of its groups (by author)"),
        (shards, places_root, "is not known"),
        (bare, root, "is not known"),
    ):
        module(scored, shards=pattern).setup("fit")
        assert words in capsys.readouterr().out
    alone = GeotaggedDataModule(shards=shards, image_size=32, batch_size=1, num_workers=0)  # splits are drawn of them
    assert len(alone.all_records) == 6
    assert {*alone.all_records["split"].tolist()} == {0, 1, 2}


@pytest.mark.parametrize(("stage", "split"), [("validate", "val"), ("test", "test")])
@pytest.mark.parametrize("layout", ["column", "name", "folder"])
def test_places_of_one_split_are_scored_but_not_trained_on(tmp_path, write_photo, layout, stage, split):
    rows = [(f"{i}.png", i + 1, i) for i in range(4)]
    if layout == "folder":
        for name, latitude, longitude in rows:
            write_photo(tmp_path / split / name.replace("png", "jpg"), scene(latitude), (latitude, longitude))
    elif layout == "name":
        write_csv(tmp_path, rows, ("path", "latitude", "longitude"))
        (tmp_path / "images.csv").rename(tmp_path / f"{split}.csv")
    else:
        write_csv(tmp_path, [(*row, split) for row in rows], ("path", "latitude", "longitude", "split"))
    data = module(tmp_path, stage)
    assert data.records(split)["latlng"].round(3).tolist() == [[i + 1, i] for i in range(4)]
    with pytest.raises(InputError, match="no image to train on"):
        module(tmp_path).setup("fit")
