"""An image in, the task's result out: a checkpoint as a function of an image, for Python and for `predict`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from backbone import InputError
from backbone.timm_trunk import reparameterized
from data.images import open_image, to_array
from data.transforms import (
    apply_to_image,
    apply_with_boxes,
    build_classification_eval,
    build_detection_eval,
    needed_in_evaluation,
)
from tasks.module import TaskModule

_NO_BOXES = np.zeros((0, 4)), np.zeros(0, dtype=np.int64), np.zeros((0, 4))


class Predictor:
    """`predict(image)`: the result of a module's head for one image, in the image's own terms.

    `module` is in evaluation mode. The image is resized as in evaluation: its middle, `central_fraction` of the
    side, or with None the whole, squashed to the network's size. A trunk that has a form for inference takes it.
    """

    def __init__(self, module: TaskModule, central_fraction: float | None, interpolation: str = "bilinear") -> None:
        module.trunk = reparameterized(module.trunk)
        self.module = module.eval()
        self.head = module.head
        self._central_fraction, self._interpolation = central_fraction, interpolation
        self.resize_to(module.evaluated_size)
        self.data_options: dict[str, Any] = {}  # those of the data that the checkpoint was trained on

    def resize_to(self, size: tuple[int, int]) -> None:
        """Let images be resized to (height, width) px, where this is not what the module is evaluated at."""
        self.size = size
        if self._central_fraction is None:
            self._transform, self.at_least = build_detection_eval(size), None
        else:
            self._transform = build_classification_eval(size, self._central_fraction, self._interpolation)
            self.at_least = needed_in_evaluation(size, self._central_fraction)

    @classmethod
    def from_checkpoint(cls, module_class: type[TaskModule], path: str | Path, device: str = "cpu") -> "Predictor":
        """The predictor of a checkpoint of the module's task, with its EMA weights; or InputError."""
        module, checkpoint = module_class.from_checkpoint(path, device)
        options = checkpoint["datamodule_hyper_parameters"]
        predictor = cls(module, options.get("central_fraction"), options.get("interpolation", "bilinear"))
        predictor.data_options = options
        return predictor

    def open(self, image: str | Path | Image | np.ndarray) -> np.ndarray:
        """An image as uint8 RGB (H, W, 3), a large JPEG no larger than needed. InputError where it cannot be read."""
        return open_image(image, at_least=self.at_least) if isinstance(image, str | Path) else to_array(image)

    def pixels(self, image: np.ndarray) -> torch.Tensor:
        """What the network sees of a uint8 RGB (H, W, 3) image: uint8 (1, 3, height, width) on its device."""
        if self._central_fraction is None:
            resized = apply_with_boxes(self._transform, image, *_NO_BOXES, seed=0).image
        else:
            resized = apply_to_image(self._transform, image, seed=0)
        return torch.from_numpy(resized).permute(2, 0, 1)[None].to(self.module.device)  # (H, W, 3) -> (1, 3, H, W)

    @torch.inference_mode()
    def __call__(self, image: str | Path | Image | np.ndarray, **options: Any) -> Any:
        """The result for a path, a PIL image or a uint8 RGB (H, W, 3) array; `options` are those of `head.predict`.

        InputError where the image cannot be read.
        """
        array = self.open(image)
        size = array.shape[0], array.shape[1]
        [result] = self.head.predict(self.module(self.pixels(array)), [size], **options)
        return result


def check_at_least_1(name: str, value: int) -> None:
    """Raise InputError where a number of results, `top_k`, is below 1."""
    if value < 1:
        raise InputError(f"{name} is {value}; it must be 1 or more.")
