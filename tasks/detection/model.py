"""SSD on a MobileNet trunk: uint8 images in, the raw answers for all anchors out."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from backbone import MobileNetV1, Numerics, normalize
from backbone.mobilenet import conv_norm_act
from tasks.detection.anchors import ANCHOR_SHAPES, make_anchors

# TensorFlow's SSD-MobileNet (feature_map_generators.py): four extra maps, each half the size of the one before.
EXTRA_CHANNELS = (512, 256, 256, 128)
_MIN_CHANNELS = 16


class Answer(NamedTuple):
    """What the network says: class_logits (B, A, columns), box_codes (B, A, 4), and anchors (A, 4) cxcywh in pixels."""

    class_logits: Tensor
    box_codes: Tensor
    anchors: Tensor


class SSD(nn.Module):
    """Single-shot detector on strides 16 and 32 of the trunk and four extra maps; 1,917 anchors at 300 x 300.

    `head="ssd"` is the paper's (Table 13): 1x1 predictors, full 3x3 convolutions to the extra maps. `head="ssdlite"`
    is MobileNetV2's (Sandler et al. 2018, section 6.2): depthwise separable ones in both places. `columns` is the
    number of class logits an anchor has: K with a sigmoid each, or K + 1 with background first.
    """

    def __init__(self, trunk: MobileNetV1, columns: int, head: Literal["ssd", "ssdlite"] = "ssd") -> None:
        super().__init__()
        self.trunk = trunk
        self.columns = columns
        numerics = trunk.numerics
        widths = [trunk.channels[16], trunk.channels[32]]
        self.extras = nn.ModuleList()
        for channels in EXTRA_CHANNELS:
            out = max(_MIN_CHANNELS, int(channels * trunk.width_mult))
            self.extras.append(_extra(widths[-1], out, head, numerics))
            widths.append(out)
        levels = [(width, len(row)) for width, row in zip(widths, ANCHOR_SHAPES, strict=True)]
        self.class_heads = nn.ModuleList(_predictor(w, n * columns, head, numerics) for w, n in levels)
        self.box_heads = nn.ModuleList(_predictor(w, n * 4, head, numerics) for w, n in levels)
        for module in (*self.extras.modules(), *self.class_heads.modules(), *self.box_heads.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.03, a=-0.06, b=0.06)  # as TensorFlow's
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self._anchors: dict[tuple, Tensor] = {}  # by map sizes, image size and device: made once for each

    def forward(self, images: Tensor) -> Answer:
        """Answer for uint8 (B, 3, H, W) RGB images of any size from 32 px up."""
        maps = self.trunk.features(normalize(images, self.trunk.preprocessing))
        levels = [maps[16], maps[32]]
        for extra in self.extras:
            levels.append(extra(levels[-1]))
        # The predictors compute in float32 under autocast too: a box code in bfloat16 has 8 bits, a pixel or two of a
        # large box, which cost 0.004 AP where we measured it, and they are a hundredth of the work.
        with torch.autocast("cpu" if images.is_meta else images.device.type, enabled=False):
            # (B, n * k, h, w) -> (B, h * w * n, k): the anchors' order, row, column, shape
            logits = [
                _by_anchor(head(x.float()), self.columns) for head, x in zip(self.class_heads, levels, strict=True)
            ]
            codes = [_by_anchor(head(x.float()), 4) for head, x in zip(self.box_heads, levels, strict=True)]
        anchors = self.anchors([tuple(x.shape[-2:]) for x in levels], tuple(images.shape[-2:]), images.device)
        return Answer(torch.cat(logits, dim=1), torch.cat(codes, dim=1), anchors)

    def anchors(self, map_sizes: list[tuple], image_size: tuple, device: torch.device) -> Tensor:
        """The anchors (A, 4) cxcywh in pixels for these (height, width) sizes, kept from the last time."""
        key = (*map_sizes, image_size, device)
        if key not in self._anchors:
            self._anchors[key] = make_anchors(map_sizes, image_size).to(device)
        return self._anchors[key]


def set_class_prior(model: SSD, probability: float) -> None:
    """Start every class logit at this probability, so that focal loss is not drowned by negatives at first.

    Lin et al. 2017, section 3.3; 0.01 is a bias of -4.6, as in TensorFlow's focal SSD-MobileNet.
    """
    prior = torch.tensor(probability).logit().item()
    for head in model.class_heads:
        nn.init.constant_(head[-1].bias, prior)  # type: ignore[index]


def _by_anchor(x: Tensor, columns: int) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, columns)  # (B, n * k, h, w) -> (B, h * w * n, k)


def _extra(in_channels: int, out_channels: int, head: str, numerics: Numerics) -> nn.Sequential:
    """Halve a map: 1x1 to half the width, then a 3x3 of stride 2, full or depthwise separable."""
    half = max(_MIN_CHANNELS, out_channels // 2)
    if head == "ssd":
        return nn.Sequential(
            *conv_norm_act(in_channels, half, 1, numerics),
            *conv_norm_act(half, out_channels, 3, numerics, stride=2),
        )
    return nn.Sequential(
        *conv_norm_act(in_channels, half, 1, numerics),
        *conv_norm_act(half, half, 3, numerics, stride=2, groups=half),
        *conv_norm_act(half, out_channels, 1, numerics),
    )


def _predictor(in_channels: int, out_channels: int, head: str, numerics: Numerics) -> nn.Sequential:
    """Predict all anchors of a cell: a biased 1x1 convolution, behind a depthwise 3x3 in ssdlite."""
    layers: list[nn.Module] = []
    if head == "ssdlite":
        layers += conv_norm_act(in_channels, in_channels, 3, numerics, groups=in_channels)
    return nn.Sequential(*layers, nn.Conv2d(in_channels, out_channels, 1))
