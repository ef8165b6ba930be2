"""The checkpoints of a run: when they are written, and that they are read whole."""

import contextlib
import csv
import io
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from backbone.errors import InputError
from backbone.files import copy_whole, keep_as, replacing, write_whole
from backbone.weight_files import load_torch, why_not_loaded
from data.folders import say
from tasks.devices import job_step
from tasks.processes import agreed
from tasks.run_folders import checkpoint_at

_PARTS = ("trunk", "head", "hyper_parameters", "datamodule_hyper_parameters", "state_dict")
_TOGETHER_S = 2.0  # within which signals count as one


def read_checkpoint(path: str | Path, task: str) -> dict[str, Any]:
    """Read a checkpoint of this task without running any code in it; InputError says what was found instead."""
    path = checkpoint_at(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder without checkpoints/best.ckpt; give a run folder, or a .ckpt in one.")
    if not path.is_file():
        raise InputError(f"The checkpoint {path} does not exist; give a run folder, or a .ckpt that `fit` wrote.")
    try:
        checkpoint = load_torch(path)
    except Exception as error:  # torch raises whatever the bytes happen to mean as a pickle
        whole = [str(other) for other in sorted(path.parent.glob("*.ckpt")) if other != path and _is_whole(other)]
        rest = f"{' and '.join(whole)} can be read: give one of them" if whole else "give a .ckpt that `fit` wrote"
        raise InputError(f"{path} {why_not_loaded(path, error)}; {rest}.") from None
    if not isinstance(checkpoint, dict) or checkpoint.get("task") != task:
        found = checkpoint.get("task") if isinstance(checkpoint, dict) else None
        what = f"a checkpoint of the task {found!r}" if found else "not a checkpoint of this project"
        raise InputError(
            f"{path} is {what}; `python -m tasks.{task}` needs one that its `fit` wrote. "
            "Weights of other projects go in with --weights."
        )
    version = str(checkpoint.get("pytorch-lightning_version", ""))
    if not (all(isinstance(checkpoint.get(part), dict) for part in _PARTS) and re.match(r"\d+\.\d+", version)):
        raise InputError(f"{path} lacks a part of a checkpoint, or has it in another form; give one that `fit` wrote.")
    return checkpoint


@contextlib.contextmanager
def as_written(path: str | Path | None) -> Iterator[None]:
    """Raise InputError where what a checkpoint holds is not of the form that `fit` writes."""
    try:
        yield
    except InputError:  # it is a ValueError too
        raise
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{path} is not as `fit` writes it ({reason}); train it again.") from error


def _is_whole(path: Path) -> bool:
    try:
        return isinstance(load_torch(path), dict)
    except Exception:  # see `read_checkpoint`
        return False


class StopBetweenSteps(Callback):
    """Within `with stop:`, Ctrl-C and SIGTERM stop training before its next batch, from where it goes on exactly.

    Of several processes all stop before the same batch, whichever was told to. Before and after training a signal ends
    the run at once, and so does a second one, later than what a shell and a scheduler send together.
    `signal` is the first one received; `between_steps` is whether the weights are those of a whole number of steps.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.between_steps = False
        self.first_step = 0
        self._training = False
        self._at = 0.0  # seconds of the monotonic clock, when the signal came

    def __enter__(self) -> None:
        self._before = {}
        numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if job_step() else [])]  # before its time is over
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._before = {number: signal.signal(number, self._receive) for number in numbers}
        self._hook, sys.unraisablehook = sys.unraisablehook, self._swallowed

    def __exit__(self, *args: object) -> None:
        sys.unraisablehook = self._hook
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.signal else handler)  # what was begun is brought to its end

    def _swallowed(self, error: Any) -> None:
        """Of an exception that Python drops, as in a weak reference's callback: say nothing where it is a signal's."""
        if not issubclass(error.exc_type, KeyboardInterrupt):
            self._hook(error)

    def _receive(self, number: int, frame: Any) -> None:
        if self.signal is None:
            self.signal, self._at = number, time.monotonic()
            if not self._training:
                raise KeyboardInterrupt
            say("stopping after this batch (again to stop at once)")
        elif time.monotonic() - self._at > _TOGETHER_S:
            raise KeyboardInterrupt

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From now on, a batch in work is waited for."""
        self._training = self.between_steps = True
        self.first_step = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop before a batch, unless the gradients of the last one wait for it."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._stop_if(agreed(self.signal or 0))
            self.between_steps = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Note that the step is done."""
        self.between_steps = (args[-1] + 1) % trainer.accumulate_grad_batches == 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the last step of an epoch is done, which may be of fewer batches."""
        self.between_steps = True

    def on_validation_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop before a batch; several processes, which may have unequal numbers of them, at the next step."""
        if trainer.world_size == 1 or not self._training:
            self._stop_if(self.signal or 0)

    on_test_batch_start = on_validation_batch_start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From now on, nothing is lost by stopping at once."""
        self._training = False

    def _stop_if(self, number: int) -> None:
        if number:
            self.signal, self._training = number, False
            raise KeyboardInterrupt

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let the end of the run be saved undisturbed."""
        if self.signal is None:
            self.signal, self._at = 0, time.monotonic()


class LastCheckpoint(ModelCheckpoint):
    """last.ckpt of every epoch, and of where training was stopped between two steps; previous.ckpt is the one before.

    Where it stopped within a step, or where one of several processes failed alone, the file stays as it is.
    """

    def __init__(self, folder: Path, stop: StopBetweenSteps) -> None:
        super().__init__(
            folder,
            "last",
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            save_on_exception=True,
            enable_version_counter=False,
        )
        self._stop = stop
        self.saved_at_the_end = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save where steps were done, all of them whole, and every process has come here."""
        trained = self._stop.between_steps and trainer.global_step > self._stop.first_step
        together = trainer.world_size == 1 or isinstance(exception, KeyboardInterrupt)
        if trainer.state.fn == "fit" and trained and together:
            with contextlib.suppress(InputError):  # of a full disk, which is what stopped it, or of weights not finite
                super().on_exception(trainer, pl_module, exception)
                self.saved_at_the_end = True


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
        self._stage, self._writes, self._strategy = stage, trainer.is_global_zero, trainer.strategy
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy the best checkpoint over, and take its score as the one to beat."""
        before = self._resumed_from.parent / "best.ckpt" if self._resumed_from else None
        if self._stage != "fit" or before is None or state_dict["best_model_score"] is None:
            return
        path = Path(str(self.dirpath)) / "best.ckpt"
        there, whole = self._strategy.broadcast((before.is_file(), _is_whole(before)))  # as the first one's disk has it
        if there and not whole:
            say(f"note: {before} is damaged, so the best of what follows is looked for anew")
        if not whole:
            return
        if self._writes:
            copy_whole(before, path)
        self.best_model_path = self.kth_best_model_path = str(path)
        self.best_model_score = self.kth_value = state_dict["best_model_score"]
        self.best_k_models = {str(path): state_dict["best_model_score"]}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint whole. Lightning's own goes through $TMPDIR, whose move to another disk a kill cuts short.

    It is read by the first process alone, as other machines may not have the file, and sent to the others.
    """

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        """Load a checkpoint, on all processes at the same time."""
        together = dist.is_available() and dist.is_initialized()
        read = [super().load_checkpoint(path, *args, **options) if not together or dist.get_rank() == 0 else None]
        if together:
            dist.broadcast_object_list(read)
        return read[0]  # type: ignore[return-value]

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save `checkpoint` to `path`, where otherwise what was there stays; a last.ckpt stays as previous.ckpt anyway.

        InputError where the disk is full or read-only, or where weights are not finite.
        """
        path = Path(path)
        for weights in (checkpoint.get("state_dict", {}), checkpoint.get("current_model_state", {})):
            for name, tensor in weights.items():
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    step = checkpoint.get("global_step")
                    raise InputError(f"{name} is not finite at step {step}: {path} is not saved; lower --model.lr.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            with beside.open("wb") as file:  # torch itself would not say what the disk says
                torch.save(checkpoint, file)
            if path.name == "last.ckpt" and path.is_file():
                keep_as(path, path.with_name("previous.ckpt"))


def keep_rows(logger: CSVLogger, step: int) -> None:
    """Let a run that goes on in its own folder keep the rows of its metrics.csv up to `step`; others are made again."""
    file = Path(logger.log_dir) / "metrics.csv"
    rows = []
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as lines:
            rows = [row for row in csv.DictReader(lines) if int(row["step"]) < step]
    writer = logger.experiment  # which deletes what is there
    if rows:
        text = io.StringIO()
        table = csv.DictWriter(text, [*rows[0]])
        table.writeheader()
        table.writerows(rows)
        write_whole(file, text.getvalue())
        writer.metrics_keys = [*rows[0]]
