"""The detector's head: SSD on a trunk's maps of stride 16 and 32 (Liu et al. 2016; the paper, section 4.6)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from backbone.errors import InputError
from backbone.mobilenet import Numerics, conv_norm_act
from data.balance import loss_weights
from data.coco_classes import letters
from data.folders import count_of
from data.module import DataModule
from data.readers.coco_fields import as_ids
from data.records import Records, Split
from tasks.deployment.suppression import Suppression
from tasks.detection.anchors import ANCHOR_SHAPES, decode, make_anchors
from tasks.detection.loss import focal_loss, multibox_loss
from tasks.detection.matcher import match
from tasks.detection.metrics import CocoScores, detections_of, evaluate, measured
from tasks.detection.postprocess import MAX_IOU, MIN_SCORE, Detected, class_scores, postprocess
from tasks.detection.report import write_report
from tasks.detection.suppression import BY_OPERATOR, BY_ROUNDS, suppressed
from tasks.head import Head
from tasks.plotting import class_color, draw_boxes
from tasks.predictor import check_fraction

# TensorFlow's SSD-MobileNet (feature_map_generators.py): four extra maps, each half the size of the one before, at
# width 1, where the trunk has 1,024 channels. Their norms are TensorFlow's too, whatever the trunk's weights had.
EXTRA_CHANNELS, _FULL_WIDTH, _MIN_CHANNELS = (512, 256, 256, 128), 1024, 16
_NUMERICS = Numerics()


class Outputs(NamedTuple):
    """The raw outputs for all anchors."""

    class_logits: Tensor  # (B, A, columns)
    box_codes: Tensor  # (B, A, 4)
    anchors: Tensor  # (A, 4) cxcywh in pixels of the input


class DetectionResult(NamedTuple):
    """The objects found in one image, best first."""

    boxes_xyxy: np.ndarray  # float32 (N, 4) in the image's pixels
    scores: np.ndarray  # float32 (N,)
    names: list[str]
    category_ids: np.ndarray  # int64 (N,), the annotations' own; object, Python's integers, where one is larger


class DetectionHead(Head):
    """Single-shot detector on strides 16 and 32 of a trunk and four extra maps; 1,917 anchors at 300 x 300.

    `categories` are the annotations' id to name, `input_size` (height, width) in pixels. `design` "ssd" is the paper's
    (Table 13): 1x1 predictors, full 3x3 convolutions to the extra maps; "ssdlite" is MobileNetV2's (Sandler et al.
    2018, section 6.2): depthwise separable ones in both places. With the loss "multibox" an anchor has a class logit
    for the background, which comes first, and one for each class; with "focal" one for each class, with a sigmoid.
    `weighted` gives rare classes more weight in it, by the boxes of the training images.
    """

    monitor = "map"
    unmeasured = "no object to find (crowd regions do not count)"
    headline = {"map": "COCO mAP", "map_50": "AP50   "}  # noqa: RUF012

    def __init__(
        self,
        channels: Mapping[int, int],
        categories: Mapping[int, str],
        input_size: tuple[int, int],
        *,
        design: Literal["ssd", "ssdlite"] = "ssd",
        loss: Literal["multibox", "focal"] = "multibox",
        class_agnostic: bool = False,
        weighted: bool = False,
    ) -> None:
        super().__init__()
        self.weighted = weighted
        # no buffer: the average of the weights, which is made before the start, would take it for one of its own
        self.class_weights: Tensor | None = None  # (K,), from the start of a fit on
        self.categories, self.input_size = dict(categories), input_size
        self.loss_name, self.class_agnostic = loss, class_agnostic
        self.columns = len(categories) + (loss == "multibox")
        widths = [channels[16], channels[32]]
        self.extras = nn.ModuleList()
        for full in EXTRA_CHANNELS:
            out = max(_MIN_CHANNELS, full * channels[32] // _FULL_WIDTH)
            self.extras.append(_extra(widths[-1], out, design))
            widths.append(out)
        levels = [(width, len(row)) for width, row in zip(widths, ANCHOR_SHAPES, strict=True)]
        self.class_heads = nn.ModuleList(_predictor(width, n * self.columns, design) for width, n in levels)
        self.box_heads = nn.ModuleList(_predictor(width, n * 4, design) for width, n in levels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.03, a=-0.06, b=0.06)  # as TensorFlow's
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if loss == "focal":  # classes start at a probability of 0.01, lest negatives drown them (Lin et al. 2017, 3.3)
            for predictor in self.class_heads:
                bias = torch.tensor(0.01, device="cpu").logit().item()  # -4.6, as in TensorFlow's focal SSD-MobileNet
                nn.init.constant_(predictor[-1].bias, bias)  # type: ignore[index]
        self._anchors: dict[tuple, Tensor] = {}  # by map sizes and device: made once for each
        self.suppress: Suppression | None = BY_OPERATOR  # of `answer`

    @property
    def state(self) -> dict[str, Any]:
        """The categories, original id to name."""
        return {"categories": self.categories}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        self.categories = state["categories"]

    def start(self, data: DataModule) -> None:
        """Weigh the classes by the training images' boxes, where that is asked for."""
        sampled = data.hparams["balanced"]
        weights = loss_weights(data.records("train"), weighted=self.weighted, sampled=sampled)
        self.class_weights = None if weights is None else torch.from_numpy(weights).float()

    def forward(self, maps: Mapping[int, Tensor]) -> Outputs:
        """The outputs for a trunk's maps of images of `input_size`."""
        levels = [maps[16], maps[32]]
        for extra in self.extras:
            levels.append(extra(levels[-1]))
        # The predictors compute in float32 under autocast too: a box code in bfloat16 has 8 bits, a pixel or two of a
        # large box, which cost 0.004 AP where we measured it, and they are a hundredth of the work.
        with torch.autocast("cpu" if maps[16].is_meta else maps[16].device.type, enabled=False):
            logits, codes = (
                torch.cat([_by_anchor(f(x.float()), n) for f, x in zip(predictors, levels, strict=True)], dim=1)
                for predictors, n in ((self.class_heads, self.columns), (self.box_heads, 4))
            )
        return Outputs(logits, codes, self.anchors([tuple(x.shape[-2:]) for x in levels], maps[16].device))

    def anchors(self, map_sizes: list[tuple], device: torch.device) -> Tensor:
        """The anchors (A, 4) cxcywh in pixels for maps of these (height, width), cached."""
        key = (*map_sizes, device)
        if key not in self._anchors:
            expected = tuple(-(-side // 16) for side in self.input_size)
            if map_sizes[0] != expected:
                raise InputError(
                    f"the trunk's map of stride 16 is {map_sizes[0]}, not {expected} as of images of "
                    f"{self.input_size} px; give --data.image_size in multiples of 32."
                )
            self._anchors[key] = make_anchors(map_sizes, self.input_size).to(device)
        return self._anchors[key]

    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The losses of the anchors' classes and of the boxes."""
        anchors_xyxy = decode(torch.zeros_like(outputs.anchors), outputs.anchors)
        matches = match(anchors_xyxy, batch["boxes_xyxy"], batch["crowd_xyxy"])
        loss = multibox_loss if self.loss_name == "multibox" else focal_loss
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(outputs.class_logits.device)
        return loss(*outputs, matches, batch["boxes_xyxy"], batch["labels"], self.class_weights)._asdict()

    def detect(self, outputs: Outputs, sizes: Sequence[tuple[int, int]], **options: Any) -> list[Detected]:
        """The boxes in the pixels of each image, of (height, width) `sizes`; `options` are those of `postprocess`."""
        options.setdefault("class_agnostic", self.class_agnostic)
        return postprocess(*outputs, len(self.categories), self.input_size, sizes, **options)

    def update(self, outputs: Outputs, batch: Mapping[str, Any]) -> None:
        """Keep the boxes, scores and labels found in each image."""
        found = self.detect(outputs, batch["sizes"].tolist())
        counts = [len(boxes.scores) for boxes in found]
        self.predictions.add(
            batch["positions"], *(torch.cat(column).cpu().numpy() for column in zip(*found, strict=True)), counts=counts
        )

    def compute(self, records: Records, split: Split) -> dict[str, float]:
        """COCO's twelve figures on the images that could be read, NaN where there is no object to measure one on."""
        self.positions, columns, counts = self.predictions.take()
        assert counts is not None
        self.truth = records.take(self.positions)
        self.detections = detections_of(counts, *columns)
        self.scores: CocoScores = evaluate(self.truth, self.detections)
        return measured(self.scores.figures)

    def report(self, folder: Path, split: Split, data: DataModule, settings: Mapping[str, Any]) -> None:
        """Write metrics, tables, results and pictures."""
        write_report(
            folder,
            split=split,
            scores=self.scores,
            truth=self.truth,
            detections=self.detections,
            open_image=lambda i: data.image(split, int(self.positions[i])),
        )

    def answer(self, outputs: Outputs) -> dict[str, Tensor]:
        """What `detect` finds, in fixed shapes; boxes as parts of the image's width and height, 0 to 1.

        boxes_xyxy (B, 100, 4), scores (B, 100), labels (B, 100), count (B,): the rows that are objects, best first; the
        others are 0, of label -1. Without suppression boxes_xyxy (B, A, 4) and scores (B, A, K) of all anchors.
        """
        scores = class_scores(outputs.class_logits, len(self.categories))
        boxes = decode(outputs.box_codes.float(), outputs.anchors)
        if self.suppress is None:
            return {"boxes_xyxy": boxes / boxes.new_tensor(self.input_size[::-1]).repeat(2), "scores": scores}
        return suppressed(boxes, scores, self.input_size, self.suppress, self.class_agnostic)._asdict()

    def suppress_by(self, form: Literal["operator", "rounds", "none"]) -> None:
        """Choose how `answer` suppresses: by one operator, by plain tensor operations, or not at all."""
        self.suppress = {"operator": BY_OPERATOR, "rounds": BY_ROUNDS, "none": None}[form]

    @property
    def answer_facts(self) -> dict[str, Any]:
        """Names and ids of the labels, and how boxes were chosen."""
        facts = {"names": list(self.categories.values()), "ids": list(self.categories)}
        if self.suppress is None:
            return {**facts, "nms": "none"}
        more = {"candidates": self.suppress.candidates, "class_agnostic": self.class_agnostic}
        return {**facts, "nms": "in graph", "min_score": MIN_SCORE, "max_iou": MAX_IOU, **more}

    def update_from(self, answer: Mapping[str, Tensor], batch: Mapping[str, Any], names: Sequence[str]) -> None:
        """Keep the boxes, scores and labels of a file's answer, suppressed here where the file has not.

        Of the file's classes those of the same name as ours are kept.
        """
        if "count" not in answer:
            sides = torch.tensor(self.input_size[::-1]).repeat(2)
            boxes, scores = answer["boxes_xyxy"] * sides, answer["scores"]
            answer = suppressed(boxes, scores, self.input_size, BY_OPERATOR, self.class_agnostic)._asdict()
        own = {letters(name): label for label, name in enumerate(self.categories.values())}
        labels = np.array([own.get(letters(name), -1) for name in names])
        rows = zip(*(answer[name].numpy() for name in ("boxes_xyxy", "scores", "labels", "count")), strict=True)
        positions, sizes = batch["positions"].tolist(), batch["sizes"].numpy()
        for position, (height, width), (boxes, scores, found, count) in zip(positions, sizes, rows, strict=True):
            label = labels[found[:count]]
            known = np.flatnonzero(label >= 0)
            pixels = boxes[known] * np.array([width, height, width, height], np.float32)
            self.predictions.add([position], pixels, scores[known], label[known], counts=[len(known)])

    def predict(
        self, outputs: Outputs, sizes: Sequence[tuple[int, int]], conf: float = 0.3, **options: Any
    ) -> list[DetectionResult]:
        """The objects that score over `conf`; `class_agnostic=True` suppresses boxes over all classes."""
        check_fraction("conf", conf)
        ids, results = as_ids(list(self.categories)), []
        for found in self.detect(outputs, sizes, min_score=conf, **options):
            boxes, scores, labels = (value.cpu().numpy() for value in found)
            names = [self.categories[number] for number in ids[labels].tolist()]
            results.append(DetectionResult(boxes, scores, names, ids[labels]))
        return results

    def drawn(self, image: np.ndarray, result: DetectionResult) -> tuple[np.ndarray, str]:
        """The image with its boxes, and how many there are."""
        ids = list(self.categories)
        labels = [f"{name} {score:.2f}" for name, score in zip(result.names, result.scores, strict=True)]
        colors = [class_color(ids.index(number)) for number in result.category_ids.tolist()]
        return draw_boxes(image, result.boxes_xyxy, labels, colors), count_of(len(labels), "object")


def _by_anchor(x: Tensor, columns: int) -> Tensor:
    # (B, n * k, h, w) -> (B, h * w * n, k): the anchors' order is row, column, shape
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, columns)


def _extra(in_channels: int, out_channels: int, design: str) -> nn.Sequential:
    """Halve a map: 1x1 to half the width, then a 3x3 of stride 2, full or depthwise separable."""
    half = max(_MIN_CHANNELS, out_channels // 2)
    if design == "ssd":
        return nn.Sequential(
            *conv_norm_act(in_channels, half, 1, _NUMERICS),
            *conv_norm_act(half, out_channels, 3, _NUMERICS, stride=2),
        )
    return nn.Sequential(
        *conv_norm_act(in_channels, half, 1, _NUMERICS),
        *conv_norm_act(half, half, 3, _NUMERICS, stride=2, groups=half),
        *conv_norm_act(half, out_channels, 1, _NUMERICS),
    )


def _predictor(in_channels: int, out_channels: int, design: str) -> nn.Sequential:
    """Predict all anchors of a cell: a biased 1x1 convolution, behind a depthwise 3x3 in ssdlite."""
    layers: list[nn.Module] = []
    if design == "ssdlite":
        layers += conv_norm_act(in_channels, in_channels, 3, _NUMERICS, groups=in_channels)
    return nn.Sequential(*layers, nn.Conv2d(in_channels, out_channels, 1))
