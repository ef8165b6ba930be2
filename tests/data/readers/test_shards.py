import io
import json
import math

import pytest
import webdataset
from helpers import names, tree, write_shards, write_tar
from PIL import Image

from backbone import InputError
from data.images import ImageError
from data.readers import shards
from data.readers.shards import expanded, image_bytes, shard_sizes


def place(i):
    return {"latitude": i / 4 - 60, "longitude": i / 2 - 100}


def test_the_images_and_their_places_in_order(tmp_path):
    pattern = write_shards(tmp_path, [3, 1, 0, 5])
    before = tree(tmp_path)
    records = shards.read(pattern)
    assert tree(tmp_path) == before
    assert names(records)[:3] == [f"train-000.tar/0000{i}.png" for i in range(3)]
    assert names(records)[3] == "train-001.tar/00003.png"
    assert records["latlng"].tolist() == [list(place(i).values()) for i in range(9)]
    assert shard_sizes(records).tolist() == [3, 1, 5]
    assert records.issues == ()
    for i in range(9):
        image = Image.open(io.BytesIO(image_bytes(records, i)))
        assert image.getpixel((20, 20)) == (i, 0, 100)


def test_samples_are_those_that_webdataset_reads(tmp_path):
    """Keys with folders and dots, endings in capitals, other members, samples without an image, long names."""
    there = json.dumps({"lat": 1, "lng": 2, "Author": "me"}).encode()
    members = [
        ("__meta__/index.json", b"{}"),
        ("a/0001.JPG", b"one"),
        ("a/0001.json", there),
        ("a/0001.cls", b"7"),
        ("0001.json", there),
        ("0001.seg.png", b"mask"),
        ("0001.webp", b"two"),
        ("b.x/v1.jpg", b"three"),
        ("b.x/v1.json", there),
        ("README", b"no ending"),
        ("text.json", there),
        (f"{'long/' * 30}key.png", b"four"),
        (f"{'long/' * 30}key.json", there),
        ("nowhere.jpg", b"five"),
    ]
    write_tar(tmp_path / "a.tar", members)
    with webdataset.TarWriter(str(tmp_path / "b.tar")) as writer:  # as its users write them
        for i in range(3):
            writer.write({"__key__": f"w{i}", "jpg": bytes([i]), "json": {"latitude": i + 1, "longitude": 5, "uid": i}})
    records = shards.read(f"{tmp_path}/{{a,b}}.tar")
    expected = []
    for shard in "ab":
        for sample in webdataset.tariterators.tarfile_samples([{"url": f"{tmp_path}/{shard}.tar"}]):
            ending = next((e for e in ("jpg", "png", "webp") if e in sample), None)
            if ending and "json" in sample:
                expected.append((f"{shard}.tar/{sample['__key__']}.{ending}", sample[ending]))
    found = [(name, image_bytes(records, i)) for i, name in enumerate(names(records))]
    assert found == expected
    assert len(found) == 7
    assert records["group"].tolist() == [b"me"] * 4 + [b"0", b"1", b"2"]
    assert records["latlng"].tolist() == [[1, 2]] * 4 + [[1, 5], [2, 5], [3, 5]]
    assert [(issue.count, issue.first) for issue in records.issues] == [(1, "a.tar/nowhere.jpg")]


def test_what_has_no_place_is_left_out_and_counted(tmp_path):
    odd = {2: None, 3: {}, 4: {"latitude": None, "longitude": 3}, 5: {"lat": 0, "lng": 0}, 6: {"LAT": 1, "LON": 200}}
    records = shards.read(write_shards(tmp_path, [4, 4], positions=lambda i: odd.get(i, place(i))))
    assert [name[-9:-4] for name in records.file_names.tolist()] == [b"00000", b"00001", b"00006", b"00007"]
    assert records["latlng"][2].tolist() == [1, -160]
    assert [(issue.count, issue.first[-9:-4]) for issue in records.issues] == [(3, "00002"), (1, "00005"), (1, "00006")]
    with pytest.raises(InputError, match=r"no image with a place \(8 images\); write key\.json"):
        shards.read(write_shards(tmp_path / "bare", [8], positions=lambda i: None), "places")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"latitude": 91, "longitude": 0}, r"train-000\.tar/00001\.png: the latitude is 91, .*remove the JSON"),
        ({"latitude": 1, "longitude": 361}, r"train-000\.tar/00001\.png: the longitude is 361"),
        ({"latitude": "north", "longitude": 0}, r"the JSON of 00001\.png .*'north'"),
        ({"latitude": math.nan, "longitude": 0}, r"the JSON of 00001\.png .*nan"),
    ],
)
def test_places_that_are_wrong_are_refused(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        shards.read(write_shards(tmp_path, [300], positions=lambda i: given if i == 1 else place(i)))


def test_shards_that_cannot_be_read_are_refused(tmp_path):
    pattern = write_shards(tmp_path, [3, 3])
    records = shards.read(pattern)
    second = tmp_path / "train-001.tar"
    whole = second.read_bytes()
    for content in (whole[:700], b"<html>" * 200):
        second.write_bytes(content)
        with pytest.raises(InputError, match=r"train-001\.tar is not a tar archive, or it is cut off"):
            shards.read(pattern)
    second.unlink()
    with pytest.raises(InputError, match=r"has no index\.json of"):
        shards.read(str(tmp_path))
    for wrong in (pattern, str(tmp_path / "*.zip.tar"), "pipe:cat a.tar"):
        with pytest.raises(InputError, match=r"is not a file .*name local files"):
            shards.read(wrong)
    with pytest.raises(ImageError, match=r"train-001\.tar/00003\.png: its shard cannot be read"):
        image_bytes(records, 3)
    write_tar(second, [("a.jpg", b"1"), ("a.JPG", b"2")])
    with pytest.raises(InputError, match=r"train-001\.tar has two files of one name for the key a"):
        shards.read(str(second))


def test_patterns():
    assert expanded("a.tar") == ["a.tar"]
    assert expanded("d/{008..011}.tar") == ["d/008.tar", "d/009.tar", "d/010.tar", "d/011.tar"]
    assert expanded("{a,b}/{9..10}") == ["a/9", "a/10", "b/9", "b/10"]


def test_shards_of_several_folders(tmp_path):
    for name in "ab":
        write_shards(tmp_path / name, [2])
    records = shards.read(f"{tmp_path}/{{a,b}}/train-000.tar")
    assert records.folder == tmp_path
    assert names(records) == [f"{name}/train-000.tar/0000{i}.png" for name in "ab" for i in range(2)]
    assert image_bytes(records, 0) == image_bytes(records, 2) != image_bytes(records, 3)


def test_members_are_read_in_one_pass(tmp_path):
    """A path, an open file and one that cannot seek give all images with their JSON; one without its end is named."""
    members = [
        ("d/2.JSON", b'{"file": "b.jpg"}'),
        ("d/2.JPG", b"two" * 1000),
        ("1.png", b"one"),
        ("3.json", b"{}"),
        ("4.cls", b"4"),
        ("4.jpg", b""),
    ]
    write_tar(tmp_path / "a.tar", members)
    whole = (tmp_path / "a.tar").read_bytes()
    stream = io.BufferedReader(io.BytesIO(whole))
    stream.seekable = lambda: False
    expected = [
        ("d/2", "d/2.jpg", b"two" * 1000, {"file": "b.jpg"}),
        ("1", "1.png", b"one", {}),
        ("4", "4.jpg", b"", {}),
    ]
    for source in (str(tmp_path / "a.tar"), tmp_path / "a.tar", stream):
        assert list(shards.members(source)) == expected
    ends = whole.index(b"3.json")  # where a header begins
    for length in (ends, ends + 100, 1024 + 700, 512, 0):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.tar is not a tar archive, or it is cut off"):
            list(shards.members(tmp_path / "cut.tar"))


@pytest.mark.parametrize("label", ["cls", "json label", "json class"])
def test_others_shards_with_classes(tmp_path, label):
    """Labels from a text or a JSON, numbers in the order of their values; what has none is counted."""
    words = ["10", "9", "10", "2"]
    parts = {
        "cls": lambda word: [("cls", f"{word}\n".encode())],
        "json label": lambda word: [("json", json.dumps({"label": int(word)}).encode()), ("cls", b"7")],
        "json class": lambda word: [("json", json.dumps({"class": word, "label": 3}).encode())],
    }[label]
    for split, chosen in (("train", words), ("val", words[:1])):
        members = [(f"{i}.jpg", b"image") for i in range(9, 10)]
        for i, word in enumerate(chosen):
            members += [(f"{i}.jpg", b"image"), *((f"{i}.{ending}", content) for ending, content in parts(word))]
        write_tar(tmp_path / f"{split}-000.tar", members)
    records = shards.read(f"{tmp_path}/*.tar", "classes")
    assert records.classes == ("2", "9", "10")
    assert records["labels"].tolist() == [2, 1, 2, 0, 2]
    assert records["split"].tolist() == [0, 0, 0, 0, 1]
    assert [(issue.count, issue.first) for issue in records.issues] == [(2, "train-000.tar/9.jpg")]
    assert "split" not in shards.read(f"{tmp_path}/train-*.tar", "classes").columns  # so that some are set aside
    assert len(shards.read(f"{tmp_path}/*.tar", "faces")) == 7
    with pytest.raises(InputError, match="boxes of shards are read with the index"):
        shards.read(f"{tmp_path}/*.tar", "boxes")
    with pytest.raises(InputError, match=r"no image with a place \(7 images\)"):
        shards.read(f"{tmp_path}/*.tar", "places")
