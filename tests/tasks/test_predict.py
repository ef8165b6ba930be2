"""`predict` where something stops it: in-process on small untrained nets, and killed as a process of its own."""

import dataclasses
import errno
import importlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path, PurePath

import numpy as np
import pytest
import torch
import yaml
from helpers import Command, image_file, one_sentence, tree
from nets import NETS
from PIL import Image

from tasks.commands import Terminated, main
from tasks.predictor import Predictor
from tasks.sources import find_sources, places

COUNT = 7
CODES = {KeyboardInterrupt: 130, Terminated: 143}
OWN_FILES = {
    "classification": set(),
    "detection": {"predictions.json"},
    "face_attributes": set(),
    "face_embeddings": {"embeddings.npy"},
    "geolocalization": set(),
}


class Stopping(Predictor):
    """Raises `fault` in the place of the prediction number `at`, from 0; counts those that it made."""

    at, fault, made = None, None, 0

    def answer(self, resized, sizes, **options):
        if self.made == self.at:
            raise self.fault
        self.made += len(resized)
        return super().answer(resized, sizes, **options)


@pytest.fixture
def predict(net_of):
    """A call of the command; its exit code, and how many predictions it made, one at a time unless `batch` says so."""

    def call(task, *args, at=None, fault=KeyboardInterrupt, before=None, source=("photos",), batch="1"):
        command = importlib.import_module(f"tasks.{task}.predict").PREDICT
        predictor = Stopping(net_of(task), None if task == "detection" else 0.875)
        predictor.data_options = {"crops": 1}
        predictor.at, predictor.fault = at, fault

        def load(path, device):
            if before is not None:
                before()
            return predictor

        given = ["predict", "--ckpt_path", "net.ckpt", "--batch", batch, *args]
        given += ["--source", *source] if source else []
        code = main(task, "", lambda: (None, None), dataclasses.replace(command, load=load), given)
        return code, predictor.made

    return call


@pytest.fixture(scope="module")
def net_of():
    nets = {}

    def net(task):
        if task not in nets:
            torch.manual_seed(0)
            nets[task] = NETS[task]()
        return nets[task]

    return net


@pytest.fixture(autouse=True)
def photos():
    """Images in the working folder, one of which cannot be read."""
    folder = Path("photos")
    for i in range(COUNT):
        image_file(folder / f"{i:03}.png", i)
    (folder / "002_broken.jpg").write_bytes(b"<html>")
    Path("net.ckpt").write_bytes(b"a net")
    return folder


def runs(task):
    return sorted(path for path in Path("runs", task).glob("*") if not path.is_symlink())


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def contents(run):
    """All files of a run but its sheets, of which one that was interrupted has more."""
    return {path: digest for path, digest in tree(run).items() if not path.match("pictures/predictions_*.png")}


def check_as_uninterrupted(task, run, predict, *args, made=COUNT):
    """The run is whole, and has the very bytes of another that nothing stopped."""
    assert predict(task, *args) == (0, made)
    [other] = set(runs(task)) - {run}
    assert [row["file"] for row in lines(run / "predictions.jsonl")] == [f"photos/{i:03}.png" for i in range(COUNT)]
    expected = {"config.yaml", "predictions.jsonl", "pictures", "geojson"} & {path.name for path in other.iterdir()}
    assert {path.name for path in run.iterdir()} == expected | OWN_FILES[task]
    assert contents(run) == contents(other)


@pytest.mark.parametrize(
    ("task", "args", "fault"),
    [
        *(("classification", [], fault) for fault in CODES),
        *(("detection", ["--conf", "0.02"], fault) for fault in CODES),
        *(("face_embeddings", ["--against", "photos/003.png"], fault) for fault in CODES),
        pytest.param("geolocalization", ["--top", "2"], KeyboardInterrupt, marks=pytest.mark.slow),  # it draws maps
    ],
)
def test_what_was_interrupted_twice_is_in_the_end_as_if_it_was_not(task, args, fault, predict, capsys):
    first = int(task == "face_embeddings")  # it predicts the other image first, whatever is done
    assert predict(task, *args, at=3 + first, fault=fault) == (CODES[fault], 3 + first)
    [run] = runs(task)
    assert [row["file"] for row in lines(run / "predictions.jsonl.part")] == [f"photos/{i:03}.png" for i in range(3)]
    assert not (run / "predictions.jsonl").exists()
    capsys.readouterr()
    assert predict(task, *args, at=2 + first, fault=fault) == (CODES[fault], 2 + first)
    printed = capsys.readouterr()
    assert f"going on with {run}: 3 images of 8 done\n" in printed.out
    assert f"5 images done, kept in {run}" in printed.out
    assert "002_broken.jpg" in printed.err  # it is tried again
    assert predict(task, *args) == (0, 2 + first)
    assert not Path("runs", task, "latest").exists()  # which is the newest run that trained
    printed = capsys.readouterr().out
    assert f"\n7 images, 1 could not be read: {run / 'predictions.jsonl'}\n" in printed
    assert printed.count(" ms)\n") == COUNT - 5  # a line for each image of this call
    if first:
        rows = lines(run / "predictions.jsonl")
        assert [row["row"] for row in rows] == list(range(COUNT))
        assert np.load(run / "embeddings.npy").shape == (COUNT, 8)
        nearest = [line.rpartition(": ")[2] for line in printed.splitlines() if line.endswith(".png")]
        assert nearest == [row["file"] for row in sorted(rows, key=lambda row: row["squared_distance"])]
    if task == "detection":
        ids = {row["image_id"] for row in json.loads((run / "predictions.json").read_text())}
        assert ids <= {1, 2, 3, 5, 6, 7, 8}  # the fourth name is the broken image's
        assert len(ids) > 3
    check_as_uninterrupted(task, run, predict, *args, made=COUNT + first)


def cut_row(run):
    path = run / "predictions.jsonl.part"
    path.write_bytes(path.read_bytes()[:-9])


def cut_end_of_line(run):
    path = run / "predictions.jsonl.part"
    path.write_bytes(path.read_bytes()[:-1])


def half_a_row_more(run):
    for name in ("kept.jsonl.part", "predictions.jsonl.part"):
        with (run / name).open("ab") as file:
            file.write(b'{"file": "photos/00')


def kept_without_its_row(run):
    with (run / "kept.jsonl.part").open("ab") as file:
        file.write(b"[]\n")


def zeros_of_a_power_cut(run):
    path = run / "predictions.jsonl.part"
    content = path.read_bytes()
    path.write_bytes(content[:-5] + bytes(4096) + b"\n")


def half_a_file_of_the_end(run):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    for folder in {run, *(path.parent for path in run.glob("pictures/*"))}:
        (folder / f".tmp~{socket.gethostname()}~{gone.stdout.strip()}~x.npy").write_bytes(b"half")


TORN = [cut_row, cut_end_of_line, half_a_row_more, kept_without_its_row, zeros_of_a_power_cut]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "face_embeddings"])
@pytest.mark.parametrize("tear", [*TORN, half_a_file_of_the_end], ids=lambda tear: tear.__name__)
def test_what_a_kill_left_torn_is_made_again(tear, task, predict):
    predict(task, at=4)
    [run] = runs(task)
    tear(run)
    lost = tear in (cut_row, cut_end_of_line, zeros_of_a_power_cut)
    assert predict(task) == (0, 4 if lost else 3)
    check_as_uninterrupted(task, run, predict)


def test_a_kill_after_the_last_image_leaves_only_the_end_to_be_made(predict, monkeypatch):
    def killed(*args):
        raise Terminated

    with monkeypatch.context() as patched:
        patched.setattr("tasks.prediction_rows.RowsOfRun.finish", killed)
        assert predict("detection") == (143, COUNT)
    [run] = runs("detection")
    (run / "predictions.json").write_text("[")
    assert predict("detection") == (0, 0)
    check_as_uninterrupted("detection", run, predict)


def test_a_sheet_holds_what_was_made_before_an_interruption_and_the_next_call_begins_another(predict):
    predict("classification", at=2)
    [run] = runs("classification")
    first = tree(run / "pictures")
    assert set(map(str, first)) == {"predictions_001.png"}
    predict("classification")
    both = tree(run / "pictures")
    assert set(map(str, both)) == {"predictions_001.png", "predictions_002.png"}
    assert first.items() <= both.items()
    assert Image.open(run / "pictures" / "predictions_002.png").size[0] > 5 * 220


def test_an_image_that_could_not_be_read_is_tried_again(photos, predict):
    predict("classification", at=5)
    image_file(photos / "002_broken.jpg", 9)
    assert predict("classification") == (0, 3)
    [run] = runs("classification")
    files = Counter(row["file"] for row in lines(run / "predictions.jsonl"))
    assert files == Counter(str(path) for path in photos.iterdir())


def test_names_that_are_not_utf8_are_known_again(photos, predict):
    odd = photos / os.fsdecode(b"0\xff\n.png")
    (photos / "000.png").rename(odd)
    assert predict("detection", at=4) == (130, 4)
    assert predict("detection") == (0, COUNT - 4)
    [run] = runs("detection")
    files = Counter(row["file"] for row in lines(run / "predictions.jsonl"))
    assert files == Counter(str(path) for path in photos.glob("*.png"))
    assert files[str(odd)] == 1


def another_net(photos):
    Path("net.ckpt").write_bytes(b"another")


def one_image_more(photos):
    image_file(photos / "000_more.png", 1)


def an_image_renamed(photos):
    (photos / "006.png").rename(photos / "007.png")


def a_done_image_changed(photos):
    stat = (photos / "001.png").stat()
    time.sleep(0.05)
    image_file(photos / "001.png", 99)
    os.utime(photos / "001.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))


def another_folder_of_these_names(photos):
    os.chdir("elsewhere")


CHANGES = [another_net, one_image_more, an_image_renamed, a_done_image_changed, another_folder_of_these_names]


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_another_net_or_other_images_begin_a_new_run(change, photos, predict, monkeypatch):
    monkeypatch.chdir(Path.cwd())  # so that it comes back
    shutil.copytree(photos, "elsewhere/photos")
    Path("elsewhere/runs").symlink_to("../runs")
    shutil.copy("net.ckpt", "elsewhere")
    predict("detection", at=3)
    change(photos)
    count = len(list(Path("photos").glob("*.png")))
    assert predict("detection") == (0, count)
    old, new = runs("detection")
    assert len(lines(old / "predictions.jsonl.part")) == 3
    assert len(lines(new / "predictions.jsonl")) == count


def test_other_options_begin_a_new_run_and_the_config_names_them(predict):
    predict("classification", at=3)
    assert predict("classification", "--top", "1") == (0, COUNT)
    assert predict("classification") == (0, COUNT - 3)
    old, new = runs("classification")
    assert [len(lines(run / "predictions.jsonl")) for run in (old, new)] == [COUNT, COUNT]
    config = yaml.safe_load((new / "config.yaml").read_text())
    assert (config["top"], config["ckpt_path"], config["images"]["count"]) == (1, "net.ckpt", COUNT + 1)
    assert len(config["sha256"]["checkpoint"]) == 64


def test_the_image_to_compare_with_is_part_of_what_decides(predict):
    shutil.copy("photos/001.png", "one.png")
    predict("face_embeddings", "--against", "one.png", at=3)
    shutil.copy("photos/002.png", "one.png")
    assert predict("face_embeddings", "--against", "one.png") == (0, COUNT + 1)
    assert len(runs("face_embeddings")) == 2


def test_stopped_before_the_first_row_it_leaves_nothing(predict):
    assert predict("classification", at=0) == (130, 0)
    assert not Path("runs").exists()


def test_where_no_image_can_be_read_nothing_is_left(photos, predict, capsys):
    for path in photos.iterdir():
        path.write_bytes(b"<html>")
    assert predict("detection") == (2, 0)
    assert not Path("runs").exists()
    assert capsys.readouterr().err.count("\nerror: ") == 1


def in_threads(count, call):
    threads = [threading.Thread(target=call, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("unfinished", [0, 1])
def test_two_in_the_same_instant_have_a_folder_each(unfinished, predict):
    """And of an unfinished run only one goes on with it."""
    if unfinished:
        predict("classification", at=4)
    barrier, results = threading.Barrier(2), {}

    def call(i):
        results[i] = predict("classification", before=barrier.wait)

    in_threads(2, call)
    assert sorted(results.values()) == [(0, 3 if unfinished else COUNT), (0, COUNT)]
    assert len(runs("classification")) == 2
    for run in runs("classification"):
        files = [row["file"] for row in lines(run / "predictions.jsonl")]
        assert files == [f"photos/{i:03}.png" for i in range(COUNT)]
        assert not list(run.glob("*.part"))


def test_what_is_at_work_is_not_gone_on_with(predict):
    begun, go_on, results = threading.Event(), threading.Event(), {}

    class Waiting:
        """Equal to the prediction's number once two are made; then lets the other call run."""

        def __eq__(self, made):
            if made == 2:
                begun.set()
                assert go_on.wait(60)
            return False

        __hash__ = None

    thread = threading.Thread(target=lambda: results.update(first=predict("classification", at=Waiting())))
    thread.start()
    assert begun.wait(60)
    [first] = runs("classification")
    assert len(lines(first / "predictions.jsonl.part")) <= 2
    results["second"] = predict("classification")
    go_on.set()
    thread.join(60)
    assert results == {"first": (0, COUNT), "second": (0, COUNT)}
    assert [len(lines(run / "predictions.jsonl")) for run in runs("classification")] == [COUNT, COUNT]


def test_a_run_that_ends_while_it_is_looked_at_is_not_gone_on_with(predict, monkeypatch):
    predict("classification", at=3)
    [first] = runs("classification")

    def lock(file):  # the other process gives its file its name, and lets go, before we have the lock
        if (first / "predictions.jsonl.part").exists():
            (first / "predictions.jsonl.part").rename(first / "predictions.jsonl")
        return True

    monkeypatch.setattr("tasks.prediction_rows.lock", lock)
    assert predict("classification") == (0, COUNT)
    assert len(runs("classification")) == 2
    assert len(lines(first / "predictions.jsonl")) == 3


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_an_error_of_the_disk_is_one_sentence_and_the_rows_are_kept(error, predict, capsys):
    assert predict("detection", at=4, fault=OSError(error, os.strerror(error))) == (2, 4)
    [run] = runs("detection")
    err = capsys.readouterr().err.splitlines()
    assert [line for line in err if not line.startswith("warning: ")] == [err[-1]]
    assert err[-1].startswith(f"error: {run} ")
    assert os.strerror(error) in err[-1]
    assert predict("detection") == (0, COUNT - 4)
    check_as_uninterrupted("detection", run, predict)


def test_a_row_that_the_disk_takes_only_in_part_is_made_again(predict, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))  # of a file, in bytes: the third row goes beyond
    try:
        code, _ = predict("face_embeddings")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    [run] = runs("face_embeddings")
    kept = len(lines(run / "predictions.jsonl.part"))
    assert 1 < kept < COUNT
    assert "raise the limit" in capsys.readouterr().err
    assert (run / "kept.jsonl.part").stat().st_size == 700
    assert predict("face_embeddings") == (0, COUNT - kept)
    check_as_uninterrupted("face_embeddings", run, predict)


def test_only_regular_files_are_opened_and_the_others_counted_in_a_line(photos, predict, capsys):
    os.mkfifo(photos / "pipe.jpg")
    (photos / "folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("photos/socket.png")
        (photos / "device.png").symlink_to("/dev/zero")
        (photos / "link.png").symlink_to("000.png")
        (photos / "to_nothing.png").symlink_to("gone.png")
        assert predict("classification") == (0, COUNT + 1)
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert [note.partition(" in ")[0] for note in notes] == ["note: 2 names", "note: 2 links"]
    with one_sentence("pipe.jpg: this is neither a file nor a folder"):
        find_sources([str(photos / "pipe.jpg")])
    with one_sentence("photos/folder.jpg: this folder holds no image"):
        find_sources([str(photos / "folder.jpg")])
    with one_sentence("cannot be read"):
        find_sources([str(photos / ("x" * 300))])


def test_hidden_files_do_not_count_and_images_that_cannot_be_read_are_counted(tmp_path, capsys):
    tmp_path /= "all"
    listed = ("000000000139.jpg", "000000000285.jpg", "DJI.JPG", "below/plain.JPEG", "stereo.mpo")
    left_out = ("1.DJVU", "2.djvu", "3.cr2", "._000000000139.jpg", ".a.jpg", "._1.djvu", "Thumbs.db", "notes.txt")
    for name in (*listed, *left_out, "@eaDir/a.jpg", ".hidden/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in find_sources([str(tmp_path)]).files] == list(listed)
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert [note[:14] for note in notes] == ["note: 2 .djvu ", "note: 1 .cr2 f"]
    for name in listed:
        (tmp_path / name).unlink()
    with one_sentence(r"holds no image .*2 \.djvu files .*JPEG"):
        find_sources([str(tmp_path)])
    with one_sentence(r"1\.DJVU.*JPEG"):
        find_sources([str(tmp_path / "1.DJVU")])


LONG = "\u00e9" * 123  # 246 bytes


@pytest.mark.slow
def test_pictures_of_any_names_are_written_and_none_over_another(photos, predict):
    names = [f"{LONG}.png", f"{LONG}.jpg", "a\n.png", "a\t.png", "a_.png", "a_.png_2", "a_.jpg"]
    for i, name in enumerate(names):
        Image.new("RGB", (40 + i, 40)).save(photos / name, format="png")
    given = [name for name in names if name.endswith("g")] + [f"{i:03}.png" for i in range(COUNT)]
    assert predict("detection") == (0, len(given))
    [run] = runs("detection")
    written = [path.name for path in (run / "pictures").iterdir()]
    assert len(written) == len(given)
    assert max(len(os.fsencode(name)) for name in written) <= 255
    widths = Counter(Image.open(run / "pictures" / name).size[0] for name in written)
    assert widths == Counter(Image.open(photos / name).size[0] for name in given)
    assert predict("geolocalization") == (0, len(given))
    [run] = runs("geolocalization")
    assert len(list((run / "geojson").iterdir())) == len(given)


def placed(*names):
    return [str(place) for place in places(map(PurePath, names))]


def test_places_stay_as_they_are_where_they_can_and_no_two_are_alike():
    assert placed("b.jpg", "a\n.jpg", "a_.png", "a_2.jpg", "a\t.jpg") == ["b", "a_", "a__2", "a_2", "a__3"]
    assert placed("a\n", "a__2", "a\t") == ["a_", "a__2", "a__3"]
    assert placed("x/a.jpg", "y/a.jpg", "x/a.png") == ["x/a", "y/a", "x/a_2"]
    short = "\u00e9" * 100
    assert placed("\u00e9" * 150 + ".jpg", "\u00e9" * 151 + ".jpg") == [short, f"{short}_2"]
    assert placed(os.fsdecode(b"\xff.png")) == [os.fsdecode(b"\xff")]
    assert placed("x.jpg/a.png", "x.png") == ["x.jpg/a", "x_2"]  # its picture x.jpg would be the folder


@pytest.mark.slow
def test_a_process_that_is_stopped_or_killed_loses_no_row_and_the_same_command_completes_it(classes_root):
    from tasks.classification.__main__ import main as classification

    small = ["--model.width_mult", "0.25", "--data.image_size", "32", "--data.num_workers", "0"]
    assert classification(["fit", "--data.root", str(classes_root), *small, "--trainer.max_epochs", "1"]) == 0
    for i in range(300):
        image_file(Path("all") / f"{i:03}.png", i)
    best = Path("runs/classification/latest").resolve() / "checkpoints" / "best.ckpt"
    predict = ["classification", "predict", "--source", "all", "--ckpt_path", str(best)]
    done, parts = 0, Path("runs/classification")
    for number in (signal.SIGTERM, signal.SIGKILL):
        command = Command(*predict)
        try:
            until = time.monotonic() + 120
            while sum(part.read_bytes().count(b"\n") for part in parts.glob("2*/predictions.jsonl.part")) < done + 20:
                assert command.process.is_alive(), command.ended()
                assert time.monotonic() < until
                time.sleep(0.01)
            os.kill(command.process.pid, number)
            code, printed, error = command.ended()
        finally:
            command.process.kill()
        assert code == (-number if number == signal.SIGKILL else 128 + number)
        assert "Traceback" not in error
        [part] = parts.glob("2*/predictions.jsonl.part")
        kept = part.read_bytes().count(b"\n")
        assert done + 20 <= kept < 300
        if number != signal.SIGKILL:
            assert f"{kept} images done, kept in {part.parent}" in printed
        assert (f"going on with {part.parent}: {done} images" in printed) == bool(done)
        done = kept
    code, printed, error = Command(*predict).ended()
    assert code == 0, error
    assert f"going on with {part.parent}: {done} images of 300 done" in printed
    files = Counter(row["file"] for row in lines(part.parent / "predictions.jsonl"))
    assert files == Counter(str(path) for path in Path("all").glob("*.png"))
    assert set(files.values()) == {1}
    assert len(files) == 300


@pytest.mark.parametrize("task", list(NETS))
def test_batches_of_any_size_give_what_one_image_at_a_time_gives(task, photos):
    torch.manual_seed(0)
    module = NETS[task]()
    predictor = Predictor(module, None if task == "detection" else 0.875)
    images = [predictor.pixels(predictor.open(path)) for path in sorted(photos.glob("*.png"))]
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():  # by statistics of these images, as otherwise an untrained net gives the same for all
        module.train()(torch.cat(images))
    module.eval()
    options = {"conf": 0.02} if task == "detection" else {}
    paths = sorted(photos.glob("*.png"))
    alone = [predictor(path, **options) for path in paths]
    assert task != "detection" or sum(len(one.scores) for one in alone)
    for batch in (1, 3, 16):
        seen = list(predictor.stream(sorted(photos.iterdir()), batch=batch, **options))  # one cannot be read
        assert [one.item.name for one in seen if one.error] == ["002_broken.jpg"]
        for results in ([one.result for one in seen if not one.error], predictor(paths, batch=batch, **options)):
            for result, expected in zip(results, alone, strict=True):
                for one, other in zip(
                    *(part if isinstance(part, tuple) else [part] for part in (result, expected)), strict=True
                ):
                    if isinstance(other, list):
                        assert one == other
                    else:
                        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("given", [{"batch": 0}, {"batch": -1}, {"batch": 1.5}, {"top": 1.5}, {"conf": "a"}])
def test_what_makes_no_sense_in_python_is_refused_before_any_image_is_read(given, photos, net_of):
    predictor = Predictor(net_of("classification"), 0.875)
    with one_sentence(next(iter(given))):
        predictor(sorted(photos.glob("*.png")), **given)


@pytest.mark.parametrize("image", [b"bytes", {"a": 1}, torch.zeros(3, 4, 4), 3])
def test_what_is_no_image_is_refused_at_once(image, net_of):
    with one_sentence("type"):
        Predictor(net_of("classification"), 0.875)(image)


def test_an_iterator_is_read_a_batch_ahead_and_its_results_come_in_order(photos, net_of):
    predictor, taken = Predictor(net_of("classification"), 0.875), []

    def images():
        for i in range(1000):
            taken.append(i)
            yield np.full((40, 40, 3), i % 256, np.uint8)

    results = predictor(images(), batch=2)
    for i in range(3):
        expected = predictor(np.full((40, 40, 3), i, np.uint8))
        np.testing.assert_allclose(next(results).probabilities, expected.probabilities, rtol=1e-4)
    assert len(taken) < 40
    results.close()
    with one_sentence("002_broken.jpg"):
        predictor(sorted(photos.iterdir()))


def test_conf_and_top_bound_what_is_given(photos, net_of):
    classify = Predictor(net_of("classification"), 0.875)
    both = classify("photos/000.png")
    for conf in (0.0, *both.probabilities.tolist(), 0.99):
        likely = [name for name, p in zip(both.names, both.probabilities, strict=True) if p >= conf]
        assert classify("photos/000.png", conf=conf).names == likely
    assert classify("photos/000.png", top=1).names == both.names[:1]
    detect = Predictor(net_of("detection"), None)
    found = detect("photos/000.png", conf=0.0)
    least = float(np.median(found.scores))
    some = detect("photos/000.png", conf=least)
    np.testing.assert_array_equal(some.boxes_xyxy, found.boxes_xyxy[found.scores > least])


def test_what_is_written_has_the_threshold_and_all_formats_hold_the_same_objects(photos, predict):
    (photos / "deep").mkdir()
    image_file(photos / "deep" / "000.png", 3)
    objects = {}
    for kind in ("coco", "yolo", "csv"):
        assert predict("detection", "--conf", "0.02", "--format", kind, "--out", kind, batch="3")[0] == 0
        rows = lines(Path(kind) / "predictions.jsonl")
        objects[kind] = [(row, one) for row in rows for one in row["objects"]]
    expected = objects["coco"]
    assert len(expected) > 20
    assert min(one["score"] for _, one in expected) > 0.02
    content = json.loads(Path("coco/coco.json").read_text())
    assert content["categories"] == [{"id": 2, "name": "disc"}, {"id": 5, "name": "bar"}]
    assert {one["file_name"] for one in content["images"]} == {f"{i:03}.png" for i in range(COUNT)} | {"deep/000.png"}
    assert {(one["width"], one["height"]) for one in content["images"]} == {Image.open("photos/000.png").size}
    results = json.loads(Path("coco/predictions.json").read_text())
    assert {(one["category_id"], one["category_name"]) for one in results} <= {(2, "disc"), (5, "bar")}
    table = Path("csv/predictions.csv").read_text().splitlines()
    assert len(content["annotations"]) == len(results) == len(table) - 1 == len(expected)
    for (row, one), annotation, line in zip(expected, content["annotations"], table[1:], strict=True):
        x1, y1, x2, y2 = one["box_xyxy"]
        assert (annotation["image_id"], annotation["category_id"]) == (row["image_id"], one["category_id"])
        assert annotation["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.01)
        assert line.startswith(f"{row['file']},,{one['name']},{one['category_id']},")
    written = []
    for row in lines(Path("yolo/predictions.jsonl")):
        place = Path(row["file"]).relative_to("photos").with_suffix(".txt")
        for text in (Path("yolo/labels") / place).read_text().splitlines():
            label, x, y, w, h, score = map(float, text.split())
            width, height = row["width"], row["height"]
            box = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
            written.append((("disc", "bar")[int(label)], box, score))
    for (_, one), (name, box, score) in zip(objects["yolo"], written, strict=True):
        assert (name, score) == (one["name"], pytest.approx(one["score"], abs=1e-5))
        assert box == pytest.approx(one["box_xyxy"], abs=0.01)
    assert Path("yolo/classes.txt").read_text() == "disc\nbar\n"
    assert Path("coco/pictures/deep/000.jpg").is_file()


def test_crops_are_the_pixels_of_the_boxes_and_no_images_writes_no_pictures(predict):
    assert predict("detection", "--conf", "0.02", "--save-crops", "--no-images", "--out", "out")[0] == 0
    assert not Path("out/pictures").exists()
    count = 0
    for row in lines(Path("out/predictions.jsonl")):
        for i, one in enumerate(row["objects"], 1):
            x1, y1, x2, y2 = one["box_xyxy"]
            crop = Image.open(f"out/crops/{one['name']}/{Path(row['file']).stem}_{i}.jpg")
            assert crop.size == (int(np.ceil(x2)) - int(x1), int(np.ceil(y2)) - int(y1))
            count += 1
    assert count > 20


def test_out_is_new_or_empty_or_the_unfinished_run_of_this_command(predict, capsys):
    assert predict("detection", "--out", "out", at=3) == (130, 3)
    assert predict("detection", "--out", "out", "--conf", "0.5") == (2, 0)
    assert "--out out is not empty" in capsys.readouterr().err
    assert predict("detection", "--out", "out") == (0, COUNT - 3)
    assert len(lines(Path("out/predictions.jsonl"))) == COUNT
    assert predict("detection", "--out", "out") == (2, 0)
    assert not Path("runs").exists()


def test_resume_alone_takes_all_options_of_the_newest_interrupted_run(predict, net_of, capsys):
    from tasks.predict import main as command

    assert predict("detection", "--conf", "0.02", at=3) == (130, 3)
    [run] = runs("detection")
    predictor = Stopping(net_of("detection"), None)
    part = dataclasses.replace(importlib.import_module("tasks.detection.predict").PREDICT, load=lambda *_: predictor)
    with one_sentence("leave out --conf"):
        command("detection", lambda: (None, None), part, ["--resume", "--conf", "0.5"])
    assert command("detection", lambda: (None, None), part, ["--resume"]) == 0
    assert predictor.made == COUNT - 3
    assert capsys.readouterr().out.rstrip().endswith(f"run: {run}")
    assert len(lines(run / "predictions.jsonl")) == COUNT
    with one_sentence("no prediction under runs/detection was interrupted"):
        command("detection", lambda: (None, None), part, ["--resume"])


@pytest.mark.parametrize(
    ("task", "args", "message"),
    [
        ("detection", ["--min_score", "0.2"], "--conf"),
        ("classification", ["--top_k=3"], "--top"),
        ("classification", ["--format", "coco"], "jsonl, csv"),
        ("classification", ["--conf", "1.5"], "--conf 1.5"),
        ("detection", ["--device", "warp"], "device warp"),
        ("detection", ["--weights", "net.ckpt"], "--weights and --ckpt_path"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_no_run(task, args, message, predict, capsys):
    assert predict(task, *args) == (2, 0)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
    assert not Path("runs").exists()
