"""timm's networks as trunks, by the same names as our own: `features`, `channels` and `preprocessing`.

timm is an extra. Nothing is ever fetched: weights come from a file, read as every other (backbone/weight_files.py).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbone.errors import InputError
from backbone.mobilenet import Preprocessing
from backbone.weight_files import json_beside

PREFIX = "timm:"


class TimmTrunk(nn.Module):
    """The convolutional part of a network of timm's (`features_only`), for normalised images; random weights."""

    def __init__(self, name: str, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {}  # what `trunk_from` built it from
        self.preprocessing = preprocessing
        self.network = create_timm(name, features_only=True)
        info = self.network.feature_info
        self.strides: list[int] = info.reduction()
        self.channels: dict[int, int] = dict(zip(self.strides, info.channels(), strict=True))
        self._check(name)

    def features(self, images: Tensor) -> dict[int, Tensor]:
        """Normalised (B, 3, H, W) images to {stride: (B, channels[stride], about H / stride, about W / stride)}."""
        return dict(zip(self.strides, self.network(images), strict=True))  # of two maps of one stride, the last

    def forward(self, images: Tensor) -> Tensor:
        """The map of the largest stride."""
        return self.features(images)[max(self.channels)]

    def _check(self, name: str) -> None:
        """Raise InputError where a head would find no maps: transformers have them of one stride, or for one size."""
        side, mode = 96, self.training
        try:
            with torch.no_grad():
                maps = self.eval().features(torch.zeros(1, 3, side, side))
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise InputError(
                f"trunk {PREFIX}{name} cannot look at an image of {side} px ({reason}); name a convolutional network."
            ) from error
        self.train(mode)
        if not {16, 32} <= set(maps) or any(maps[stride].shape[1] != c for stride, c in self.channels.items()):
            raise InputError(
                f"trunk {PREFIX}{name} has maps of the strides {sorted(maps)}, but heads need (B, C, H, W) of 16 and "
                "32; name a convolutional network."
            )


class TimmClassifier(nn.Module):
    """What a whole network of timm's has behind its last map: a trunk's maps in, logits (B, 1000) out."""

    def __init__(self, whole: nn.Module, trunk: TimmTrunk) -> None:
        super().__init__()
        last = trunk.network.feature_info.module_name()[-1].partition(".")[0]
        for name in [name for name, _ in whole.named_children()]:
            setattr(whole, name, nn.Identity())  # it is the trunk's
            if name == last:
                break
        self.whole = whole

    def forward(self, maps: Mapping[int, Tensor]) -> Tensor:
        """A trunk's maps to logits."""
        return self.whole(maps[32])


def preprocessing_of(name: str, weights: Path | None = None) -> Preprocessing:
    """What a network of timm's was trained with: the config beside `weights` as the Hub has it, or timm's own."""
    config = dict(create_timm(name).pretrained_cfg)
    if weights is not None:
        config |= json_beside(weights, "config.json").get("pretrained_cfg") or {}
    try:
        return Preprocessing(
            tuple(config["mean"]),
            tuple(config["std"]),
            image_size=int(config["input_size"][-1]),
            interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
            crop_fraction=float(config["crop_pct"]),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"trunk {PREFIX}{name}: its preprocessing cannot be read ({error}).") from error


def load_timm(trunk: TimmTrunk, name: str, tensors: Mapping[str, Tensor], source: str) -> nn.Module | None:
    """Copy the tensors of a whole network of timm's into a trunk; return what it has behind it, where it has.

    InputError where they are those of another network, or of one for images that are not RGB.
    """
    whole = create_timm(name)
    classifiers = whole.pretrained_cfg.get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
    weight = tensors.get(f"{classifiers[0]}.weight") if classifiers else None
    classes = 0 if weight is None else len(weight)
    if classes == 1001:  # TensorFlow's begin with "background"
        first = {f"{layer}.{part}" for layer in classifiers for part in ("weight", "bias")}
        tensors = {key: value[1:] if key in first else value for key, value in tensors.items()}
        classes = 1000
    if classes != 1000:
        whole = create_timm(name, num_classes=classes)
    _load(whole, tensors, name, source)
    state = whole.state_dict()
    # `features_only` flattens the list of stages of some networks: stages.0 is stages_0 there.
    own = trunk.network.state_dict()
    names = {key: key if key in state else re.sub(r"_(\d+)\.", r".\1.", key, count=1) for key in own}
    trunk.network.load_state_dict({key: state[name] for key, name in names.items()})
    return None if weight is None else whole


def classifier_of(trunk: TimmTrunk, whole: nn.Module, source: str) -> TimmClassifier:
    """The ImageNet classifier of a whole network whose trunk was loaded from it. InputError where it has another."""
    side = trunk.preprocessing.image_size
    image = torch.zeros(1, 3, side, side).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = whole.eval()(image)
    if expected.shape[1] != 1000:
        raise InputError(
            f"{source} tells {expected.shape[1]} classes apart, not ImageNet's 1,000; use it to start `fit`."
        )
    classifier = TimmClassifier(whole, trunk).eval()
    mode = trunk.training
    with torch.no_grad():
        found = classifier(trunk.eval().features(image))
    trunk.train(mode)
    if not torch.allclose(found, expected, atol=1e-3 * max(1.0, expected.abs().max().item())):
        raise InputError(f"{source}: its classifier uses more than the trunk's last map; use it to start `fit`.")
    return classifier


def reparameterized(trunk: nn.Module) -> nn.Module:
    """The trunk in its form for inference: RepViT's and MobileOne's branches become one convolution each."""
    if isinstance(trunk, TimmTrunk):
        trunk.network = for_inference(trunk.network)
    return trunk


def for_inference(network: nn.Module) -> nn.Module:
    """A network of timm's, in evaluation mode, with the branches that only training needs made one convolution each."""
    from timm.utils.model import reparameterize_model

    return reparameterize_model(network, inplace=True)


def create_timm(name: str, **options: Any) -> Any:
    """A network of timm's with random weights. InputError where timm, or the network, is not there."""
    try:
        import timm
    except ImportError as error:
        raise InputError(f"trunk {PREFIX}{name} needs timm: pip install --editable '.[timm]'.") from error
    if not timm.is_model(name):  # asked first, as for a name such as hf-hub:... timm would open a connection
        import difflib

        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"the nearest are {', '.join(near)}" if near else "timm.list_models() lists those that it has"
        raise InputError(f"trunk {PREFIX}{name}: timm {timm.__version__} has no such network; {hint}.")
    try:
        return timm.create_model(name, pretrained=False, **options)
    except RuntimeError as error:  # of the part of a name behind its dot
        raise InputError(f"trunk {PREFIX}{name}: timm has no weights of this name ({error}).") from error
    except (AssertionError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"trunk {PREFIX}{name} gives no feature maps, as a trunk must ({error}).") from error


def _load(whole: nn.Module, tensors: Mapping[str, Tensor], name: str, source: str) -> None:
    expected = whole.state_dict()
    missing = [key for key in expected if key not in tensors and not key.endswith("num_batches_tracked")]
    more = [key for key in tensors if key not in expected]
    if missing or more:
        first = f"lacks {missing[0]}" if missing else f"also has {more[0]}"
        raise InputError(
            f"{source} is not of {PREFIX}{name}: it {first} ({len(missing)} tensors are missing, {len(more)} too many)."
        )
    for key, value in tensors.items():
        if value.shape != expected[key].shape:
            grey = value.ndim == 4 and value.shape[1] == 1 and expected[key].shape[1] == 3
            why = "it is for grey images, and here they have three channels" if grey else "it is of another width"
            raise InputError(
                f"{source} does not fit {PREFIX}{name}: {key} is {tuple(value.shape)}, not "
                f"{tuple(expected[key].shape)}; {why}."
            )
    whole.load_state_dict(dict(tensors), strict=False)
