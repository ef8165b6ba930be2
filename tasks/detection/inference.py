"""A checkpoint as a function of a photograph."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL.Image import Image

from backbone import MobileNetV1, Numerics
from data.images import open_image, to_array
from data.transforms import apply_with_boxes, build_detection_eval
from tasks.detection.model import SSD
from tasks.detection.postprocess import postprocess
from tasks.runs import read_checkpoint

_NO_BOXES = np.zeros((0, 4)), np.zeros(0, dtype=np.int64), np.zeros((0, 4))


class Found(NamedTuple):
    """Objects of one photograph, best first: boxes_xyxy (N, 4) in its pixels, scores (N,), names and original ids."""

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    names: list[str]
    category_ids: np.ndarray


class Detector:
    """`detect(photograph)`; `model` is the network, `categories` {id: name}, `input_size` its (height, width)."""

    def __init__(
        self, model: SSD, categories: dict[int, str], input_size: tuple[int, int], class_agnostic: bool = False
    ) -> None:
        self.model = model.eval()
        self.categories = categories
        self.input_size = input_size
        self.class_agnostic = class_agnostic
        self._resize = build_detection_eval(input_size)

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "cpu") -> "Detector":
        """Build the network that a checkpoint describes, with its averaged weights; InputError as `read_checkpoint`."""
        checkpoint = read_checkpoint(path, "detection")
        settings: dict[str, Any] = checkpoint["hyper_parameters"]
        categories = settings["categories"]
        trunk = MobileNetV1(settings["width_mult"], numerics=Numerics.from_dict(settings["numerics"]))
        model = SSD(trunk, len(categories) + (settings["loss"] == "multibox"), settings["head"])
        weights = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
        model.load_state_dict(weights)
        return cls(model.to(device), categories, tuple(settings["input_size"]), settings["class_agnostic"])

    @torch.inference_mode()
    def __call__(self, photograph: str | Path | Image | np.ndarray, *, min_score: float = 0.3) -> Found:
        """Detect in a path, a PIL image or a uint8 RGB (H, W, 3) array; keep what scores over `min_score`.

        InputError where the photograph cannot be read.
        """
        image = open_image(photograph) if isinstance(photograph, str | Path) else to_array(photograph)
        resized = apply_with_boxes(self._resize, image, *_NO_BOXES, seed=0).image
        pixels = torch.from_numpy(resized).permute(2, 0, 1)[None]  # (H, W, 3) -> (1, 3, H, W)
        device = next(self.model.parameters()).device
        [found] = postprocess(
            self.model(pixels.to(device)),
            len(self.categories),
            self.input_size,
            [image.shape[:2]],
            min_score=min_score,
            class_agnostic=self.class_agnostic,
        )
        boxes, scores, labels = (value.cpu().numpy() for value in found)
        ids = np.array(list(self.categories), dtype=np.int64)[labels]
        return Found(boxes, scores, [self.categories[i] for i in ids.tolist()], ids)
