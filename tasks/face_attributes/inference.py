"""A checkpoint as a function of a photograph of a face."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL.Image import Image

from data.images import open_image, to_array
from data.transforms import apply_to_image, build_classification_eval, needed_in_evaluation
from tasks.pooled import PooledClassifier, build_network
from tasks.runs import read_checkpoint


class Described(NamedTuple):
    """What is said of one face: names, their probabilities (K,), and whether each is above its threshold, bool (K,)."""

    names: tuple[str, ...]
    probabilities: np.ndarray
    present: np.ndarray


class FaceAttributes:
    """`describe(photograph)`; `model` is the network, `names` its outputs, `thresholds` (K,) in probability."""

    def __init__(
        self,
        model: PooledClassifier,
        names: tuple[str, ...],
        thresholds: np.ndarray,
        input_size: tuple[int, int],
        central_fraction: float,
    ) -> None:
        self.model = model.eval()
        self.names = names
        self.thresholds = thresholds
        self.input_size = input_size
        self.at_least = needed_in_evaluation(input_size, central_fraction)
        self._crop = build_classification_eval(input_size, central_fraction)

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "cpu") -> "FaceAttributes":
        """Build the network that a checkpoint describes, with its averaged weights; InputError as `read_checkpoint`."""
        checkpoint = read_checkpoint(path, "face_attributes")
        settings, central = (
            checkpoint["hyper_parameters"],
            checkpoint["datamodule_hyper_parameters"]["central_fraction"],
        )
        names, thresholds = tuple(settings["categories"].values()), np.array(checkpoint["thresholds"])
        return cls(build_network(checkpoint).to(device), names, thresholds, tuple(settings["input_size"]), central)

    @torch.inference_mode()
    def __call__(self, photograph: str | Path | Image | np.ndarray) -> Described:
        """Describe a path, a PIL image or a uint8 RGB (H, W, 3) array. InputError where it cannot be read."""
        if isinstance(photograph, str | Path):
            image = open_image(photograph, at_least=self.at_least)
        else:
            image = to_array(photograph)
        pixels = torch.from_numpy(apply_to_image(self._crop, image, seed=0)).permute(2, 0, 1)[None]  # (1, 3, H, W)
        probabilities = self.model(pixels.to(self.model.head.weight.device))[0].sigmoid().cpu().numpy()
        return Described(self.names, probabilities, probabilities >= self.thresholds)


def load_network(path: str | Path) -> tuple[PooledClassifier, tuple[str, ...]]:
    """The network of a checkpoint and its attributes' names, for a teacher. InputError as `read_checkpoint`."""
    checkpoint = read_checkpoint(path, "face_attributes")
    return build_network(checkpoint), tuple(checkpoint["hyper_parameters"]["categories"].values())
