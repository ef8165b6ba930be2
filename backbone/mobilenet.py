"""MobileNetV1 (Howard et al. 2017, arXiv 1704.04861) as a trunk: images in, one feature map for each stride out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.errors import InputError

STEM_CHANNELS = 32
SMALLEST_IMAGE = 32  # pixels; below it the stride-32 map has no cell of its own
LARGEST_WIDTH = 100  # far above any use, and 40 GB of weights already

# Table 1: one row for each depthwise separable block. The table prints stride 2 for the last depthwise layer, but
# also a 7x7 input on both sides of it, so that stride is 1.
BLOCKS = (
    # stride, channels
    (1, 64),
    (2, 128),
    (1, 128),
    (2, 256),
    (1, 256),
    (2, 512),
    (1, 512),
    (1, 512),
    (1, 512),
    (1, 512),
    (1, 512),
    (2, 1024),
    (1, 1024),
)
# Table 5: "the 5 layers of separable filters with feature size 14 x 14 x 512 ... are removed".
SHALLOW_BLOCKS = tuple(row for row in BLOCKS if row != (1, 512))


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become the trunk's input: mean and std in units of pixel values scaled to 0..1, image size in px.

    `interpolation` and `crop_fraction`, the part of the side that is kept, are those of the evaluation of whole images.
    """

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    channel_order: Literal["rgb", "bgr"] = "rgb"  # bgr: of weights trained on OpenCV's or Caffe's pixels
    image_size: int = 224
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop_fraction: float = 0.875

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise InputError(f"mean {self.mean} and std {self.std} must be three numbers each, every std above 0.")
        if self.channel_order not in ("rgb", "bgr"):
            raise InputError(f"channel_order is {self.channel_order!r}; it must be 'rgb' or 'bgr'.")

    @classmethod
    def from_dict(cls, numerics: Mapping[str, Any]) -> "Preprocessing":
        """Those that settings of a trunk have in their `numerics`. An unknown or ill-typed field raises InputError."""
        try:
            inner = dict(numerics["preprocessing"])
            return cls(**{**inner, "mean": tuple(inner["mean"]), "std": tuple(inner["std"])})
        except KeyError as error:
            raise InputError(f"numerics {dict(numerics)} lack {error}.") from error
        except TypeError as error:
            raise InputError(f"numerics {dict(numerics)} cannot be read: {error}.") from error


@dataclass(frozen=True)
class Numerics:
    """What weights were trained with, and give wrong outputs without; it travels in every checkpoint.

    `padding` is TensorFlow's SAME or one pixel on every side; they differ in the layers of stride 2 alone.
    """

    padding: Literal["same", "symmetric"] = "same"
    bn_eps: float = 1e-3
    activation: Literal["relu6", "relu"] = "relu6"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def __post_init__(self) -> None:
        if self.padding not in ("same", "symmetric"):
            raise InputError(f"padding is {self.padding!r}; it must be 'same' or 'symmetric'.")
        if self.activation not in ("relu6", "relu"):
            raise InputError(f"activation is {self.activation!r}; it must be 'relu6' or 'relu'.")
        if not 0 < self.bn_eps < 1:
            raise InputError(f"bn_eps is {self.bn_eps}; it must lie between 0 and 1.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Numerics":
        """Undo `dataclasses.asdict`, as found in a checkpoint. An unknown or ill-typed field raises InputError."""
        try:
            return cls(**{**values, "preprocessing": Preprocessing.from_dict(values)})
        except TypeError as error:
            raise InputError(f"numerics {dict(values)} cannot be read: {error}.") from error


def normalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Turn uint8 (B, 3, H, W) RGB images into the trunk's float32 (B, 3, H, W) input, in its channel order.

    Anything but uint8 raises TypeError: floats may have been normalised already, and twice goes unnoticed.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"normalize takes uint8 images of 0..255, not {images.dtype}")
    if preprocessing.channel_order == "bgr":
        images = images.flip(1)
    # One number where the channels have the same: ONNX Runtime is ten times as fast with it.
    mean, std = (
        images.new_tensor(of if len(set(of)) > 1 else of[:1], dtype=torch.float32)[:, None, None]  # (3 or 1, 1, 1)
        for of in (preprocessing.mean, preprocessing.std)
    )
    return torch.addcmul(-mean / std, images.float(), 1 / (255 * std))


def scaled_image_size(base: int, resolution_mult: float = 1.0) -> int:
    """The image size in px for the paper's resolution multiplier (section 3.4): the nearest multiple of 32.

    224 times 1, 0.858, 0.715, 0.571 gives the paper's 224, 192, 160, 128. A multiplier of 1 keeps any base as it is.
    """
    if not (math.isfinite(resolution_mult) and resolution_mult > 0):
        raise InputError(f"resolution_mult is {resolution_mult}; it must be a number above 0, such as 0.858.")
    size = base if resolution_mult == 1 else 32 * math.floor(base * resolution_mult / 32 + 0.5)
    if size < SMALLEST_IMAGE:
        raise InputError(
            f"image size {base} px times resolution_mult {resolution_mult} is {size} px; "
            f"the trunk halves it five times, so use {SMALLEST_IMAGE} px or more."
        )
    return size


def scaled_channels(channels: int, width_mult: float) -> int:
    """The paper's width multiplier (section 3.3) with the floor of 8 that TF-slim's `min_depth` has."""
    return max(8, int(channels * width_mult))


class _StridedConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 2; TensorFlow's SAME pads (0, 1) on an even side and (1, 1) on an odd one."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, padding: str) -> None:
        super().__init__(in_channels, out_channels, 3, 2, 0 if padding == "same" else 1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.padding == (0, 0):
            x = F.pad(x, (x.shape[-1] % 2, 1, x.shape[-2] % 2, 1))
        if x.requires_grad and x.dtype == torch.bfloat16 and x.device.type == "cpu" and self.groups > 1:
            # oneDNN runs the backward pass of a strided depthwise convolution in bfloat16 through `brgconv_strided`,
            # which is not made for it: in float32 a training step of the whole trunk takes 0.65 of the time.
            with torch.autocast("cpu", enabled=False):
                y = F.conv2d(x.float(), self.weight.float(), None, self.stride, self.padding, 1, self.groups)
            return y.to(x.dtype)
        return super().forward(x)


class _BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that takes its running statistics where a batch has one value a channel, which has no variance.

    That is a 1x1 map of a single image: an extra map of a detector, or an image of 32 px.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


def conv_norm_act(
    in_channels: int, out_channels: int, kernel: Literal[1, 3], numerics: Numerics, *, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The three layers that all of MobileNet is made of (figure 3), for a trunk and for heads of the same numerics."""
    conv: nn.Conv2d
    if stride == 2:
        conv = _StridedConv2d(in_channels, out_channels, groups, numerics.padding)
    else:  # at stride 1 SAME is one pixel on every side too
        conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, groups=groups, bias=False)
    # Momentum 0.03 averages over about 33 batches: TF-slim's decay of 0.9997 suits millions of steps and is far from
    # settled after a short fine-tuning; torch's own 0.1 is noisy at small batches.
    norm = _BatchNorm2d(out_channels, eps=numerics.bn_eps, momentum=0.03)
    return conv, norm, nn.ReLU6(inplace=True) if numerics.activation == "relu6" else nn.ReLU(inplace=True)


class MobileNetV1(nn.Module):
    """The 28-layer body of Table 1 without pooling and classifier, for normalised images of 32 px or more.

    `depth_multiplier` is Keras's: outputs of a depthwise filter for each input channel. `convolution="full"` is Table
    4's network of full convolutions, `shallow=True` Table 5's without the five 14x14x512 blocks. A width or depth
    multiplier that is not above 0 raises InputError.
    """

    def __init__(
        self,
        width_mult: float = 1.0,
        *,
        depth_multiplier: int = 1,
        convolution: Literal["separable", "full"] = "separable",
        shallow: bool = False,
        numerics: Numerics | None = None,
    ) -> None:
        super().__init__()
        if not 0 < width_mult <= LARGEST_WIDTH:
            raise InputError(
                f"width_mult is {width_mult}; it must be a number above 0, such as 0.25, 0.5, 0.75 or 1, "
                f"and at most {LARGEST_WIDTH}."
            )
        if depth_multiplier < 1 or depth_multiplier != int(depth_multiplier):
            raise InputError(f"depth_multiplier is {depth_multiplier}; it must be a whole number from 1 up.")
        if convolution not in ("separable", "full"):
            raise InputError(f"convolution is {convolution!r}; it must be 'separable' or 'full'.")
        if convolution == "full" and depth_multiplier != 1:
            raise InputError(
                f"depth_multiplier is {depth_multiplier}, but full convolutions have no depthwise part; leave it at 1."
            )
        self.settings: dict[str, Any] = {}  # what `trunk_from` built it from
        self.width_mult = width_mult
        self.depth_multiplier = depth_multiplier
        self.numerics = numerics or Numerics()

        width = scaled_channels(STEM_CHANNELS, width_mult)
        self.stem = nn.Sequential(*conv_norm_act(3, width, 3, self.numerics, stride=2))
        self.blocks = nn.ModuleList()
        self.strides: list[int] = []  # of each block's output, with respect to the image
        self.channels: dict[int, int] = {}
        stride = 2
        for block_stride, channels in SHALLOW_BLOCKS if shallow else BLOCKS:
            out = scaled_channels(channels, width_mult)
            if convolution == "full":
                block = nn.Sequential(*conv_norm_act(width, out, 3, self.numerics, stride=block_stride))
            else:
                depth = width * depth_multiplier
                block = nn.Sequential(
                    *conv_norm_act(width, depth, 3, self.numerics, stride=block_stride, groups=width),
                    *conv_norm_act(depth, out, 1, self.numerics),
                )
            stride *= block_stride
            self.blocks.append(block)
            self.strides.append(stride)
            self.channels[stride] = width = out

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # TF-slim mobilenet_v1_arg_scope: truncated_normal_initializer(stddev=0.09), which cuts at two sigma.
                nn.init.trunc_normal_(module.weight, std=0.09, a=-0.18, b=0.18)

    @property
    def preprocessing(self) -> Preprocessing:
        """Mean, std, channel order and image size that the weights were trained with."""
        return self.numerics.preprocessing

    def features(self, images: Tensor) -> dict[int, Tensor]:
        """Map normalised (B, 3, H, W) images to {stride: (B, channels[stride], ceil(H/stride), ceil(W/stride))}.

        Each map is that after the last block of its stride: 2, 4, 8, 16 and 32. A side under 32 px raises InputError.
        """
        height, width = images.shape[-2:]
        if height < SMALLEST_IMAGE or width < SMALLEST_IMAGE:
            raise InputError(
                f"image size is {height} x {width} px (height x width); "
                f"the trunk halves it five times, so use {SMALLEST_IMAGE} px or more."
            )
        maps: dict[int, Tensor] = {}
        x = self.stem(images)
        for block, stride in zip(self.blocks, self.strides, strict=True):
            x = block(x)
            maps[stride] = x
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """The last map: normalised (B, 3, H, W) images to (B, channels[32], ceil(H/32), ceil(W/32))."""
        return self.features(images)[32]
