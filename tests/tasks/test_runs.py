import io
import math
import multiprocessing
import os
import pickle
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import SimpleNamespace

import pytest
import torch
from helpers import trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from backbone import InputError
from tasks.run_folders import checkpoint_at, new_run, newest_checkpoint, point_latest
from tasks.runs import (
    AtomicCheckpointIO,
    BestCheckpoint,
    read_checkpoint,
)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_runs_of_one_second_have_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.run_folders.datetime", SimpleNamespace(now=lambda: datetime(2026, 1, 2, 3, 4, 5)))

    def start(_):
        with new_run("detection", tmp_path / "runs", "--runs") as run:
            return run.name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(start, range(16)))
    expected = {"2026-01-02_03-04-05", *(f"2026-01-02_03-04-05_{count}" for count in range(2, 17))}
    assert set(names) == {path.name for path in (tmp_path / "runs" / "detection").iterdir()} == expected


def test_a_run_that_fails_leaves_what_it_has_written_and_nothing_else(tmp_path):
    def start(root, name):
        with new_run("detection", root, "--runs") as run:
            if name:
                (run / name).touch()
            raise ZeroDivisionError

    def fail(root, name):
        with pytest.raises(ZeroDivisionError):
            start(root, name)
        return list(root.rglob("*"))

    (tmp_path / "given").mkdir()
    assert fail(tmp_path / "given", "") == []
    assert fail(tmp_path / "new" / "runs", "") == []
    assert [path.name for path in tmp_path.iterdir()] == ["given"]
    assert fail(tmp_path / "runs", "metrics.csv")[-1].name == "metrics.csv"


@pytest.mark.parametrize("place", ["file", "file/..", "file/runs", "/proc/x"])
def test_a_place_that_cannot_be_written_is_refused_by_its_option(place, tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=f"^--runs {tmp_path / place} cannot be written"),
        new_run("detection", tmp_path / place, "--runs"),
    ):
        pass


def test_latest_points_at_the_last_run(tmp_path):
    for name in ("one", "two"):
        (tmp_path / "detection" / name).mkdir(parents=True)
        point_latest(tmp_path / "detection" / name)
    assert (tmp_path / "detection" / "latest").resolve() == tmp_path / "detection" / "two"


def test_newest_checkpoint_passes_over_runs_without_one(tmp_path):
    for age, name in enumerate(("new", "old")):
        path = tmp_path / "detection" / name / "checkpoints" / "best.ckpt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "detection" / "a_test").mkdir()
    assert newest_checkpoint("detection", tmp_path).parts[-3] == "new"
    with pytest.raises(InputError, match="no checkpoint under"):
        newest_checkpoint("classification", tmp_path)


def test_a_clock_set_back_changes_neither_the_order_of_runs_nor_the_newest(tmp_path, monkeypatch):
    names = []
    for hour in (12, 10, 10, 11, 12):
        monkeypatch.setattr("tasks.run_folders.datetime", SimpleNamespace(now=lambda: datetime(2026, 1, 2, hour)))  # noqa: B023
        with new_run("detection", tmp_path, "--runs") as run:
            (run / "checkpoints").mkdir()
            (run / "checkpoints" / "best.ckpt").touch()
            os.utime(run / "checkpoints" / "best.ckpt", (1000 - len(names), 1000 - len(names)))
        names.append(run.name)
        assert newest_checkpoint("detection", tmp_path).parts[-3] == run.name
    assert names == ["2026-01-02_12-00-00", *(f"2026-01-02_12-00-00_{count}" for count in range(2, 6))]
    point_latest(tmp_path / "detection" / names[1])  # the run that ended last, though another began after it
    assert newest_checkpoint("detection", tmp_path).parts[-3] == names[1]


def test_the_start_of_a_run_sweeps_what_a_killed_one_left_half_written(tmp_path):
    path = tmp_path / "detection" / "2026" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    process = multiprocessing.get_context("fork").Process(target=_save_for_ever, args=(path,))
    process.start()
    while not list(path.parent.glob(".tmp~*")):
        pass
    os.kill(process.pid, signal.SIGSTOP)
    with new_run("detection", tmp_path, "--runs"):
        left = list(path.parent.glob(".tmp~*"))  # of a process that is still there
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with new_run("detection", tmp_path, "--runs"):
        assert left
        assert not list(path.parent.glob(".tmp~*"))


PARTS = {key: {} for key in ("trunk", "head", "hyper_parameters", "datamodule_hyper_parameters", "state_dict")}
OURS = {"task": "detection", "pytorch-lightning_version": "2.6.4", **PARTS}


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        *((content, "is not a file of tensors") for content in (b"not a checkpoint", b"a\nb\nc", b"}abc")),
        (b"", "is empty"),
        (saved({"task": "detection", "x": torch.zeros(1000)})[:-2000], "is damaged or cut short"),
        (pickle.dumps({"x": Bomb()}), "is damaged or cut short, or not a file of tensors"),
        (pickle.dumps({"task": "detection", "x": Bomb()}, protocol=2), r"is a pickle that asks to run \w+\.mkdir"),
        (
            saved({"task": "detection", "state_dict": Bomb()}),
            r"is a pickle that asks to run \w+\.mkdir",
        ),  # today's format
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_and_nothing_in_it_runs(tmp_path, content, reason):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.ckpt {reason}"):
        read_checkpoint(path, "detection")
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_of_another_task_or_project_is_refused_by_name(tmp_path):
    torch.save({"task": "geolocalization"}, tmp_path / "geo.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="a checkpoint of the task 'geolocalization'"):
        read_checkpoint(tmp_path / "geo.ckpt", "detection")
    with pytest.raises(InputError, match="not a checkpoint of this project"):
        read_checkpoint(tmp_path / "other.ckpt", "detection")
    with pytest.raises(InputError, match="does not exist"):
        read_checkpoint(tmp_path / "none.ckpt", "detection")


@pytest.mark.parametrize("part", [*PARTS, "pytorch-lightning_version"])
def test_a_checkpoint_that_lacks_a_part_or_has_it_in_another_form_is_refused(part, tmp_path):
    for value in (None, "zzz", [1]):
        torch.save({**OURS, part: value}, tmp_path / "x.ckpt")
        with pytest.raises(InputError, match=r"x\.ckpt lacks a part"):
            read_checkpoint(tmp_path / "x.ckpt", "detection")


def test_a_run_folder_stands_for_a_checkpoint_in_it(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match=r"run is a folder without checkpoints/best\.ckpt"):
        read_checkpoint(tmp_path / "run", "detection")
    for name in ("best", "last"):
        torch.save({**OURS, "name": name}, tmp_path / "run" / "checkpoints" / f"{name}.ckpt")
    assert read_checkpoint(tmp_path / "run", "detection")["name"] == "best"
    assert checkpoint_at(tmp_path / "run", "last.ckpt") == tmp_path / "run" / "checkpoints" / "last.ckpt"


def _save_for_ever(path):
    content = {"x": torch.arange(2_000_000)}
    while True:
        AtomicCheckpointIO().save_checkpoint(content, path)


@pytest.mark.slow
def test_a_kill_while_saving_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"x": torch.arange(2_000_000)}, path)
    for delay in (0.05, 0.11, 0.17, 0.23):
        process = multiprocessing.get_context("fork").Process(target=_save_for_ever, args=(path,))
        process.start()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert torch.equal(torch.load(path, weights_only=True)["x"], torch.arange(2_000_000))


def test_the_last_checkpoint_is_kept_as_the_previous_one_and_offered_where_the_new_one_is_damaged(tmp_path):
    path = tmp_path / "last.ckpt"
    for step in range(3):
        AtomicCheckpointIO().save_checkpoint({**OURS, "global_step": step}, path)
    assert read_checkpoint(path, "detection")["global_step"] == 2
    assert read_checkpoint(tmp_path / "previous.ckpt", "detection")["global_step"] == 1
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"last\.ckpt is .*{tmp_path}/previous\.ckpt can be read"):
            read_checkpoint(path, "detection")


def test_one_flipped_bit_of_what_a_checkpoint_holds_is_found(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({**OURS, "state_dict": {"a": torch.randn(40, 50), "b": torch.randn(9)}}, path)
    whole, content = path.read_bytes(), read_checkpoint(path, "detection")["state_dict"]
    generator = random.Random(0)
    found = 0
    for place in generator.sample(range(len(whole)), 400):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            read = read_checkpoint(path, "detection")["state_dict"]
        except InputError:
            found += 1
        else:  # a byte that means nothing: padding, a date
            assert all(torch.equal(read[name], tensor) for name, tensor in content.items())
    assert found > 300


@pytest.mark.parametrize("key", ["state_dict", "current_model_state"])
def test_weights_that_are_not_finite_are_not_saved(key, tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({key: {"x": torch.ones(2)}, "global_step": 7}, path)
    for value in (math.nan, math.inf):
        with pytest.raises(InputError, match="x is not finite at step 8"):
            AtomicCheckpointIO().save_checkpoint({key: {"x": torch.tensor([1, value])}, "global_step": 8}, path)
    assert torch.equal(torch.load(path)[key]["x"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]


def test_a_save_that_fails_leaves_the_old_checkpoint_and_no_remains(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"x": 1}, path)
    with pytest.raises(Exception, match=r"(?i)pickle"):
        AtomicCheckpointIO().save_checkpoint({"x": lambda: 1}, path)
    assert torch.load(path, weights_only=True) == {"x": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["last.ckpt"]


class Scored(BoringModel):
    """A module whose score after each epoch is given, so that it is known which was the best."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def validation_step(self, batch, batch_idx):
        if self.trainer.state.fn == "fit":
            self.log("val/score", self.scores[self.current_epoch])


SHORT = {"limit_train_batches": 2, "limit_val_batches": 1, "enable_checkpointing": True}


@pytest.mark.parametrize(
    ("mode", "scores", "epoch"),
    [  # the resumed run improves on the one before, or does not
        ("max", [0.3, 0.2, 0.9, 0.5], 2),
        ("max", [0.3, 0.2, 0.1, 0.2], 0),
        ("min", [0.3, 0.2, 0.1, 0.2], 2),
    ],
)
def test_a_resumed_runs_best_is_the_best_of_both_also_after_its_last_validation(mode, scores, epoch, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    best = BestCheckpoint(first, "val/score", mode, None)
    running = trainer(tmp_path, max_epochs=2, callbacks=[best], **SHORT)
    running.fit(Scored(scores))
    running.save_checkpoint(first / "last.ckpt")
    best = BestCheckpoint(second, "val/score", mode, first / "last.ckpt")
    running = trainer(tmp_path, max_epochs=4, callbacks=[best], **SHORT)
    module = Scored(scores)
    running.fit(module, ckpt_path=first / "last.ckpt", weights_only=True)
    before = (second / "best.ckpt").read_bytes()
    assert torch.load(second / "best.ckpt", weights_only=True)["epoch"] == epoch
    running.validate(module, ckpt_path=best.best_model_path, weights_only=True, verbose=False)  # as `fit` ends
    assert (second / "best.ckpt").read_bytes() == before
    other = BestCheckpoint(tmp_path / "third", "val/score", mode, second / "best.ckpt")
    running = trainer(tmp_path, callbacks=[other], **SHORT)
    running.validate(module, ckpt_path=second / "best.ckpt", weights_only=True, verbose=False)
    found = min(scores) if mode == "min" else max(scores)
    assert [best.is_better(torch.tensor(found + step)) for step in (-0.01, 0.01)] == [mode == "min", mode == "max"]
    assert not (tmp_path / "third").exists()  # a validation alone has no best of its own


@pytest.mark.parametrize(
    ("scores", "epoch"), [([math.nan] * 3, 2), ([math.nan, 0.2, math.nan], 1), ([0.3, 0.2, 0.1], 0)]
)
def test_while_nothing_can_be_scored_the_newest_is_the_best(scores, epoch, tmp_path):
    best = BestCheckpoint(tmp_path, "val/score", "max", None)
    trainer(tmp_path, max_epochs=3, callbacks=[best], **SHORT).fit(Scored(scores))
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["epoch"] == epoch
