import io
import json
import math
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import trainer
from lightning.pytorch import LightningModule
from PIL import Image
from torch import nn

from backbone import InputError
from data import cache, geotagged_shards
from data.geotagged import GeotaggedDataModule
from data.geotagged_shards import StreamedPhotographs, _dealt, read_shards

pytest.importorskip("webdataset")


def place(i):
    return {"latitude": i / 4 - 60, "longitude": i / 2 - 100}


def picture(i):
    """A plain picture whose colour is its number."""
    return Image.new("RGB", (40, 40), (i % 256, i // 256 * 40, 100))


def write_shards(folder, sizes, *, positions=place, ending="png", key="{0:05}".format):
    """Shards of pictures numbered through, with their JSON; the order of the two within a sample alternates."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard, size in enumerate(sizes):
        with tarfile.open(folder / f"train-{shard:03}.tar", "w") as archive:
            for i in range(number, number + size):
                content = io.BytesIO()
                picture(i).save(content, ending)
                members = [(f"{key(i)}.{ending}", content.getvalue())]
                if (given := positions(i)) is not None:
                    members.append((f"{key(i)}.json", json.dumps(given).encode()))
                for name, data in members if i % 2 else members[::-1]:
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        number += size
    return f"{folder}/train-{{000..{len(sizes) - 1:03}}}.tar"


def module(pattern, root, **settings):
    settings = {"image_size": 32, "batch_size": 4, "num_workers": 0, "augment": False, **settings}
    return GeotaggedDataModule(str(root), shards=pattern, **settings)


def numbers(batch):
    """Of each picture its number by its colour, where no two neighbours are mistaken for each other."""
    middle = batch["images"][:, :, 16, 16].int()
    return (middle[:, 0] + (middle[:, 1] + 20) // 40 * 256).tolist()


def epoch_of(loader):
    found = []
    for batch in loader:
        assert not batch["bad"]
        assert batch["images"].dtype == torch.uint8
        assert batch["latlng"].dtype == torch.float64
        found.append(list(zip(numbers(batch), batch["positions"].tolist(), batch["latlng"].tolist(), strict=True)))
    return found


# --- what is in them ------------------------------------------------------------------------------------------------


def test_the_pictures_and_their_places_in_order(tmp_path):
    shards = read_shards(write_shards(tmp_path, [3, 1, 5]))
    assert [Path(file).name for file in shards.files] == ["train-000.tar", "train-001.tar", "train-002.tar"]
    assert shards.counts.tolist() == shards.kept().tolist() == [3, 1, 5]
    assert shards.positions.tolist() == list(range(9))
    names = ["train-000.tar/00000.png", "train-000.tar/00001.png", "train-000.tar/00002.png", "train-001.tar/00003.png"]
    assert [name.decode() for name in shards.images.file_names.tolist()][:4] == names
    assert shards.images.latlng.tolist() == [list(place(i).values()) for i in range(9)]
    assert shards.notes == ()


def test_what_has_no_place_is_left_out_and_counted(tmp_path):
    odd = {2: None, 3: {}, 4: {"latitude": None, "longitude": 3}, 5: {"lat": 0, "lng": 0}, 6: {"LAT": 1, "LON": 200}}
    shards = read_shards(write_shards(tmp_path, [4, 4], positions=lambda i: odd.get(i, place(i))))
    assert shards.counts.tolist() == [4, 4]
    assert shards.kept().tolist() == [2, 2]
    assert shards.positions.tolist() == [0, 1, -1, -1, -1, -1, 2, 3]
    assert shards.images.latlng[2].tolist() == [1, -160]
    assert [note.split(": ", 1)[1] for note in shards.notes] == [
        "3 pictures without a position, left out (first: train-000.tar/00002.png)",
        "1 picture at (0, 0), which stands for no position, left out (first: train-001.tar/00005.png)",
        "1 picture with a longitude above 180, of which 360 was taken (first: train-001.tar/00006.png)",
    ]


def test_places_from_a_list_by_key(tmp_path):
    pattern = write_shards(tmp_path, [4, 4], positions=lambda i: place(i) if i == 1 else None)
    rows = [f"{i:05},{i + 1},{i + 2}" for i in range(0, 7)]
    (tmp_path / "list.csv").write_text("\n".join(["id,latitude,longitude", *rows]))
    shards = read_shards(pattern, tmp_path / "list.csv")
    assert shards.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, -1]
    expected = [[i + 1, i + 2] for i in range(7)]
    expected[1] = list(place(1).values())
    assert shards.images.latlng.tolist() == expected
    with pytest.raises(InputError, match=r"has no picture with a place \(8 pictures\); write `key.json`"):
        read_shards(write_shards(tmp_path / "bare", [8], positions=lambda i: None))


def looked_up(pattern, file, rows):
    file.write_text("\n".join(["path,latitude,longitude,author", *rows]))
    return read_shards(pattern, file)


def test_shards_with_the_same_keys_have_each_their_own_places(tmp_path):
    """Three in each of two shards, with the keys 0, 1, 2 in both, of which 1 has a place of its own in the second."""
    own = {4: place(4)}
    pattern = write_shards(tmp_path, [3, 3], positions=own.get, key=lambda i: f"{i % 3}")
    listed = tmp_path / "list.csv"
    full = [f"train-00{i // 3}.tar/{i % 3}.png,{i + 1},{10 * i},author {i}" for i in range(6)]
    for rows in (full, [f"/data/{row}" for row in full], [row.replace(".tar", "").replace(".png", "") for row in full]):
        shards = looked_up(pattern, listed, rows)
        expected = [[i + 1, 10 * i] for i in range(6)]
        expected[4] = list(place(4).values())
        assert shards.images.latlng.tolist() == expected
        assert shards.groups.tolist() == [f"author {i}".encode() for i in range(6)]
        shards = looked_up(pattern, listed, rows[:3])  # of the first shard alone: not the second's places
        assert shards.positions.tolist() == [0, 1, 2, -1, 3, -1]
    bare = [f"{i},{i + 1},{10 * i},x" for i in range(3)]
    with pytest.raises(
        InputError, match=r"lists 0, which may be train-000\.tar/0\.png or train-001\.tar/0\.png; write"
    ):
        looked_up(pattern, listed, bare)
    with pytest.raises(
        InputError, match=r"lists 1, which may be train-000\.tar/1\.png or train-001\.tar/1\.png; write"
    ):
        looked_up(pattern, listed, bare[1:2])  # although the other's place is known
    with pytest.raises(
        InputError, match=r"lists train-000/2 more than once, one of which may be train-000\.tar/2\.png"
    ):
        looked_up(pattern, listed, [*full, "train-000.tar/2.jpg,1,1,x"])


def test_keys_with_folders_are_told_apart(tmp_path):
    pattern = write_shards(tmp_path, [2, 2], positions=lambda i: None, key=lambda i: f"{'ab'[i // 2]}/{i % 2}")
    listed = tmp_path / "list.csv"
    rows = [f"{folder}/{i}.jpg,{i + 1},{ord(folder)},x" for folder in "abc" for i in (1, 0)]
    assert looked_up(pattern, listed, rows).images.latlng.tolist() == [[1, 97], [2, 97], [1, 98], [2, 98]]
    assert looked_up(pattern, listed, rows[:3] + rows[4:]).positions.tolist() == [0, 1, -1, 2]  # not c/0's place
    with pytest.raises(InputError, match=r"lists 0, which may be train-000\.tar/a/0\.png or train-001\.tar/b/0\.png"):
        looked_up(pattern, listed, ["0,1,2,x"])
    flat = write_shards(tmp_path / "flat", [2], positions=lambda i: None)
    assert len(looked_up(flat, listed, ["x/00000.jpg,1,2,x", "y/00001.jpg,3,4,x"]).images) == 2
    with pytest.raises(InputError, match=r"lists 00001 more than once, one of which may be train-000\.tar/00001\.png"):
        looked_up(flat, listed, ["x/00000.jpg,1,2,x", "y/00001.jpg,3,4,x", "z/00001.jpg,5,6,x"])


def test_authors_on_both_sides_are_counted_and_what_is_unknown_is_said(tmp_path, places_root, capsys):
    (tmp_path / "root").mkdir()
    rows = [f"{i}.png,{i},{i + 1},{'ABC'[i % 3]}" for i in range(12)]
    (tmp_path / "root" / "photographs.csv").write_text("\n".join(["path,latitude,longitude,author", *rows]))
    for i in range(12):
        picture(i).save(tmp_path / "root" / f"{i}.png")
    authors = ["A", "B", "A", "D", None, 7]
    given = [place(i) | ({} if author is None else {"Author": author}) for i, author in enumerate(authors)]
    pattern = write_shards(tmp_path, [4, 2], positions=given.__getitem__)
    assert read_shards(pattern).groups.tolist() == [b"A", b"B", b"A", b"D", b"", b"7"]
    module(pattern, tmp_path / "root").setup("fit")
    said = capsys.readouterr().out
    assert "3 of 6 are of 2 of its groups (by author), so that its scores flatter (1 do not say whose they are)" in said
    assert f"{pattern} is trained on whether or not a picture looks like one of {tmp_path / 'root'}" in said
    module(pattern, places_root).setup("fit")
    assert f"is not known, as {places_root} does not say whose a picture is" in capsys.readouterr().out
    bare = write_shards(tmp_path / "bare", [4])
    module(bare, tmp_path / "root").setup("fit")
    assert f"is not known, as {bare} does not say whose a picture is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"latitude": 91, "longitude": 0},
            r"train-000\.tar/00001\.png: the latitude is 91, beyond 90; correct or remove the JSON",
        ),
        ({"latitude": 1, "longitude": 361}, r"train-000\.tar/00001\.png: the longitude is 361; .*remove the JSON"),
        ({"latitude": "north", "longitude": 0}, r"the JSON of 00001\.png has the place \['north', 0\]; it must"),
        ({"latitude": math.nan, "longitude": 0}, r"the JSON of 00001\.png has the place \[nan, 0\]"),
    ],
)
def test_places_that_are_wrong_are_refused(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        read_shards(write_shards(tmp_path, [300], positions=lambda i: given if i == 1 else place(i)))


def test_shards_that_cannot_be_read_are_refused(tmp_path, monkeypatch):
    pattern = write_shards(tmp_path, [3, 3])
    whole = (tmp_path / "train-001.tar").read_bytes()
    for content in (whole[:700], b"<html>" * 200):
        (tmp_path / "train-001.tar").write_bytes(content)
        with pytest.raises(InputError, match=r"train-001\.tar is not a tar archive, or it is cut off"):
            read_shards(pattern)
    (tmp_path / "train-001.tar").unlink()
    with pytest.raises(InputError, match=r"train-001\.tar is not there \(1 of 2\); correct "):
        read_shards(pattern)
    with pytest.raises(
        InputError, match=r"--data\.shards: .* is a folder; name its shards, as DIR/train-\{000000\.\.0"
    ):
        read_shards(str(tmp_path))
    with pytest.raises(InputError, match=r"likely swapped .*: write them the other way round"):
        read_shards(write_shards(tmp_path / "swapped", [2], positions=lambda i: {"latitude": 139, "longitude": 35 + i}))
    with pytest.raises(InputError, match=r"--data\.shards is given without --data\.root"):
        GeotaggedDataModule(shards=pattern)
    with pytest.raises(InputError, match=r"--data\.shards_csv is given without --data\.shards"):
        GeotaggedDataModule(shards_csv="a.csv")
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(InputError, match=r"install it by `pip install webdataset`, or"):
        read_shards(pattern)


def test_what_is_in_them_is_kept_until_a_shard_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "WORTH_KEEPING", 0.0)
    looked = []
    look_into = geotagged_shards._look_into
    monkeypatch.setattr(geotagged_shards, "_look_into", lambda file: looked.append(file) or look_into(file))
    pattern = write_shards(tmp_path, [3, 3])
    first, second = read_shards(pattern), read_shards(pattern)
    assert len(looked) == 2
    assert second.images.latlng.tolist() == first.images.latlng.tolist()
    assert second.images.file_names.tolist() == first.images.file_names.tolist()
    write_shards(tmp_path, [3, 4])
    assert len(read_shards(pattern).images) == 7
    assert len(looked) == 4


# --- streaming ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_every_picture_comes_once_an_epoch_with_its_place(tmp_path, places_root, workers):
    sizes = [8, 4, 12, 4, 8, 0, 4]  # by worker multiples of the batch
    pattern = write_shards(tmp_path, sizes)
    data = module(pattern, places_root, num_workers=workers)
    data.setup("fit")
    loader = data.train_dataloader()
    assert len(loader) == 10
    epochs = [epoch_of(loader) for _ in range(2)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [4] * 10
        rows = [row for batch in epoch for row in batch]
        assert sorted(number for number, *_ in rows) == list(range(40))
        for number, position, latlng in rows:
            assert position == number
            assert latlng == list(place(number).values()) == data.latlng("train", [position])[0].tolist()
    order = [[row[0] for batch in epoch for row in batch] for epoch in epochs]
    assert order[0] != order[1]
    assert order[0] != sorted(order[0])
    again = module(pattern, places_root, num_workers=workers)
    again.setup("fit")
    assert epoch_of(again.train_dataloader()) == epochs[0]
    assert data.train_latlng().tolist() == [list(place(i).values()) for i in range(40)]
    assert len(data.val_dataloader().dataset) == 18  # all of the root but its test part


def test_last_batches_and_what_is_left_out(tmp_path, places_root):
    pattern = write_shards(tmp_path, [7, 3, 5], positions=lambda i: None if i == 9 else place(i))
    data = module(pattern, places_root)
    data.setup("fit")
    loader = data.train_dataloader()
    assert len(loader) == 3
    rows = [row for batch in epoch_of(loader) for row in batch]
    assert len({number for number, *_ in rows}) == 12
    assert 9 not in {number for number, *_ in rows}
    assert all(position == number - (number > 9) for number, position, _ in rows)
    seen = {number for _ in range(8) for batch in epoch_of(loader) for number, *_ in batch}
    assert len(seen) == 14  # the two that an epoch drops are not always the same
    small = module(write_shards(tmp_path / "small", [3]), places_root)
    small.setup("fit")
    assert [len(batch) for batch in epoch_of(small.train_dataloader())] == [3]  # its only batch


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_devices_and_workers_share_the_shards(tmp_path, places_root, replicas):
    shards = read_shards(write_shards(tmp_path, [4, 8, 4, 4, 8, 4, 4]))
    parts = [
        StreamedPhotographs(shards, None, batch_size=4, num_workers=2, rank=rank, num_replicas=replicas)
        for rank in range(replicas)
    ]
    assert sorted(shard for part in parts for share in part.shares for shard in share) == list(range(7))
    assert {len(part) for part in parts} == {min(sum(part.batches) for part in parts)}
    for part in parts:
        assert part.batches == [sum(int(shards.counts[shard]) for shard in share) // 4 for share in part.shares]
    with pytest.raises(InputError, match="names 7 shards for 8 devices"):
        StreamedPhotographs(shards, None, batch_size=4, num_workers=0, num_replicas=8)


def test_batches_are_dealt_in_turn():
    assert _dealt([3, 1, 2], 0) == ([0, 0, 0], 0)
    assert _dealt([3, 1, 2], 2) == ([1, 1, 0], 2)
    assert _dealt([3, 1, 2], 4) == ([2, 1, 1], 1)  # 0 1 2 0, and then 2, as 1 has no more
    assert _dealt([3, 1, 2], 5) == ([2, 1, 2], 0)  # 0 1 2 0 2
    assert _dealt([3, 1, 2], 9)[0] == [3, 1, 2]
    assert _dealt([0, 2], 1) == ([0, 1], 0)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [1, 5, 8])
def test_a_resumed_epoch_goes_on_where_it_was(tmp_path, places_root, workers, done, monkeypatch):
    """With uneven workers: 9 batches of the first and 2 of the second."""
    pattern = write_shards(tmp_path, [12, 4, 12, 4, 12])
    data = module(pattern, places_root, num_workers=workers)
    data.setup("fit")
    loader = data.train_dataloader()
    epoch_of(loader)
    whole = epoch_of(loader)  # epoch 1
    following = epoch_of(loader)
    assert len(whole) == 11
    monkeypatch.setattr(geotagged_shards, "training_position", lambda trainer, size: (1, done * size))
    later = module(pattern, places_root, num_workers=workers)
    later.setup("fit")
    later.trainer = trainer(tmp_path)
    loader = later.train_dataloader()
    assert len(loader) == 11
    assert epoch_of(loader) == whole[done:]
    assert epoch_of(loader) == following


def test_a_corrupt_picture_is_left_out_and_augmentation_is_that_of_files(tmp_path, places_root):
    pattern = write_shards(tmp_path, [8])
    content = (tmp_path / "train-000.tar").read_bytes()
    at = content.index(b"IDAT")
    (tmp_path / "train-000.tar").write_bytes(content[: at + 4] + b"\0" * 20 + content[at + 24 :])
    data = module(pattern, places_root, batch_size=8, augment=True)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    (file, reason), *others = batch["bad"]
    assert not others
    assert Path(file) in [data._splits["train"].path(i) for i in range(8)]
    assert "decoded" in reason
    assert len(batch["images"]) == len(batch["latlng"]) == 7
    data.bad_images.max_fraction = 0.5
    data.bad_images.note(batch["bad"])
    assert data.bad_images.reasons == {file: reason}

    unpacked = tmp_path / "unpacked"
    for i in range(8):
        (unpacked / "train").mkdir(parents=True, exist_ok=True)
        picture(i).save(unpacked / "train" / f"{i:05}.png")
    rows = [f"train/{i:05}.png,{place(i)['latitude']},{place(i)['longitude']},train" for i in range(8)]
    rows += [f"{split}.png,1,2,{split}" for split in ("val", "test")]
    (unpacked / "photographs.csv").write_text("\n".join(["path,latitude,longitude,split", *rows]))
    for split in ("val", "test"):
        picture(0).save(unpacked / f"{split}.png")
    files = GeotaggedDataModule(str(unpacked), image_size=32, batch_size=8, num_workers=0)
    files.setup("fit")
    (expected,) = files.train_dataloader()
    pixels = dict(zip(expected["positions"].tolist(), expected["images"], strict=True))
    for position, image in zip(batch["positions"].tolist(), batch["images"], strict=True):
        assert torch.equal(image, pixels[position])


def test_a_teacher_cannot_keep_answers_to_a_stream(tmp_path, places_root):
    data = module(write_shards(tmp_path, [8]), places_root)
    data.setup("fit")
    with pytest.raises(InputError, match="are streamed, so that a teacher's answers to them cannot be kept"):
        data.train_views(0, [0, 1])


class _Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, numbers(batch)))
        return self.layer(batch["images"].float().mean((2, 3))).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-6)


def test_lightning_trains_on_them(tmp_path, places_root):
    data = module(write_shards(tmp_path, [8, 4, 4]), places_root)
    net = _Net()
    trainer(tmp_path, max_epochs=2).fit(net, datamodule=data)
    assert [epoch for epoch, _ in net.seen] == [0] * 4 + [1] * 4
    for epoch in (0, 1):
        assert sorted(n for at, batch in net.seen if at == epoch for n in batch) == list(range(16))
    assert np.isfinite(net.layer.weight.detach().numpy()).all()
