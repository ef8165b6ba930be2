"""TensorBoard and Weights & Biases by one word, and what they get besides numbers: images of validation."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from backbone.errors import InputError
from tasks.module import evaluation_images
from tasks.plotting import fit, sheet

_IMAGES, _COLUMNS, _SIDE = 8, 4, 240  # of a grid; px
_EVERY = 5  # epochs, at least, from one grid to the next


def logger_of(word: str, run: Path) -> list[Logger]:
    """The logger that a word means besides metrics.csv, which writes into the run folder.

    Raises InputError where its package is missing.
    """
    try:
        if word == "tensorboard":
            return [TensorBoardLogger(run, name="", version="tensorboard")]
        if word == "wandb":
            os.environ.setdefault("WANDB_MODE", "offline")  # nothing leaves the machine unless the user says so
            return [WandbLogger(name=run.name, save_dir=run, project="mobilenet-tasks")]
    except ModuleNotFoundError:
        raise InputError(
            f"--trainer.logger {word} needs the package {word}, which is not installed: pip install {word}"
        ) from None
    return []


def said_of_loggers(loggers: Iterable[Logger]) -> list[str]:
    """How to look at what they have written."""
    lines = []
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            lines.append(f"curves and images: tensorboard --logdir {logger.log_dir}")
        elif isinstance(logger, WandbLogger) and os.environ.get("WANDB_MODE") == "offline":
            lines.append(f"kept on this machine: wandb sync {logger.save_dir}/wandb/latest-run uploads it")
    return lines


class ValidationImages(Callback):
    """Show TensorBoard and Weights & Biases what the net makes of a few validation images, every few epochs."""

    def __init__(self) -> None:
        self._due = 0
        self._outputs: Any = None

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the images while the weights are the averaged ones, which are put back next."""
        if trainer.state.fn != "fit" or trainer.current_epoch < self._due or not _shown_by(trainer.loggers):
            return
        if trainer.is_global_zero:
            batches = list(evaluation_images(trainer.datamodule, "val", _IMAGES))  # type: ignore[attr-defined]
            if batches:
                self._due = trainer.current_epoch + _EVERY
                self._images = torch.cat(batches)
                with trainer.precision_plugin.forward_context():
                    self._outputs = pl_module(self._images.to(pl_module.device))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, by the thresholds that were just chosen."""
        if self._outputs is None:
            return
        outputs, self._outputs = self._outputs, None
        head: Any = pl_module.head
        images = self._images.permute(0, 2, 3, 1).numpy()  # (B, 3, H, W) -> (B, H, W, 3)
        tiles = [fit(image, _SIDE, _SIDE)[0] for image in images]
        results = head.predict(outputs, [tile.shape[:2] for tile in tiles])
        drawn, captions = zip(*map(head.drawn, tiles, results), strict=True)
        title = f"validation images after epoch {trainer.current_epoch + 1}"
        grid = np.asarray(sheet(drawn, captions, columns=_COLUMNS, title=title))
        for logger in _shown_by(trainer.loggers):
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("val/pictures", grid, trainer.global_step, dataformats="HWC")
            else:
                logger.log_image("val/pictures", [grid], trainer.global_step)


def _shown_by(loggers: Iterable[Logger]) -> list[Any]:
    return [logger for logger in loggers if isinstance(logger, TensorBoardLogger | WandbLogger)]
