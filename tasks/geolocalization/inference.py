"""A checkpoint as a function of a photograph: it holds its cells and needs nothing else."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL.Image import Image

from backbone import InputError
from data.geotagged import size_for_crops
from data.images import open_image, to_array
from data.transforms import apply_to_image, build_classification_eval, needed_in_evaluation
from tasks.geolocalization import s2
from tasks.geolocalization.answers import top_places
from tasks.geolocalization.atlas import Answer, Atlas, five_crops
from tasks.geolocalization.cells import Partition
from tasks.pooled import PooledClassifier, build_network
from tasks.runs import read_checkpoint


class Found(NamedTuple):
    """Where one photograph was taken. The K likeliest cells come best first."""

    latlng: np.ndarray  # (2,) degrees: the answer
    half_radius_km: float  # within which half of the probability lies
    places_latlng: np.ndarray  # (K, 2) the cells' points
    place_probabilities: np.ndarray  # (K,)
    cells: np.ndarray  # (K,) int64 of the finest partition
    tokens: list[str]  # K names of S2 cells
    probabilities: np.ndarray  # (C,) of all cells of the finest partition


class Geolocator:
    """`locate(photograph)`; `model` is the network and `atlas` its cells."""

    def __init__(
        self, model: PooledClassifier, atlas: Atlas, input_size: tuple[int, int], central_fraction: float, crops: int
    ) -> None:
        self.model = model.eval()
        self.atlas = atlas
        self.input_size = input_size
        size = size_for_crops(input_size) if crops == 5 else input_size
        self.at_least = needed_in_evaluation(size, central_fraction)
        self._crop = build_classification_eval(size, central_fraction)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, device: str = "cpu", *, crops: int | None = None, answer: Answer | None = None
    ) -> "Geolocator":
        """Build the network that a checkpoint describes, with its averaged weights; InputError as `read_checkpoint`.

        `crops` (1 or 5) and `answer` are the checkpoint's unless given.
        """
        checkpoint = read_checkpoint(path, "geolocalization")
        settings, of_data = checkpoint["hyper_parameters"], checkpoint["datamodule_hyper_parameters"]
        partitions = [Partition.from_dict(entries) for entries in checkpoint["partitions"]]
        atlas = Atlas(partitions, answer or settings["answer"], settings["mode_radius_km"])
        size = tuple(settings["input_size"])
        model = build_network(checkpoint).to(device)
        return cls(model, atlas, size, of_data["central_fraction"], crops or of_data["crops"])

    @torch.inference_mode()
    def __call__(self, photograph: str | Path | Image | np.ndarray, *, top_k: int = 5) -> Found:
        """Locate a path, a PIL image or a uint8 RGB (H, W, 3) array. InputError where it cannot be read."""
        if top_k < 1:
            raise InputError(f"top_k is {top_k}; it must be 1 or more.")
        if isinstance(photograph, str | Path):
            image = open_image(photograph, at_least=self.at_least)
        else:
            image = to_array(photograph)
        pixels = torch.from_numpy(apply_to_image(self._crop, image, seed=0)).permute(2, 0, 1)[None]  # (1, 3, H, W)
        crops = five_crops(pixels, self.input_size)[0].to(self.model.head.weight.device)
        located = self.atlas.locate(self.model(crops)[None])
        finest = self.atlas.finest
        places = top_places(located.probabilities, finest.points, top_k)
        return Found(
            located.latlng[0],
            float(self.atlas.half_radius_km(located)[0]),
            places.latlng[0],
            places.probability[0],
            places.cells[0],
            s2.tokens(finest.ids[places.cells[0]]),
            located.probabilities[0],
        )
