"""Several processes and machines: who has started them, what they share, and what they must not differ in."""

import importlib
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from helpers import commands_of_two, completed, figures, rows_of, same
from lightning.pytorch.loggers import CSVLogger

from backbone import InputError
from data.classification import ClassificationDataModule
from data.loading import EpochSampler
from data.records import Boxes, Records
from tasks import cli, processes
from tasks.classification.__main__ import main as classification
from tasks.devices import is_first, job_step, queue_again, queued_again, started, use_started_devices
from tasks.processes import EndTogether, SameData
from tasks.run_folders import JOB, run_of_job
from tasks.runs import StopBetweenSteps, keep_rows

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    **{"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2", "RANK": "5"},
}
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "1",
    "SLURM_JOB_NAME": "fit",
    "SLURM_NTASKS": "8",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_NNODES": "2",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "1",
}


@pytest.fixture
def environment(monkeypatch):
    """Sets the variables of whoever starts processes, in place of those there are."""

    def put(values):
        for name in (*TORCHRUN, *SLURM, "SLURM_RESTART_COUNT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    put({})
    return put


@pytest.mark.parametrize("by", [TORCHRUN, SLURM])
@pytest.mark.parametrize(
    ("devices", "nodes", "expected"),
    [("auto", 1, (4, 2)), (4, 2, (4, 2)), ("4", 2, ("4", 2)), (2, 1, None), ("3", 2, None), (8, 1, None), (2, 4, None)],
)
def test_processes_that_were_started_are_the_trainers_devices(by, devices, nodes, expected, environment):
    options = SimpleNamespace(devices=devices, num_nodes=nodes)
    use_started_devices(options)
    assert (options.devices, options.num_nodes) == (devices, nodes)  # where nothing has started it
    environment(by)
    if expected is None:
        with pytest.raises(InputError, match=f"8 processes, but --trainer.devices {devices}"):
            use_started_devices(options)
    else:
        use_started_devices(options)
        assert (options.devices, options.num_nodes) == expected


def test_torchrun_comes_before_slurm_and_what_is_typed_in_a_job_runs_alone(environment):
    environment(SLURM)
    assert started() == ("SLURM", 6, 8, 4, 2)
    assert job_step() == "4711.1"
    environment({**SLURM, **TORCHRUN})
    assert started() == ("torchrun", 5, 8, 4, 2)
    assert job_step() is None  # torchrun takes the signals
    for name in ("bash", "interactive"):
        environment({**SLURM, "SLURM_JOB_NAME": name})
        assert started() is None
        assert job_step() is None
    environment({name: value for name, value in SLURM.items() if name != "SLURM_PROCID"})  # in the shell of `salloc`
    assert started() is None
    assert is_first()


@pytest.mark.parametrize(("number", "asked"), [(signal.SIGUSR1, 1), (signal.SIGTERM, 0)])
def test_a_job_is_queued_again_before_its_first_checkpoint_too(number, asked, environment, monkeypatch, tmp_path):
    environment(SLURM)
    calls = []
    monkeypatch.setattr(cli, "queue_again", lambda: calls.append(1) or "queued again")
    command = object.__new__(cli._Cli)
    command.run_dir, command.subcommand, command.stop = tmp_path / "none", "fit", StopBetweenSteps()
    command.trainer = SimpleNamespace(is_global_zero=True)

    def interrupted(model, **kwargs):
        command.stop.signal = number
        raise KeyboardInterrupt

    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    with pytest.raises(SystemExit) as stop:
        command._guarded(interrupted, None)
    assert (stop.value.code, len(calls)) == (128 + number, asked)
    for each, handler in handlers.items():
        signal.signal(each, handler)  # the rest of a command, which this is not, is undisturbed by a signal


def test_a_job_whose_time_is_over_while_its_data_are_read_is_queued_again(
    classes_root, environment, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    environment({**SLURM, "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1", "SLURM_PROCID": "0"})
    calls = []
    monkeypatch.setattr("tasks.devices.queue_again", lambda: calls.append(1) or "queued again")
    monkeypatch.setattr(ClassificationDataModule, "setup", lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # by default it would end the tests
    try:
        given = ["fit", "--data.root", str(classes_root), "--model.width_mult", "0.25", "--trainer.accelerator", "cpu"]
        assert classification(given) == 128 + signal.SIGUSR1
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert calls == [1]
    assert not Path("runs").exists() or not list(Path("runs").rglob("2*"))


@pytest.mark.parametrize("local", ["1", "2"])  # as each of two machines sees it
def test_machines_with_different_numbers_of_processes_are_refused(local, environment):
    environment({**TORCHRUN, "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": local})
    with pytest.raises(InputError, match=f"3 processes on 2 machines, and {local} of them"):
        started()
    environment({**SLURM, "SLURM_NTASKS": "3", "SLURM_NTASKS_PER_NODE": local})
    with pytest.raises(InputError, match="--ntasks-per-node"):
        started()


def test_slurms_tasks_without_a_number_for_each_node_are_shared_evenly(environment, monkeypatch):
    environment({name: value for name, value in SLURM.items() if name != "SLURM_NTASKS_PER_NODE"})
    assert started().local == 4
    monkeypatch.setenv("SLURM_NTASKS", "7")
    with pytest.raises(InputError, match="7 processes on 2 machines"):
        started()


def test_a_job_is_queued_again_where_slurm_counts_a_restart(environment):
    for count, expected in (("", False), ("0", False), ("2", True)):
        environment({**SLURM, "SLURM_RESTART_COUNT": count})
        assert queued_again() is expected
    environment({"SLURM_RESTART_COUNT": "2"})
    assert not queued_again()


def test_what_slurm_answers_is_what_is_said_of_a_job(environment, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    environment(SLURM)
    for script, said in (("echo $@ > asked", "4711 is queued again"), ("echo no such job >&2; exit 1", "no such job")):
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "scontrol").chmod(0o755)
        assert said in queue_again()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4700")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho $@ > asked\n")
    queue_again()
    assert Path("asked").read_text() == "requeue 4700_3\n"  # as SLURM names the member of an array
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert "--resume" in queue_again()


def test_the_run_of_a_job_is_the_newest_that_its_step_has_trained(tmp_path):
    for name, text, trained in (
        ("2026-01-01_00-00-00", f"{JOB}4711.0\n", True),
        ("2026-01-02_00-00-00", f"{JOB}4711.0\n", True),
        ("2026-01-03_00-00-00", f"{JOB}4711.0\n", False),
        ("2026-01-04_00-00-00", f"{JOB}4711.1\n", True),
        ("2026-01-05_00-00-00", f"{JOB}47110.0\n", True),
    ):
        run = tmp_path / "task" / name
        (run / "checkpoints").mkdir(parents=True)
        (run / "config.yaml").write_text(f"data: 1\n{text}# ran on: cpu\n")
        if trained:
            (run / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "task" / "latest").symlink_to("2026-01-02_00-00-00")
    assert run_of_job("4711.0", "task", tmp_path) == tmp_path / "task" / "2026-01-02_00-00-00"
    assert run_of_job("4711.1", "task", tmp_path) == tmp_path / "task" / "2026-01-04_00-00-00"
    assert run_of_job("4711.2", "task", tmp_path) is None


def test_a_run_that_goes_on_in_its_folder_keeps_the_rows_before_its_checkpoint(tmp_path):
    first = CSVLogger(tmp_path, name="task", version="run")
    for step in range(4):
        first.log_metrics({"loss": step / 2}, step)
    first.log_metrics({"val": 0.5}, 3)
    first.save()
    again = CSVLogger(tmp_path, name="task", version="run")
    keep_rows(again, 3)
    for step in range(3, 5):
        again.log_metrics({"loss": 9.0, "new": 1}, step)
    again.save()
    rows = rows_of(tmp_path / "task" / "run" / "metrics.csv")
    assert [row["step"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row["loss"] for row in rows] == ["0.0", "0.5", "1.0", "9.0", "9.0"]
    assert [row["new"] for row in rows] == ["", "", "", "1", "1"]


# --- what processes must not differ in --------------------------------------------------------------------------------


def records(**columns):
    names = np.array([b"a.jpg", b"b.jpg", b"c.jpg"])
    return Records(Path("x"), names, {"labels": np.array([0, 1, 1]), **columns}, classes=("cat", "dog"))


def compared(monkeypatch, mine, other, state=None):
    """Compare what a first process has read with what a second has."""
    entries = []

    def both(entry):
        entries.append(entry[0])
        return {0: entries[0], 1: entries[-1]}

    monkeypatch.setattr(processes, "gather", both)
    for read, of_head in ((mine, None), (other, state)):
        data = SimpleNamespace(_splits={"train": read}, records=lambda name, read=read: read)
        trainer = SimpleNamespace(world_size=2, global_rank=0, datamodule=data)
        SameData().setup(trainer, SimpleNamespace(head=SimpleNamespace(state=of_head or {"names": ("a",)})), "fit")


@pytest.mark.parametrize(
    "change",
    [
        {"file_names": np.array([b"a.jpg", b"c.jpg", b"b.jpg"])},
        {"columns": {"labels": np.array([0, 1, 0])}},
        {"columns": {"labels": np.array([0, 1, 1], np.int32)}},
        {"columns": {"labels": np.array([0, 1, 1]), "latlng": np.zeros((3, 2))}},
        {"classes": ("dog", "cat")},
        {"boxes": Boxes(np.arange(4), np.ones((3, 4)), np.zeros(3, int), np.zeros(3, bool), np.ones(3))},
    ],
)
def test_other_data_on_another_machine_are_refused(change, monkeypatch):
    compared(monkeypatch, records(), replace(records(), folder=Path("y"), notes=("a copy",)))  # which is none
    with pytest.raises(InputError, match=r"process 1 on .* has other train images \(3\) than process 0"):
        compared(monkeypatch, records(), replace(records(), **change))


@pytest.mark.parametrize("state", [{"names": ("b",)}, {"names": ("a",), "cells": torch.zeros(2)}, {"name": ("a",)}])
def test_another_partition_or_other_names_of_a_head_are_refused(state, monkeypatch):
    with pytest.raises(InputError, match="parts of the head's state"):
        compared(monkeypatch, records(), records(), state)


@pytest.mark.parametrize("devices", [2, 3, 4, 6])
@pytest.mark.parametrize("batches", [0, 1, 3])
def test_a_resume_on_another_number_of_devices_goes_on_behind_the_images_that_were_seen(devices, batches):
    """The same batch of all devices, 12 images of 60: what is left of the epoch is the same, batch by batch."""

    def batches_left(count):
        share, start = 12 // count, batches * 12 // count
        settings = {"seed": 3, "shuffle": True, "epoch": 2, "num_replicas": count, "start": start}
        drawn = [[index for _, index in EpochSampler(60, rank=rank, **settings)] for rank in range(count)]
        return [sorted(i for one in drawn for i in one[k : k + share]) for k in range(0, len(drawn[0]), share)]

    assert batches_left(devices) == batches_left(1)
    assert len(batches_left(1)) == 5 - batches


def test_a_batch_that_the_devices_cannot_share_is_refused(classes_root):
    data = ClassificationDataModule(root=str(classes_root), batch_size=8, num_workers=0)
    for devices, share in ((1, 8), (2, 4), (8, 1)):
        data.trainer = SimpleNamespace(world_size=devices, num_devices=devices)
        data.setup("fit")
        assert data.device_batch == share
    data.trainer = SimpleNamespace(world_size=3, num_devices=3)
    with pytest.raises(InputError, match="give 6 or 9"):
        data.setup("fit")
    data.setup("test")  # of which no figure depends on it
    assert data.device_batch == 3


def test_what_the_first_process_gives_comes_to_the_others_through_torchs_store(monkeypatch):
    monkeypatch.setattr(processes, "_PIECE", 100)
    store = torch.distributed.HashStore()
    first, second = (EndTogether(str) for _ in range(2))
    for rank, one in enumerate((first, second)):
        one._store, one._rank = store, rank
    for value in ({"weights": list(range(100)), "path": Path("a")}, "x" * 1000, None):
        assert first.from_first(lambda value=value: value) == value
        assert second.from_first(lambda: 1 / 0) == value
    assert EndTogether(str).from_first(lambda: 7) == 7  # alone


# --- whole commands of two processes, as srun starts them -------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--model.width_mult", "0.25", "--data.image_size", "32", "--data.num_workers", "0", "--data.batch_size", "4"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.precision", "32-true", "--trainer.accelerator", "cpu"]
LOGGED = ["--trainer.log_every_n_steps", "1", "--trainer.max_epochs", "3"]  # of three steps each

FAULT = """
import importlib
import os
import signal

from lightning.pytorch.callbacks import Callback


class Signal(Callback):
    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.global_step == 4 and "SLURM_RESTART_COUNT" not in os.environ:
            os.kill(os.getpid(), signal.SIGUSR1)
"""


def srun(folders, job, *args, task="classification", **more):
    """The exit codes and what was said by two tasks of a job, each on a machine that has its own of two folders."""
    given = {"PYTHONPATH": str(Path.cwd()), "PATH": os.pathsep.join([str(Path.cwd()), os.environ["PATH"]]), **more}
    given |= {"SLURM_JOB_ID": job, "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "fit", "SLURM_NTASKS": "2"}
    given |= {"SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2", "SLURM_LOCALID": "0"}
    ended = commands_of_two(task, *args, folders=folders, SLURM_PROCID="{rank}", SLURM_NODEID="{rank}", **given)
    return [code for code, _, _ in ended], [said for _, *said in ended]


@pytest.fixture
def machines(tmp_path, monkeypatch):
    """Two folders, as the disks of two machines, with modules and a `scontrol` beside them."""
    (tmp_path / "faults.py").write_text(FAULT)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n")
    scontrol.chmod(0o755)
    for name in (*TORCHRUN, *SLURM, "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    return folders


def last(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.slow
def test_a_job_whose_time_is_over_is_queued_again_and_goes_on_to_the_same_bits(classes_root, machines, monkeypatch):
    monkeypatch.syspath_prepend(Path.cwd())
    settings = {"trainer": {"callbacks": [{"class_path": "faults.Signal"}]}}
    Path("signal.yaml").write_text(yaml.safe_dump(settings))
    given = ["fit", "--data.root", str(classes_root), *SMALL, *QUIET, *LOGGED]
    signalled = [*given, "--config", str(Path("signal.yaml").resolve()), "--allow_import", "faults"]
    codes, said = srun(machines, "4711", *signalled)
    assert codes == [128 + signal.SIGUSR1] * 2, said
    assert Path("asked").read_text() == "requeue 4711\n"
    runs = machines[0] / "runs" / "classification"
    [run] = [path for path in runs.iterdir() if not path.is_symlink()]
    assert last(run)["global_step"] == 5  # the step in work was done
    alone = [*given, "--ckpt_path", str(run), "--trainer.default_root_dir", "alone", "--allow_import", "faults"]
    assert classification(alone) == 0  # on one device, of which no bits are promised
    codes, said = srun(machines, "4711", *signalled, SLURM_RESTART_COUNT="1")
    assert codes == [0, 0], said
    assert [path for path in runs.iterdir() if not path.is_symlink()] == [run]
    codes, said = srun(machines, "4712", *given, SLURM_RESTART_COUNT="1")  # which has no run to go on with
    assert codes == [0, 0], said
    [whole] = [path for path in runs.iterdir() if not path.is_symlink() and path != run]
    assert same(last(run)["state_dict"], last(whole)["state_dict"])
    assert last(run)["global_step"] == last(whole)["global_step"] == 9
    one, other = (rows_of(path / "metrics.csv") for path in (run, whole))
    for name in ("epoch", "train/loss", "val/top1"):  # of the steps before the signal and after it
        assert [row[name] for row in one] == [row[name] for row in other]
    one = Path("alone", "classification", "latest").resolve()
    assert last(one)["global_step"] == 9
    resumed = [row for row in rows_of(one / "metrics.csv") if row["train/lr"]]
    expected = [row for row in rows_of(whole / "metrics.csv") if row["train/lr"]][-len(resumed) :]
    assert len(resumed) == 9 - 5
    for name in ("epoch", "train/lr"):  # by one rule, of the batch of all devices
        assert [row[name] for row in resumed] == [row[name] for row in expected]
    assert not (machines[1] / "runs").exists()


@pytest.mark.slow
def test_an_error_on_the_second_machine_before_the_start_ends_both_with_its_sentence(write_classes, machines):
    write_classes(machines[0] / "signs", {"train": 2, "val": 1})
    write_classes(machines[1] / "signs", {"train": 3, "val": 1})
    begun = time.monotonic()
    codes, said = srun(machines, "4713", "fit", "--data.root", "signs", *SMALL, *QUIET, *LOGGED)
    assert codes == [2, 2]
    assert "process 1 on " in said[0][1].strip().splitlines()[-1]
    assert "other train images (9) than process 0" in said[0][1]
    (machines[1] / "signs").rename(machines[1] / "other")
    codes, said = srun(machines, "4714", "fit", "--data.root", "signs", *SMALL, *QUIET, *LOGGED)
    assert codes == [2, 2]
    assert said[0][1].strip().splitlines()[-1].startswith("error: ")
    assert "signs" in said[0][1].strip().splitlines()[-1]
    assert time.monotonic() - begun < 60
    assert not [run for machine in machines for run in machine.glob("runs/*/*")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "write", "counts"),
    [
        ("classification", "write_classes", (2, 1, 1)),  # of three classes each
        ("detection", "write_coco", (4, 3, 3)),
        ("face_attributes", "write_faces", (4, 3, 5)),
        ("geolocalization", "write_places", (12, 5, 5)),
    ],
)
def test_two_machines_score_as_one_does(task, write, counts, machines, request, tmp_path, capsys):
    """An odd number of images, of which none may count twice; the second machine has no checkpoint."""
    root = request.getfixturevalue(write)(tmp_path / "data", dict(zip(("train", "val", "test"), counts, strict=True)))
    main = importlib.import_module(f"tasks.{task}.__main__").main
    data = ["--data.root", str(root), "--data.num_workers", "0", *QUIET]
    small = ["--model.width_mult", "0.25", "--data.image_size", "96" if task == "detection" else "32"]
    small += ["--model.max_images", "2", "--model.min_images", "1"] if task == "geolocalization" else []
    assert main(["fit", *data, *small, "--data.batch_size", "4", "--trainer.max_epochs", "1"]) == 0
    best = Path("runs", task, "latest", "checkpoints", "best.ckpt").resolve()
    (machines[0] / "best.ckpt").write_bytes(best.read_bytes())
    _, alone = completed(main, capsys, "test", *data, "--ckpt_path", str(best))
    codes, said = srun(machines, "4715", "test", *data, "--ckpt_path", "best.ckpt", task=task)
    assert codes == [0, 0], said
    [run] = [path for path in (machines[0] / "runs" / task).iterdir() if not path.is_symlink()]
    together, alone = figures(run), figures(alone)
    assert together.keys() == alone.keys()
    for name, value in alone.items():  # None is of what was not measured
        assert together[name] == (value if value is None else pytest.approx(value, rel=1e-5)), name
