"""What `python -m tasks.face_attributes predict` writes of an image: every attribute's probability."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import Arguments
from tasks.predict import Described, PredictCommand, Started

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.predictor import Predictor
    from tasks.sources import Item


def load(path: str | Path, device: str = "auto") -> "Predictor":
    """The predictor of a checkpoint: an image of a face in, the probability of each attribute out.

    InputError where the file is not a checkpoint of this task.
    """
    from tasks.face_attributes.module import FaceAttributesModule
    from tasks.predictor import Predictor

    return Predictor.from_checkpoint(FaceAttributesModule, path, device)


def _add_arguments(parser: Arguments) -> None:
    parser.add_argument(
        "--conf", type=float, metavar="P", help="least probability of a present attribute (default: each one's own)"
    )


def _start(options: argparse.Namespace, predictor: "Predictor", run: Path) -> Started:
    def describe(item: "Item", size: tuple[int, int], result: Any, number: int) -> Described:
        row = _row(result, size)
        line = ", ".join(f"{name} {row['attributes'][name]:.2f}" for name in row["present"]) or "none"
        return Described(row, line, line)

    return Started(
        describe,
        {"conf": options.conf},
        found=lambda row: row["present"],
        columns=("name", "probability", "present"),
        table=lambda row: ([name, p, name in row["present"]] for name, p in row["attributes"].items()),
    )


def _row(result: Any, size: tuple[int, int]) -> dict[str, Any]:
    present = [name for name, has in zip(result.names, result.present, strict=True) if has]
    return {"attributes": dict(zip(result.names, result.probabilities.tolist(), strict=True)), "present": present}


def _fields(names: Sequence[str]) -> "dict[str, pa.DataType]":
    import pyarrow as pa

    return {"attributes": pa.struct(dict.fromkeys(names, pa.float32())), "present": pa.list_(pa.string())}


PREDICT = PredictCommand(
    "Describe images of one face each; write every attribute's probability as predictions.jsonl, and sheets of the "
    "images.",
    _add_arguments,
    _start,
    load,
    row=_row,
    fields=_fields,
    of_results=("conf",),
)
