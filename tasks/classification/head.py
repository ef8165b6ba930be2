"""The classifier's head: a linear layer for the data's classes, or ImageNet's own 1,000 that come with weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone import InputError, Pretrained
from data import imagenet
from data.balance import loss_weights
from data.classification import ClassificationDataModule
from data.records import Records, Split
from tasks.classification.metrics import Scores, compare, evaluate, fit_temperature
from tasks.classification.report import write_report
from tasks.head import Head
from tasks.pooled import PooledLinear
from tasks.predictor import check_at_least_1, check_fraction


class Classified(NamedTuple):
    """The likeliest classes of one image, best first: names, and their probabilities (K,)."""

    names: list[str]
    probabilities: np.ndarray


class ClassificationHead(Head):
    """Logits of C classes from pooled features (Table 1's last rows), and their evaluation.

    `class_names` are the data's by label. With `imagenet_classes` the outputs are ImageNet's, among which the data's
    classes are found by name; InputError for one that is not there. `layers`, from a trunk's maps to the logits, are a
    new linear layer where none are given. `weighted` gives rare classes more weight in the loss, by the training
    images. `temperature`, fitted on the validation images, divides the logits of `predict`.
    """

    output_of_label: Tensor  # int64: the data's labels as the outputs count them
    monitor = "top1"
    headline = {"top1": "top-1", "top5": "top-5", "mean_per_class": "mean per class"}  # noqa: RUF012

    def __init__(
        self,
        channels: Mapping[int, int],
        class_names: Sequence[str],
        *,
        imagenet_classes: bool = False,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        weighted: bool = False,
        layers: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.names = imagenet.class_names() if imagenet_classes else tuple(class_names)  # of the outputs
        self.label_smoothing, self.weighted = label_smoothing, weighted
        # no buffer: the average of the weights, which is made before the start, would take it for one of its own
        self.class_weights: Tensor | None = None  # of each output (C,), from the start of a fit on
        self.temperature: float | None = None
        self.layers = layers or PooledLinear(channels, len(self.names), dropout)
        outputs = _among_imagenet(class_names) if imagenet_classes else range(len(self.names))
        self.register_buffer("output_of_label", torch.tensor(outputs), persistent=False)

    @property
    def state(self) -> dict[str, Any]:
        """The outputs' names and the temperature."""
        return {"names": list(self.names), "temperature": self.temperature}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        self.names, self.temperature = tuple(state["names"]), state["temperature"]

    def start(self, data: ClassificationDataModule) -> None:  # type: ignore[override]
        """Weigh the classes by the training images, where that is asked for."""
        sampled = data.hparams["balanced"]
        weights = loss_weights(data.records("train"), weighted=self.weighted, sampled=sampled)
        self.class_weights = None
        if weights is not None:
            self.class_weights = torch.ones(len(self.names))
            self.class_weights[self.output_of_label.cpu()] = torch.from_numpy(weights).float()

    def load_classifier(self, pretrained: Pretrained) -> None:
        """Take the ImageNet classifier that came with a trunk's weights. InputError where none did."""
        if pretrained.classifier is None:
            raise InputError(
                f"{pretrained.source} has no ImageNet classifier; use it to start `fit`, or name a file with one. "
                "A checkpoint goes in with --ckpt_path."
            )
        with torch.no_grad():
            linear = cast(PooledLinear, self.layers).linear
            for own, theirs in zip(linear.parameters(), pretrained.classifier, strict=True):
                own.copy_(theirs)

    def forward(self, maps: dict[int, Tensor]) -> Tensor:
        """Logits (B, C)."""
        return self.layers(maps)

    def targets(self, batch: Mapping[str, Any]) -> Tensor:
        """What the outputs are trained towards: labels (B,), or probabilities (B, C) where images were mixed."""
        return batch["targets"] if "targets" in batch else self.output_of_label[batch["labels"]]

    def loss(self, outputs: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Cross-entropy in float32; `label_smoothing` is shared by all classes (Szegedy et al. 2016, section 7).

        With class weights each label counts by the weight of its class, the smoothed part of it too, and a mixed image
        by those of its labels; the mean is over the images, so that a batch counts as the sum of its parts.
        """
        outputs, targets = outputs.float(), self.targets(batch)
        if self.class_weights is None:
            return {"labels": F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)}
        if targets.ndim == 1:
            targets = F.one_hot(targets, outputs.shape[1])
        self.class_weights = self.class_weights.to(outputs.device)
        shares = targets * self.class_weights  # (B, C)
        weights = shares.sum(1, keepdim=True)
        losses = F.cross_entropy(outputs, shares / weights, reduction="none", label_smoothing=self.label_smoothing)
        return {"labels": (weights[:, 0] * losses).mean()}

    def update(self, outputs: Tensor, batch: Mapping[str, Any]) -> None:
        """Keep the logits, and the teacher's beneath them where it is compared with."""
        both = [outputs.float()] + ([batch["teacher"]] if "teacher" in batch else [])
        self.predictions.add(batch["positions"], torch.stack(both, 1).cpu().numpy())  # (B, 1 or 2, C)

    def compute(self, records: Records, split: Split) -> dict[str, float]:
        """Accuracies with their interval, calibration, the teacher's figures; on "val" fit the temperature."""
        self.positions, [rows], _ = self.predictions.take()  # (N, 1 or 2, C)
        self.logits = rows[:, 0]
        self.labels = self.output_of_label.cpu().numpy()[records["labels"][self.positions]]
        if split == "val":
            self.temperature = fit_temperature(self.logits, self.labels)
        self.scores: Scores = evaluate(self.logits, self.labels, self.temperature or 1.0)
        figures = self.scores.figures
        if self.temperature is None:  # another project's classifier, for which none was fitted
            figures.update(dict.fromkeys(("temperature", "nll_calibrated", "ece_calibrated"), float("nan")))
        if rows.shape[1] == 2:
            figures.update(compare(self.logits, rows[:, 1], self.labels))
        return figures

    def report(self, folder: Path, split: Split, data: ClassificationDataModule, settings: Mapping[str, Any]) -> None:
        """Write metrics, tables and pictures; say where ImageNet's own images are scored after training on ImageNet."""
        overlap, pretrained = data.imagenet_overlap(split), settings["imagenet_pretrained"]
        if overlap and pretrained:
            print(
                f"imagenet_overlap {overlap:.2f}: that part of the {split} images is ImageNet's own, which pretrained "
                "weights may have seen"
            )
        positions = self.positions.tolist()
        write_report(
            folder,
            split=split,
            scores=self.scores,
            logits=self.logits,
            labels=self.labels,
            class_names=self.names,
            files=[data.file(split, position) for position in positions],
            open_image=lambda i: data.image(split, positions[i]),
            extra={
                "imagenet_overlap": overlap,
                "imagenet_pretrained": float(pretrained),
                "temperature_fitted_on_these": float(split == "val" or data.tests_on_validation),
            },
        )

    def predict(
        self, outputs: Tensor, sizes: Sequence[tuple[int, int]], top: int = 5, conf: float = 0.0
    ) -> list[Classified]:
        """The `top` likeliest classes of each image, those of a probability of `conf` or more."""
        check_at_least_1("top", top)
        check_fraction("conf", conf)
        best = (outputs.float() / (self.temperature or 1.0)).softmax(1).topk(min(top, len(self.names)))
        results = []
        for labels, probabilities in zip(best.indices.tolist(), best.values.cpu().numpy(), strict=True):
            count = int((probabilities >= conf).sum())  # the best come first
            results.append(Classified([self.names[label] for label in labels[:count]], probabilities[:count]))
        return results

    def drawn(self, image: np.ndarray, result: Classified) -> tuple[np.ndarray, str]:
        """The image, and its likeliest classes."""
        likeliest = list(zip(result.names, result.probabilities.tolist(), strict=True))[:3]
        return image, "\n".join(f"{name} {probability:.2f}" for name, probability in likeliest)

    def answer(self, outputs: Tensor) -> dict[str, Tensor]:
        """The calibrated probabilities (B, C)."""
        return {"probabilities": (outputs.float() / (self.temperature or 1.0)).softmax(1)}

    @property
    def answer_facts(self) -> dict[str, Any]:
        """The outputs' names and the temperature."""
        return {"names": list(self.names), "temperature": self.temperature}

    def update_from(self, answer: Mapping[str, Tensor], batch: Mapping[str, Any], names: Sequence[str]) -> None:
        """Keep the logits of the probabilities, up to a constant."""
        self.update(answer["probabilities"].clamp_min(1e-30).log() * (self.temperature or 1.0), batch)


def _among_imagenet(names: Sequence[str]) -> list[int]:
    """Each class's label among ImageNet's 1,000. Raises InputError for a name that is not among them, or twice."""
    found = imagenet.find_classes(tuple(names))
    for i, (name, label) in enumerate(zip(names, found, strict=True)):
        if label is None:
            raise InputError(
                f"the class {name!r} of the data is none of ImageNet's 1,000; name its folder as ImageNet does, by "
                "its name (beagle) or its id (n02088364), or train a head of your own with `fit`."
            )
        if label in found[:i]:
            raise InputError(
                f"the classes {names[found.index(label)]!r} and {name!r} of the data are one class of ImageNet, "
                f"{imagenet.class_names()[label]!r}; put their images into one folder."
            )
    return [label for label in found if label is not None]
