"""Mixed pictures, and where a training step's random numbers come from."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchvision.transforms.v2 import CutMix, MixUp


class Mixed(NamedTuple):
    """Images uint8 (B, 3, H, W) and their targets: labels (B,) where nothing was mixed, else probabilities (B, C)."""

    images: Tensor
    targets: Tensor


def mix(images: Tensor, labels: Tensor, num_classes: int, mixup_alpha: float, cutmix_alpha: float) -> Mixed:
    """Mix each uint8 image with the one before it by mixup or cutmix; an alpha of 0 leaves that out, two take turns.

    mixup (Zhang et al. 2017, arXiv 1710.09412) blends by a part drawn from Beta(alpha, alpha); cutmix (Yun et al. 2019,
    arXiv 1905.04899) pastes a rectangle of that part of the area. Pixels are rounded to uint8 again, so that a teacher,
    who normalises them another way, sees the very picture that its student does, as function matching wants it (Beyer
    et al. 2021, arXiv 2106.05237). Draws from torch's global generator.
    """
    ways = [way(alpha=a, num_classes=num_classes) for way, a in ((MixUp, mixup_alpha), (CutMix, cutmix_alpha)) if a > 0]
    if not ways:
        return Mixed(images, labels)
    way = ways[int(torch.randint(len(ways), ()))]
    mixed, targets = way(images.float(), labels)
    return Mixed(mixed.round_().to(torch.uint8), targets)


@contextlib.contextmanager
def drawing(module: LightningModule, batch_idx: int) -> Iterator[None]:
    """Draw dropout and mixing from seed, step and batch, so that a resumed run draws what it would have drawn."""
    trainer: Any = module.trainer  # `datamodule` is not declared
    # several accumulated batches share a step
    place = (trainer.datamodule.hparams["seed"], trainer.global_rank, trainer.global_step, batch_idx)
    with torch.random.fork_rng([module.device] if module.device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
        yield
