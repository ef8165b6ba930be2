"""What every task that says something of a whole image has on its trunk: pooling, dropout and one linear layer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from backbone import Trunk, normalize, trunk_from


class PooledLinear(nn.Module):
    """Global average pooling, dropout and one linear layer on the map of stride 32 (Table 1's last rows).

    With a `bottleneck` that layer's matrix has this rank, as two without anything between: of 26,263 outputs its 27 M
    parameters become 7 M at 256. A head holds it as `layers`.
    """

    def __init__(self, channels: Mapping[int, int], outputs: int, dropout: float = 0.0, bottleneck: int = 0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.bottleneck = nn.Linear(channels[32], bottleneck, bias=False) if bottleneck else nn.Identity()
        self.linear = nn.Linear(bottleneck or channels[32], outputs)
        nn.init.trunc_normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, maps: Mapping[int, Tensor]) -> Tensor:
        """A trunk's maps to logits (B, outputs), in float32 under autocast too."""
        return self.classify(pool(maps))

    def classify(self, features: Tensor) -> Tensor:
        """Pooled features (B, channels) to logits (B, outputs)."""
        with torch.autocast("cpu" if features.is_meta else features.device.type, enabled=False):
            return self.linear(self.bottleneck(self.dropout(features)))


def pool(maps: Mapping[int, Tensor]) -> Tensor:
    """The mean of the map of stride 32 over its places: float32 (B, channels)."""
    return maps[32].float().mean((2, 3))


class PooledNetwork(nn.Module):
    """A trunk with a pooled linear layer as one network, for a teacher or for counting: uint8 images in, logits out."""

    def __init__(self, trunk: Trunk, layers: PooledLinear) -> None:
        super().__init__()
        self.trunk = trunk
        self.layers = layers

    def forward(self, images: Tensor) -> Tensor:
        """Uint8 (B, 3, H, W) RGB images to logits (B, outputs)."""
        return self.layers(self.trunk.features(normalize(images, self.trunk.preprocessing)))

    def pool(self, images: Tensor) -> Tensor:
        """Uint8 (B, 3, H, W) RGB images to the features that the linear layer sees, float32 (B, channels)."""
        return pool(self.trunk.features(normalize(images, self.trunk.preprocessing)))


def pooled_network(checkpoint: Mapping[str, Any]) -> PooledNetwork:
    """The network of a checkpoint of any task with such a head, read by `read_checkpoint`, with its EMA weights.

    What was trained beside it, as a projector, is left behind. KeyError where the checkpoint has another head.
    """
    states: dict[str, dict[str, Tensor]] = {"trunk.": {}, "head.layers.": {}}
    for name, value in checkpoint["state_dict"].items():
        for prefix, state in states.items():
            if name.startswith(prefix):
                state[name.removeprefix(prefix)] = value
    trunk, layers = trunk_from(checkpoint["trunk"]), states["head.layers."]
    bottleneck = len(layers["bottleneck.weight"]) if "bottleneck.weight" in layers else 0
    network = PooledNetwork(trunk, PooledLinear(trunk.channels, len(layers["linear.bias"]), bottleneck=bottleneck))
    network.trunk.load_state_dict(states["trunk."])
    network.layers.load_state_dict(layers)
    return network.eval()
