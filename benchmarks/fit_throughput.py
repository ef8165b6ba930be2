"""How much of the bare training step's speed `fit` reaches, loader, augmentation, logging and averaging included.

    python benchmarks/fit_throughput.py detection [--data.root DIR] [any other option of `fit`]
    python benchmarks/fit_throughput.py classification [--data.root DIR] [any other option of `fit`]

The bare step is the same module, batch size and precision on one batch already in memory: forward, loss, backward,
gradient clipping and optimizer. Both sides are measured in turn in one process. Classification without a --data.root
has made-up images of 500x375, about 45 kB each.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from loader_parts import write_images

from data.classification import ClassificationDataModule
from data.detection import DetectionDataModule
from tasks.classification.module import ClassificationModule
from tasks.cli import run
from tasks.detection.module import DetectionModule

TASKS = {
    "detection": (DetectionModule, DetectionDataModule),
    "classification": (ClassificationModule, ClassificationDataModule),
}
EPOCHS = 4
BARE_STEPS = 12


class _Measure(Callback):
    """Time whole epochs of `fit`, and after each of them bare steps on the last batch."""

    def __init__(self) -> None:
        self.fit: list[float] = []
        self.bare: list[float] = []
        self.images = 0

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock before the first batch is fetched."""
        self.images, self.start = 0, time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop the clock at the last batch."""
        self.images += len(batch["images"])
        self.end, self.batch = time.perf_counter(), batch

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Run bare steps with the same module, and put its weights back."""
        if trainer.current_epoch > 0:  # the first epoch starts workers and allocates
            self.fit.append(self.images / (self.end - self.start))
        weights = {name: value.clone() for name, value in pl_module.state_dict().items()}
        optimizer = torch.optim.SGD(pl_module.parameters(), lr=1e-6, momentum=0.9, nesterov=True)
        pl_module.log = pl_module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
        for step in range(BARE_STEPS + 2):
            if step == 2:
                start = time.perf_counter()
            with trainer.precision_plugin.forward_context():
                loss = pl_module.training_step(self.batch, 0)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(pl_module.parameters(), 10.0)
            optimizer.step()
        if trainer.current_epoch > 0:
            self.bare.append(BARE_STEPS * len(self.batch["images"]) / (time.perf_counter() - start))
        del pl_module.log, pl_module.log_dict
        pl_module.load_state_dict(weights)


def main() -> None:
    """Fit on the data, print images per second of both sides and their ratio."""
    measure = _Measure()
    task, *given = sys.argv[1:]
    module_class, datamodule_class = TASKS[task]

    class Measured(module_class):  # type: ignore[misc, valid-type]
        def configure_callbacks(self) -> list[Callback]:
            return [*super().configure_callbacks(), measure]

    with tempfile.TemporaryDirectory() as folder:
        if task == "classification" and "--data.root" not in given:
            write_images(Path(folder) / "images", 200, (375, 500))
            given += ["--data.root", str(Path(folder) / "images")]
        options = ["--trainer.max_epochs", str(EPOCHS), "--trainer.limit_val_batches", "0"]
        options += ["--trainer.default_root_dir", folder]  # last, so that no config overrides them
        code = run(Measured, datamodule_class, ["fit", *given, *options])
    if code:
        raise SystemExit(code)
    fit, bare = statistics.median(measure.fit), statistics.median(measure.bare)
    print(f"bare step: {bare:6.1f} images/s  {[round(s, 1) for s in measure.bare]}")
    print(f"fit:       {fit:6.1f} images/s  {[round(s, 1) for s in measure.fit]}")
    print(f"ratio: {fit / bare:.3f}")


if __name__ == "__main__":
    main()
