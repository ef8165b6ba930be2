"""A detector of another project in our head: which of its classes are the data's, and its weights under our names."""

from typing import Literal, cast

import torch
from torch import Tensor, nn

from backbone import InputError, Pretrained
from backbone.folded import folded_norm
from backbone.tflite import Detector
from data.coco_classes import COCO_CLASSES, letters
from tasks.detection.anchors import make_anchors
from tasks.detection.head import DetectionHead

# What is scored of a class that the detector does not know: 2e-9 by a sigmoid, below every threshold.
_SILENT = -20.0


def detector_of(pretrained: Pretrained) -> Detector:
    """The detector that came with weights. Raises InputError where none did."""
    if pretrained.detector is None:
        raise InputError(
            f"{pretrained.source} has no detector; start `fit` from it, or name a file with one. "
            "A checkpoint goes in with --ckpt_path."
        )
    return pretrained.detector


def loss_of(detector: Detector) -> Literal["focal", "multibox"]:
    """The loss whose scores the detector has."""
    return "focal" if detector.sigmoid else "multibox"


def categories_of(detector: Detector) -> dict[int, str]:
    """Id to name of a detector's classes: COCO's, where it has their 90 ids, else numbers."""
    classes = detector.classes[0][1].shape[1] - 1  # without the background
    return dict(COCO_CLASSES) if classes == 90 else {number: f"class {number}" for number in range(1, classes + 1)}


def load_detector(head: DetectionHead, pretrained: Pretrained, *, whole: bool = False) -> str:
    """Copy a detector's extras, box predictors and those of classes of the same name; return what to say of it.

    With `whole` the head is used as it is: classes that the detector has not are never found. InputError where the
    detector's anchors are others, or with `whole` where it has none of the head's classes.
    """
    detector = detector_of(pretrained)
    _check_anchors(pretrained, detector)
    columns = {letters(name): number for number, name in categories_of(detector).items()}
    names = list(head.categories.values())
    column_of = [columns.get(letters(name)) for name in names]
    known = [name for name, column in zip(names, column_of, strict=True) if column is not None]
    new = [name for name, column in zip(names, column_of, strict=True) if column is None]
    if whole and not known:
        raise InputError(
            f"{pretrained.source} finds none of the data's classes ({_listed(names)}); its own are "
            f"{_listed(list(categories_of(detector).values()))}. Train a head of your own with `fit`."
        )
    first = ["background"] if head.columns > len(names) else []
    with torch.no_grad():
        convolutions = [module for module in head.extras.modules() if isinstance(module, nn.Conv2d)]
        norms = [module for module in head.extras.modules() if isinstance(module, nn.BatchNorm2d)]
        for convolution, norm, (weight, bias) in zip(convolutions, norms, detector.extras, strict=True):
            convolution.weight.copy_(weight)
            for part, value in folded_norm(bias, norm.eps).items():
                getattr(norm, part).copy_(value)
        for predictor, (weight, bias) in zip(head.box_heads, detector.boxes, strict=True):
            own_weight, own_bias = _last(predictor)
            own_weight.copy_(weight.flatten(0, 1))
            own_bias.copy_(bias.flatten())
        for predictor, layer in zip(head.class_heads, detector.classes, strict=True):
            for parameter, theirs, silent in zip(_last(predictor), layer, (0.0, _SILENT), strict=True):
                rows = parameter.view(theirs.shape[0], head.columns, *theirs.shape[2:])  # (n, columns, ...)
                for row, column in enumerate([0] * len(first) + column_of):
                    if column is not None and known:
                        rows[:, row] = theirs[:, column]
                    elif whole:
                        rows[:, row] = silent
    if whole:
        return f"never found, as the detector has no such class: {_listed(new)}" if new else ""
    taken = ["trunk", "extras", "boxes", *([f"classes {_listed(known)}"] if known else [])]
    return f"taken: {', '.join(taken)}" + (f"; new: {_listed(new)}" if new else "")


def _last(predictor: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a predictor's last convolution."""
    convolution = predictor[-1]  # type: ignore[index]
    return cast(tuple[Tensor, Tensor], (convolution.weight, convolution.bias))


def _check_anchors(pretrained: Pretrained, detector: Detector) -> None:
    if detector.anchors is None:
        return
    size = detector.image_size
    maps = [tuple(-(-side // 2**level) for side in size) for level in range(4, 10)]
    ours = make_anchors(maps, size) / torch.tensor([size[1], size[0]]).repeat(2)
    # Those in a quantised file are off by up to half a step of its integers, 0.0032.
    if ours.shape != detector.anchors.shape or (ours - detector.anchors).abs().max() > 0.01:
        raise InputError(f"{pretrained.source} has other anchors than SSD-MobileNet's; only its trunk could be used.")


def _listed(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
