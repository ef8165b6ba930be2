"""Weights of other projects into a MobileNetV1, together with the numerics they were trained with.

Read: timm's `mobilenetv1_*`, Keras Applications' h5, Hugging Face's `google/mobilenet_v1_*`, TensorFlow Lite's
classifiers and SSD detectors, and checkpoints of this project; backbone/weight_files.py opens them.
"""

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbone.errors import InputError
from backbone.folded import folded_norm
from backbone.mobilenet import BLOCKS, STEM_CHANNELS, MobileNetV1, Numerics, Preprocessing, scaled_channels
from backbone.tflite import Detector, is_tflite, read_network
from backbone.weight_files import Contents, find_file, json_beside, read_contents, refuse

# The five tensors of a convolution and the batch norm behind it.
NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Pretrained:
    """A file's weights under the trunk's own names, and what they were trained with.

    `classifier` is (weight (classes, channels), bias (classes,)) with ImageNet's 1000 classes in their usual order, or
    None; `detector` is the SSD that stands behind the trunk, or None; `source` says in words what the file was, and
    `on_imagenet` whether it was trained on ImageNet's images.
    """

    state: dict[str, Tensor]
    numerics: Numerics
    width_mult: float
    depth_multiplier: int
    source: str
    classifier: tuple[Tensor, Tensor] | None = None
    detector: Detector | None = None
    on_imagenet: bool = True


def read_pretrained(path: str | Path) -> Pretrained:
    """Read a file, or a folder as Hugging Face stores it, and say by its tensors' names which project it is from.

    A file that is not one of the accepted ones, damaged, or of another network raises InputError saying what it is.
    """
    file = find_file(path)
    return _read_pretrained(file, file.stat().st_mtime_ns)


@functools.lru_cache(
    maxsize=1
)  # a command asks for the same weights several times: their width, their head, themselves
def _read_pretrained(path: Path, changed_ns: int) -> Pretrained:
    with path.open("rb") as file:
        if is_tflite(file.read(8)):
            return _from_tflite(path)
    contents = read_contents(path)
    names = contents.tensors.keys()
    trunks = [name.removesuffix("stem.0.weight") for name in names if re.search(r"(^|\.)stem\.0\.weight$", name)]
    if trunks:
        return _from_checkpoint(path, contents, trunks)
    if "conv_stem.weight" in names:
        return _from_timm(path, contents)
    if any(name.endswith("conv_stem.convolution.weight") for name in names):
        return _from_hugging_face(path, contents)
    if "conv1/kernel" in names:
        return _from_keras(path, contents)
    shown = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    refuse(path, f"holds tensors named {shown}, which are not those of a MobileNet v1 known here")


def read_detector(path: str | Path | None) -> Pretrained | None:
    """The weights of a file that holds a whole detector, None for any other. InputError where it is damaged."""
    if path is None:
        return None
    with find_file(path).open("rb") as file:
        pretrained = read_pretrained(path) if is_tflite(file.read(8)) else None  # no other format has one
    return pretrained if pretrained and pretrained.detector else None


def load_pretrained(trunk: MobileNetV1, pretrained: Pretrained) -> None:
    """Copy weights into a trunk of the same width and numerics; build it with `pretrained.numerics` first.

    A trunk that differs raises InputError with both sides, and is left as it was.
    """
    if set(trunk.state_dict()) != set(pretrained.state):
        raise InputError(
            f"{pretrained.source} has the 13 separable blocks of the paper's Table 1, "
            "but the trunk is one of the comparison networks; build it without `convolution` and `shallow`."
        )
    shapes = {name: tensor.shape for name, tensor in trunk.state_dict().items()}
    if shapes != {name: tensor.shape for name, tensor in pretrained.state.items()}:
        raise InputError(
            f"{pretrained.source} has width_mult {pretrained.width_mult:g} and depth_multiplier "
            f"{pretrained.depth_multiplier}, but the trunk has width_mult {trunk.width_mult:g} and depth_multiplier "
            f"{trunk.depth_multiplier}; set the trunk's to the file's or choose other weights."
        )
    # The size weights were trained at is no part of the function they compute: any other may be used.
    ours, theirs = (
        replace(numerics, preprocessing=replace(numerics.preprocessing, image_size=224))
        for numerics in (trunk.numerics, pretrained.numerics)
    )
    if ours != theirs:
        raise InputError(
            f"{pretrained.source} was trained with {theirs}, but the trunk has {ours}; build it with the file's."
        )
    trunk.load_state_dict(pretrained.state)


# --- the projects -----------------------------------------------------------------------------------------------------


def _from_timm(path: Path, contents: Contents) -> Pretrained:
    """timm.models.mobilenetv1_*: symmetric padding, eps 1e-5, ReLU6, mean = std = 0.5 (timm's default_cfgs)."""
    if "conv_head.weight" in contents.tensors and not any(".conv_pwl." in name for name in contents.tensors):
        refuse(path, "is timm's mobilenetv1_100h, which has an extra convolution before its classifier")
    # A converted file may say otherwise in its metadata; a folder of the Hub, in its config.json.
    stated = {key.lower(): value for key, value in contents.metadata.items()}
    config = json_beside(path, "config.json").get("pretrained_cfg") or {}
    numerics = _numerics(
        path,
        padding=_padding(path, stated.get("padding", "symmetric")),
        bn_eps=stated.get("batch_norm_eps", 1e-5),
        activation=stated.get("activation", "relu6"),
        mean=config.get("mean"),
        std=config.get("std"),
        image_size=(config.get("input_size") or [224])[-1],
        channel_order=stated.get("channel_order", "rgb").lower(),
    )
    pairs = [("conv_stem", "bn1")]
    for stage, blocks in enumerate((1, 2, 2, 6, 2)):
        for block in range(blocks):
            name = f"blocks.{stage}.{block}."
            pairs += [(name + "conv_dw", name + "bn1"), (name + "conv_pw", name + "bn2")]
    return _assemble(path, "timm's mobilenetv1", contents.tensors, pairs, numerics)


def _from_hugging_face(path: Path, contents: Contents) -> Pretrained:
    """MobileNetV1 of transformers: TensorFlow's SAME, eps 1e-3, ReLU6, mean = std = 0.5, unless config.json differs.

    The batch-norm momentum of 0.9997 there is TensorFlow's decay taken for torch's momentum, so it is not taken over.
    """
    config = json_beside(path, "config.json")
    if config.get("model_type", "mobilenet_v1") != "mobilenet_v1":
        refuse(path, f"is beside a config.json of the model type {config['model_type']!r}")
    images = json_beside(path, "preprocessor_config.json")
    numerics = _numerics(
        path,
        padding="same" if config.get("tf_padding", True) else "symmetric",
        bn_eps=config.get("layer_norm_eps", 1e-3),
        activation=config.get("hidden_act", "relu6"),
        mean=images.get("image_mean"),
        std=images.get("image_std"),
        image_size=config.get("image_size", 224),
        channel_order="bgr" if images.get("do_flip_channel_order") else "rgb",
    )
    tensors = {name.removeprefix("mobilenet_v1."): tensor for name, tensor in contents.tensors.items()}
    layers = ["conv_stem", *(f"layer.{i}" for i in range(2 * len(BLOCKS)))]
    pairs = [(f"{layer}.convolution", f"{layer}.normalization") for layer in layers]
    return _assemble(path, "Hugging Face's mobilenet_v1", tensors, pairs, numerics)


def _from_keras(path: Path, contents: Contents) -> Pretrained:
    """keras.applications.MobileNet: SAME, eps 1e-3, ReLU6, x / 127.5 - 1.

    Keras pads (0, 1) whatever the size; at the even sizes it was trained at that is SAME.
    """
    order = ["conv1", *(f"conv_{kind}_{i + 1}" for i in range(len(BLOCKS)) for kind in ("dw", "pw"))]
    to_ours = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    tensors = {}
    for name, tensor in contents.tensors.items():
        layer, _, part = name.rpartition("/")
        if part in ("kernel", "depthwise_kernel"):
            if tensor.ndim != 4:
                refuse(path, f"has {name} of shape {tuple(tensor.shape)}, where MobileNet has a convolution")
            if layer.startswith("conv_dw_"):  # (3, 3, in, multiplier) -> (in * multiplier, 1, 3, 3)
                tensor = tensor.permute(2, 3, 0, 1).flatten(0, 1)[:, None]
            else:  # (height, width, in, out) -> (out, in, height, width)
                tensor = tensor.permute(3, 2, 0, 1)
            part = "weight"
        layer = "classifier" if layer == "conv_preds" else layer
        tensors[f"{layer}.{to_ours.get(part, part)}"] = tensor
    pairs = [(layer, f"{layer}_bn") for layer in order]
    return _assemble(path, "Keras's MobileNet", tensors, pairs, Numerics())


def _from_tflite(path: Path) -> Pretrained:
    """TensorFlow's own models, quantised or not: SAME, x / 127.5 - 1, norms folded into the convolutions."""
    network = read_network(path, [stride for stride, _ in BLOCKS])
    numerics = _numerics(
        path,
        padding="same",
        bn_eps=1e-3,
        activation=network.activation,
        mean=[network.mean] * 3,
        std=[network.std] * 3,
        image_size=max(network.image_size),
    )
    tensors: dict[str, Tensor] = {}
    for (conv, norm), (weight, bias) in zip(_own_pairs(), network.trunk, strict=True):
        tensors[f"{conv}.weight"] = weight
        tensors |= {f"{norm}.{part}": value for part, value in folded_norm(bias, numerics.bn_eps).items()}
    if network.classifier is not None:
        tensors["classifier.weight"], tensors["classifier.bias"] = network.classifier
    pretrained = _assemble(path, "TensorFlow's MobileNet v1", tensors, _own_pairs(), numerics)
    return replace(pretrained, detector=network.detector)


def _from_checkpoint(path: Path, contents: Contents, trunks: list[str]) -> Pretrained:
    """A checkpoint of any task: the trunk is found by its names, its numerics among the trunk's settings."""
    trunks = [prefix for prefix in trunks if prefix == "trunk."] or trunks
    if len(trunks) > 1:
        refuse(path, f"holds {len(trunks)} trunks ({', '.join(trunks)}), so it does not say which to take")
    numerics = contents.trunk.get("numerics")
    if not isinstance(numerics, Mapping):
        refuse(path, "holds this project's trunk without the numerics it was trained with; give the task's checkpoint")
    prefix = trunks[0]
    tensors = {name.removeprefix(prefix): x for name, x in contents.tensors.items() if name.startswith(prefix)}
    try:
        restored = Numerics.from_dict(numerics)
    except InputError as error:
        refuse(path, f"holds this project's trunk, but its {str(error).rstrip('.')}")
    pretrained = _assemble(path, "this project's checkpoint", tensors, _own_pairs(), restored)
    return replace(pretrained, on_imagenet=bool(contents.trunk.get("imagenet_pretrained", False)))


def _own_pairs() -> list[tuple[str, str]]:
    pairs = [("stem.0", "stem.1")]
    for block in range(len(BLOCKS)):
        pairs += [(f"blocks.{block}.0", f"blocks.{block}.1"), (f"blocks.{block}.3", f"blocks.{block}.4")]
    return pairs


def _assemble(
    path: Path, project: str, tensors: Mapping[str, Tensor], pairs: list[tuple[str, str]], numerics: Numerics
) -> Pretrained:
    """Rename 27 pairs of convolution and batch norm, in order, and check that they are a MobileNet v1 and no more."""
    rest = {name: x for name, x in tensors.items() if not name.endswith("num_batches_tracked")}
    state: dict[str, Tensor] = {}
    for (conv, norm), (our_conv, our_norm) in zip(pairs, _own_pairs(), strict=True):
        renamed = {f"{conv}.weight": f"{our_conv}.weight"}
        renamed |= {f"{norm}.{part}": f"{our_norm}.{part}" for part in NORM_PARTS}
        for theirs, ours in renamed.items():
            if theirs not in rest:
                refuse(path, f"looks like {project} but has no tensor {theirs}")
            state[ours] = rest.pop(theirs).float().contiguous()
        state[f"{our_norm}.num_batches_tracked"] = torch.tensor(0)
    head = rest.pop("classifier.weight", None), rest.pop("classifier.bias", None)
    if rest:
        refuse(path, f"looks like {project} but also has {', '.join(sorted(rest)[:3])}, which MobileNet v1 has not")
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            refuse(path, f"holds values that are not finite in {name}; its training diverged or the file is damaged")

    if state["stem.0.weight"].shape[1] == 1:
        refuse(path, f"is {project} for grey images, of one channel, where images have three here")
    width_mult, depth_multiplier = _multipliers(path, project, state)
    with torch.device("meta"):
        trunk = MobileNetV1(width_mult, depth_multiplier=depth_multiplier, numerics=numerics)
    for name, tensor in trunk.state_dict().items():
        if state[name].shape != tensor.shape:
            refuse(
                path,
                f"looks like {project} but its channels are not those of any width multiplier: "
                f"{name} is {tuple(state[name].shape)} where width {width_mult:g} has {tuple(tensor.shape)}",
            )
    return Pretrained(
        state,
        numerics,
        width_mult,
        depth_multiplier,
        f"{path} ({project}, width {width_mult:g})",
        _classifier(path, head, trunk.channels[32]),
    )


def _multipliers(path: Path, project: str, state: Mapping[str, Tensor]) -> tuple[float, int]:
    """Width and depth multiplier by the channels: `int(1024 * w)` of the last layer fixes all, each 1024 / 2^k wide."""
    widest = state[f"blocks.{len(BLOCKS) - 1}.3.weight"].shape[0]
    full = BLOCKS[-1][1]
    # The shortest decimal that gives these channels: 307 are 0.3, not 307 / 1024.
    decimals = (math.ceil(widest / full * 10**digits) / 10**digits for digits in range(1, 9))
    width_mult = next(w for w in decimals if int(full * w) == widest)
    stem, depthwise = state["stem.0.weight"].shape[0], state["blocks.0.0.weight"].shape[0]
    if stem != scaled_channels(STEM_CHANNELS, width_mult) or depthwise % stem:
        refuse(
            path,
            f"looks like {project} but goes from {stem} channels in the stem to {widest} in the last layer, "
            f"which no width multiplier gives (1.0 has {STEM_CHANNELS} and {full})",
        )
    return width_mult, depthwise // stem


def _classifier(path: Path, head: tuple[Tensor | None, Tensor | None], channels: int) -> tuple[Tensor, Tensor] | None:
    weight, bias = head
    if weight is None or bias is None:
        return None
    weight, bias = weight.float().flatten(1), bias.float()  # (classes, channels, 1, 1) -> (classes, channels)
    if weight.shape != (len(bias), channels):
        refuse(path, f"has a classifier of shape {tuple(weight.shape)} behind {channels} channels")
    # TensorFlow's 1001 classes begin with "background"; everyone else's 1000 do not have it.
    first = 1 if len(bias) == 1001 else 0
    return weight[first:].contiguous(), bias[first:].contiguous()


# --- the numerics -----------------------------------------------------------------------------------------------------


def _padding(path: Path, text: str) -> str:
    for padding in ("same", "symmetric"):
        if text.lower().startswith(padding):  # "SAME (TensorFlow)" is one way to write it
            return padding
    refuse(path, f"says in its metadata that its padding is {text!r}, which is neither SAME nor symmetric")


def _numerics(
    path: Path,
    *,
    padding: Any,
    bn_eps: Any,
    activation: Any,
    mean: Any,
    std: Any,
    image_size: Any,
    channel_order: Any = "rgb",
) -> Numerics:
    half = (0.5, 0.5, 0.5)
    try:
        if not isinstance(image_size, int):  # some configs have [height, width]
            image_size = int(image_size[0])
        preprocessing = Preprocessing(tuple(mean or half), tuple(std or half), channel_order, image_size)
        return Numerics(padding, float(bn_eps), str(activation).lower(), preprocessing)  # type: ignore[arg-type]
    except (InputError, TypeError, ValueError, LookupError) as error:
        refuse(path, f"says of its training something that cannot be taken over: {str(error).rstrip('.')}")
