"""`python -m tasks.detection evaluate`: COCO's twelve figures for any results file, from any detector."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from backbone.errors import Arguments, InputError
from backbone.names import printed

if TYPE_CHECKING:
    from data.readers.coco_file import Detections
    from data.records import Issue, Records


def main(args: list[str]) -> int:
    """Run the command; return its exit code. InputError where a file cannot be used."""
    parser = Arguments(
        prog="python -m tasks.detection evaluate",
        description="Score a COCO results file against COCO annotations and print COCO's own twelve lines.",
    )
    parser.add_argument("--annotations", type=Path, required=True, metavar="A.json", help="COCO annotations")
    parser.add_argument(
        "--results",
        type=Path,
        required=True,
        metavar="R.json",
        help="list of objects with image_id, category_id, bbox (x, y, width, height; pixels) and score",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="also write the twelve figures there, in full, null without an object to measure on",
    )
    parser.add_argument(
        "--backend",
        choices=("hotcoco", "pycocotools"),
        default="hotcoco",
        help="what matches the boxes; the figures are the same to the last digit (default: %(default)s)",
    )
    options = parser.parse_args(args)
    annotations, results, figures_file = options.annotations, options.results, options.json
    from data.readers.coco import classes_beside  # here, so that --help answers at once
    from data.readers.coco_file import parse_annotations, parse_results, read_json, read_results
    from tasks.detection.metrics import evaluate, format_figures, measured
    from tasks.reporting import write_json

    if figures_file is not None:
        if not figures_file.parent.is_dir():
            raise InputError(f"--json {figures_file}: there is no folder {figures_file.parent}; create it first.")
        if figures_file.is_dir() or any(figures_file.resolve() == file.resolve() for file in (annotations, results)):
            raise InputError(f"--json {figures_file} is a folder or one of the input files; name a file to write.")
    contents = read_json(annotations), read_results(results)

    def parsed(classes: dict[int, str]) -> "tuple[Records, Detections, tuple[Issue, ...]]":
        truth = parse_annotations(contents[0], str(annotations), classes, for_scoring=True)
        return truth, *parse_results(contents[1], truth, str(results), str(annotations))

    try:
        truth, detections, odd_results = parsed({})
    except InputError:  # perhaps for classes that only the other splits list
        if not (wider := classes_beside(annotations)):
            raise
        truth, detections, odd_results = parsed(wider)
    scores = evaluate(truth, detections, options.backend)
    for file, issues in ((annotations, truth.issues), (results, odd_results)):
        for issue in issues:
            print(printed(f"warning: {file}: {issue}"), file=sys.stderr)
    if scores.figures["map"] == -1:
        print(printed(f"nothing to measure: {annotations} has no object to find (crowd regions do not count)"))
    else:
        print(format_figures(scores.figures).replace("= -1.000", "= not measured: no such object"))
    if figures_file is not None:
        write_json(figures_file, measured(scores.figures))
    return 0
