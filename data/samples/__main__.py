"""`python -m data.samples KIND DIR`: draws a sample data set into a new folder."""

import sys
from pathlib import Path

from backbone.errors import Arguments, InputError, until_unread
from data.samples import write_sample

# kind: the task that learns it, and what it is: how many images there are to train, validate and test on
SAMPLES = {
    "detection": ("detection", "five shapes on textured grounds, in COCO's layout (240, 60 and 60 images; 6 MB)"),
    "dogs": ("classification", "eight breeds of drawn dogs, in Stanford Dogs' layout (640 and 96 images; 7 MB)"),
    "faces": ("face_attributes", "drawn faces, in CelebA's layout (400, 150, 400 and 3000 unlabelled images; 13 MB)"),
    "places": ("geolocalization", "drawn views of the world, with EXIF and a CSV (2400, 300 and 400 images; 20 MB)"),
}


def main(arguments: list[str] | None = None) -> int:
    """Draws the sample that the command line names; exit code 2 and one sentence where it cannot."""
    about = "Draw a small data set that a network can learn from in minutes, in the format of the real one."
    parser = Arguments(prog="python -m data.samples", description=about)
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for kind, (task, line) in SAMPLES.items():
        description = f"Draw {line}. Train on it with: python -m tasks.{task} fit --data DIR"
        of_kind = kinds.add_parser(kind, help=line, description=description)
        of_kind.add_argument("folder", metavar="DIR", type=Path, help="folder to make; it must not exist or be empty")
    chosen = parser.parse_args(arguments)
    try:
        write_sample(chosen.kind, chosen.folder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(chosen.folder)
    return 0


if __name__ == "__main__":
    sys.exit(until_unread(main))
