"""Augmentation: the only file that knows albumentations. SSD's random crop for boxes, Inception's for whole images.

SSD's crop is ours, because `BBoxSafeRandomCrop` and its kin keep every box: with 11 boxes in an image their median
crop is 90 % of the area, where SSD's is about half, and small objects never become large ones.
"""

import math
import os
import random
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # on import it would ask PyPI for its newest version

import albumentations as A
import cv2
import numpy as np
from PIL import Image

Transform = Callable[..., dict[str, Any]]

_SMOOTHED = 2.5  # the shrink above which pixels are averaged


class Transformed(NamedTuple):
    """What `apply_with_boxes` returns; boxes in px of the new image, `0 <= x1 < x2 <= W`, 1 px or more each way."""

    image: np.ndarray  # uint8 (H, W, 3)
    boxes_xyxy: np.ndarray  # float32 (N, 4)
    labels: np.ndarray  # int64 (N,)
    crowd_xyxy: np.ndarray  # float32 (M, 4)


class SSDRandomCrop(A.DualTransform):
    """SSD's crop with the seven options of TF's `ssd_random_crop` (object_detection/core/preprocessor.py).

    15 % of the images stay whole. Otherwise one minimum overlap is drawn, and then windows of 0.1 to 1 of the area and
    0.5 to 2 in width to height, until one covers that fraction of at least one object; if none of 50 does, the image
    stays whole. As in TF an image without objects counts as one object.
    Deviation: TF keeps a box by the drawn overlap, which at 0 keeps slivers; here, as in the SSD paper (section 2.2), a
    box is kept, clipped, when its centre lies in the window, and a window must hold at least one centre.
    Crowd regions (sixth column 1) choose no window and keep whatever part of them is left: they only say "do not look".
    """

    MIN_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    AREA = (0.1, 1.0)
    ASPECT = (0.5, 2.0)
    ATTEMPTS = 50

    _targets = (A.core.type_definitions.Targets.IMAGE, A.core.type_definitions.Targets.BBOXES)

    def __init__(self, p: float = 0.85) -> None:
        super().__init__(p=p)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draws the window, `crop` = (x1, y1, x2, y2) in whole px; all attempts at once, the first that serves."""
        height, width = params["shape"][:2]
        boxes = data["bboxes"]  # (N, 6), 0 to 1 of the image
        objects = boxes[boxes[:, 5] == 0, :4] if len(boxes) else np.zeros((0, 4))
        if not len(objects):
            objects = np.array([[0.0, 0.0, 1.0, 1.0]])
        objects = objects * (width, height, width, height)
        windows = self._windows(height, width)
        if not len(windows):  # a strip so thin that no window of these proportions is large enough
            return {"crop": (0, 0, width, height)}

        top_left = np.maximum(windows[:, None, :2], objects[None, :, :2])  # (W, N, 2)
        bottom_right = np.minimum(windows[:, None, 2:], objects[None, :, 2:])
        shared = np.clip(bottom_right - top_left, 0, None).prod(axis=2)  # (W, N)
        covered = shared / np.maximum((objects[:, 2:] - objects[:, :2]).prod(axis=1), 1e-9)
        # the slack lets "all of it" survive the rounding of the boxes' fractions
        enough = (covered >= self.py_random.choice(self.MIN_OVERLAPS) - 1e-6).any(axis=1)
        serves = np.flatnonzero(enough & _holds_centre(windows[:, None], objects[None]).any(axis=1))
        return {"crop": tuple(windows[serves[0]].tolist()) if len(serves) else (0, 0, width, height)}

    def _windows(self, height: int, width: int) -> np.ndarray:
        """Up to ATTEMPTS windows (W, 4) xyxy inside the image, drawn as TF draws them: ratio, height, then place."""
        draw = self.random_generator.random((4, self.ATTEMPTS))
        ratio = self.ASPECT[0] + draw[0] * (self.ASPECT[1] - self.ASPECT[0])  # width / height
        smallest = np.sqrt(self.AREA[0] * height * width / ratio)
        largest = np.minimum(np.minimum(height, width / ratio), np.sqrt(self.AREA[1] * height * width / ratio))
        window_height = smallest + draw[1] * (largest - smallest)
        rows = np.maximum(np.rint(window_height), 1).astype(int)
        columns = np.clip(np.rint(window_height * ratio), 1, width).astype(int)
        x1 = (draw[2] * (width - columns + 1)).astype(int)
        y1 = (draw[3] * (height - rows + 1)).astype(int)
        return np.stack([x1, y1, x1 + columns, y1 + rows], axis=1)[smallest <= largest]

    def apply(self, img: np.ndarray, crop: tuple[int, int, int, int], **params: Any) -> np.ndarray:
        """Cuts the window out of the image."""
        x1, y1, x2, y2 = crop
        return img[y1:y2, x1:x2]

    def apply_to_bboxes(self, bboxes: np.ndarray, crop: tuple[int, int, int, int], **params: Any) -> np.ndarray:
        """Keeps boxes whose centre is in the window, and crowds that touch it, clipped; fractions in and out."""
        if not len(bboxes):
            return bboxes
        height, width = params["shape"][:2]
        x1, y1, x2, y2 = crop
        boxes = bboxes.copy()
        boxes[:, :4] *= (width, height, width, height)
        keep = _holds_centre(np.array(crop), boxes) | (boxes[:, 5] == 1)
        boxes = boxes[keep]
        boxes[:, :4] = (boxes[:, :4] - (x1, y1, x1, y1)) / (x2 - x1, y2 - y1, x2 - x1, y2 - y1)
        boxes[:, :4] = boxes[:, :4].clip(0, 1)  # a crowd outside has no area left and is dropped by BboxParams
        return boxes


def _holds_centre(windows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether each window (..., 4) holds the centre of each box (..., 4+); xyxy in px, broadcast against each other."""
    centre = (boxes[..., :2] + boxes[..., 2:4]) / 2
    return ((windows[..., :2] <= centre) & (centre < windows[..., 2:4])).all(axis=-1)


class Squash(A.Resize):
    """Resizes to `height` x `width` px without regard to the aspect, as SSD does; boxes, being fractions, stay."""

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Resizes the image, smoothed where it shrinks much."""
        return _resize(img, self.height, self.width)


class AreaCrop(A.RandomResizedCrop):
    """Inception's crop (Szegedy et al. 2015, section 6): a random part of the area, 3:4 to 4:3, resized to `size`."""

    def apply(self, img: np.ndarray, crop_coords: tuple[int, int, int, int], **params: Any) -> np.ndarray:
        """Cuts the window out and resizes it, smoothed where it shrinks much."""
        x1, y1, x2, y2 = crop_coords
        return _resize(img[y1:y2, x1:x2], *self.size)


class CentralCrop(A.ImageOnlyTransform):
    """The middle of the image, in the proportions of `height` x `width`: `fraction` of the longest side that fits."""

    def __init__(self, height: int, width: int, fraction: float, interpolation: str, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.height, self.width, self.fraction, self.interpolation = height, width, fraction, interpolation

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Cuts and resizes."""
        scale = self.fraction * min(img.shape[0] / self.height, img.shape[1] / self.width)
        height = min(img.shape[0], max(1, round(scale * self.height)))
        width = min(img.shape[1], max(1, round(scale * self.width)))
        top, left = (img.shape[0] - height) // 2, (img.shape[1] - width) // 2
        cut = img[top : top + height, left : left + width]
        if self.interpolation == "bicubic":  # Pillow's, which averages what it shrinks, as timm and torchvision do
            return np.array(Image.fromarray(cut).resize((self.width, self.height), Image.Resampling.BICUBIC))
        return _resize(cut, self.height, self.width)


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear up to a shrink of _SMOOTHED, area-averaged beyond.

    Up to there the two look alike (two taps span two pixels) and bilinear costs a sixth; beyond, bilinear would skip
    pixels and alias.
    """
    shrink = max(image.shape[0] / height, image.shape[1] / width)
    interpolation = cv2.INTER_AREA if shrink > _SMOOTHED else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=interpolation)


def build_classification_train(
    image_size: tuple[int, int],
    min_crop_area: float,
    random_erasing: float,
    *,
    mirror: bool = True,
    hue: bool = True,
) -> Transform:
    """Inception's crop of `min_crop_area` or more to `image_size` (H, W) px, flip, light colour, random erasing.

    Without `mirror` nothing is flipped, without `hue` a colour keeps its hue and saturation. `random_erasing` is the
    part of the images that lose a rectangle of 2 to 20 % (Zhong et al. 2017, up to 40 %).
    """
    return A.Compose(
        [
            AreaCrop(image_size, scale=(min_crop_area, 1.0)),
            A.HorizontalFlip(p=0.5 if mirror else 0.0),
            *_light_colour()[: 2 if hue else 1],
            A.Erasing(scale=(0.02, 0.2), fill="random_uniform", p=random_erasing),
        ]
    )


def build_classification_eval(
    image_size: tuple[int, int], central_fraction: float, interpolation: str = "bilinear"
) -> Transform:
    """The central `central_fraction` of an image at `image_size` (H, W) px, bilinear or bicubic, and nothing else."""
    return A.Compose([CentralCrop(*image_size, central_fraction, interpolation)])


def needed_in_evaluation(image_size: tuple[int, int], central_fraction: float) -> tuple[int, int]:
    """(height, width) px down to which a JPEG may be decoded before `build_classification_eval`'s transform.

    What is left is still averaged, as the whole image would be, so that the two differ by next to nothing.
    """
    factor = (_SMOOTHED + 0.1) / central_fraction
    return round(factor * image_size[0]), round(factor * image_size[1])


def needed_in_training(image_size: tuple[int, int], min_crop_area: float) -> tuple[int, int]:
    """The same for `build_classification_train`: the smallest crop, at its narrowest 3:4, has the input's pixels."""
    factor = (min_crop_area * 3 / 4) ** -0.5
    return math.ceil(factor * image_size[0]), math.ceil(factor * image_size[1])


def apply_to_image(transform: Transform, image: np.ndarray, seed: int) -> np.ndarray:
    """Applies a transform of whole images to `image` uint8 (H, W, 3), all of its randomness from `seed`."""
    _seed(transform, seed)
    return transform(image=image)["image"]


def build_detection_train(image_size: tuple[int, int], crop_probability: float = 0.85) -> Transform:
    """SSD's crop, squash to `image_size` (H, W) px, horizontal flip, light colour; the colour on the small image."""
    return _compose(
        [
            SSDRandomCrop(p=crop_probability),
            Squash(*image_size),
            A.HorizontalFlip(p=0.5),
            *_light_colour(),
        ]
    )


def build_detection_eval(image_size: tuple[int, int]) -> Transform:
    """Squash to `image_size` (H, W) px and nothing else."""
    return _compose([Squash(*image_size)])


def apply_with_boxes(
    transform: Transform,
    image: np.ndarray,
    boxes_xyxy: np.ndarray,
    labels: np.ndarray,
    crowd_xyxy: np.ndarray,
    seed: int,
) -> Transformed:
    """Applies a transform built above, all of its randomness from `seed`.

    `image` uint8 (H, W, 3); `boxes_xyxy` (N, 4) with `labels` (N,) and `crowd_xyxy` (M, 4) in its px. Boxes are clipped
    to the image; zero, inverted and NaN boxes are dropped, and what the transform leaves under 1 px.
    """
    _seed(transform, seed)
    objects = np.column_stack([boxes_xyxy, labels, np.zeros(len(boxes_xyxy))])
    crowds = np.column_stack([crowd_xyxy, np.zeros(len(crowd_xyxy)), np.ones(len(crowd_xyxy))])
    boxes = np.concatenate([objects, crowds])  # x1, y1, x2, y2, label, crowd
    result = transform(image=image, bboxes=boxes[np.isfinite(boxes).all(axis=1)])
    boxes = np.reshape(result["bboxes"], (-1, 6))
    crowd = boxes[:, 5] == 1
    return Transformed(
        result["image"],
        boxes[~crowd, :4].astype(np.float32),
        boxes[~crowd, 4].astype(np.int64),
        boxes[crowd, :4].astype(np.float32),
    )


def _light_colour() -> list[A.BasicTransform]:
    """Colour of one image in two: SSD's brightness (32 of 255) and hue (18 of 360 degrees), the rest milder.

    Light, because heavy augmentation costs small networks accuracy (torchvision's SSDlite: 14.2 -> 15.2 by lightening).
    """
    return [
        A.RandomBrightnessContrast(brightness_limit=32 / 255, contrast_limit=0.25, p=0.5),
        A.HueSaturationValue(hue_shift_limit=9, sat_shift_limit=30, val_shift_limit=0, p=0.5),
    ]


def _seed(transform: Transform, seed: int) -> None:
    # One generator for the whole chain. set_random_seed() would give each transform its own with the same seed, so
    # that every one draws the same numbers: an image would be flipped exactly when it is also brightened.
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))  # type: ignore[attr-defined]


def _compose(transforms: list[A.BasicTransform]) -> Transform:
    # min_width and min_height: what a crop leaves of a box must still be a pixel; checked once, at the end. The labels
    # travel as columns of the boxes, since label_fields would return them as floats and cost a copy each.
    boxes = A.BboxParams(
        format="pascal_voc",
        clip=True,
        filter_invalid_bboxes=True,
        min_width=1,
        min_height=1,
        check_each_transform=False,
    )
    return A.Compose(transforms, bbox_params=boxes)
