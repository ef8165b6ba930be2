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
from backbone.weights import find_weights

_OF_THE_WEIGHTS = ("imagenet_pretrained", "provenance")


def trunk_settings(
    width_mult: float | None = None, weights: str | Path | None = None, numerics: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What determines a trunk, as plain values: `width_mult`, `numerics`, and whether it was trained on ImageNet.

    What is not given is that of `weights`, a file or a name that is in the cache, and without them width 1 and
    TensorFlow's numerics. `provenance` is the weights' name, revision and SHA-256. InputError where they are no use.
    """
    settings = _settings(width_mult, read_pretrained(weights) if weights else None, numerics)
    return {**settings, "provenance": _provenance(weights) if weights else None}


def _provenance(weights: str | Path) -> dict[str, str | None]:
    found = find_weights(weights, fetch=False)
    return {"name": found.name, "revision": found.revision, "sha256": found.sha256}


def _settings(
    width_mult: float | None, pretrained: Pretrained | None, numerics: Mapping[str, Any] | None
) -> dict[str, Any]:
    if width_mult is None:
        width_mult = pretrained.width_mult if pretrained else 1.0
    if numerics is None:
        numerics = dataclasses.asdict(pretrained.numerics if pretrained else Numerics())
    inner = {name: list(v) if isinstance(v, tuple) else v for name, v in numerics["preprocessing"].items()}
    on_imagenet = pretrained is not None and pretrained.on_imagenet
    return {
        "width_mult": width_mult,
        "numerics": {**numerics, "preprocessing": inner},
        "imagenet_pretrained": on_imagenet,
    }


def trunk_from(settings: Mapping[str, Any]) -> MobileNetV1:
    """The trunk of `width_mult`, `numerics` and `weights` (a file or a cached name), each of which may be missing.

    `trunk.settings` is what `trunk_settings` says. Raises InputError where the weights cannot be read, or are of
    another width or other numerics.
    """
    weights = settings.get("weights")
    pretrained = read_pretrained(weights) if weights else None
    resolved = _settings(settings.get("width_mult"), pretrained, settings.get("numerics"))
    trunk = MobileNetV1(resolved["width_mult"], numerics=Numerics.from_dict(resolved["numerics"]))
    if pretrained is not None and weights:
        load_pretrained(trunk, pretrained)
        resolved["provenance"] = _provenance(weights)
    else:  # the settings of a checkpoint, whose weights come with it, say what they began as
        resolved |= {"provenance": None} | {key: settings[key] for key in _OF_THE_WEIGHTS if key in settings}
    trunk.settings = resolved
    return trunk.to(memory_format=torch.channels_last)
