"""What `python -m tasks.face_attributes predict` writes of an image: every attribute's probability."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.predict import Describe, Described, Finish, PredictCommand

if TYPE_CHECKING:
    import numpy as np

    from tasks.predictor import Predictor


def load(path: str | Path, device: str = "cpu") -> "Predictor":
    """The predictor of a checkpoint: an image of a face in, the probability of each attribute out.

    InputError where the file is not a checkpoint of this task.
    """
    from tasks.face_attributes.module import FaceAttributesModule
    from tasks.predictor import Predictor

    return Predictor.from_checkpoint(FaceAttributesModule, path, device)


def _start(options: argparse.Namespace, predictor: "Predictor", run: Path) -> tuple[Describe, Finish]:
    def describe(path: Path, image: "np.ndarray", number: int) -> Described:
        result = predictor(image)
        probabilities = dict(zip(result.names, result.probabilities.tolist(), strict=True))
        present = [name for name, has in zip(result.names, result.present, strict=True) if has]
        caption = ", ".join(f"{name} {probabilities[name]:.2f}" for name in present)
        return Described({"attributes": probabilities, "present": present}, caption or "none")

    return describe, lambda done, rows: ()


PREDICT = PredictCommand(
    "Describe images of one face each; write every attribute's probability as predictions.jsonl, and sheets of the "
    "images.",
    lambda parser: None,
    _start,
    load,
)
