"""The head of face embeddings: a linear layer on pooled features, and its evaluation by pairs and by the teacher."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone import InputError
from data.face_pairs import FacePairsDataModule
from data.readers.lfw_pairs import FaceRecords
from data.records import Records, Split
from tasks.distillation.losses import cosine, squared_error
from tasks.face_embeddings.metrics import evaluate, pairs_among
from tasks.face_embeddings.report import write_report
from tasks.head import Head
from tasks.pooled import PooledLinear

Distance = Literal["squared_error", "cosine"]


class EmbeddingHead(Head):
    """Embeddings of `size` numbers, brought to length 1 where they are used; trained towards a teacher's.

    `projector`, from an embedding to the teacher's where that has another size, is for the loss alone. `threshold` is
    the squared distance up to which two images count as one person's, chosen on the validation pairs; None without.
    """

    monitor = "cosine"
    file_metrics = ("verification_accuracy", "auc", "cosine")
    unmeasured = "pairs of one fold alone"
    headline = {"verification_accuracy": "verification accuracy", "cosine": "mean cosine to the teacher"}  # noqa: RUF012

    def __init__(self, channels: Mapping[int, int], size: int, distance: Distance = "squared_error") -> None:
        super().__init__()
        self.layers = PooledLinear(channels, size)
        self.projector: nn.Module = nn.Identity()
        self.teacher_size: int | None = None
        self.threshold: float | None = None
        self._distance = distance

    @property
    def state(self) -> dict[str, Any]:
        """The threshold, the size of the teacher's embedding, and no names of outputs."""
        return {"names": [], "threshold": self.threshold, "teacher_size": self.teacher_size}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        self.threshold = state["threshold"]
        if state["teacher_size"] is not None:
            self.learn_from(state["teacher_size"])

    def learn_from(self, teacher_size: int) -> None:
        """Go on from the embedding to the teacher's. InputError where the head has learned one of another size."""
        if self.teacher_size not in (None, teacher_size):
            raise InputError(
                f"the teacher's embedding has {teacher_size} numbers, but this net learns one of {self.teacher_size}; "
                "give the --model.teacher that it learned from."
            )
        size = self.layers.linear.out_features
        if self.teacher_size is None and teacher_size != size:
            self.projector = projector = nn.Linear(size, teacher_size)
            # Of the run's seed alone: whether a teacher was loaded before, which draws numbers too, changes nothing.
            own = torch.Generator().manual_seed(torch.initial_seed())
            nn.init.trunc_normal_(projector.weight, std=size**-0.5, generator=own)
            nn.init.zeros_(projector.bias)
        self.teacher_size = teacher_size

    def forward(self, maps: dict[int, Tensor]) -> Tensor:
        """Embeddings (B, D) of any length."""
        return self.layers(maps)

    def project(self, outputs: Tensor) -> Tensor:
        """Embeddings (B, D) in the teacher's space, float32 (B, T)."""
        with torch.autocast(outputs.device.type, enabled=False):
            return self.projector(outputs.float())

    def distance(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """From the teacher's embeddings (B, T) of length 1: squared error (section 4.7), or one less the cosine."""
        distance = cosine if self._distance == "cosine" else squared_error
        return distance(self.project(outputs), targets)

    def loss(self, outputs: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The distance from the embeddings in `batch["teacher"]`."""
        return {"teacher": self.distance(outputs, batch["teacher"])}

    def update(self, outputs: Tensor, batch: Mapping[str, Any]) -> None:
        """Keep the embeddings and, where the teacher's are there, both nets' in its space."""
        parts = [outputs.float()]
        if "teacher" in batch:
            self.learn_from(batch["teacher"].shape[1])
            parts += [self.project(outputs), batch["teacher"]]
        self.predictions.add(batch["positions"], *(part.cpu().numpy() for part in parts))

    def compute(self, records: Records, split: Split) -> dict[str, float]:
        """Figures of the pairs of FaceRecords and of the distance from the teacher; on "val" choose the threshold."""
        self.positions, [embeddings, *both], _ = self.predictions.take()
        listed = records.pairs if isinstance(records, FaceRecords) else None
        pairs = None if listed is None else pairs_among(listed, self.positions)
        self.scores = evaluate(embeddings, pairs, *both)
        if listed is not None and pairs is not None and len(pairs.same) < len(listed.same):
            self.scores.figures["pairs_left_out"] = float(len(listed.same) - len(pairs.same))
        if split == "val":
            best = np.inf if self.scores.student is None else self.scores.student.best_threshold
            self.threshold = best if np.isfinite(best) else None
        return self.scores.figures

    def report(self, folder: Path, split: Split, data: FacePairsDataModule, settings: Mapping[str, Any]) -> None:
        """Write metrics, tables and pictures."""
        positions = self.positions.tolist()
        files = [data.file(split, position) for position in positions]
        write_report(folder, split, self.scores, files, lambda i: data.image(split, positions[i]))

    def answer(self, outputs: Tensor) -> dict[str, Tensor]:
        """The embedding (B, D) of length 1."""
        return {"embedding": F.normalize(outputs.float())}

    @property
    def answer_facts(self) -> dict[str, Any]:
        """The largest squared distance of one person's images, None where no pairs chose one."""
        return {"names": [], "thresholds": self.threshold}

    def update_from(self, answer: Mapping[str, Tensor], batch: Mapping[str, Any], names: Sequence[str]) -> None:
        """Keep the embeddings, and beside them those that `batch` has of PyTorch, as if these were a teacher's."""
        parts = answer["embedding"], answer["embedding"], batch["embedding"]
        self.predictions.add(batch["positions"], *(part.numpy() for part in parts))

    def predict(self, outputs: Tensor, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """The embedding of each image, float32 (D,) of length 1."""
        return list(F.normalize(outputs.float()).cpu().numpy())
