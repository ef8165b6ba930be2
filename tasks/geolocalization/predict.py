"""What `python -m tasks.geolocalization predict` writes of an image: where it was taken, with a map and GeoJSON."""

import argparse
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import Arguments
from tasks.predict import Described, OpenImage, PredictCommand, Started

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.geolocalization.hierarchy import Decode
    from tasks.predictor import Predictor
    from tasks.sources import Item

_MAPS = 20  # drawn for the first images; of more, the JSON lines, the GeoJSON and the sheets tell


def _add_arguments(parser: Arguments) -> None:
    parser.add_argument("--top", type=int, default=5, metavar="K", help="cells for each image (default: %(default)s)")
    parser.add_argument("--conf", type=float, default=0.0, metavar="P", help="least probability of a cell in it")
    parser.add_argument("--crops", type=int, choices=(1, 5), help="of each image, averaged (default: as trained)")
    parser.add_argument(
        "--decode", choices=("best", "f_star", "expected"), help="how cells become a position (default: as trained)"
    )
    parser.add_argument(
        "--compare", action="store_true", help="read the position in the image's EXIF too, and say how far off it is"
    )


def load(
    path: str | Path, device: str = "auto", *, crops: int | None = None, decode: "Decode | None" = None
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


def _start(options: argparse.Namespace, predictor: "Predictor", run: Path) -> Started:
    import numpy as np

    from data.readers.exif_folder import exif_position
    from tasks.geolocalization.decoding import top_cells
    from tasks.geolocalization.geojson import feature_collection
    from tasks.geolocalization.head import DRAWN_CELLS
    from tasks.geolocalization.maps import draw_prediction, position_text
    from tasks.geolocalization.sphere import haversine_km

    head: Any = _adjusted(predictor, options.crops, options.decode).head
    finest = head.hierarchy.finest
    drawing = threading.Lock()  # matplotlib is not made for threads

    def position(item: "Item") -> Any:
        return exif_position(item.path) if options.compare and item.frame is None else None

    def describe(item: "Item", size: tuple[int, int], result: Any, number: int) -> Described:
        row = _row(result, size)
        best = f"{result.probabilities.max():.2f}, half within {result.half_radius_km:,.0f} km"
        lines = [position_text(result.latlng), best]
        true = position(item)
        if isinstance(true, tuple):
            distance = float(haversine_km(np.array(true), result.latlng))
            row |= {"exif": [round(degrees, 6) for degrees in true], "distance_km": round(distance, 3)}
            lines.append(f"{distance:,.0f} km off")
        elif true is not None:
            row["exif"] = true
        return Described(row, ", ".join(lines), "\n".join(lines))

    def write(item: "Item", image: OpenImage, result: Any, number: int) -> None:
        where, name = (result.latlng, result.half_radius_km), item.path.name
        collection = feature_collection(finest, result.cells, result.cells_probability, *where, name)
        text = json.dumps(collection, ensure_ascii=False)
        path = run / "geojson" / f"{item.place}.geojson"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "backslashreplace"))
        if number < _MAPS and not options.no_images:
            drawn = top_cells(result.probabilities[None], DRAWN_CELLS)[0]
            true = position(item)
            shown = (
                finest,
                (drawn, result.probabilities[drawn]),
                *where,
                np.array(true) if isinstance(true, tuple) else None,
            )
            path = run / "pictures" / f"{item.place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            with drawing:
                draw_prediction(path, image(), *shown, name)

    def table(row: Mapping[str, Any]) -> Iterator[Sequence[object]]:
        for one in row["cells"]:
            place = [row[name] for name in ("latitude", "longitude", "half_radius_km")]
            yield [*place, *(one[name] for name in ("cell", "latitude", "longitude", "probability"))]

    columns = ("latitude", "longitude", "half_radius_km", "cell", "cell_latitude", "cell_longitude", "probability")
    return Started(describe, {"top": options.top, "conf": options.conf}, write, columns=columns, table=table)


def _degrees(latlng: Any) -> dict[str, float]:
    return {"latitude": round(float(latlng[0]), 6), "longitude": round(float(latlng[1]), 6)}


def _row(result: Any, size: tuple[int, int]) -> dict[str, Any]:
    cells = zip(result.cells_latlng.tolist(), result.cells_probability.tolist(), result.tokens, strict=True)
    return {
        **_degrees(result.latlng),
        "half_radius_km": round(result.half_radius_km, 3),
        "cells": [{**_degrees(at), "probability": round(p, 6), "cell": token} for at, p, token in cells],
    }


def _fields(names: Sequence[str]) -> "dict[str, pa.DataType]":
    import pyarrow as pa

    degrees = {"latitude": pa.float64(), "longitude": pa.float64()}
    cell = pa.struct({**degrees, "probability": pa.float32(), "cell": pa.string()})
    return {**degrees, "half_radius_km": pa.float32(), "cells": pa.list_(cell)}


def _options(predictor: "Predictor", given: Mapping[str, Any]) -> dict[str, Any]:
    _adjusted(predictor, given.get("crops"), given.get("decode"))
    return {name: given[name] for name in ("top", "conf")}


PREDICT = PredictCommand(
    "Say where images were taken, from what is seen in them; write positions with their probability as "
    "predictions.jsonl, maps, and a GeoJSON file for each. What EXIF says is not looked at.",
    _add_arguments,
    _start,
    load,
    row=_row,
    fields=_fields,
    of_results=("top", "conf", "crops", "decode"),
    adjust=_options,
)
