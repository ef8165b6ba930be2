"""Faults injected into whole commands: what a signal, a stranger's file or a number beyond all bounds leaves behind."""

import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch
import yaml
from helpers import Command, completed, refused, same, tree
from lightning.pytorch import Trainer

from tasks.classification.__main__ import main
from tasks.distillation import cache as teacher_cache
from tasks.run_folders import in_use

pytestmark = pytest.mark.slow  # whole commands

SMALL = ["--model.width_mult", "0.25", "--data.image_size", "32", "--data.batch_size", "4", "--data.num_workers", "0"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.precision", "32-true"]
EPOCHS = ["--trainer.max_epochs", "3"]  # of three steps each

# A module of a user's own, that a config names.
MODULE = """
import os
import signal
import time

from lightning.pytorch.callbacks import Callback

def network(images):
    return images.float().mean((2, 3))[:, :3]


class Fault(Callback):
    def __init__(self, kind: str, step: int = 4, rank: int = 0) -> None:
        self.kind, self.step, self.rank = kind, step, rank

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if (trainer.global_step, trainer.global_rank) != (self.step, self.rank):
            return
        if self.kind == "signals":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
        elif self.kind == "nan":
            next(module.parameters()).grad[:] = float("nan")
        elif self.kind == "one":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            raise RuntimeError("what no one foresaw")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The module in the working folder, as a user has it, under a name of its own."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def faulty(module, **arguments):
    """The arguments that put the fault into a run."""
    settings = {"trainer": {"callbacks": [{"class_path": f"{module}.Fault", "init_args": arguments}]}}
    Path("fault.yaml").write_text(yaml.safe_dump(settings))
    return ["--config", "fault.yaml", "--allow_import", module]


def latest():
    return Path("runs/classification/latest").resolve()


def weights(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def whole(classes_root, tmp_path_factory):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    given = ["--data.root", str(classes_root), "--trainer.default_root_dir", str(folder)]
    assert main(["fit", *given, *SMALL, *QUIET, *EPOCHS]) == 0
    return (folder / "classification" / "latest").resolve()


def test_two_signals_at_once_lose_nothing_and_the_code_is_the_firsts(classes_root, whole, module, capsys):
    given = ["fit", "--data.root", str(classes_root), *SMALL, *QUIET, *EPOCHS]
    assert main([*given, *faulty(module, kind="signals")]) == 128 + signal.SIGTERM
    assert "interrupted, saved" in capsys.readouterr().out
    assert weights(latest())["global_step"] == 5  # the step in work was done
    assert main([*given, "--ckpt_path", str(latest())]) == 0
    assert same(weights(latest())["state_dict"], weights(whole)["state_dict"])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # as before the command


def test_what_a_fit_cannot_be_is_said_before_anything_is_drawn_or_written(whole, capsys):
    for args, message in (
        (["--seed", "-1"], "--seed is -1"),
        (["--epochs", "0"], "max_epochs is 0"),
        (["--device", "mps"], "--device mps"),
        (["--resume", str(whole), "--epochs", "1"], "--epochs 1: .* has had 3 epochs"),
    ):
        refused(main, ["fit", *args], message, capsys)
    with in_use(whole):
        refused(main, ["fit", "--resume", str(whole), "--epochs", "9"], "by another process", capsys)
    assert not Path("runs").exists()
    assert not Path("datasets").exists()


def test_a_signal_to_all_processes_of_the_group_stops_between_steps(classes_root, monkeypatch, capsys):
    def stop(self, trainer, *_):
        if trainer.global_step == 2:
            loading = [str(child.pid) for child in multiprocessing.active_children()]
            assert len(loading) == 2
            # By another process, as torch's workers take it from theirs for the end.
            subprocess.run(["kill", "-TERM", *loading, str(os.getpid())], check=True)
            time.sleep(0.5)

    monkeypatch.setattr("tasks.cli.ValidateLastEpoch.on_train_batch_start", stop, raising=False)
    given = ["fit", "--data.root", str(classes_root), *SMALL, *QUIET, *EPOCHS, "--data.num_workers", "2"]
    assert main(given) == 128 + signal.SIGTERM
    assert "interrupted, saved" in capsys.readouterr().out
    assert weights(latest())["global_step"] in (2, 3)


def test_a_signal_that_python_drops_counts_all_the_same(classes_root, capfd, monkeypatch):
    validate = Trainer.validate

    def with_a_signal(trainer, *args, **kwargs):
        figures = validate(trainer, *args, **kwargs)
        thing = set()
        told = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))  # what it raises is dropped
        del thing
        assert told() is None
        return figures

    monkeypatch.setattr(Trainer, "validate", with_a_signal)
    given = ["fit", "--data.root", str(classes_root), *SMALL, *QUIET, "--trainer.max_epochs", "1"]
    assert main(given) == 128 + signal.SIGTERM
    assert "Traceback" not in capfd.readouterr().err


def test_a_second_signal_later_stops_within_the_step_and_keeps_the_last_whole_checkpoint(
    classes_root, module, capsys, monkeypatch
):
    monkeypatch.setattr("tasks.runs._TOGETHER_S", 0.0)
    given = ["fit", "--data.root", str(classes_root), *SMALL, *QUIET, *EPOCHS]
    assert main([*given, *faulty(module, kind="signals")]) == 128 + signal.SIGTERM
    printed = capsys.readouterr().out
    assert "the last whole checkpoint is kept" in printed
    assert weights(latest())["global_step"] == 3  # the end of the first epoch


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_run_that_fails_before_its_first_step_or_figure_leaves_nothing(
    classes_root, whole, command, capsys, monkeypatch
):
    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    for name in ("training_step", "test_step"):
        monkeypatch.setattr(f"tasks.classification.module.ClassificationModule.{name}", refuse)
    given = ["--ckpt_path", str(whole)] if command == "test" else [*SMALL, "--trainer.max_epochs", "1"]
    refused(main, [command, "--data.root", str(classes_root), *given, *QUIET], "No space left on device", capsys)


def test_a_finished_run_says_that_nothing_is_left_to_train_and_how_to_go_on(classes_root, whole, capsys):
    given = ["--data.root", str(classes_root), *QUIET, *EPOCHS]
    before = tree(whole)
    printed, run = completed(main, capsys, "fit", "--ckpt_path", str(whole), *given)
    assert re.search(r"trained to its end \(3 epochs, 9 steps\).* --epochs", printed)
    assert run == whole
    assert tree(whole) == before
    assert not Path("runs").exists()
    (whole / "metrics.json").rename("metrics.json")  # as if it had been stopped in its last validation
    try:
        _, run = completed(main, capsys, "fit", "--ckpt_path", str(whole), *given)
    finally:
        Path("metrics.json").rename(whole / "metrics.json")
    assert same(weights(run)["state_dict"], weights(whole)["state_dict"])
    assert (run / "metrics.json").is_file()


def test_latest_is_the_newest_run_that_trained(classes_root, whole, capsys, module):
    completed(main, capsys, "fit", "--data.root", str(classes_root), *SMALL, *QUIET, "--trainer.max_epochs", "1")
    trained = latest()
    _, run = completed(
        main, capsys, "test", "--data.root", str(classes_root), "--ckpt_path", "runs/classification/latest", *QUIET
    )
    assert run.resolve() != trained == latest()
    fault = faulty(module, kind="other", step=0)
    with pytest.raises(RuntimeError, match="no one foresaw"):
        main(["fit", "--data.root", str(classes_root), *SMALL, *QUIET, *fault])
    assert latest() == trained


@pytest.mark.parametrize("fault", [["--model.lr", "1e30", "--model.warmup_steps", "0"], "nan"])
def test_numbers_that_are_not_finite_never_reach_a_checkpoint(classes_root, whole, module, fault, capsys):
    fault = faulty(module, kind="nan", step=9) if fault == "nan" else fault
    resumed = ["fit", "--ckpt_path", str(whole), "--data.root", str(classes_root), *SMALL, *QUIET]
    assert main([*resumed, "--trainer.max_epochs", "6", *fault]) == 2
    [error] = capsys.readouterr().err.strip().splitlines()
    assert re.search(r"--model\.lr", error)
    assert ("the gradients are not finite at step 9" in error) == (
        "--config" in fault
    )  # before they are in the weights
    for file in (latest() / "checkpoints").glob("*.ckpt"):
        saved = torch.load(file, weights_only=True)
        for state in (saved["state_dict"], saved["current_model_state"]):
            assert all(tensor.isfinite().all() for tensor in state.values())


def test_a_file_too_large_for_the_disk_is_one_sentence_and_the_last_checkpoint_stays(classes_root, whole, capsys):
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        assert main(["fit", "--ckpt_path", str(whole), "--trainer.max_epochs", "4", *QUIET]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    [error] = capsys.readouterr().err.strip().splitlines()
    assert "best.ckpt cannot be written (File too large)" in error
    assert not list(latest().rglob("*.ckpt"))  # no half of one, that a test would take


def stranger(whole, folder, model=None, **trainer):
    """A run folder from a stranger: an honest checkpoint that names a teacher, and a config beside it."""
    run = folder / "stranger"
    shutil.copytree(whole, run)
    for file in (run / "checkpoints").glob("*.ckpt"):
        saved = torch.load(file, weights_only=True)
        saved["hyper_parameters"].update(model or {})
        torch.save(saved, file)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"].update(model or {})
    config["trainer"].update(trainer)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_a_teacher_that_a_checkpoint_alone_names_is_not_loaded(command, whole, module, tmp_path, capsys):
    run = stranger(whole, tmp_path, {"teacher": f"{module}:network"})
    assert main([command, "--ckpt_path", str(run), *QUIET]) == (2 if command == "fit" else 0)
    told = capsys.readouterr()
    assert f"--model.teacher {module}:network" in told.out + told.err
    assert module not in sys.modules
    named = [command, "--ckpt_path", str(run), "--model.teacher", f"{module}:network", "--trainer.max_epochs", "4"]
    assert main([*named, *QUIET]) == 0
    assert module in sys.modules
    assert f"{module}:network is a program" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["fit", "test", "predict"])
@pytest.mark.parametrize("empty", ["hyper_parameters", "trunk", "head", "datamodule_hyper_parameters", "state_dict"])
def test_a_checkpoint_of_odd_contents_is_one_sentence(empty, command, whole, capsys):
    torch.save({**weights(whole, "best"), empty: {}}, "odd.ckpt")
    before = set(Path().rglob("*"))
    source = ["--source", str(next(Path(__file__).parent.iterdir()))] if command == "predict" else QUIET
    assert main([command, "--ckpt_path", "odd.ckpt", *source]) == 2
    [error] = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: ")
    late = empty == "state_dict" and command != "predict"  # it is found when it is loaded
    assert set(Path().rglob("*")) == before or late


def test_a_config_imports_nothing_but_what_is_allowed(whole, module, tmp_path, capsys):
    own = {"class_path": f"{module}.Fault", "init_args": {"kind": "none", "step": -1}}
    run = stranger(whole, tmp_path, callbacks=[own])
    more = ["fit", "--ckpt_path", str(run), "--trainer.max_epochs", "4", *QUIET]
    refused(main, more, rf"--allow_import {module}", capsys)
    refused(main, ["test", "--config", str(run / "config.yaml")], rf"--allow_import {module}", capsys)
    Path("own.yaml").write_text(f"allow_import: {module}\n")
    refused(main, ["fit", "--config", "own.yaml"], "allow_import is for the command line", capsys)
    refused(main, ["fit", "--trainer.callbacks", "os.system"], "os", capsys)
    assert module not in sys.modules
    assert main([*more, f"--allow_import={module}"]) == 0
    assert module in sys.modules
    honest = ["--trainer.callbacks", "lightning.pytorch.callbacks.EarlyStopping"]
    assert main([*more, f"--allow_import={module}", *honest, "--trainer.callbacks.monitor", "val/top1"]) == 0


@pytest.mark.parametrize(
    ("function", "file"),
    [
        ("torch.export.load", "f"),
        ("tasks.distillation.teachers.load_teacher", "source"),
        ("lightning.fabric.utilities.cloud_io._load", "path_or_url"),
        ("lightning.pytorch.callbacks.lr_monitor.torch.export.load", "f"),  # by another way
        ("lightning.fabric.plugins.TorchCheckpointIO.load_checkpoint", "path"),
    ],
)
def test_a_config_calls_no_function_that_runs_what_a_file_says(function, file, whole, tmp_path, capsys):
    call = {"class_path": function, "init_args": {file: "evil.pt2"}}
    own = {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": call}}
    run = stranger(whole, tmp_path, callbacks=[own])
    more = ["fit", "--ckpt_path", str(run), "--trainer.max_epochs", "4", *QUIET]
    refused(main, more, "a config may name", capsys)


@pytest.mark.parametrize("name", ["null", os.fsdecode(b"#caf\xe9")])
def test_a_root_of_any_name_is_the_folder_of_that_name(name, classes_root, tmp_path, capsys):
    shutil.copytree(classes_root, tmp_path / name)
    _, run = completed(main, capsys, "fit", "--data.root", name, *SMALL, *QUIET, "--trainer.max_epochs", "1")
    saved = weights(run)["datamodule_hyper_parameters"]["root"]
    assert Path(saved) == Path(name)
    shutil.copy(run / "config.yaml", "again.yaml")
    assert main(["fit", "--config", "again.yaml", "--ckpt_path", str(run), "--trainer.max_epochs", "2"]) == 0
    assert Path(weights(latest())["datamodule_hyper_parameters"]["root"]) == Path(name)


def test_filling_a_teachers_cache_stops_at_a_signal_and_goes_on_later(classes_root, whole, tmp_path, monkeypatch):
    teacher = str(whole / "checkpoints" / "best.ckpt")
    given = ["fit", "--data.root", str(classes_root), "--data.views", "3", *SMALL, *QUIET, *EPOCHS]
    given += ["--model.teacher", teacher, "--model.cache", "cache"]
    written, write = [], teacher_cache.TeacherCache.write

    def interrupted(self, views, positions, logits):
        write(self, views, positions, logits)
        written.append(len(positions))
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(teacher_cache.TeacherCache, "write", interrupted)
    assert main(given) == 128 + signal.SIGTERM
    before = sum(written)
    assert before < 36
    assert main(given) == 0
    assert sum(written) == 36  # 12 images in three views, none twice


def both_paths():
    """Where a process of its own finds our packages, and a module in the working folder."""
    return os.pathsep.join([str(Path(__file__).resolve().parents[2]), str(Path.cwd())])


def test_an_error_of_one_process_ends_both_and_is_the_last_line(classes_root, module):
    given = ["--data.root", str(classes_root), *SMALL, *QUIET, *EPOCHS, *faulty(module, kind="error", step=3, rank=1)]
    given += ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    code, _, told = Command("classification", "fit", *given, PYTHONPATH=both_paths()).ended(60)
    assert code == 2
    assert told.strip().splitlines()[-1].startswith("error: process 1 failed: RuntimeError: what no one foresaw")
    assert weights(latest())["global_step"] == 3  # of the first epoch


def test_torchrun_is_one_run_of_all_its_processes_and_stops_as_one(classes_root, module):
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "tasks.classification"]
    given = ["fit", "--data.root", str(classes_root), *SMALL, *QUIET, "--trainer.accelerator", "cpu"]
    given += ["--trainer.max_epochs", "50", "--model.head_steps", "1", *faulty(module, kind="one", rank=1, step=1)]
    said = subprocess.run(
        [sys.executable, *start, *given],
        stdout=subprocess.PIPE,
        text=True,
        timeout=100,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": both_paths()},
    ).stdout
    [run] = [path for path in Path("runs/classification").iterdir() if not path.is_symlink()]
    assert weights(run)["global_step"] == 2  # the step in work was done
    assert "interrupted, saved" in said
