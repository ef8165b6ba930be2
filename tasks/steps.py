"""What the training step of every task does alike."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from backbone.errors import InputError


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


def files_of(module: LightningModule, batch: Mapping[str, Any]) -> list[str]:
    """The files of a batch of whole pictures, of the split that is being trained on or scored."""
    trainer = module.trainer
    split = "train" if trainer.training else "test" if trainer.testing else "val"
    data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Trainer does not declare it
    return [data.file(split, position) for position in batch["positions"].tolist()]
