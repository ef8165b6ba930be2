"""Default boxes of SSD-MobileNet, and the code that ties a box to one (Liu et al. 2016, arXiv 1512.02325, section 2.2).

Everything is in pixels of the network's input, and made from the real sizes of the feature maps, so any image size,
square or not, has its anchors and a checkpoint loads at any of them.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

# One row a feature map, finest first: (side relative to the image's shorter side, width / height) of each anchor.
# TensorFlow's SSD-MobileNet (multiple_grid_anchor_generator.py): scales 0.2 to 0.95; the finest map is reduced to three
# anchors; every other has five aspect ratios at s_k and a square one at sqrt(s_k * s_k+1), the last s_k+1 being 1.
_SCALES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)
ANCHOR_SHAPES: tuple[tuple[tuple[float, float], ...], ...] = (
    ((0.1, 1.0), (0.2, 2.0), (0.2, 0.5)),
    *(
        (*((scale, ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 1 / 3)), ((scale * following) ** 0.5, 1.0))
        for scale, following in pairwise(_SCALES[1:])
    ),
)

# Scales of the code: offsets of the centre count ten times, log sizes five times (the paper's "variances" 0.1 and 0.2).
_CENTRE_SCALE, _SIZE_SCALE = 10.0, 5.0
# exp() of a log size is capped where a box is 1000/16 times its anchor, so that an untrained net gives no infinity.
_MAX_LOG_SIZE = 4.135


def make_anchors(map_sizes: Sequence[tuple[int, int]], image_size: tuple[int, int]) -> Tensor:
    """Make the anchors of all maps, (A, 4) cxcywh in input pixels, float32, not clipped to the image.

    Order: map, row, column, shape. `map_sizes` and `image_size` are (height, width); a shape's scale is a share of
    the image's shorter side, as in TensorFlow's generator.
    """
    height, width = image_size
    shorter = min(image_size)
    parts = []
    for (rows, columns), shapes in zip(map_sizes, ANCHOR_SHAPES, strict=True):
        cy = (torch.arange(rows, dtype=torch.float64) + 0.5) * (height / rows)
        cx = (torch.arange(columns, dtype=torch.float64) + 0.5) * (width / columns)
        sides = torch.tensor([(s * r**0.5, s / r**0.5) for s, r in shapes], dtype=torch.float64) * shorter
        grid = torch.empty(rows, columns, len(shapes), 4, dtype=torch.float64)
        grid[..., 0] = cx[None, :, None]
        grid[..., 1] = cy[:, None, None]
        grid[..., 2:] = sides
        parts.append(grid.flatten(0, 2))  # (rows * columns * shapes, 4)
    return torch.cat(parts).float()


def encode(boxes_xyxy: Tensor, anchors: Tensor) -> Tensor:
    """Code boxes (..., 4) xyxy against anchors (..., 4) cxcywh, both in pixels: the network's target."""
    sizes = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    centres = boxes_xyxy[..., :2] + sizes / 2
    offsets = (centres - anchors[..., :2]) / anchors[..., 2:] * _CENTRE_SCALE
    return torch.cat([offsets, (sizes / anchors[..., 2:]).log() * _SIZE_SCALE], dim=-1)


def decode(codes: Tensor, anchors: Tensor) -> Tensor:
    """Turn codes (..., 4) back into boxes (..., 4) xyxy in pixels; the inverse of `encode`."""
    centres = codes[..., :2] / _CENTRE_SCALE * anchors[..., 2:] + anchors[..., :2]
    halves = (codes[..., 2:] / _SIZE_SCALE).clamp(max=_MAX_LOG_SIZE).exp() * anchors[..., 2:] / 2
    return torch.cat([centres - halves, centres + halves], dim=-1)
