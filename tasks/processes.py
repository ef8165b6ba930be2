"""What the processes of a run on several devices tell each other."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

Value = TypeVar("Value")


def gather(mine: Mapping[Any, Value]) -> dict[Any, Value]:
    """The entries of all processes, sorted by key, on every process; in one process, its own.

    Processes may hold different numbers of entries, none included; one that several hold, as after a sampler that pads
    its shards, counts once.
    """
    shards: list[Any] = [dict(mine)]
    if dist.is_available() and dist.is_initialized():
        shards = [None] * dist.get_world_size()
        dist.all_gather_object(shards, dict(mine))
    merged = {key: value for shard in shards for key, value in shard.items()}
    return {key: merged[key] for key in sorted(merged)}


class ShareBadImages(Callback):
    """Let every process know the images that any of them could not read."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note those of all processes. Raises InputError where they are too many."""
        bad_images = trainer.datamodule.bad_images  # type: ignore[attr-defined]
        bad_images.note(gather(bad_images.reasons).items())
