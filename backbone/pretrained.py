"""Weights of other projects into a MobileNetV1, together with the numerics they were trained with.

Read: timm's `mobilenetv1_*`, Keras Applications' h5, Hugging Face's `google/mobilenet_v1_*`, TensorFlow Lite's
classifiers and SSD detectors, and checkpoints of this project. Nothing in a file is ever executed: safetensors, HDF5,
flatbuffers, and pickles through torch's `weights_only`.
"""

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from backbone.errors import InputError
from backbone.folded import folded_norm
from backbone.mobilenet import BLOCKS, STEM_CHANNELS, MobileNetV1, Numerics, Preprocessing, scaled_channels
from backbone.tflite import Detector, is_tflite, read_network
from backbone.weights import find_weights

ACCEPTED = (
    "accepted are timm's mobilenetv1_* (.safetensors, .pth), Keras Applications' MobileNet (.h5), "
    "Hugging Face's google/mobilenet_v1_* (a folder or its model.safetensors), TensorFlow's MobileNet v1 classifiers "
    "and SSD detectors (.tflite), checkpoints of this project (.ckpt), and with --model.trunk timm:NAME "
    "those of timm's other networks"
)

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


class _Contents(NamedTuple):
    """What a file holds: tensors by name, and everything that may say how they were trained."""

    tensors: dict[str, Tensor]
    metadata: Mapping[str, str] = {}
    trunk: Mapping[str, Any] = {}  # of a checkpoint of this project, the settings of its trunk


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors by name of a file of weights of any network. InputError where it has none."""
    return _read(_find_file(Path(path).expanduser())).tensors


def saved_trunk(path: str | Path) -> Mapping[str, Any] | None:
    """The settings of the trunk in a checkpoint of this project, None for other files. InputError as `read_tensors`."""
    path = _find_file(Path(path).expanduser())
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    return (_read(path).trunk or None) if is_zip else None


def read_pretrained(path: str | Path) -> Pretrained:
    """Read a file, or a folder as Hugging Face stores it, and say by its tensors' names which project it is from.

    A file that is not one of the accepted ones, damaged, or of another network raises InputError saying what it is.
    """
    path = _find_file(Path(path).expanduser())
    with path.open("rb") as file:
        if is_tflite(file.read(8)):
            return _from_tflite(path)
    contents = _read(path)
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
    _refuse(path, f"holds tensors named {shown}, which are not those of a MobileNet v1 known here")


def read_detector(path: str | Path | None) -> Pretrained | None:
    """The weights of a file that holds a whole detector, None for any other. InputError where it is damaged."""
    if path is None:
        return None
    file = _find_file(Path(path).expanduser())
    with file.open("rb") as start:
        pretrained = _from_tflite(file) if is_tflite(start.read(8)) else None
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


def _from_timm(path: Path, contents: _Contents) -> Pretrained:
    """timm.models.mobilenetv1_*: symmetric padding, eps 1e-5, ReLU6, mean = std = 0.5 (timm's default_cfgs)."""
    if "conv_head.weight" in contents.tensors and not any(".conv_pwl." in name for name in contents.tensors):
        _refuse(path, "is timm's mobilenetv1_100h, which has an extra convolution before its classifier")
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


def _from_hugging_face(path: Path, contents: _Contents) -> Pretrained:
    """MobileNetV1 of transformers: TensorFlow's SAME, eps 1e-3, ReLU6, mean = std = 0.5, unless config.json differs.

    The batch-norm momentum of 0.9997 there is TensorFlow's decay taken for torch's momentum, so it is not taken over.
    """
    config = json_beside(path, "config.json")
    if config.get("model_type", "mobilenet_v1") != "mobilenet_v1":
        _refuse(path, f"is beside a config.json of the model type {config['model_type']!r}")
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


def _from_keras(path: Path, contents: _Contents) -> Pretrained:
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
                _refuse(path, f"has {name} of shape {tuple(tensor.shape)}, where MobileNet has a convolution")
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


def _from_checkpoint(path: Path, contents: _Contents, trunks: list[str]) -> Pretrained:
    """A checkpoint of any task: the trunk is found by its names, its numerics among the trunk's settings."""
    trunks = [prefix for prefix in trunks if prefix == "trunk."] or trunks
    if len(trunks) > 1:
        _refuse(path, f"holds {len(trunks)} trunks ({', '.join(trunks)}), so it does not say which to take")
    numerics = contents.trunk.get("numerics")
    if not isinstance(numerics, Mapping):
        _refuse(path, "holds this project's trunk without the numerics it was trained with; give the task's checkpoint")
    prefix = trunks[0]
    tensors = {name.removeprefix(prefix): x for name, x in contents.tensors.items() if name.startswith(prefix)}
    try:
        restored = Numerics.from_dict(numerics)
    except InputError as error:
        _refuse(path, f"holds this project's trunk, but its {str(error).rstrip('.')}")
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
                _refuse(path, f"looks like {project} but has no tensor {theirs}")
            state[ours] = rest.pop(theirs).float().contiguous()
        state[f"{our_norm}.num_batches_tracked"] = torch.tensor(0)
    head = rest.pop("classifier.weight", None), rest.pop("classifier.bias", None)
    if rest:
        _refuse(path, f"looks like {project} but also has {', '.join(sorted(rest)[:3])}, which MobileNet v1 has not")
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            _refuse(path, f"holds values that are not finite in {name}; its training diverged or the file is damaged")

    if state["stem.0.weight"].shape[1] == 1:
        _refuse(path, f"is {project} for grey images, of one channel, where images have three here")
    width_mult, depth_multiplier = _multipliers(path, project, state)
    with torch.device("meta"):
        trunk = MobileNetV1(width_mult, depth_multiplier=depth_multiplier, numerics=numerics)
    for name, tensor in trunk.state_dict().items():
        if state[name].shape != tensor.shape:
            _refuse(
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
        _refuse(
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
        _refuse(path, f"has a classifier of shape {tuple(weight.shape)} behind {channels} channels")
    # TensorFlow's 1001 classes begin with "background"; everyone else's 1000 do not have it.
    first = 1 if len(bias) == 1001 else 0
    return weight[first:].contiguous(), bias[first:].contiguous()


# --- the numerics -----------------------------------------------------------------------------------------------------


def _padding(path: Path, text: str) -> str:
    for padding in ("same", "symmetric"):
        if text.lower().startswith(padding):  # "SAME (TensorFlow)" is one way to write it
            return padding
    _refuse(path, f"says in its metadata that its padding is {text!r}, which is neither SAME nor symmetric")


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
        _refuse(path, f"says of its training something that cannot be taken over: {str(error).rstrip('.')}")


def json_beside(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in the same folder, if there is one."""
    file = path.with_name(name)
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}, which describes {path.name}, is not JSON: {error}.") from error
    return value if isinstance(value, dict) else {}


# --- the files --------------------------------------------------------------------------------------------------------


def _find_file(path: Path) -> Path:
    path = find_weights(path, fetch=False).file  # of a name that `--model.weights` or `load` has fetched
    if path.is_file():
        return path
    if not path.exists():
        if path.with_name(path.name + ".index").is_file():
            _refuse(path, "is a TensorFlow checkpoint")
        raise InputError(f"weights {path}: there is no such file or folder; check the path.")
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return path / name
    _refuse(path, "is a folder without model.safetensors or pytorch_model.bin")


def _read(path: Path) -> _Contents:
    """Read a file by its first bytes, not by its name."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return _read_h5(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size:
        return _read_safetensors(path)
    # torch.save writes a zip archive; before torch 1.6 it wrote a bare pickle.
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return _read_torch(path)
    if not start:
        _refuse(path, "is empty")
    if is_tflite(start):
        _refuse(path, "is a TensorFlow Lite file, whose tensors only a MobileNet v1 takes")
    if path.suffix in (".index", ".meta") or ".data-0" in path.name:
        _refuse(path, "is part of a TensorFlow checkpoint")
    try:
        _refuse(path, f"is text that begins with {start.decode('utf-8', 'strict').splitlines()[0][:40]!r}")
    except UnicodeDecodeError:
        _refuse(path, f"begins with the bytes {start[:8].hex(' ')}, which no accepted format does")


def _read_safetensors(path: Path) -> _Contents:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return _Contents({name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        _refuse(path, f"is a damaged safetensors file ({error})")


def _read_torch(path: Path) -> _Contents:
    if path.suffix == ".keras":
        _refuse(path, "is a Keras 3 archive, which has no layer names; save the model as .h5 instead")
    try:
        with warnings.catch_warnings(action="ignore"):  # about other formats; the errors say it better
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # by the kind of damage: UnpicklingError, RuntimeError, EOFError, KeyError and others
        _refuse(path, why_not_loaded(path, error))
    if not isinstance(found, Mapping):
        _refuse(path, f"holds a {type(found).__name__} and not tensors by name")
    trunk = found.get("trunk")
    # Of a training run's two sets of weights, timm's averaged one is the one it evaluated. Lightning keeps the
    # averaged ones under "state_dict" already.
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(found.get(key), Mapping):
            found = found[key]
            break
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        _refuse(path, f"holds no tensors, only {', '.join(map(str, list(found)[:5])) or 'an empty dictionary'}")
    if all(name.startswith("module.") for name in tensors):  # what DataParallel puts in front
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return _Contents(tensors, {}, trunk if isinstance(trunk, Mapping) else {})


def why_not_loaded(path: Path, error: Exception) -> str:
    """What a file is, as "is damaged", that `torch.load` with `weights_only` refused with this error."""
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        return "is empty"
    if not start.startswith((b"PK\x03\x04", b"\x80")):  # a zip archive; before torch 1.6, a bare pickle
        return "is not a file of tensors as torch.save writes it"
    if unsafe := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"is a pickle that asks to run {unsafe[1]}, which loading weights never needs"
    if "TorchScript" in str(error):
        return "is a TorchScript program and not a file of tensors"
    return "is damaged or cut short, or not a file of tensors as torch.save writes it"


def _read_h5(path: Path) -> _Contents:
    """Every array as "layer/part"; Keras nests them to various depths, always with the layer right above the array."""
    import h5py

    def arrays(group: h5py.Group) -> Iterator[tuple[str, Tensor]]:
        for value in group.values():
            if isinstance(value, h5py.Group):
                yield from arrays(value)
            elif isinstance(value, h5py.Dataset) and value.dtype.kind == "f":
                layer, part = value.name.split("/")[-2:]
                yield f"{layer}/{part.split(':')[0]}", torch.from_numpy(np.asarray(value[()], dtype=np.float32))

    try:
        with h5py.File(path, "r") as file:
            if "layers" in file or "_layer_checkpoint_dependencies" in file:
                _refuse(path, "is a Keras 3 .weights.h5, which has no layer names; save the model as .h5 instead")
            # `model.save` puts the optimizer's moments, under the same layer names, beside the weights.
            tensors = dict(arrays(file.get("model_weights", file)))
    except InputError:  # it is a ValueError too
        raise
    except (OSError, RuntimeError, ValueError) as error:
        _refuse(path, f"is a damaged HDF5 file ({error})")
    if not tensors:
        _refuse(path, "is an HDF5 file without arrays")
    return _Contents(tensors)


def _refuse(path: Path, what: str) -> NoReturn:
    raise InputError(f"weights {path}: this {what}; {ACCEPTED}.")
