"""Run folders, `runs/<task>/<time>/`, and the checkpoints in them."""

import contextlib
import itertools
import shutil
import signal
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from backbone.errors import InputError
from backbone.files import replacing
from backbone.weight_files import why_not_loaded


@contextlib.contextmanager
def new_run(task: str, root: Path, option: str) -> Iterator[Path]:
    """Make a run folder that no other run has; where what is done with it fails and has left it empty, remove it again.

    InputError names the `option` that says `root`, where that cannot be written.
    """
    time = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    try:
        missing = [path for path in (root / task, root, *root.parents) if not path.exists()]
        for count in itertools.count(1):
            folder = root / task / (time if count == 1 else f"{time}_{count}")
            with contextlib.suppress(FileExistsError):  # of a run that began in the same second
                folder.mkdir(parents=True)
                break
    except OSError as error:
        raise InputError(
            f"{option} {root} cannot be written ({error.strerror or error}); give a folder that can."
        ) from error
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):  # one that is not empty
            for path in (folder, *missing):
                path.rmdir()
        raise


def point_latest(run: Path) -> None:
    """Let `runs/<task>/latest` point at this run, where the file system has links."""
    link = run.parent / "latest"
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(run.name)
    except OSError:  # Windows without the right to make links, FAT
        return


def checkpoint_at(path: str | Path, name: str = "best.ckpt") -> Path:
    """The path itself, or the checkpoint of this name in the run folder that it is."""
    inside = Path(path) / "checkpoints" / name
    return inside if inside.is_file() else Path(path)


def best_checkpoints(task: str, root: Path) -> list[Path]:
    """The best checkpoint of each run that has one, the newest first; InputError where there is none."""
    runs = (run for run in (root / task).glob("*") if not run.is_symlink())  # `latest` is one of the others
    found = sorted(
        (path for run in runs if (path := run / "checkpoints" / "best.ckpt").is_file()),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    if not found:
        raise InputError(
            f"There is no checkpoint under {root / task}; train one with `python -m tasks.{task} fit`, "
            "or name one with --ckpt_path."
        )
    return found


def newest_checkpoint(task: str, root: Path) -> Path:
    """The best checkpoint of the newest run that has one; InputError where there is none."""
    return best_checkpoints(task, root)[0]


def read_checkpoint(path: str | Path, task: str) -> dict[str, Any]:
    """Read a checkpoint of this task without running any code in it; InputError says what was found instead."""
    path = checkpoint_at(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder without checkpoints/best.ckpt; give a run folder, or a .ckpt in one.")
    if not path.is_file():
        raise InputError(f"The checkpoint {path} does not exist; give the path of a .ckpt that `fit` wrote.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the bytes happen to mean as a pickle
        raise InputError(f"{path} {why_not_loaded(path, error)}; give a .ckpt that `fit` wrote.") from None
    if not isinstance(checkpoint, dict) or checkpoint.get("task") != task:
        found = checkpoint.get("task") if isinstance(checkpoint, dict) else None
        what = f"a checkpoint of the task {found!r}" if found else "not a checkpoint of this project"
        raise InputError(
            f"{path} is {what}; `python -m tasks.{task}` needs one that its `fit` wrote. "
            "Weights of other projects go in with --model.weights."
        )
    return checkpoint


class StopBetweenSteps(Callback):
    """Within `with stop:`, let Ctrl-C and SIGTERM stop a run before its next batch: a checkpoint continues it exactly.

    A second signal stops at once. `signal` is the one received.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __enter__(self) -> None:
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *args: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: Any) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        print("\nstopping after this batch (again to stop at once)", flush=True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop before a batch, unless the gradients of the last one wait for it."""
        if self.signal is not None and batch_idx % trainer.accumulate_grad_batches == 0:
            raise KeyboardInterrupt

    def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Stop before a batch."""
        if self.signal is not None:
            raise KeyboardInterrupt

    on_test_batch_start = on_validation_batch_start


class BestCheckpoint(ModelCheckpoint):
    """best.ckpt by `monitor`; a resumed run starts with the best of the run it goes on with, not from nothing."""

    def __init__(self, folder: Path, monitor: str, mode: str, resumed_from: Path | None) -> None:
        super().__init__(folder, "best", monitor=monitor, mode=mode, enable_version_counter=False)
        self._resumed_from = resumed_from
        self._stage = ""

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether to save: also while nothing can be scored, as without labels, so that the newest is the best."""
        scored = self.best_model_score is not None and bool(self.best_model_score.isfinite())
        return super().check_monitor_top_k(trainer, current) or (current is not None and not scored)

    def is_better(self, value: Tensor) -> bool:
        """Whether a value of the monitored figure beats the best one so far, or is the first."""
        best = self.best_model_score
        return best is None or bool(value > best if self.mode == "max" else value < best)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note whether this is a `fit`: a validation or a test loads the state too."""
        self._stage = stage
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy the best checkpoint over, and take its score as the one to beat."""
        before = self._resumed_from.parent / "best.ckpt" if self._resumed_from else None
        if self._stage != "fit" or before is None or not before.is_file() or state_dict["best_model_score"] is None:
            return
        path = Path(str(self.dirpath)) / "best.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(before, path)
        self.best_model_path = self.kth_best_model_path = str(path)
        self.best_model_score = self.kth_value = state_dict["best_model_score"]
        self.best_k_models = {str(path): state_dict["best_model_score"]}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint whole. Lightning's own goes through $TMPDIR, whose move to another disk a kill cuts short."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save `checkpoint` to `path`; InputError where the disk is full or read-only, with the old file left whole."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside, beside.open("wb") as file:  # torch itself would not say what the disk says
            torch.save(checkpoint, file)
