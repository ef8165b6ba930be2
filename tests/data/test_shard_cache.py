import hashlib
import http.server
import json
import multiprocessing
import os
import re
import threading
import time

import fsspec
import numpy as np
import pytest
import torch
from helpers import as_torchrun, largest_file, one_sentence

from backbone.errors import InputError
from data import shard, shard_cache
from data.classification import ClassificationDataModule
from data.images import ImageError
from data.shard_cache import fetch_files, fetch_index, fetcher, folder_of, local_shard, read_range

SHARD = np.random.default_rng(0).bytes(300_000)


class Server(http.server.ThreadingHTTPServer):
    """Files by name, and for each what goes wrong with its next answers, in turn."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.asked = {}, {}, []
        self.ranges = True
        self.url = f"http://127.0.0.1:{self.server_port}/data"

    def handle_error(self, request, address):
        """Say nothing of clients that have left."""


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        """Print nothing."""

    def do_GET(self):
        name = self.path.partition("?")[0].removeprefix("/data/")
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = map(int, wanted.groups()) if wanted else (0, 10**12)
        self.server.asked.append((name, first))
        fault = self.server.faults[name].pop(0) if self.server.faults.get(name) else None
        content = self.server.files.get(name)
        if content is None or isinstance(fault, int):
            self.send_error(fault or 404)
            return
        if fault == "stall":
            time.sleep(2)
            return
        if fault == "wrong":
            content = bytes(len(content))
        partial = wanted and self.server.ranges
        sent = content[first : last + 1] if partial else content
        self.send_response(206 if partial else 200)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent[: len(sent) // 2] if fault == "cut" else sent)


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def _quick(tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILENET_TASKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MOBILENET_TASKS_SHARD_CACHE_GB", "")
    monkeypatch.setattr(shard_cache, "_WAIT_S", 0.001)
    monkeypatch.setattr(shard_cache, "STALL_S", 10)
    monkeypatch.setattr(shard_cache, "_CHUNK", 100_000)
    monkeypatch.setattr(shard_cache, "_SMALLEST", 50_000)
    for variable in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)


def publish(server, shards, **more):
    """An index of these shards, {name: bytes}, with their records."""
    listed = []
    for name, content in shards.items():
        records = f"records of {name}".encode() + content[:3]
        server.files |= {name: content, name.replace(".tar", ".npz"): records}
        digests = {"sha256": hashlib.sha256(content).hexdigest(), "npz_sha256": hashlib.sha256(records).hexdigest()}
        listed.append({"url": name, "filesize": len(content), "split": "train", **digests})
    server.files["index.json"] = json.dumps({"shardlist": listed, **more}).encode()


def fetched(server, name="a.tar"):
    """The bytes of a shard from its server, through the index there."""
    fetch_index(server.url)
    return local_shard(server.url, folder_of(server.url), name).read_bytes()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize(
    "faults", [[], [500, 503, 500, 429], ["cut"], ["cut", "cut", 500, "cut"], ["stall"], ["wrong"], [None, "cut", 408]]
)
def test_a_shard_arrives_whole_over_a_bad_line(server, faults, ranges, monkeypatch):
    publish(server, {"a.tar": SHARD})
    if "stall" in faults:
        monkeypatch.setattr(shard_cache, "STALL_S", 0.5)
    server.faults["a.tar"], server.ranges = [*faults], ranges
    assert fetched(server) == SHARD
    assert not server.faults["a.tar"] or not ranges  # all in one answer
    assert {path.name for path in folder_of(server.url).glob("[!.]*")} == {"a.tar", "index.json"}
    assert not list(folder_of(server.url).glob(".tmp*"))
    asked = len(server.asked)
    assert fetched(server) == SHARD
    assert len(server.asked) == asked + 1  # the index


def test_what_has_come_is_not_asked_for_again(server):
    publish(server, {"a.tar": SHARD})
    server.faults["a.tar"] = [None, "cut", None, 500]
    assert fetched(server) == SHARD
    starts = [first for name, first in server.asked if name == "a.tar"]
    assert starts == [0, 100_000, 100_000, 150_000, 150_000, 200_000, 250_000]


@pytest.mark.parametrize(
    ("faults", "reason", "tries"),
    [
        ([404], "there is no such file", 1),
        ([403], "it may not be read", 1),
        ([410], "the server answers with 410", 1),
        ([500] * 5, "the server answers with 500", 5),
        ([None, *["stall"] * 2], "nothing came for 0.5 s", 3),
        (["wrong"] * 6, r"/a\.tar: what was sent has the SHA-256 \w{64}, not", 6),
    ],
)
def test_a_shard_that_cannot_be_had_is_named_and_not_asked_for_again_for_a_while(
    server, monkeypatch, faults, reason, tries
):
    publish(server, {"a.tar": SHARD, "b.tar": SHARD[::-1]})
    fetch_index(server.url)
    folder = folder_of(server.url)
    server.faults["a.tar"] = [*faults]
    if "stall" in faults:
        monkeypatch.setattr(shard_cache, "STALL_S", 0.5)
        monkeypatch.setattr(shard_cache, "TRIES", 2)
    for _ in range(3):
        with pytest.raises(ImageError, match=reason) as raised:
            read_range(server.url, folder, "a.tar", 5, 10)
        assert raised.value.file == f"{server.url}/a.tar"
    assert [name for name, _ in server.asked].count("a.tar") == tries
    assert not list(folder.glob("*.tar"))
    assert not list(folder.glob(".tmp*"))
    assert read_range(server.url, folder, "b.tar", 5, 10) == SHARD[::-1][5:15]
    monkeypatch.setattr(shard_cache, "_REMEMBERED_S", 0)
    assert read_range(server.url, folder, "a.tar", 5, 10) == SHARD[5:15]


def test_what_is_secret_in_a_url_is_sent_and_not_told(server):
    publish(server, {"a.tar": SHARD})
    secret = server.url.replace("//", "//me:hunter2@") + "?token=hunter3"
    assert folder_of(secret) == folder_of(server.url)
    fetch_index(secret)
    server.faults["a.tar"] = [500] * 5
    with pytest.raises(ImageError) as raised:
        local_shard(secret, folder_of(secret), "a.tar")
    assert "hunter" not in str(raised.value)
    assert raised.value.__cause__ is raised.value.__context__ is None  # which a traceback would show
    assert raised.value.file == f"{server.url}/a.tar"
    with one_sentence("its index.json cannot be read") as refused:
        fetch_index(secret.replace("/data", "/elsewhere"))
    assert "hunter" not in str(refused.value)
    with one_sentence("cannot be fetched|cannot be read") as refused:
        fetch_index("http://me:hunter2@127.0.0.1:9/data?token=hunter3")
    assert "hunter" not in str(refused.value)


def _read_all(url, names):
    for name in names:
        assert read_range(url, folder_of(url), name, 0, len(SHARD)) == SHARD


def test_processes_that_want_the_same_shard_fetch_it_once(server):
    names = ["a.tar", "b.tar"]
    publish(server, dict.fromkeys(names, SHARD))
    fetch_index(server.url)
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_read_all, args=(server.url, names[::turn])) for turn in (1, -1, 1, -1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(ask for ask in server.asked if ask[0] in names) == [(n, i * 100_000) for n in names for i in range(3)]


def age(folder, name, seconds):
    os.utime(folder / name, (time.time() - seconds,) * 2)
    shard_cache._used.clear()


def test_shards_that_were_not_used_for_longest_make_room(server, monkeypatch):
    names = [f"{letter}.tar" for letter in "abcd"]
    publish(server, dict.fromkeys(names, SHARD))
    fetch_index(server.url)
    folder = folder_of(server.url)
    monkeypatch.setenv("MOBILENET_TASKS_SHARD_CACHE_GB", "0.00095")  # three of them
    for i, name in enumerate(names[:3]):
        local_shard(server.url, folder, name)
        age(folder, name, 300 - 100 * i)
    local_shard(server.url, folder, "a.tar")  # used again
    local_shard(server.url, folder, "d.tar")
    assert {path.name for path in folder.glob("*.tar")} == {"a.tar", "c.tar", "d.tar"}
    (folder / ".tmp~elsewhere~1~x.tar").write_bytes(SHARD)  # another machine's process is writing it
    age(folder, ".tmp~elsewhere~1~x.tar", 1000)
    local_shard(server.url, folder, "b.tar")
    assert {path.name for path in folder.glob("[a-z].tar")} == {"d.tar", "b.tar"}
    assert (folder / ".tmp~elsewhere~1~x.tar").exists()


def test_a_shard_that_goes_while_it_is_opened_is_fetched_again(server, monkeypatch):
    publish(server, {"a.tar": SHARD})
    fetch_index(server.url)
    real, gone = local_shard, []

    def goes(*args):
        path = real(*args)
        if len(gone) < 2:
            path.unlink()
            gone.append(path)
        return path

    monkeypatch.setattr(shard_cache, "local_shard", goes)
    assert read_range(server.url, folder_of(server.url), "a.tar", 299_990, 10) == SHARD[299_990:]
    assert len(gone) == 2


def test_a_local_shard_that_is_cut_off_or_missing_is_named(tmp_path):
    (tmp_path / "a.tar").write_bytes(SHARD)
    assert read_range("", tmp_path, "a.tar", 299_990, 10) == SHARD[299_990:]
    for name, reason in (("a.tar", "it is cut off: it ends before byte 300,001"), ("b.tar", "there is no such file")):
        with pytest.raises(ImageError) as raised:
            read_range("", tmp_path, name, 299_990, 11)
        assert (raised.value.file, raised.value.reason) == (str(tmp_path / name), reason)


def test_an_index_that_has_changed_lets_its_changed_shards_be_fetched_again(server):
    publish(server, {"a.tar": SHARD, "b.tar": SHARD})
    for name in ("a.tar", "b.tar"):
        fetched(server, name)
    publish(server, {"a.tar": SHARD[::-1], "b.tar": SHARD}, seed=1)
    server.asked.clear()
    assert fetched(server) == SHARD[::-1]
    assert fetched(server, "b.tar") == SHARD
    assert {name for name, _ in server.asked} == {"index.json", "a.tar"}


@pytest.mark.parametrize(
    "content",
    [
        b"<html>",
        b"{}",
        b"[]",
        b'{"shardlist": [{"url": "../a.tar", "filesize": 3}]}',
        b'{"shardlist": [{"url": "a.tar", "filesize": "x"}]}',
    ],
)
def test_what_is_no_index_is_refused_and_nothing_written(server, content):
    server.files["index.json"] = content
    with one_sentence("is not an index of shards"):
        fetch_index(server.url)
    assert not [path for path in folder_of(server.url).rglob("*") if path.is_file()]


def test_small_files_are_fetched_once_and_held_to_their_digest(server):
    publish(server, {f"{letter}.tar": SHARD for letter in "abcdef"})
    fetch_index(server.url)
    names = [f"{letter}.npz" for letter in "abcdef"]
    for _ in range(2):
        paths = fetch_files(server.url, names)
        assert [path.read_bytes()[:12] for path in paths] == [f"records of {letter}".encode() for letter in "abcdef"]
    assert sorted(name for name, _ in server.asked[1:]) == names
    paths[2].unlink()
    server.faults["c.npz"] = ["wrong"] * 2
    with one_sentence(r"data/c\.npz: what was sent has the SHA-256"):
        fetch_files(server.url, names)


def test_other_storages_are_read_by_fsspec(tmp_path):
    """Memory stands in for S3, which takes a package and a server."""
    files, url = fsspec.filesystem("memory"), "memory://bucket/set"
    entry = {"url": "a.tar", "filesize": len(SHARD), "sha256": hashlib.sha256(SHARD).hexdigest()}
    files.pipe("/bucket/set/a.tar", SHARD)
    files.pipe("/bucket/set/index.json", json.dumps({"shardlist": [entry]}).encode())
    assert fetch_index(url)["shardlist"] == [entry]
    assert read_range(url, folder_of(url), "a.tar", 7, 9) == SHARD[7:16]
    files.rm("/bucket/set/a.tar")
    assert local_shard(url, folder_of(url), "a.tar").read_bytes() == SHARD
    assert folder_of(url).is_relative_to(tmp_path / "cache" / "shards")
    assert folder_of(url) != folder_of("memory://other/set")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/set", r's3:// needs s3fs; pip install "mobilenet-tasks\[s3\]"'),
        ("gs://bucket/set", r'gs:// needs gcsfs; pip install "mobilenet-tasks\[gs\]"'),
        ("nothing://bucket/set", "nothing"),
    ],
)
def test_a_storage_that_cannot_be_read_here_is_refused_with_what_it_takes(url, message, monkeypatch):
    monkeypatch.setattr(shard_cache.importlib.util, "find_spec", lambda name: None)
    with one_sentence(f"^--data.shards {url}/index.json: .*{message}"):
        fetch_index(url)


def test_a_full_disk_ends_the_run_and_leaves_nothing(server):
    publish(server, {"a.tar": SHARD})
    fetch_index(server.url)
    with largest_file(200_000), one_sentence("a.tar cannot be written"):
        local_shard(server.url, folder_of(server.url), "a.tar")
    assert not list(folder_of(server.url).glob("*a.tar*"))


def test_the_next_shards_are_fetched_meanwhile(server, monkeypatch, capsys):
    names = [f"{letter}.tar" for letter in "abcd"]
    publish(server, dict.fromkeys(names, SHARD))
    fetch_index(server.url)
    server.faults["b.tar"] = [404]
    ahead = fetcher(server.url, names, largest=600_000, processes=1)
    assert capsys.readouterr().out == ""
    ahead([3, 1, 0])
    folder, end = folder_of(server.url), time.monotonic() + 20
    while len(list(folder.glob("[a-z].*"))) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    assert {path.name for path in folder.glob("[a-z].*")} == {"d.tar", "a.tar", "b.tar.failed"}
    while any(thread.name == "fetching shards" for thread in threading.enumerate()) and time.monotonic() < end:
        time.sleep(0.01)
    assert time.monotonic() < end  # no thread waits for more
    shard_cache.set_limit(1)
    fetcher(server.url, names, largest=500_000_002, processes=2)
    assert (
        "--data.shard_cache_gb 1 is too little for what is trained on at once: taking 3.01" in capsys.readouterr().out
    )
    assert shard_cache.limit() >= 3_000_000_006


# --- in training ------------------------------------------------------------------------------------------------------


@pytest.fixture
def signs(server, write_classes, tmp_path):
    """The folder of shards of 48 training images and 6 for validation, which the server has too."""
    source = write_classes(tmp_path / "signs", {"train": 16, "val": 2})
    folder = tmp_path / "shards"
    assert shard.main([str(source), str(folder), "--shard_mb", "0.07"]) == 0
    server.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return folder


def far_or_near(shards, **options):
    given = {"image_size": 32, "batch_size": 4, "num_workers": 0, **options}
    data = ClassificationDataModule(shards=str(shards), **given)
    data.setup("fit")
    return data


def batches_of(data, epochs=(0,)):
    """Positions, labels and pixels of the training batches."""
    loader, found = data.train_dataloader(), []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        found += [[batch[name] for name in ("positions", "labels", "images")] for batch in loader]
    return found


def test_far_shards_train_as_near_ones_with_any_number_of_loading_processes(server, signs):
    near, scored = far_or_near(signs), []
    expected = batches_of(near, (0, 1))
    assert len(list(signs.glob("train-*.tar"))) > 4
    assert sorted(i for positions, *_ in expected[:12] for i in positions.tolist()) == list(range(48))
    for workers in (0, 2):
        data = far_or_near(server.url, num_workers=workers)
        for found, wanted in zip(batches_of(data, (0, 1)), expected, strict=True):
            assert all(map(torch.equal, found, wanted))
        scored.append([batch["images"] for batch in data.val_dataloader()])
    assert all(map(torch.equal, scored[0], [batch["images"] for batch in near.val_dataloader()]))
    asked = [ask for ask in server.asked if ask[0].endswith(".tar")]
    assert len(set(asked)) == len(asked)  # each once for all loading processes, epochs and runs


def test_the_shards_of_the_next_batches_are_fetched_before_they_are_read(server, signs):
    data = far_or_near(server.url)
    sampler, folder, end = data.train_dataloader().sampler, folder_of(server.url), time.monotonic() + 20
    assert not list(folder.glob("train-*.tar"))
    next(iter(sampler))  # and nothing is read
    wanted = {f"train-{shard:06}.tar" for group in sampler.groups()[:2] for shard in group[:, 0]}
    while {path.name for path in folder.glob("train-*.tar")} != wanted and time.monotonic() < end:
        time.sleep(0.01)
    assert {path.name for path in folder.glob("train-*.tar")} == wanted


def test_a_shard_that_is_gone_is_left_out_within_the_fraction(server, signs):
    server.files.pop("train-000001.tar")
    data = far_or_near(server.url, max_bad_fraction=0.5)
    shards = [os.fsdecode(name).partition("/")[0] for name in data.records("train").file_names]
    dead = [i for i, name in enumerate(shards) if name == "train-000001.tar"]
    loader, seen = data.train_dataloader(), []
    for batch in loader:
        data.bad_images.note(batch["bad"])
        seen += batch["positions"].tolist()
    assert sorted(seen) == sorted({*range(48)} - {*dead})
    assert len(dead) > 4
    assert set(data.bad_images.reasons) == {str(data.records("train").path(i)) for i in dead}
    for reason in data.bad_images.reasons.values():
        assert f"{server.url}/train-000001.tar: there is no such file" in reason
    assert [name for name, _ in server.asked].count("train-000001.tar") == 1
    data = far_or_near(server.url, max_bad_fraction=0.01)
    with one_sentence("4 of the 48 images of the train split cannot be used"):
        for batch in data.train_dataloader():
            data.bad_images.note(batch["bad"])


def test_a_near_shard_that_is_cut_off_is_left_out_too(signs):
    whole = (signs / "train-000001.tar").read_bytes()
    (signs / "train-000001.tar").write_bytes(whole[: len(whole) // 2])
    data, seen, bad = far_or_near(signs), 0, {}
    for batch in data.train_dataloader():
        seen += len(batch["positions"])
        bad |= dict(batch["bad"])
    assert len(bad) == json.loads((signs / "index.json").read_bytes())["shardlist"][1]["nsamples"]
    assert seen + len(bad) == 48
    assert all(f"{len(whole):,} by its index" in reason for reason in bad.values())


def test_too_little_room_for_a_run_is_raised_and_too_little_is_refused(server, signs, capsys):
    data = far_or_near(server.url, shard_cache_gb=0.000001)
    data.train_dataloader()
    assert (
        "--data.shard_cache_gb 1e-06 is too little for what is trained on at once: taking 0.01"
        in capsys.readouterr().out
    )
    with pytest.raises(InputError, match=r"--data\.shard_cache_gb is 0; it must be above 0"):
        far_or_near(server.url, shard_cache_gb=0)


@pytest.mark.slow
@pytest.mark.parametrize(("allowed", "code"), [("0.5", 0), ("0.01", 2)])
def test_two_processes_train_on_far_shards_of_which_one_is_gone(server, signs, allowed, code, tmp_path):
    server.files.pop("train-000001.tar")
    server.faults["train-000002.tar"] = ["cut", 500]
    options = "--trainer.max_epochs 2 --trainer.enable_progress_bar false --data.num_workers 1 "
    options += f"--model.width_mult 0.25 --data.image_size 32 --data.batch_size 10 --data.max_bad_fraction {allowed}"
    ended, _, said = as_torchrun("classification", "fit", "--data.shards", server.url, *options.split())[0]
    assert ended == code, said
    if code:
        assert re.search(
            r"error: 4 of the 48 images of the train split .*train-000001\.tar: there is no such file", said
        )
    else:
        rows = (tmp_path / "runs/classification/latest/bad_images.txt").read_text().splitlines()
        assert len(rows) == len({row.partition(".png")[0] for row in rows}) > 4
        assert all("train-000001.tar: there is no such file" in row for row in rows)
    asked = [ask for ask in server.asked if ask[0].startswith("train") and ask[0].endswith(".tar")]
    assert len(set(asked)) >= len(asked) - 2  # the faults alone are asked for again
