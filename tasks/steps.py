"""What the modules of all tasks do alike around a step and around a score."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from backbone.errors import InputError
from tasks.optim import EMA, KeepRateAsked
from tasks.processes import ShareBadImages, gather

Answer = TypeVar("Answer")


def datamodule_of(module: LightningModule) -> Any:
    """The data that the module is trained or scored on."""
    return module.trainer.datamodule  # type: ignore[attr-defined]  # Trainer does not declare it


def common_callbacks(module: LightningModule) -> list[Callback]:
    """Every `configure_callbacks`: average the weights, keep the rate asked for, share the list of bad images."""
    return [EMA(module.hparams["ema_decay"]), KeepRateAsked(), ShareBadImages()]


def any_readable(module: LightningModule, batch: Mapping[str, Any]) -> bool:
    """Note which images of a batch could not be read; say whether any could."""
    datamodule_of(module).bad_images.note(batch["bad"])
    return len(batch["images"]) > 0


def no_loss(module: LightningModule) -> Tensor:
    """The loss of a batch without a single image: 0, and a gradient of 0 for every parameter.

    Not a plain 0: on several devices each waits for the gradients of all.
    """
    return 0.0 * torch.stack([parameter.sum() for parameter in module.parameters()]).sum()


def refuse_loss(loss: Tensor, step: int, images: Sequence[Any]) -> NoReturn:
    """Raise InputError for a loss that is not finite: with the step, and the `images` of its batch by name or id."""
    raise InputError(
        f"the loss is {loss.item()} at step {step} on images {list(images)}; look at these images, or train with a "
        "lower --model.lr."
    )


def log_loss(
    module: LightningModule, loss: Tensor, batch: Mapping[str, Any], parts: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Log the loss of a batch, and its `parts` by their names; return it. InputError where it is not finite."""
    if not loss.isfinite():
        images = batch["image_ids"] if "image_ids" in batch else files_of(module, batch)
        refuse_loss(loss, module.global_step, images)
    count = len(batch["images"])
    module.log("train/loss", loss, prog_bar=True, batch_size=count)
    module.log_dict(parts or {}, batch_size=count)
    return loss


def files_of(module: LightningModule, batch: Mapping[str, Any]) -> list[str]:
    """The files of a batch of whole pictures, of the split that is being trained on or scored."""
    trainer = module.trainer
    split = "train" if trainer.training else "test" if trainer.testing else "val"
    return [datamodule_of(module).file(split, position) for position in batch["positions"].tolist()]


def gather_answers(mine: Mapping[int, Answer], split: str) -> dict[int, Answer]:
    """The answers of all processes by position in the split, in order. Raises InputError where there is none."""
    found = gather(mine)
    if not found:  # every image of a split so small was bad, which its limit allows
        raise InputError(f"none of the {split} images could be read; see --data.max_bad_fraction.")
    return found


def log_figures(module: LightningModule, split: str, figures: Mapping[str, float]) -> None:
    """Log the figures of a split, and the one that the module's `monitor` names in the progress bar too."""
    shown = cast(str, module.monitor).removeprefix("val/")
    module.log_dict({f"{split}/{name}": value for name, value in figures.items() if name != shown})
    if shown in figures:
        module.log(f"{split}/{shown}", figures[shown], prog_bar=True)


def report_folder(module: LightningModule) -> Path | None:
    """The run folder, where a report is due: outside `fit`, with a logger, in the first process; else None."""
    trainer = module.trainer
    folder = trainer.log_dir  # on every rank: it is a broadcast
    due = trainer.state.fn != "fit" and trainer.logger and trainer.is_global_zero
    return Path(cast(str, folder)) if due else None
