"""How near is the place of the training photograph that looks most alike? Features of a pretrained trunk, no training.

    python benchmarks/nearest_neighbour.py --weights FILE [--root DIR] [--image_size H W]

The bar that a trained net has to clear: cosine of the pooled features of whole pictures, on the test photographs of a
geotagged data set (by default the built-in sample), beside always answering the most frequent cell's place.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from backbone import MobileNetV1, load_pretrained, normalize, read_pretrained
from data.geotagged import GeotaggedDataModule
from tasks.accelerator import retain_freed_memory
from tasks.geolocalization.cells import build_partition
from tasks.geolocalization.metrics import within
from tasks.geolocalization.sphere import haversine_km


@torch.inference_mode()
def features(trunk: MobileNetV1, data: GeotaggedDataModule, split: str) -> torch.Tensor:
    """Unit vectors (N, channels) of the whole pictures of a split, in its order."""
    found = []
    for position in tqdm(range(len(data._splits[split])), desc=split, leave=False):
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
        "--max_photos", type=int, default=40, help="of the partition whose most frequent cell is answered"
    )
    parser.add_argument("--min_photos", type=int, default=3)
    options = parser.parse_args()
    retain_freed_memory()
    data = GeotaggedDataModule(options.root, image_size=list(options.image_size), central_fraction=1.0)
    data.setup("fit")
    data.setup("test")
    pretrained = read_pretrained(options.weights)
    trunk = MobileNetV1(pretrained.width_mult, numerics=pretrained.numerics).eval()
    load_pretrained(trunk, pretrained)
    known, asked = (features(trunk, data, split) for split in ("train", "test"))
    nearest = (asked @ known.T).argmax(1).numpy()
    places, truth = data.train_latlng(), data.latlng("test", np.arange(len(asked)).tolist())
    cells = build_partition(places, max_photos=options.max_photos, min_photos=options.min_photos)
    frequent = cells.latlng[cells.counts.argmax()]
    for name, answer in (("nearest neighbour", places[nearest]), ("most frequent cell", frequent)):
        distance = haversine_km(answer, truth)
        shares = ", ".join(f"{figure} {share:.3f}" for figure, share in within(distance).items())
        print(f"{name}: {shares}, median {np.median(distance):,.0f} km")


if __name__ == "__main__":
    main()
