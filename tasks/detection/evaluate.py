"""`python -m tasks.detection evaluate`: COCO's twelve figures for any results file, from any detector."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

from backbone.errors import Arguments, InputError


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
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the twelve figures there, in full")
    parser.add_argument(
        "--backend",
        choices=("faster", "pycocotools"),
        default="faster",
        help="what matches the boxes; the figures are the same to the last digit (default: %(default)s)",
    )
    options = parser.parse_args(args)
    _evaluate(options.annotations, options.results, options.json, options.backend)
    return 0


def _evaluate(annotations: Path, results: Path, figures_file: Path | None, backend: Any) -> None:
    from tqdm import tqdm

    from tasks.detection.metrics import evaluate, format_figures  # here, so that --help answers at once

    if figures_file is not None:
        if not figures_file.parent.is_dir():
            raise InputError(f"--json {figures_file}: there is no folder {figures_file.parent}; create it first.")
        if figures_file.is_dir() or any(figures_file.resolve() == file.resolve() for file in (annotations, results)):
            raise InputError(f"--json {figures_file} is a folder or one of the input files; name a file to write.")
    # no bar where nobody watches (disable=None); counted in steps, as the matching itself is one call
    with tqdm(total=3, disable=None, leave=False, bar_format="{desc} {n_fmt}/{total_fmt} [{elapsed}]") as bar:
        bar.set_description(f"reading {annotations.name}")
        ground_truth = _read_json(annotations)
        bar.update()
        bar.set_description(f"reading {results.name}")
        rows = _read_json(results)
        bar.update()
        bar.set_description("matching boxes")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scores = evaluate(ground_truth, rows, backend=backend, names=(str(annotations), str(results)))
        bar.update()
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    print(format_figures(scores.figures))
    if figures_file is not None:
        figures_file.write_text(json.dumps(scores.figures, indent=2) + "\n")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of a COCO JSON file.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give the path of a COCO JSON file.") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise InputError(f"{path} is not JSON ({error}); give a COCO JSON file.") from None
