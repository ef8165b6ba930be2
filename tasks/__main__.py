"""`python -m tasks`: the paper's application tables (10 to 14), counted from the real models, beside its figures."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from backbone.__main__ import print_columns
from backbone.errors import Arguments

DESCRIPTION = """\
Print the application tables of the MobileNet paper (Howard et al. 2017, arXiv 1704.04861) for the tasks that exist
here, counted from their models, beside the figures the paper prints. So far: Table 13, object detection on COCO.
"""


class Row(NamedTuple):
    """A model of a table: how to build it, what is printed of it, and where."""

    model: str
    head: str
    image_size: int
    columns: int  # class logits an anchor has, background included
    source: str
    coco_map: float
    mult_adds: float
    params: float


# mAP on COCO minival for the paper's row, on test-dev for MobileNetV2's; neither is reproduced here yet.
TABLE_13 = (
    Row("SSD 300, MobileNet", "ssd", 300, 91, "the paper, Table 13", 19.3, 1.2e9, 6.8e6),
    Row("SSDLite 320, MobileNet", "ssdlite", 320, 81, "MobileNetV2's paper, Table 6", 22.2, 1.3e9, 5.1e6),
)


def count_detector(row: Row) -> tuple[int, int]:
    """Mult-adds and parameters of a detector of Table 13."""
    import torch

    from backbone.cost import count, total
    from backbone.mobilenet import MobileNetV1
    from tasks.detection.model import SSD

    with torch.device("meta"):  # no weights are needed to count them
        model = SSD(MobileNetV1(), row.columns, row.head)  # type: ignore[arg-type]
        image = torch.zeros(1, 3, row.image_size, row.image_size, dtype=torch.uint8)
    cost = total(count(model, image))
    return cost.mult_adds, cost.params


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = Arguments(
        prog="python -m tasks", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print a list of JSON objects instead of a table")
    options = parser.parse_args(args)
    records: list[dict[str, Any]] = []
    lines = []
    for row in TABLE_13:
        mult_adds, params = count_detector(row)
        figures = {"mult_adds": mult_adds, "params": params}
        paper = {"paper_mult_adds": round(row.mult_adds), "paper_params": round(row.params), "paper_map": row.coco_map}
        records.append({"table": 13, "model": row.model, **figures, **paper, "source": row.source})
        printed = f"{row.mult_adds / 1e9:g} B", f"{mult_adds:,}", f"{row.params / 1e6:g} M", f"{params:,}"
        lines.append([row.model, *printed, f"{row.coco_map} %", row.source])
    if options.json:
        print(json.dumps(records, indent=1))
        return 0
    print("Table 13. Object detection on COCO, 90 classes and background (SSDLite: 80)\n")
    print_columns(["Model", "mult-adds, printed", "ours", "params, printed", "ours", "mAP, printed", "by"], lines)
    print("\n  The printed mAP are the papers' own, not reproduced here. Measured figures are in docs/results.md.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
