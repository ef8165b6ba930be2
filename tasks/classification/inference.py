"""A checkpoint, or another project's ImageNet classifier, as a function of a photograph."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL.Image import Image

from backbone import InputError, MobileNetV1, load_pretrained, read_pretrained
from data import imagenet
from data.images import open_image, to_array
from data.transforms import apply_to_image, build_classification_eval, needed_in_evaluation
from tasks.classification.model import load_classifier
from tasks.pooled import PooledClassifier, build_network
from tasks.runs import read_checkpoint


class Classified(NamedTuple):
    """The likeliest classes of one photograph, best first: names, and their probabilities (K,)."""

    names: list[str]
    probabilities: np.ndarray


class PhotoClassifier:
    """`classify(photograph)`; `model` is the network, `class_names` its outputs, `input_size` its (height, width).

    Logits are divided by `temperature`, which validation chose so that probabilities mean what they say. `at_least`
    (height, width) px is as much of a photograph as it needs, for `open_image`.
    """

    def __init__(
        self,
        model: PooledClassifier,
        class_names: tuple[str, ...],
        input_size: tuple[int, int],
        central_fraction: float = 0.875,
        temperature: float = 1.0,
    ) -> None:
        self.model = model.eval()
        self.class_names = class_names
        self.input_size = input_size
        self.temperature = temperature
        self.of_boxes = False  # trained on pictures cut to their object, as photographs are to be then
        self._crop = build_classification_eval(input_size, central_fraction)
        self.at_least = needed_in_evaluation(input_size, central_fraction)

    @classmethod
    def from_file(cls, path: str | Path, device: str = "cpu") -> "PhotoClassifier":
        """Build the network of a checkpoint of this task, or of a file that `--model.weights` takes; or InputError."""
        if Path(path).suffix == ".ckpt":
            return cls._from_checkpoint(path, device)
        return cls._from_weights(path, device)

    @classmethod
    def _from_checkpoint(cls, path: str | Path, device: str) -> "PhotoClassifier":
        checkpoint = read_checkpoint(path, "classification")
        size = tuple(checkpoint["hyper_parameters"]["input_size"])
        central = checkpoint["datamodule_hyper_parameters"]["central_fraction"]
        model, temperature = build_network(checkpoint).to(device), checkpoint["temperature"] or 1.0
        classify = cls(model, _class_names(checkpoint), size, central, temperature)
        classify.of_boxes = checkpoint["datamodule_hyper_parameters"]["crop"] == "bbox"
        return classify

    @classmethod
    def _from_weights(cls, path: str | Path, device: str) -> "PhotoClassifier":
        pretrained = read_pretrained(path)
        trunk = MobileNetV1(pretrained.width_mult, numerics=pretrained.numerics)
        load_pretrained(trunk, pretrained)
        model = PooledClassifier(trunk, len(imagenet.class_names()))
        load_classifier(model, pretrained, path)
        side = pretrained.numerics.preprocessing.image_size
        return cls(model.to(device), imagenet.class_names(), (side, side))

    @torch.inference_mode()
    def __call__(self, photograph: str | Path | Image | np.ndarray, *, top_k: int = 5) -> Classified:
        """Classify a path, a PIL image or a uint8 RGB (H, W, 3) array. InputError where it cannot be read."""
        if top_k < 1:
            raise InputError(f"top_k is {top_k}; it must be 1 or more.")
        if isinstance(photograph, str | Path):
            image = open_image(photograph, at_least=self.at_least)
        else:
            image = to_array(photograph)
        pixels = torch.from_numpy(apply_to_image(self._crop, image, seed=0)).permute(2, 0, 1)[None]  # (1, 3, H, W)
        logits = self.model(pixels.to(self.model.head.weight.device))[0]
        probabilities, labels = (logits / self.temperature).softmax(0).topk(min(top_k, len(self.class_names)))
        return Classified([self.class_names[label] for label in labels.tolist()], probabilities.cpu().numpy())


def load_network(path: str | Path) -> tuple[PooledClassifier, tuple[str, ...]]:
    """The network of a checkpoint and its classes' names, for a teacher. InputError as `read_checkpoint`."""
    checkpoint = read_checkpoint(path, "classification")
    return build_network(checkpoint), _class_names(checkpoint)


def _class_names(checkpoint: dict[str, Any]) -> tuple[str, ...]:
    settings = checkpoint["hyper_parameters"]
    return imagenet.class_names() if settings["head"] == "imagenet" else tuple(settings["categories"].values())
