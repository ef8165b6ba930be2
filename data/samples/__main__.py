"""`python -m data.samples KIND DIR`: draws a sample data set into a new folder."""

import sys
from pathlib import Path

from backbone.errors import Arguments, InputError
from data.samples.detection import write_detection_sample


def main(arguments: list[str] | None = None) -> int:
    """Draws the sample that the command line names; exit code 2 and one sentence where it cannot."""
    parser = Arguments(
        prog="python -m data.samples",
        description="Draw a small data set that a network can learn from in minutes, in the format of the real one.",
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    detection = kinds.add_parser(
        "detection",
        help="five shapes on textured grounds, in COCO's layout (240 train, 60 val, 60 test images, 6 MB)",
        description="Circles, squares, triangles, stars and rings in any colour, with COCO annotations, some of them "
        "crowds. Train on it with: python -m tasks.detection fit --data.root DIR",
    )
    detection.add_argument("folder", metavar="DIR", type=Path, help="folder to make; it must not exist or be empty")
    chosen = parser.parse_args(arguments)
    try:
        write_detection_sample(chosen.folder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(chosen.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
