"""The one constructor of a trunk, from plain settings: those of a command, of a file of weights, or of a checkpoint.

A trunk has three names for a head: `features(images)` gives {stride: map}, `channels` {stride: number of channels}, and
`preprocessing` mean, std, channel order and image size. Heads use nothing else, so that other trunks can have them too.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from backbone.mobilenet import MobileNetV1, Numerics
from backbone.pretrained import Pretrained, load_pretrained, read_pretrained


def trunk_settings(
    width_mult: float | None = None, weights: str | Path | None = None, numerics: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What determines a trunk, as plain values: `width_mult`, `numerics`, and whether it was trained on ImageNet.

    What is not given is that of the file `weights`, and without one width 1 and TensorFlow's numerics. InputError where
    the file cannot be read.
    """
    found = read_pretrained(weights) if weights and numerics is None else None
    return _settings(width_mult, found, numerics)


def _settings(
    width_mult: float | None, found: Pretrained | None, numerics: Mapping[str, Any] | None
) -> dict[str, Any]:
    if found is not None:
        numerics = dataclasses.asdict(found.numerics)
    elif numerics is None:
        numerics = dataclasses.asdict(Numerics())
    return {
        "width_mult": width_mult if width_mult is not None else found.width_mult if found else 1.0,
        "numerics": dict(numerics),
        "imagenet_pretrained": found is not None and found.on_imagenet,
    }


def trunk_from(settings: Mapping[str, Any]) -> MobileNetV1:
    """The trunk of `width_mult`, `numerics` and `weights`; each may be missing or None.

    With `numerics` the weights are a checkpoint's, which the caller loads, and `weights` is not read. `trunk.settings`
    is what `trunk_settings` says. Raises InputError where the weights cannot be read or are of another width.
    """
    numerics, weights = settings.get("numerics"), settings.get("weights")
    found = read_pretrained(weights) if weights and numerics is None else None
    resolved = _settings(settings.get("width_mult"), found, numerics)
    if found is None:
        resolved["imagenet_pretrained"] = bool(settings.get("imagenet_pretrained", False))
    trunk = MobileNetV1(resolved["width_mult"], numerics=Numerics.from_dict(resolved["numerics"]))
    if found is not None:
        load_pretrained(trunk, found)
    trunk.settings = resolved
    return trunk.to(memory_format=torch.channels_last)
