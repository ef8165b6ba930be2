"""The LightningModule of geolocalization: its options."""

from typing import Any, Literal

import torch
from torch import Tensor

from backbone.errors import InputError, check_options
from tasks.geolocalization.head import GeolocalizationHead
from tasks.geolocalization.hierarchy import Decode
from tasks.module import TRUNK_OPTIONS, TaskModule


class GeolocalizationModule(TaskModule):
    """A net of C cells of the Earth's surface, which a checkpoint holds.

    Args:
        input_size: (height, width) in pixels; the data say it.
        partition: File of cells that the `partition` command wrote, or several of a hierarchy; by default cells are
            built from the training images.
        max_images: A cell of more images is split. Several numbers make a hierarchy, which is learned together.
        min_images: A cell of fewer is dropped, with its images.
        points: What is predicted for a cell is the mean direction of its images, or its centre.
        bottleneck: Rank of the last layer's matrix; 0 is full. At 256, 26,263 cells take 10 M parameters, not 30 M.
        dropout: Of the pooled features.
        loss: Cross-entropy with the cell (the paper's), or with labels that fall off with the distance (haversine).
        tau_km: How fast those fall off, in km.
        decode: The best cell; the best by the product down the hierarchy; or the mean position around that.
        weight_decay: Never on norms, biases and depthwise filters.

    """

    task = "geolocalization"
    shape_options = (*TRUNK_OPTIONS, "partition", "max_images", "min_images", "points", "bottleneck")
    seen_as_trained = ("image_size", "central_fraction", "interpolation")
    head: GeolocalizationHead

    def __init__(
        self,
        input_size: tuple[int, int],
        partition: str | list[str] | None = None,
        max_images: int | list[int] = 10_000,
        min_images: int = 50,
        points: Literal["mean", "centre"] = "mean",
        bottleneck: int = 0,
        dropout: float = 0.0,
        loss: Literal["cross_entropy", "haversine"] = "cross_entropy",
        tau_km: float = 65.0,
        decode: Decode = "best",
        weight_decay: float = 0.05,
        **options: Any,
    ) -> None:
        check_options(
            "model",
            ("bottleneck", bottleneck, bottleneck >= 0, "0 (none) or more"),
            ("tau_km", tau_km, 0 < tau_km < float("inf"), "above 0, and the smaller, the closer to plain labels"),
        )
        super().__init__(weight_decay=weight_decay, **options)
        head = GeolocalizationHead(
            self.trunk.channels,
            partition=[partition] if isinstance(partition, str) else partition or (),
            max_images=[max_images] if isinstance(max_images, int) else max_images,
            min_images=min_images,
            points=points,
            bottleneck=bottleneck,
            dropout=dropout,
            loss_kind=loss,
            tau_km=tau_km,
            decode=decode,
        )
        self.attach(head)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, crops, sum of all C) of uint8 (B, 3, H, W) RGB images, of the input's size or larger."""
        crops = five_crops(images, self.hparams["input_size"])
        return super().forward(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])

    def evaluated(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Say whether a report follows, which needs more than a validation of `fit`."""
        return {**batch, "reported": self.trainer.state.fn != "fit"}


def five_crops(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The four corners and the centre of images (B, 3, H, W), each of `size` (height, width): (B, 5, 3, height, width).

    Images of that very size are their only crop, (B, 1, 3, H, W). Raises InputError for smaller ones.
    """
    height, width = images.shape[2:]
    if (height, width) == tuple(size):
        return images[:, None]
    down, right = height - size[0], width - size[1]
    if down < 0 or right < 0:
        raise InputError(f"images of {height} x {width} px have no crops of {size[0]} x {size[1]} px.")
    corners = ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2))
    return torch.stack([images[:, :, top : top + size[0], left : left + size[1]] for top, left in corners], 1)
