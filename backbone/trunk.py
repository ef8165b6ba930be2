"""The one constructor of a trunk, from plain settings: those of a command, of a file of weights, or of a checkpoint.

A trunk has three names for a head: `features(images)` gives {stride: map}, `channels` {stride: number of channels}, and
`preprocessing` mean, std, channel order and image size. Heads use nothing else, so that other trunks can have them too.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbone.errors import InputError
from backbone.mobilenet import MobileNetV1, Numerics, Preprocessing
from backbone.pretrained import load_pretrained, read_pretrained
from backbone.timm_trunk import (
    PREFIX,
    TimmClassifier,
    TimmTrunk,
    classifier_of,
    create_timm,
    load_timm,
    preprocessing_of,
)
from backbone.weight_files import read_tensors, saved_trunk
from backbone.weights import find_weights

Trunk = MobileNetV1 | TimmTrunk
OURS = "mobilenetv1"
_OF_THE_WEIGHTS = ("imagenet_pretrained", "provenance")


def trunk_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """What determines a trunk, as plain values: `trunk`, `width_mult`, `numerics`, and what its weights came from.

    Of the options `trunk`, `width_mult`, `weights` and `numerics` any may be missing or None. What is not given is that
    of `weights`, a file or a name that is in the cache, and without them our MobileNet v1 of width 1 with TensorFlow's
    numerics; of timm's networks `numerics` has the preprocessing alone. `imagenet_pretrained` says whether the weights
    have seen ImageNet, `provenance` their name, revision and SHA-256; both of settings of a checkpoint are kept.
    InputError where the weights are no use, or options contradict them.
    """
    weights, name = options.get("weights"), _name(options)
    settings = (_our_settings if name == OURS else _timm_settings)(options, name)
    if weights:
        found = find_weights(weights, fetch=False)
        settings["provenance"] = {"name": found.name, "revision": found.revision, "sha256": found.sha256}
    else:  # those of a checkpoint, whose weights come with it, say what they began as
        settings |= {"provenance": None} | {key: options[key] for key in _OF_THE_WEIGHTS if key in options}
    return settings


def trunk_from(options: Mapping[str, Any]) -> Trunk:
    """The trunk of these options, as `trunk_settings` has them, which `trunk.settings` then says.

    Raises InputError where the weights cannot be read, or are of another network, width or other numerics.
    """
    weights, settings = options.get("weights"), trunk_settings(options)
    trunk: Trunk
    if settings["trunk"] == OURS:
        trunk = MobileNetV1(settings["width_mult"], numerics=Numerics.from_dict(settings["numerics"]))
        if weights:
            load_pretrained(trunk, read_pretrained(weights))
    else:
        name = settings["trunk"].removeprefix(PREFIX)
        trunk = TimmTrunk(name, Preprocessing.from_dict(settings["numerics"]))
        if weights and saved_trunk(weights):
            tensors = {k.removeprefix("trunk."): v for k, v in read_tensors(weights).items() if k.startswith("trunk.")}
            trunk.load_state_dict(tensors)
        elif weights:
            load_timm(trunk, name, read_tensors(weights), f"weights {weights}")
    trunk.settings = settings
    return trunk.to(memory_format=torch.channels_last)


def trunk_words(settings: Mapping[str, Any]) -> str:
    """What to call a trunk of these settings in a sentence."""
    return f"MobileNet of width {settings['width_mult']:g}" if settings["trunk"] == OURS else settings["trunk"]


def timm_classifier(trunk: TimmTrunk, weights: str | Path | None) -> nn.Module:
    """The ImageNet classifier that stands behind a trunk in its file of weights: maps in, logits (B, 1000) out.

    Without a file, as for a checkpoint that brings its weights, it has random ones. InputError where the file has none,
    or another.
    """
    name, source = trunk.settings["trunk"].removeprefix(PREFIX), f"weights {weights}"
    if weights is None:
        return TimmClassifier(create_timm(name, num_classes=1000), trunk)
    if saved_trunk(weights):
        raise InputError(f"{source} has no ImageNet classifier of timm's; a checkpoint goes in with --ckpt_path.")
    whole = load_timm(trunk, name, read_tensors(weights), source)
    if whole is None:
        raise InputError(f"{source} has no classifier; use it to start `fit`.")
    return classifier_of(trunk, whole, source)


def _name(options: Mapping[str, Any]) -> str:
    """The network asked for, or that of a checkpoint of ours. InputError where they contradict each other."""
    name, weights = options.get("trunk"), options.get("weights")
    saved = (saved_trunk(weights) or {}).get("trunk") if weights else None
    if name is not None and saved is not None and name != saved:
        raise InputError(f"weights {weights}: this is a checkpoint on the trunk {saved}, not {name}.")
    name = name or saved or OURS
    if name != OURS and not name.startswith(PREFIX):
        raise InputError(
            f"--model.trunk is {name!r}; it must be {OURS} or {PREFIX}NAME, such as timm:mobilenetv3_large_100."
        )
    return name


def _our_settings(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    width_mult, numerics = options.get("width_mult"), options.get("numerics")
    pretrained = read_pretrained(options["weights"]) if options.get("weights") else None
    if width_mult is None:
        width_mult = pretrained.width_mult if pretrained else 1.0
    if numerics is None:
        numerics = dataclasses.asdict(pretrained.numerics if pretrained else Numerics())
    return {
        "trunk": name,
        "width_mult": width_mult,
        "numerics": {**numerics, "preprocessing": _plain(numerics["preprocessing"])},
        "imagenet_pretrained": pretrained is not None and pretrained.on_imagenet,
    }


def _timm_settings(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    if options.get("width_mult") is not None:
        raise InputError(
            f"--model.width_mult is of our own trunk, and {name} has the width that its name says; leave it out, or "
            "give --model.width_mult null where a config has one."
        )
    weights = options.get("weights")
    saved = (saved_trunk(weights) if weights else None) or {}
    numerics = options.get("numerics") or saved.get("numerics")
    if numerics is None:
        preprocessing = preprocessing_of(
            name.removeprefix(PREFIX), find_weights(weights, fetch=False).file if weights else None
        )
        numerics = {"preprocessing": _plain(dataclasses.asdict(preprocessing))}
    on_imagenet = bool(weights) and bool(saved.get("imagenet_pretrained", True))
    return {"trunk": name, "width_mult": None, "numerics": numerics, "imagenet_pretrained": on_imagenet}


def _plain(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(v) if isinstance(v, tuple) else v for name, v in preprocessing.items()}
