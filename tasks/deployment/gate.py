"""Whether an exported file is as good as the network it came from: its outputs, and the task's own metric."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from backbone.errors import InputError
from data.folders import count_of
from tasks.deployment.artifact import Artifact
from tasks.deployment.graph import Deployed
from tasks.head import Head
from tasks.module import TaskModule

BATCHES = (1, 2, 5)
RELATIVE, PIXELS = 1e-4, 0.05  # what float outputs may differ by
_ROUNDS = 3  # batches of each
COMPARED = max(BATCHES) * _ROUNDS  # images
_SURE = 0.02  # the score from which a box must be found again: twice the least


class Verdict(NamedTuple):
    """The metric of a network and of its file on the same images."""

    metric: str
    images: int
    pytorch: float
    file: float
    best_figure: float  # the most that the metric can be

    @property
    def loss(self) -> float:
        """What the file loses, as a part of the most there is; below 0 where it gains."""
        return (self.pytorch - self.file) / self.best_figure

    def __str__(self) -> str:
        figures = f"{self.pytorch:.4f} in PyTorch, {self.file:.4f} in the file"
        return f"val/{self.metric} {figures} ({count_of(self.images, 'image')})"


class Difference(NamedTuple):
    """The largest difference of a file's outputs from PyTorch's."""

    relative: float  # of the largest number of that output
    pixels: float  # of boxes, of the network's input
    lost: int  # boxes that the other side has not

    @property
    def small(self) -> bool:
        """Whether it is rounding alone."""
        return self.relative <= RELATIVE and self.pixels <= PIXELS and not self.lost

    def __str__(self) -> str:
        lost = f", {count_of(self.lost, 'box')} lost" if self.lost else ""
        pixels = f", {self.pixels:.1e} px" if self.pixels else ""
        return f"at most {self.relative:.1e} of the largest number{pixels}{lost}"


def compare(artifact: Artifact, network: Deployed, images: Tensor) -> Difference:
    """The differences on uint8 images (N, height, width, 3), in batches of 1, 2 and 5."""
    relative, pixels, lost = [0.0], [0.0], 0
    for count in BATCHES:
        for batch in images[: count * _ROUNDS].split(min(count, artifact.max_batch or count)):
            ours, theirs = _of_network(network, batch), _of_file(artifact, batch)
            sides = torch.tensor(network.size[::-1]).repeat(2)
            if "count" in ours:
                for i in range(len(batch)):
                    one, other = ({name: rows[i] for name, rows in of.items()} for of in (ours, theirs))
                    found = _match(one, other, sides)
                    relative, pixels, lost = [*relative, found[0]], [*pixels, found[1]], lost + found[2]
                continue
            for name, tensor in ours.items():
                if not tensor.is_floating_point():
                    continue
                gap = (tensor - theirs[name]).abs()
                if name == "boxes_xyxy":
                    pixels.append((gap * sides).max().item())
                else:
                    relative.append((gap.max() / tensor.abs().max().clamp_min(1e-12)).item())
    largest = [max(values) if np.isfinite(values).all() else np.inf for values in (relative, pixels)]
    return Difference(largest[0], largest[1], lost)


def _match(ours: dict[str, Tensor], theirs: dict[str, Tensor], sides: Tensor) -> tuple[float, float, int]:
    """For each sure box of either side the nearest of the other side's of its class: differences of score and of px."""
    score, pixels, lost = 0.0, 0.0, 0
    for one, other in ((ours, theirs), (theirs, ours)):
        for box, value, label in zip(one["boxes_xyxy"], one["scores"], one["labels"], strict=True):
            if value < _SURE:
                break
            same = other["labels"] == label
            gaps = ((other["boxes_xyxy"][same] - box).abs() * sides).amax(1)
            if not len(gaps) or gaps.min() > 1:  # another box altogether
                lost += 1
                continue
            pixels = max(pixels, gaps.min().item())
            score = max(score, (other["scores"][same][gaps.argmin()] - value).abs().item())
    return score, pixels, lost


def judge(
    artifacts: Sequence[Artifact], resolved: TaskModule, exported: TaskModule, original: Deployed, data: Any
) -> list[Verdict]:
    """The metric beside PyTorch's, of PyTorch itself and of each file, on all validation images; the data are set up.

    `resolved` has the data's classes; `exported`, which `original` is made of, may have more of them.
    """
    by_answer = "embedding" in original.outputs  # which may be all that there is to compare with
    own, *others = heads = [copy.deepcopy(resolved.head) for _ in (None, *artifacts)]
    with torch.inference_mode(), tqdm(data.val_dataloader(), desc="scoring", unit="batch", disable=None) as batches:
        for batch in batches:
            data.bad_images.note(batch["bad"], batch["cut_short"])
            if not len(batch["images"]):
                continue
            images = batch["images"].permute(0, 2, 3, 1).contiguous()  # (B, 3, H, W) -> (B, H, W, 3)
            if exported is resolved and not by_answer:
                own.update(exported(batch["images"]), batch)
            else:
                answer = _of_network(original, images)
                batch = {**batch, **answer} if by_answer else batch
                own.update_from(answer, batch, exported.head.answer_facts["names"])
            for head, artifact in zip(others, artifacts, strict=True):
                head.update_from(_of_file(artifact, images), batch, artifact.metadata.get("names", ()))
    count = len(own.predictions)
    if not count:
        raise InputError("none of the validation images could be read; see --data.max_bad_fraction.")
    figures = [head.compute(data.records("val"), "val") for head in heads]
    metric = _metric_of(own, figures[0])
    values = [of[metric] for of in figures]
    return [Verdict(metric, count, values[0], value, own.best_figure) for value in values]


def _metric_of(head: Head, figures: dict[str, float]) -> str:
    """The figure of the head's that these images measure. InputError where they measure none."""
    for name in head.file_metrics or (head.monitor,):
        if name in figures and np.isfinite(figures[name]) and figures[name] >= 0:
            return name
    raise InputError(
        f"the validation images measure no {head.monitor}: they have no labels for it; give --data others."
    )


@torch.no_grad()
def _of_network(network: Deployed, images: Tensor) -> dict[str, Tensor]:
    return dict(zip(network.outputs, network(images), strict=True))


def _of_file(artifact: Artifact, images: Tensor) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in artifact.run(images.numpy()).items()}
