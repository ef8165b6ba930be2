"""How much faster an epoch of training is from cached teacher logits than with the teacher asked in every step.

    python benchmarks/cached_teacher.py [--teacher torchvision:resnet50] [--width 0.25] [--size 128] [--batch 32]
                                        [--images 512] [--epochs 4] [--rounds 2] [--workers 2]

`fit` of classification on drawn images of 500 x 375 px, loader and augmentation included, with the teacher's logits
alone. Online and cached take turns in one process, with the same views in the same order; the first epoch of each,
which starts the workers, is not counted. The teacher has random weights, which cost what trained ones do. Printed too:
what the filling costs once, and the epochs after which that is paid back.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from loader_parts import write_images
from torchvision import models

from data.classification import ClassificationDataModule
from tasks.classification.module import ClassificationModule
from tasks.cli import run


class _Clock(Callback):
    """Seconds of each epoch, from its first fetch to its last step, and of what comes before the first."""

    def __init__(self) -> None:
        self.filling: list[float] = []
        self.epochs: list[float] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock before the module fills its cache."""
        self.start = time.perf_counter()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Stop it."""
        self.filling.append(time.perf_counter() - self.start)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock before the first batch is fetched."""
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop the clock at the last batch, when the device is done with it."""
        outputs["loss"].item()
        self.end = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Note the epoch, but for the first."""
        if trainer.current_epoch > 0:
            self.epochs.append(self.end - self.start)


def main() -> None:
    """Train both ways in turn; print seconds an epoch of each, and their ratio."""
    parser = argparse.ArgumentParser(description="Epochs from cached logits and epochs that ask the teacher.")
    parser.add_argument("--teacher", default="torchvision:resnet50", help="torchvision:NAME")
    parser.add_argument("--width", default=0.25, type=float, help="the student's width multiplier")
    parser.add_argument("--size", default=128, type=int, help="side in px that both see")
    parser.add_argument("--batch", default=32, type=int)
    parser.add_argument("--images", default=512, type=int)
    parser.add_argument("--epochs", default=4, type=int, help="of each fit, 2 or more")
    parser.add_argument("--rounds", default=2, type=int)
    parser.add_argument("--workers", default=2, type=int)
    options = parser.parse_args()
    ways = {"online": _Clock(), "cached": _Clock()}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        write_images(root / "train", options.images // 2, (375, 500))
        write_images(root / "val", 1, (375, 500))
        weights = Path(folder) / "teacher.pth"
        torch.save(models.get_model(options.teacher.removeprefix("torchvision:"), num_classes=2).state_dict(), weights)
        teacher = f'[{{"source": "{options.teacher}", "weights": "{weights}", "image_size": {options.size}}}]'
        given = ["fit", "--data.root", str(root), "--data.views", "2", "--data.image_size", str(options.size)]
        given += ["--data.batch_size", str(options.batch), "--data.num_workers", str(options.workers)]
        given += ["--model.width_mult", str(options.width), "--model.teacher", teacher]
        given += ["--trainer.max_epochs", str(options.epochs), "--trainer.limit_val_batches", "0"]
        given += ["--trainer.default_root_dir", folder, "--trainer.enable_progress_bar", "false"]
        for turn in range(options.rounds):
            for way, clock in ways.items():
                cache = ["--model.cache", str(Path(folder) / f"cache{turn}")] if way == "cached" else []
                code = run(_timed(clock), ClassificationDataModule, [*given, *cache])
                if code:
                    raise SystemExit(code)
    seconds = {way: statistics.median(clock.epochs) for way, clock in ways.items()}
    for way, clock in ways.items():
        print(f"{way}: {seconds[way]:7.2f} s an epoch  {[round(s, 2) for s in clock.epochs]}")
    filling = statistics.median(ways["cached"].filling)
    saved = seconds["online"] - seconds["cached"]
    print(f"filling: {filling:6.2f} s for 2 views of each image", end="")
    print(f", paid back after {filling / saved:.1f} epochs" if saved > 0 else "")
    print(f"ratio: {seconds['online'] / seconds['cached']:.2f}")


def _timed(clock: _Clock) -> type[ClassificationModule]:
    class Timed(ClassificationModule):
        def configure_callbacks(self) -> list[Callback]:
            return [*super().configure_callbacks(), clock]

    return Timed


if __name__ == "__main__":
    main()
