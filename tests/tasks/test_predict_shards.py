import dataclasses
import importlib
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import Command, image_file, save_checkpoint, tree, write_shards, write_tar
from nets import NETS, face_attributes
from PIL import Image

from backbone.errors import InputError
from data.classification import ClassificationDataModule
from tasks.classification.module import ClassificationModule
from tasks.commands import main
from tasks.predict_shards import Network, _begin, _share, located, predict_shard
from tasks.predictor import Predictor, stream

NETS = {**NETS, "face_attributes": face_attributes}
OUT = Path("out")


def numpy_network():
    """Its rows are the mean of each image; no torch is in it."""

    def answer(resized, sizes):
        return [float(image.mean()) for image in resized]

    def of(items, *, batch, open_item):
        return stream(items, open_item, lambda image: image, answer, batch or 4)

    return Network(of, None, lambda mean, size: {"mean": mean, "width": size[1]}, {"mean": pa.float64()}, {})


def members(*keys, content=None):
    found = []
    for key in keys:
        held = io.BytesIO()
        Image.new("RGB", (5, 4), (int(key), 0, 0)).save(held, "png")
        found.append((f"{key}.png", held.getvalue() if content is None else content))
    return found


def rows(path=OUT):
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_a_row_for_each_image_in_order_and_damaged_ones_with_the_reason():
    write_tar("a.tar", [*members("3", "7"), ("7.json", b'{"file": "x/7.png"}'), *members("9", content=b"no")])
    write_tar("b.tar", members("1", content=b"\x89PNG"))
    OUT.mkdir()
    found, counts = located("*.tar"), []
    for shard in found:
        counts.append(predict_shard(shard, numpy_network(), OUT))
    assert counts == [(3, 1), (1, 1)]
    first, second, third, fourth = rows()
    same = {"shard": "a.tar", "error": None}
    assert first == {"key": "3", "file": "3.png", "mean": 1.0, **same}
    assert second == {"key": "7", "file": "x/7.png", "mean": pytest.approx(7 / 3), **same}
    assert (third["key"], third["mean"], fourth["key"], fourth["shard"]) == ("9", None, "1", "b.tar")
    assert third["error"]
    assert fourth["error"]
    assert pq.read_schema("out/a.parquet").equals(pq.read_schema("out/b.parquet"))
    before = tree(OUT)
    assert [predict_shard(shard, numpy_network(), OUT) for shard in found] == [None, None]
    assert tree(OUT) == before


def test_more_rows_than_are_held_at_once(monkeypatch):
    monkeypatch.setattr("tasks.predict_shards._AT_ONCE", 3)
    keys = [f"{i}" for i in range(100, 110)]
    write_tar("a.tar", members(*keys))
    OUT.mkdir()
    predict_shard(located("a.tar")[0], numpy_network(), OUT, batch=2)
    assert [(row["key"], row["mean"]) for row in rows()] == [(key, pytest.approx(int(key) / 3)) for key in keys]


@pytest.mark.parametrize("fault", ["cut", "twice", "no tar", "a header"])
def test_of_a_shard_that_cannot_be_used_nothing_is_written(fault):
    write_tar("a.tar", members("1", "2", "1") if fault == "twice" else members("1", "2"))
    if fault == "cut":
        with Path("a.tar").open("r+b") as file:
            file.truncate(700)
    if fault == "a header":
        with Path("a.tar").open("r+b") as file:  # of the second image: tarfile would end there without a word
            file.seek(1024 + 100)
            file.write(b"\xff" * 200)
    if fault == "no tar":
        Path("a.tar").write_bytes(b"<html>" * 300)
    OUT.mkdir()
    with pytest.raises(InputError, match=r"a\.tar"):
        predict_shard(located("a.tar")[0], numpy_network(), OUT)
    assert list(OUT.iterdir()) == []


def test_names_that_are_not_utf8_are_escaped():
    write_tar("a.tar", [*members("1"), ("1.json", b'{"file": "x\\udcff.png"}')])
    OUT.mkdir()
    predict_shard(located("a.tar")[0], numpy_network(), OUT)
    assert [row["file"] for row in rows()] == ["x\\udcff.png"]


def test_a_shard_is_known_again_and_held_to_its_index(classes_root):
    from data.shard import main as shard

    assert shard([str(classes_root), "s", "--shard_mb", "0.01"]) == 0
    OUT.mkdir()
    first, second, *_ = located("s")
    assert predict_shard(first, numpy_network(), OUT)
    assert predict_shard(first, numpy_network(), OUT) is None
    before = tree(OUT)
    second.file.write_bytes(first.file.read_bytes())
    with pytest.raises(InputError, match="its index"):
        predict_shard(second, numpy_network(), OUT)
    Path("other").mkdir()
    write_tar(f"other/{first.name}", members("1"))
    with pytest.raises(InputError, match="another shard"):
        predict_shard(located("other")[0], numpy_network(), OUT)
    assert tree(OUT) == before


@pytest.mark.parametrize("index", ['{"__kind__": "wids-shard-index-v1"}', None])
def test_an_index_that_names_no_files_of_its_folder_is_refused(index, classes_root):
    from data.shard import main as shard

    assert shard([str(classes_root), "s"]) == 0
    if index is None:
        index = Path("s/index.json").read_text().replace('"train-000000.tar"', '"../train-000000.tar"')
    Path("s/index.json").write_text(index)
    with pytest.raises(InputError, match="no index"):
        located("s")
    assert shard(["--verify", "s"]) == 2


def test_the_processes_of_torchrun_share_the_shards(monkeypatch):
    assert _share(None) == (0, 1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert _share(None) == (1, 3)
    assert _share("0/2") == (0, 2)


def test_shards_are_found_by_folder_pattern_and_list():
    write_shards(Path("s"), [2, 1, 1])
    write_tar("other.tar", [])
    every = ["train-000.tar", "train-001.tar", "train-002.tar"]
    for where in ("s", "s/", "s/*.tar", "s/train-{000..002}.tar", "s/train-00[0-2].tar", "s/*0.tar,s/*1.tar,s/*.tar"):
        assert sorted(shard.name for shard in located(where)) == every, where
    assert [shard.file for shard in located("other.tar,s/train-001.tar")] == [
        Path("other.tar"),
        Path("s/train-001.tar"),
    ]
    Path("t").mkdir()
    write_tar("t/train-000.tar", [])
    for where in ("s,t", "s/train-003.tar", "t/*.zip.tar", "nothere"):
        with pytest.raises(InputError):
            located(where)


def test_shards_with_an_index_are_those_that_it_lists(classes_root):
    from data.shard import main as shard

    assert shard([str(classes_root), "s", "--shard_mb", "0.01"]) == 0
    write_tar("s/zzz.tar", [])
    listed = [one["url"] for one in json.loads(Path("s/index.json").read_bytes())["shardlist"]]
    assert len(listed) > 3
    assert [shard.name for shard in located("s")] == listed


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def predict():
    """A call of the command on an untrained net; its exit code."""
    Path("net.ckpt").write_bytes(b"a net")

    def call(task, *args):
        torch.manual_seed(0)
        predictor = Predictor(NETS[task](), None if task == "detection" else 0.875)
        predictor.data_options = {"crops": 1}
        command = importlib.import_module(f"tasks.{task}.predict").PREDICT
        command = dataclasses.replace(command, load=lambda path, device: predictor)
        return main(task, "", lambda: (None, None), command, ["predict", "--ckpt_path", "net.ckpt", *args])

    return call


def last_error(capsys):
    """The sentence that the command ended with."""
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error


def alike(value, other):
    """Whether they are the same but for float32 and what is null."""
    if isinstance(other, dict):
        return {*value} == {*other} and all(alike(value[name], other[name]) for name in other)
    if isinstance(other, list):
        return len(value) == len(other) and all(map(alike, value, other))
    return value == (pytest.approx(other, rel=1e-4, abs=1e-4) if isinstance(other, float) else other)


@pytest.mark.parametrize("task", list(NETS))
def test_rows_of_shards_are_those_of_the_files(task, predict):
    files = [Path(f"photos/{i}.png") for i in range(5)]
    for i, file in enumerate(files):
        image_file(file, i)
    for number, part in enumerate((files[:3], files[3:])):
        write_tar(f"s-{number}.tar", [(f"{file.stem}.png", file.read_bytes()) for file in part])
    given = ["--batch", "2"] + ["--conf", "0.01"] * (task == "detection")
    assert predict(task, "--source", "photos", "--no-images", "--out", "loose", *given) == 0
    for job in ("1/2", "0/2"):
        assert predict(task, "--shards", "s-{0,1}.tar", "--shard", job, "--out", "out", *given) == 0
    loose = [json.loads(line) for line in Path("loose/predictions.jsonl").read_text().splitlines()]
    if task == "face_embeddings":
        loose = [
            {"file": row["file"], "embedding": e}
            for row, e in zip(loose, np.load("loose/embeddings.npy").tolist(), strict=True)
        ]
    if task == "detection":
        assert any(row["objects"] for row in loose)
    found = pq.read_table(OUT).to_pylist()  # the folder as one table
    assert found == rows()
    assert [row["key"] for row in found] == ["0", "1", "2", "3", "4"]
    for row, other in zip(found, loose, strict=True):
        names = {*row} - {"key", "file", "shard", "error"}
        assert names == {*other} - {"file", "image_id"}
        assert alike({name: row[name] for name in names}, {name: other[name] for name in names}), (row, other)


def test_a_damaged_shard_is_named_the_others_are_done_and_the_same_command_tries_it_again(predict, capsys):
    write_tar("a.tar", members("1", "2"))
    write_tar("b.tar", members("3"))
    whole = Path("a.tar").read_bytes()
    Path("a.tar").write_bytes(whole[:600])
    command = ["classification", "--shards", "*.tar", "--out", "out"]
    assert predict(*command) == 2
    assert "a.tar" in last_error(capsys)
    assert [row["key"] for row in rows()] == ["3"]
    Path("a.tar").write_bytes(whole)
    assert predict(*command) == 0
    assert [row["key"] for row in rows()] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--shards", "a.tar"], "--out"),
        (["--shards", "a.tar", "--out", "full"], "full"),
        (["--shards", "none.tar", "--out", "out"], "none.tar"),
        (["--shards", "a.tar", "--out", "out", "--shard", "2/2"], "--shard"),
        (["--shards", "a.tar", "--out", "out", "--source", "a.png"], "--source"),
        (["--source", "a.png", "--shard", "0/2"], "--shard"),
        (["--shards", "a.tar", "--out", "out", "--engine", "ray", "--workers", "0"], "--workers"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_nothing_is_written(args, named, predict, capsys):
    write_tar("a.tar", members("1"))
    Path("full").mkdir()
    Path("full/x.txt").write_text("mine")
    before = tree(Path())
    assert predict("classification", *args) == 2
    assert named in last_error(capsys)
    assert tree(Path()) == before


def test_results_of_other_options_or_another_net_are_not_mixed(predict, capsys):
    write_tar("a.tar", members("1"))
    command = ["classification", "--shards", "a.tar", "--out", "out"]
    assert predict(*command) == 0
    before = tree(OUT)
    assert predict(*command, "--top", "1") == 2
    Path("net.ckpt").write_bytes(b"another net")
    assert predict(*command) == 2
    assert tree(OUT) == before
    assert "out" in last_error(capsys)


# --- kills ------------------------------------------------------------------------------------------------------------


def work(out, end=None):
    """Predict the shards of the folder s; die at an event: a batch, a flush to the disk, before or after a rename."""
    events = iter(range(10**6))

    def event():
        if next(events) == end:
            os.kill(os.getpid(), signal.SIGKILL)

    network = numpy_network()

    def streamed(items, *, batch, open_item):
        for number, seen in enumerate(network.stream(items, batch=2, open_item=open_item)):
            if number % 2 == 0:
                event()
            yield seen

    if end is not None:
        flush, rename = os.fsync, Path.replace

        def flushed(file):
            event()
            flush(file)

        def renamed(path, other):
            event()
            rename(path, other)
            event()

        os.fsync, Path.replace = flushed, renamed
    _begin(Path(out), {"task": "none"})
    for shard in located("s"):
        predict_shard(shard, network._replace(stream=streamed), Path(out))


@pytest.mark.slow
def test_after_ten_kills_every_key_is_there_once_as_of_the_plain_run():
    write_shards(Path("s"), [5, 5, 1, 5])
    work("plain")
    start, generator, died = multiprocessing.get_context("fork"), np.random.default_rng(0), 0
    for _ in range(10):
        process = start.Process(target=work, args=("out", int(generator.integers(0, 9))))
        process.start()
        process.join(60)
        died += process.exitcode == -signal.SIGKILL
        for file in OUT.glob("[!.]*.parquet"):  # what is there is whole
            assert pq.read_table(file).equals(pq.read_table(Path("plain", file.name)))
    assert died >= 4
    work("out")
    assert [row["key"] for row in rows()] == [f"{i:05}" for i in range(16)]
    assert tree(OUT) == tree(Path("plain"))


def test_several_jobs_at_once_begin_one_folder_and_take_the_same_shards():
    write_shards(Path("s"), [5, 5, 5])
    work("plain")
    start = multiprocessing.get_context("fork")
    processes = [start.Process(target=work, args=("out",)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert tree(OUT) == tree(Path("plain"))


@pytest.mark.slow
def test_by_ray_with_a_killed_worker_and_a_killed_driver_the_rows_are_those_of_one_process(classes_root):
    pytest.importorskip("ray")
    psutil = pytest.importorskip("psutil")
    torch.manual_seed(0)
    module = ClassificationModule({0: "bar", 1: "disc", 2: "cross"}, (32, 32), width_mult=0.25)
    save_checkpoint("net.ckpt", module, ClassificationDataModule(root=str(classes_root), image_size=32))
    write_shards(Path("s"), [8] * 24)
    command = [sys.executable, "-m", "tasks.classification", "predict", "--ckpt_path", "net.ckpt", "--shards", "s"]
    assert Command("classification", *command[3:], "--out", "plain", "--device", "cpu").ended()[0] == 0

    def begun(count, workers):
        process = subprocess.Popen(
            [*command, "--out", "out", "--engine", "ray", "--workers", str(workers), "--device", "cpu"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        while process.poll() is None and len([*OUT.glob("[!.]*.parquet")]) < count:
            time.sleep(0.01)
        return process, psutil.Process(process.pid).children(recursive=True)

    def actors_of(family):
        return [one for one in family if one.is_running() and "_Worker" in " ".join(one.cmdline())]

    driver, family = begun(1, workers=1)
    before = actors_of(family)
    driver.kill()
    driver.communicate()
    assert not psutil.wait_procs(before, timeout=60)[1]
    there = len([*OUT.glob("[!.]*.parquet")])
    assert 1 <= there < 24
    driver, family = begun(there + 1, workers=2)
    actors_of(family)[0].kill()
    _, told = driver.communicate(timeout=300)
    assert driver.returncode == 0, told[-500:]
    for file in Path("plain").glob("*.parquet"):
        assert pq.read_table(OUT / file.name).equals(pq.read_table(file))


@pytest.mark.slow
def test_an_exported_file_gives_the_rows_of_its_checkpoint(classes_root):
    from data.shard import main as shard
    from tasks.classification.__main__ import main as classification

    assert shard([str(classes_root), "s"]) == 0
    small = ["--model.width_mult", "0.25", "--data.image_size", "32", "--data.num_workers", "0"]
    assert classification(["fit", "--data.root", str(classes_root), "--trainer.max_epochs", "1", *small]) == 0
    assert classification(["export"]) == 0
    [file] = Path().rglob("*.onnx")
    assert classification(["predict", "--shards", "s", "--out", "of_net"]) == 0
    assert classification(["predict", "--shards", "s", "--out", "of_file", "--weights", str(file)]) == 0
    ours, theirs = rows(Path("of_net")), rows(Path("of_file"))
    assert len(ours) == 24
    for row, other in zip(ours, theirs, strict=True):
        assert row["key"] == other["key"]
        both = ({one["name"]: one["probability"] for one in each["classes"]} for each in (row, other))
        assert next(both) == pytest.approx(next(both), abs=1e-3)
