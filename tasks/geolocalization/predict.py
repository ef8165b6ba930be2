"""`python -m tasks.geolocalization predict`: say where pictures were taken, with maps."""

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from tasks.commands import predict_arguments

_NAME_BYTES = 100  # of a picture's name that go into names of files, which 255 bytes with all else bound
_MAPS = 20  # drawn for the first pictures; of more, the JSON lines, the GeoJSON and the sheets tell


def main(args: list[str]) -> int:
    """Run the command; return its exit code. InputError where the source or the checkpoint cannot be used."""
    parser = predict_arguments(
        "geolocalization",
        "Say where pictures were taken, from what is seen in them: places with their probability as "
        "predictions.jsonl, maps, and a GeoJSON file for each. What EXIF says is not looked at.",
        "its test pictures",
    )
    parser.add_argument("--ckpt_path", type=Path, metavar="C.ckpt", help="default: the best of the newest run")
    parser.add_argument("--top_k", type=int, default=5, help="places for each picture (default: %(default)s)")
    parser.add_argument("--crops", type=int, choices=(1, 5), help="of each picture, averaged (default: as trained)")
    parser.add_argument(
        "--answer", choices=("best", "f_star", "expected"), help="how cells become a place (default: as trained)"
    )
    parser.add_argument(
        "--compare", action="store_true", help="read the position in the picture's EXIF too, and say how far off it is"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go (default: %(default)s)")
    options = parser.parse_args(args)
    if options.top_k < 1:
        raise InputError(f"--top_k {options.top_k}: give 1 or more.")
    _predict(options)
    return 0


def _predict(options: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from data.exif_positions import exif_position
    from data.geotagged import read_geotagged
    from data.images import open_image
    from data.samples import built_in_sample
    from tasks.accelerator import keep_freed_memory
    from tasks.geolocalization.geojson import feature_collection
    from tasks.geolocalization.inference import Geolocator
    from tasks.geolocalization.maps import draw_prediction, place
    from tasks.geolocalization.sphere import haversine_km
    from tasks.predicting import need_sample, pictures_at, write_answers
    from tasks.runs import new_run, newest_checkpoint

    keep_freed_memory()
    file = options.ckpt_path or newest_checkpoint("geolocalization", options.runs)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    locate = Geolocator.from_checkpoint(file, device, crops=options.crops, answer=options.answer)
    if options.source is None:
        need_sample(file, "geolocalization", "locate")
        tested = read_geotagged(built_in_sample("places")).splits["test"]
        pictures = [tested.path(i) for i in range(len(tested))]
    else:
        pictures = pictures_at(options.source)
    run = new_run("geolocalization", options.runs)
    finest = locate.atlas.finest
    done: list[Path] = []

    def answer(path: Path) -> tuple[np.ndarray, dict[str, Any], str]:
        image = open_image(path, at_least=locate.at_least)
        found = locate(image, top_k=options.top_k)
        likeliest = zip(found.places_latlng.tolist(), found.place_probabilities.tolist(), found.tokens, strict=True)
        row: dict[str, Any] = {
            "latitude": round(float(found.latlng[0]), 6),
            "longitude": round(float(found.latlng[1]), 6),
            "half_radius_km": round(found.half_radius_km, 3),
            "places": [
                {"latitude": round(at[0], 6), "longitude": round(at[1], 6), "probability": round(p, 6), "cell": token}
                for at, p, token in likeliest
            ],
        }
        caption = (
            f"{place(found.latlng)}\n{found.place_probabilities[0]:.2f}, half within {found.half_radius_km:,.0f} km"
        )
        true = None
        if options.compare:
            position = exif_position(path)
            if isinstance(position, str):
                row["exif"] = position
            else:
                true = np.array(position)
                distance = float(haversine_km(true, found.latlng))
                row |= {"exif": [round(degrees, 6) for degrees in position], "distance_km": round(distance, 3)}
                caption += f"\n{distance:,.0f} km off"
        name = f"{len(done):05}_{_writable(path.stem)}"
        for folder in ("geojson", "pictures"):
            (run / folder).mkdir(parents=True, exist_ok=True)
        collection = feature_collection(
            finest, found.probabilities, found.latlng, found.half_radius_km, top_k=options.top_k, file=path.name
        )
        text = json.dumps(collection, ensure_ascii=False)
        (run / "geojson" / f"{name}.geojson").write_bytes(text.encode("utf-8", "backslashreplace"))
        if len(done) < _MAPS:
            map_file, title = run / "pictures" / f"{name}.png", path.name
            radius = found.half_radius_km
            draw_prediction(map_file, image, finest, found.probabilities, found.latlng, radius, true, title)
        done.append(path)
        return image, row, caption

    write_answers(run, pictures, answer, f"What {file} says")


def _writable(name: str) -> str:
    """A name that another can be made of: without control characters, and not too long."""
    name = re.sub(r"[\x00-\x1f\x7f-\x9f]", "_", name)
    while len(os.fsencode(name)) > _NAME_BYTES:
        name = name[:-1]
    return name
