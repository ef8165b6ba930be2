"""The contract of a head: what a task adds to a trunk. A new task is a head and a reader.

A head is a plain module, usable without Lightning: `loss` and `update` take what `forward` gives and a batch, `compute`
the records of a split. One pass of a trunk can so serve several heads.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from data.module import DataModule
from data.records import Records, Split
from tasks.kept import Kept


class Head(nn.Module):
    """What every task's head has; a subclass defines the methods that are not defined here.

    `answer`, `answer_facts` and `update_from` are for `export` alone.
    """

    monitor: str  # the figure of `compute` by which the best checkpoint is kept
    mode: Literal["max", "min"] = "max"  # which values of it are better
    file_metrics: ClassVar[Sequence[str]] = ()  # the figures by which a file is judged, the first that can be measured
    best_figure: ClassVar[float] = 1.0  # the most that they can be
    headline: ClassVar[Mapping[str, str]]  # figure to what the command calls it in its last lines
    unmeasured: ClassVar[str] = "no labels for it"  # what images have where a figure of `compute` is NaN

    def __init__(self) -> None:
        super().__init__()
        self.predictions = Kept()  # what `update` keeps of each image, by its position in the split

    @property
    def state(self) -> dict[str, Any]:
        """What must travel in a checkpoint besides weights, as plain values: names, thresholds, cells."""
        return {}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        """Take the state of a checkpoint, before its weights are loaded."""

    def start(self, data: DataModule) -> None:
        """Before a fit, take from the training data what the network's shape depends on. InputError where it cannot."""

    def forward(self, maps: dict[int, Tensor]) -> Any:
        """The raw outputs (logits, box codes, embeddings) for a trunk's {stride: map}."""
        raise NotImplementedError

    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The parts of the loss by name; their sum is what is minimised."""
        raise NotImplementedError

    def update(self, outputs: Any, batch: Mapping[str, Any]) -> None:
        """Keep in `predictions` what is scored of a batch's outputs, by `batch["positions"]`."""
        raise NotImplementedError

    def compute(self, records: Records, split: Split) -> dict[str, float]:
        """The figures of `predictions`, which are empty afterwards; on "val" also choose thresholds and the like."""
        raise NotImplementedError

    def report(self, folder: Path, split: Split, data: Any, settings: Mapping[str, Any]) -> None:
        """Write tables and images of the figures just computed.

        `data` is the task's DataModule, `settings` the module's hyper-parameters and its trunk's settings.
        """
        raise NotImplementedError

    def predict(self, outputs: Any, sizes: Sequence[tuple[int, int]], *args: Any, **options: Any) -> list[Any]:
        """The result for each image in its own terms; `sizes` are the images' (height, width) px."""
        raise NotImplementedError

    def drawn(self, image: np.ndarray, result: Any) -> tuple[np.ndarray, str]:
        """An image, uint8 RGB (H, W, 3), with what is drawn of its result, and a caption of a few lines."""
        return image, ""

    def answer(self, outputs: Any) -> dict[str, Tensor]:
        """What an exported file gives for the raw outputs of B images by name: tensors whose shapes B alone decides."""
        raise NotImplementedError

    @property
    def answer_facts(self) -> dict[str, Any]:
        """What the numbers of `answer` mean, as plain values for a file's metadata: names, ids, thresholds, places."""
        return {}

    def update_from(self, answer: Mapping[str, Tensor], batch: Mapping[str, Any], names: Sequence[str]) -> None:
        """As `update`, but of a file's answer for the batch; `names` are those of the file's labels."""
        raise NotImplementedError
