"""The head of face attributes: a logit for each, a threshold for each, and their evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from backbone.trunk import trunk_words
from data.attributes import AttributesDataModule
from data.folders import count_of, say
from data.records import Records, Split
from tasks.distillation.losses import masked_bce
from tasks.face_attributes.metrics import check_finite, choose_thresholds, evaluate
from tasks.face_attributes.provenance import Source, licences, sentence, source_of
from tasks.face_attributes.report import Evaluated, write_model_card, write_report
from tasks.head import Head
from tasks.pooled import PooledLinear
from tasks.predictor import check_fraction


class FaceAttributes(NamedTuple):
    """The attributes of one face: names, probabilities (K,), and whether each reaches its threshold, bool (K,)."""

    names: tuple[str, ...]
    probabilities: np.ndarray
    present: np.ndarray


class AttributesHead(Head):
    """Logits of K attributes from pooled features, each a yes or no of its own.

    `thresholds` of probability are chosen on the validation images. `provenance` is what the net was trained on, and
    `teachers` are those that it learned from: both are for the model card, which may be written on other data.
    """

    monitor = "map"
    unmeasured = "no attribute that some have and others have not"
    headline = {"map": "mean AP", "balanced_accuracy": "balanced accuracy"}  # noqa: RUF012

    def __init__(self, channels: Mapping[int, int], names: Sequence[str], dropout: float = 0.0) -> None:
        super().__init__()
        self.names = tuple(names)
        self.layers = PooledLinear(channels, len(self.names), dropout)
        self.thresholds = np.full(len(self.names), 0.5)
        self.provenance: list[Source] = []
        self.teachers: list[str] = []

    @property
    def state(self) -> dict[str, Any]:
        """Names, thresholds, provenance and teachers."""
        own = {"names": list(self.names), "thresholds": self.thresholds.tolist()}
        return {**own, "provenance": self.provenance, "teachers": self.teachers}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        self.names, self.thresholds = tuple(state["names"]), np.array(state["thresholds"])
        self.provenance, self.teachers = list(state["provenance"]), list(state["teachers"])

    def forward(self, maps: dict[int, Tensor]) -> Tensor:
        """Logits (B, K)."""
        return self.layers(maps)

    def loss(self, outputs: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Cross-entropy with the targets that are known."""
        return {"labels": masked_bce(outputs, batch["attributes"])}

    def update(self, outputs: Tensor, batch: Mapping[str, Any]) -> None:
        """Keep the logits, and the teacher's beneath them where it is compared with."""
        both = [outputs.float()] + ([batch["teacher"]] if "teacher" in batch else [])
        self.predictions.add(batch["positions"], torch.stack(both, 1).cpu().numpy())  # (B, 1 or 2, K)

    def compute(self, records: Records, split: Split) -> dict[str, float]:
        """Means over the attributes, the teacher's figures too; on "val" choose the thresholds."""
        self.positions, [kept], _ = self.predictions.take()
        rows = kept.swapaxes(0, 1)  # (1 or 2, N, K)
        logits, targets = check_finite(rows[0]), records["attributes"][self.positions]
        if split == "val":
            self.thresholds = choose_thresholds(logits, targets)
        teacher = check_finite(rows[1], "the teacher's logits") if len(rows) == 2 else None
        scores = evaluate(logits, targets, self.thresholds, teacher)
        self.evaluated = Evaluated(split, self.names, logits, targets, self.thresholds, scores, teacher)
        if split == "val" and np.isnan(scores.figures["map"]):
            say("no validation image has labels that measure anything: the newest weights are kept as the best")
        return scores.figures

    def report(self, folder: Path, split: Split, data: AttributesDataModule, settings: Mapping[str, Any]) -> None:
        """Write metrics, tables, pictures and the model card."""
        positions, evaluated = self.positions, self.evaluated
        scored, (height, width) = source_of(data), settings["input_size"]
        write_model_card(
            folder / "model_card.md",
            evaluated,
            model=f"A {trunk_words(settings)} for images of {height} x {width} px.",
            data=f"{sentence(self.provenance)} Scored on {count_of(len(positions), 'image')} of {scored['data']}.",
            licence=licences([*self.provenance, scored]),
            groups={name: group[positions] for name, group in data.subgroups(split).items()},
            scored=data.hparams["test_split"] if split == "test" else split,
            teachers=self.teachers,
        )
        files = [data.file(split, position) for position in positions.tolist()]
        write_report(folder, evaluated, files, lambda i: data.image(split, int(positions[i])))

    def answer(self, outputs: Tensor) -> dict[str, Tensor]:
        """Each attribute's probability (B, K), and whether it reaches its threshold."""
        probabilities = outputs.float().sigmoid()
        return {"probabilities": probabilities, "present": probabilities >= probabilities.new_tensor(self.thresholds)}

    @property
    def answer_facts(self) -> dict[str, Any]:
        """Names, thresholds, and what is known of the terms of the training data."""
        licence = licences(self.provenance)
        return {"names": list(self.names), "thresholds": self.thresholds.tolist(), "licence": licence}

    def update_from(self, answer: Mapping[str, Tensor], batch: Mapping[str, Any], names: Sequence[str]) -> None:
        """Keep the logits of the probabilities."""
        self.update(answer["probabilities"].double().logit(1e-12).float(), batch)

    def predict(
        self, outputs: Tensor, sizes: Sequence[tuple[int, int]], conf: float | None = None
    ) -> list[FaceAttributes]:
        """Every attribute's probability, and whether it is present: by its own threshold, or by `conf`."""
        check_fraction("conf", conf or 0.0)
        thresholds = self.thresholds if conf is None else conf
        probabilities = expit(outputs.cpu().double().numpy())  # as the thresholds were chosen
        return [FaceAttributes(self.names, row, row >= thresholds) for row in probabilities]

    def drawn(self, image: np.ndarray, result: FaceAttributes) -> tuple[np.ndarray, str]:
        """The image, and the attributes that are present."""
        present = [name for name, has in zip(result.names, result.present, strict=True) if has]
        return image, ", ".join(present) or "none of the attributes"
