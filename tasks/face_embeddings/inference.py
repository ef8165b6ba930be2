"""A checkpoint as a function of a photograph of a face."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image

from data.images import open_image, to_array
from data.transforms import apply_to_image, build_classification_eval, needed_in_evaluation
from tasks.pooled import PooledClassifier, build_network
from tasks.runs import read_checkpoint


class FaceEmbedder:
    """`embed(photograph)`; `model` is the network, without the projector that training may have had.

    `threshold` is the squared distance up to which two pictures are taken for one person, chosen on the validation
    pairs; None where there were none.
    """

    def __init__(
        self, model: PooledClassifier, input_size: tuple[int, int], central_fraction: float, threshold: float | None
    ) -> None:
        self.model = model.eval()
        self.input_size = input_size
        self.threshold = threshold
        self.at_least = needed_in_evaluation(input_size, central_fraction)
        self._crop = build_classification_eval(input_size, central_fraction)

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "cpu") -> "FaceEmbedder":
        """Build the network that a checkpoint describes, with its averaged weights; InputError as `read_checkpoint`."""
        checkpoint = read_checkpoint(path, "face_embeddings")
        central = checkpoint["datamodule_hyper_parameters"]["central_fraction"]
        size = tuple(checkpoint["hyper_parameters"]["input_size"])
        return cls(build_network(checkpoint).to(device), size, central, checkpoint["threshold"])

    @torch.inference_mode()
    def __call__(self, photograph: str | Path | Image | np.ndarray) -> np.ndarray:
        """Embed a path, a PIL image or a uint8 RGB (H, W, 3) array: float32 (D,) of length 1.

        InputError where it cannot be read.
        """
        if isinstance(photograph, str | Path):
            image = open_image(photograph, at_least=self.at_least)
        else:
            image = to_array(photograph)
        pixels = torch.from_numpy(apply_to_image(self._crop, image, seed=0)).permute(2, 0, 1)[None]  # (1, 3, H, W)
        return F.normalize(self.model(pixels.to(self.model.head.weight.device)))[0].cpu().numpy()


def load_network(path: str | Path) -> tuple[PooledClassifier, tuple[str, ...]]:
    """The network of a checkpoint, for a teacher; its answers have no names. InputError as `read_checkpoint`."""
    return build_network(read_checkpoint(path, "face_embeddings")), ()
