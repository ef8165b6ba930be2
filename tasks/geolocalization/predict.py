"""What `python -m tasks.geolocalization predict` writes of an image: where it was taken, with a map and GeoJSON."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import Arguments
from tasks.predict import Describe, Described, Finish, PredictCommand, writable_names

if TYPE_CHECKING:
    import numpy as np

    from tasks.geolocalization.hierarchy import Decode
    from tasks.predictor import Predictor

_MAPS = 20  # drawn for the first images; of more, the JSON lines, the GeoJSON and the sheets tell


def _add_arguments(parser: Arguments) -> None:
    parser.add_argument("--top_k", type=int, default=5, help="cells for each image (default: %(default)s)")
    parser.add_argument("--crops", type=int, choices=(1, 5), help="of each image, averaged (default: as trained)")
    parser.add_argument(
        "--decode", choices=("best", "f_star", "expected"), help="how cells become a position (default: as trained)"
    )
    parser.add_argument(
        "--compare", action="store_true", help="read the position in the image's EXIF too, and say how far off it is"
    )


def load(
    path: str | Path, device: str = "cpu", *, crops: int | None = None, decode: "Decode | None" = None
) -> "Predictor":
    """A checkpoint as a function of an image, which gives a `Geolocation`; `crops` (1 or 5) and `decode` as trained.

    Raises InputError where the file is not a checkpoint of this task.
    """
    from tasks.geolocalization.module import GeolocalizationModule
    from tasks.predictor import Predictor

    return _adjusted(Predictor.from_checkpoint(GeolocalizationModule, path, device), crops, decode)


def _adjusted(predictor: "Predictor", crops: int | None, decode: "Decode | None") -> "Predictor":
    from data.geotagged import size_for_crops

    size = predictor.module.evaluated_size
    five = (crops or predictor.data_options["crops"]) == 5
    predictor.resize_to(size_for_crops(size) if five else size)
    head: Any = predictor.head
    head.decode = decode or head.decode
    return predictor


def _start(options: argparse.Namespace, predictor: "Predictor", run: Path) -> tuple[Describe, Finish]:
    import numpy as np

    from data.readers.exif_folder import exif_position
    from tasks.geolocalization.decoding import top_cells
    from tasks.geolocalization.geojson import feature_collection
    from tasks.geolocalization.head import DRAWN_CELLS
    from tasks.geolocalization.maps import draw_prediction, position_text
    from tasks.geolocalization.sphere import haversine_km

    head: Any = _adjusted(predictor, options.crops, options.decode).head
    finest = head.hierarchy.finest
    stems = dict(zip(options.images, writable_names(path.stem for path in options.images), strict=True))

    def describe(path: Path, image: "np.ndarray", number: int) -> Described:
        result = predictor(image, top_k=options.top_k)
        cells = zip(result.cells_latlng.tolist(), result.cells_probability.tolist(), result.tokens, strict=True)
        row: dict[str, Any] = {
            **_degrees(result.latlng),
            "half_radius_km": round(result.half_radius_km, 3),
            "cells": [{**_degrees(at), "probability": round(p, 6), "cell": token} for at, p, token in cells],
        }
        sure = f"{result.cells_probability[0]:.2f}, half within {result.half_radius_km:,.0f} km"
        caption = f"{position_text(result.latlng)}\n{sure}"
        true, position = None, exif_position(path) if options.compare else None
        if isinstance(position, tuple):
            true = np.array(position)
            distance = float(haversine_km(true, result.latlng))
            row |= {"exif": [round(degrees, 6) for degrees in position], "distance_km": round(distance, 3)}
            caption += f"\n{distance:,.0f} km off"
        elif position is not None:
            row["exif"] = position
        name = f"{number:05}_{stems[path]}"
        for folder in ("geojson", "pictures"):
            (run / folder).mkdir(parents=True, exist_ok=True)
        where = result.latlng, result.half_radius_km
        collection = feature_collection(finest, result.cells, result.cells_probability, *where, path.name)
        text = json.dumps(collection, ensure_ascii=False)
        (run / "geojson" / f"{name}.geojson").write_bytes(text.encode("utf-8", "backslashreplace"))
        if number < _MAPS:
            drawn = top_cells(result.probabilities[None], DRAWN_CELLS)[0]
            shown = image, finest, (drawn, result.probabilities[drawn]), *where, true, path.name
            draw_prediction(run / "pictures" / f"{name}.png", *shown)
        return Described(row, caption)

    return describe, lambda done, rows: ()


def _degrees(latlng: Any) -> dict[str, float]:
    return {"latitude": round(float(latlng[0]), 6), "longitude": round(float(latlng[1]), 6)}


PREDICT = PredictCommand(
    "Say where images were taken, from what is seen in them; write positions with their probability as "
    "predictions.jsonl, maps, and a GeoJSON file for each. What EXIF says is not looked at.",
    _add_arguments,
    _start,
    load,
)
