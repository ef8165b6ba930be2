"""The 1,000-way classifier that other projects' weights bring along, for the head."""

from pathlib import Path

import torch

from backbone import InputError, Pretrained
from tasks.pooled import PooledClassifier


def load_classifier(model: PooledClassifier, pretrained: Pretrained | None, file: str | Path | None) -> None:
    """Give the head the ImageNet classifier that came with the trunk's weights. Raises InputError where none did."""
    if pretrained is None:
        raise InputError("--model.head imagenet takes the classifier of --model.weights; name a file that has one.")
    if pretrained.classifier is None:
        raise InputError(
            f"{pretrained.source} has no ImageNet classifier; use it to start `fit`, or name a file with one."
            + (" A checkpoint goes in with --ckpt_path." if Path(str(file)).suffix == ".ckpt" else "")
        )
    weight, bias = pretrained.classifier
    with torch.no_grad():
        model.head.weight.copy_(weight)
        model.head.bias.copy_(bias)
