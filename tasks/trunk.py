"""The trunk that a module's options ask for."""

import dataclasses
from collections.abc import MutableMapping
from typing import Any

from backbone import MobileNetV1, Numerics, Pretrained, load_pretrained, read_pretrained


def build_trunk(options: MutableMapping[str, Any]) -> tuple[MobileNetV1, Pretrained | None]:
    """Build the trunk of `width_mult`, `weights` and `numerics`; put into `options` what was found out of them.

    `numerics` are given where the weights come from a checkpoint: `weights` is then no longer read, and None is
    returned beside the trunk. Raises InputError where the weights cannot be read or are of another width.
    """
    weights, numerics, width_mult = options["weights"], options["numerics"], options["width_mult"]
    pretrained = read_pretrained(weights) if weights and numerics is None else None
    of_weights = pretrained.numerics if pretrained else Numerics.from_dict(numerics) if numerics else Numerics()
    if width_mult is None:
        width_mult = pretrained.width_mult if pretrained else 1.0
    options["width_mult"], options["numerics"] = width_mult, dataclasses.asdict(of_weights)
    options["imagenet_pretrained"] = pretrained is not None and pretrained.on_imagenet
    trunk = MobileNetV1(width_mult, numerics=of_weights)
    if pretrained:
        load_pretrained(trunk, pretrained)
    return trunk, pretrained
