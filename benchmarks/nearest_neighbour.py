"""How near is the place of the training image that looks most alike? Features of a pretrained trunk, no training.

    python benchmarks/nearest_neighbour.py --weights FILE [--root DIR] [--image_size H W]

The bar that a trained net has to clear: cosine of the pooled features of whole images, on the test images of a
geotagged data set (by default the built-in sample), beside always predicting the most frequent cell's place.
"""

import argparse
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from tqdm import tqdm

from backbone import MobileNetV1, normalize, trunk_from
from backbone.accelerator import retain_freed_memory
from data.geotagged import GeotaggedDataModule
from tasks.geolocalization import s2
from tasks.geolocalization.cells import partitions_of
from tasks.geolocalization.metrics import nearness
from tasks.geolocalization.sphere import haversine_km

_SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")


@torch.inference_mode()
def features(trunk: MobileNetV1, data: GeotaggedDataModule, split: Literal["train", "test"]) -> torch.Tensor:
    """Unit vectors (N, channels) of the whole images of a split, in its order."""
    found = []
    for position in tqdm(range(len(data.records(split))), desc=split, leave=False):
        images = normalize(data.pixels(split, position), trunk.preprocessing)
        found.append(trunk.features(images)[32].mean((2, 3)))
    return F.normalize(torch.cat(found), dim=1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="of the trunk, as --model.weights takes them")
    parser.add_argument("--root", help="default: the built-in sample, drawn where it is not there")
    parser.add_argument("--image_size", type=int, nargs=2, default=(192, 256), help="height and width in px")
    parser.add_argument(
        "--max_images", type=int, default=40, help="of the partition whose most frequent cell is predicted"
    )
    parser.add_argument("--min_images", type=int, default=3)
    options = parser.parse_args()
    retain_freed_memory()
    data = GeotaggedDataModule(root=options.root, image_size=list(options.image_size), central_fraction=1.0)
    data.setup("fit")
    data.setup("test")
    trunk = trunk_from({"weights": str(options.weights)}).eval()
    known, scored = (features(trunk, data, split) for split in _SPLITS)
    nearest = (scored @ known.T).argmax(1).numpy()
    latlng, truth = data.train_latlng(), data.records("test")["latlng"]
    [cells] = partitions_of(s2.leaf_ids(latlng), [options.max_images], min_images=options.min_images)
    frequent = cells.latlng[cells.counts.argmax()]
    for name, predicted in (("nearest neighbour", latlng[nearest]), ("most frequent cell", frequent)):
        distance = haversine_km(predicted, truth)
        *shares, (_, median) = nearness(distance).items()
        print(f"{name}: {', '.join(f'{figure} {share:.3f}' for figure, share in shares)}, median {median:,.0f} km")


if __name__ == "__main__":
    main()
