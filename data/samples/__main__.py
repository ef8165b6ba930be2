"""`python -m data.samples KIND DIR`: draws a sample data set into a new folder."""

import sys
from pathlib import Path

from backbone.errors import Arguments, InputError
from data.samples.detection import write_detection_sample
from data.samples.dogs import write_dogs_sample
from data.samples.faces import write_faces_sample
from data.samples.places import write_places_sample

# kind: what draws it, its line of help, its description
SAMPLES = {
    "detection": (
        write_detection_sample,
        "five shapes on textured grounds, in COCO's layout (240 train, 60 val, 60 test images, 6 MB)",
        "Circles, squares, triangles, stars and rings in any colour, with COCO annotations, some of them crowds. "
        "Train on it with: python -m tasks.detection fit --data.root DIR",
    ),
    "dogs": (
        write_dogs_sample,
        "eight breeds of drawn dogs, in Stanford Dogs' layout (640 training, 96 test images, 7 MB)",
        "Dogs in any colour whose breeds differ in ears, tail and coat, with the official lists and boxes. "
        "Train on it with: python -m tasks.classification fit --data.root DIR",
    ),
    "faces": (
        write_faces_sample,
        "drawn faces with 19 attributes, in CelebA's layout (400 train, 150 val, 400 test, 3000 unlabelled, 13 MB)",
        "Faces of drawn persons, with CelebA's lists of attributes, splits and identities, and a folder of unlabelled "
        "ones. Train on it with: python -m tasks.face_attributes fit --data.root DIR --data.unlabelled DIR/unlabelled",
    ),
    "places": (
        write_places_sample,
        "drawn photographs from all over the world, with EXIF and a CSV (2400 train, 300 val, 400 test, 20 MB)",
        "Views whose sky, ground, plants, houses and signs tell where they were taken, with positions in EXIF and in "
        "photographs.csv. Train on it with: python -m tasks.geolocalization fit --data.root DIR",
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Draws the sample that the command line names; exit code 2 and one sentence where it cannot."""
    parser = Arguments(
        prog="python -m data.samples",
        description="Draw a small data set that a network can learn from in minutes, in the format of the real one.",
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for kind, (_, line, description) in SAMPLES.items():
        of_kind = kinds.add_parser(kind, help=line, description=description)
        of_kind.add_argument("folder", metavar="DIR", type=Path, help="folder to make; it must not exist or be empty")
    chosen = parser.parse_args(arguments)
    try:
        SAMPLES[chosen.kind][0](chosen.folder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(chosen.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
