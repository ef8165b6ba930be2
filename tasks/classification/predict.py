"""What `python -m tasks.classification predict` writes of an image: its likeliest classes."""

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


def _add_arguments(parser: Arguments) -> None:
    parser.add_argument("--model.trunk", dest="trunk", metavar="timm:NAME", help="the network of timm's weights")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes for each image (default: %(default)s)")
    parser.add_argument("--conf", type=float, default=0.0, metavar="P", help="least probability of what is written")


def load(path: str | Path, device: str = "auto", trunk: str | None = None) -> "Predictor":
    """The predictor of a checkpoint, or of another project's ImageNet classifier; InputError where it is neither.

    `path` is a file or what `--weights` takes: a name is fetched once, and then found in the cache. `trunk` is
    needed for a classifier of timm's other networks: "timm:NAME".
    """
    from backbone import Preprocessing, trunk_settings
    from backbone.weights import find_weights
    from data import imagenet
    from tasks.classification.module import ClassificationModule
    from tasks.predictor import Predictor, device_of
    from tasks.run_folders import checkpoint_at

    file = checkpoint_at(find_weights(path).file)
    if file.suffix == ".ckpt":
        return Predictor.from_checkpoint(ClassificationModule, file, device)
    numerics = trunk_settings({"trunk": trunk, "weights": file})["numerics"]
    images = Preprocessing.from_dict(numerics)
    names, side = dict(enumerate(imagenet.class_names())), images.image_size
    module = ClassificationModule(names, (side, side), head="imagenet", trunk=trunk, weights=str(file))
    return Predictor(module.to(device_of(device)), images.crop_fraction, images.interpolation)


def _start(options: argparse.Namespace, predictor: "Predictor", run: Path) -> Started:
    if predictor.data_options.get("crop") == "bbox":
        print("note: this net was trained on images cut to the dog's box (--data.crop bbox); give it such images")

    def describe(item: "Item", size: tuple[int, int], result: Any, number: int) -> Described:
        row = _row(result, size)
        best = [f"{one['name']} {one['probability']:.2f}" for one in row["classes"][:3]]
        return Described(row, ", ".join(best) or "nothing", "\n".join(best))

    return Started(
        describe,
        {"top": options.top, "conf": options.conf},
        found=lambda row: (one["name"] for one in row["classes"][:1]),
        columns=("name", "probability"),
        table=lambda row: ([one["name"], one["probability"]] for one in row["classes"]),
    )


def _row(result: Any, size: tuple[int, int]) -> dict[str, Any]:
    classes = zip(result.names, result.probabilities.tolist(), strict=True)
    return {"classes": [{"name": name, "probability": p} for name, p in classes]}


def _fields(names: Sequence[str]) -> "dict[str, pa.DataType]":
    import pyarrow as pa

    return {"classes": pa.list_(pa.struct({"name": pa.string(), "probability": pa.float32()}))}


PREDICT = PredictCommand(
    "Classify images; write the likeliest classes as predictions.jsonl, and sheets of the images.",
    _add_arguments,
    _start,
    load,
    row=_row,
    fields=_fields,
    of_results=("top", "conf"),
)
