"""Trunk and pooled head, for every task that says something of a whole picture: uint8 images in, logits out."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from backbone import MobileNetV1, Numerics, normalize


class PooledClassifier(nn.Module):
    """Global average pooling, dropout and one linear layer on a trunk (Table 1's last rows).

    With a `bottleneck` that layer's matrix has this rank, as two without anything between: of 26,263 outputs its 27 M
    parameters become 7 M at 256.
    """

    def __init__(self, trunk: MobileNetV1, num_classes: int, dropout: float = 0.0, bottleneck: int = 0) -> None:
        super().__init__()
        self.trunk = trunk
        self.dropout = nn.Dropout(dropout)
        self.bottleneck = nn.Linear(trunk.channels[32], bottleneck, bias=False) if bottleneck else nn.Identity()
        self.head = nn.Linear(bottleneck or trunk.channels[32], num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Uint8 (B, 3, H, W) RGB images to logits (B, num_classes)."""
        return self.classify(self.pool(normalize(images, self.trunk.preprocessing)))

    def pool(self, images: Tensor) -> Tensor:
        """Normalised (B, 3, H, W) images to pooled features, float32 (B, channels)."""
        return self.trunk.features(images)[32].float().mean((2, 3))

    def classify(self, features: Tensor) -> Tensor:
        """Pooled features (B, channels) to logits (B, num_classes), in float32 under autocast too."""
        with torch.autocast("cpu" if features.is_meta else features.device.type, enabled=False):
            return self.head(self.bottleneck(self.dropout(features)))


def build_network(checkpoint: Mapping[str, Any]) -> PooledClassifier:
    """The network of a checkpoint of such a task, read by `read_checkpoint`, with its averaged weights.

    What was trained beside it, as a projector, is left behind.
    """
    settings = checkpoint["hyper_parameters"]
    state = checkpoint["state_dict"].items()
    weights = {name.removeprefix("model."): value for name, value in state if name.startswith("model.")}
    trunk = MobileNetV1(settings["width_mult"], numerics=Numerics.from_dict(settings["numerics"]))
    model = PooledClassifier(trunk, len(weights["head.bias"]), bottleneck=settings.get("bottleneck", 0))
    model.load_state_dict(weights)
    return model
