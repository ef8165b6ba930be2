"""`python -m backbone trunks`: what the networks that serve as trunks cost, counted and measured here."""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from backbone.errors import Arguments, InputError

if TYPE_CHECKING:
    from torch import nn

_SIZE = 224  # px, at which all of these accuracies were published


class Published(NamedTuple):
    """A network as `--model.trunk` names it, and its published ImageNet top-1 in percent with whose it is."""

    trunk: str
    width_mult: float | None
    top1: float
    source: str


# Ours: the paper's Table 6. timm's: results/results-imagenet.csv of huggingface/pytorch-image-models, August 2026, at
# 224 px; the best weights there that saw ImageNet-1k alone.
PUBLISHED = (
    Published("mobilenetv1", 0.25, 50.6, "the paper"),
    Published("mobilenetv1", 0.5, 63.7, "the paper"),
    Published("mobilenetv1", 0.75, 68.4, "the paper"),
    Published("mobilenetv1", 1.0, 70.6, "the paper"),
    Published("timm:mobilenetv1_100", None, 75.388, "ra4_e3600_r224_in1k"),
    Published("timm:mobilenetv2_100", None, 72.910, "ra_in1k"),
    Published("timm:mobilenetv3_large_100", None, 76.310, "ra4_e3600_r224_in1k"),
    Published("timm:mobilenetv4_conv_small", None, 73.756, "e2400_r224_in1k"),
    Published("timm:repvit_m0_9", None, 79.058, "dist_450e_in1k"),
    Published("timm:mobileone_s1", None, 75.760, "apple_in1k"),
    Published("timm:efficientnet_lite0", None, 75.488, "ra_in1k"),
)


def measure(network: Published, runs: int = 20) -> dict[str, Any]:
    """Mult-adds and parameters with a classifier of 1,000 classes, and the median time of one image on one core, in ms.

    The network is in its form for inference, channels last, at 224 px. InputError where timm is needed and missing.
    """
    import torch

    from backbone.cost import count, total

    module = _classifier(network).eval().to(memory_format=torch.channels_last)
    cost = total(count(module, (_SIZE, _SIZE)))
    image = torch.zeros(1, 3, _SIZE, _SIZE).to(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            times = []
            for _ in range(runs + 3):
                start = time.perf_counter()
                module(image)
                times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return {
        "trunk": network.trunk,
        "width_mult": network.width_mult,
        "mult_adds": cost.mult_adds,
        "params": cost.params,
        "milliseconds": round(1000 * statistics.median(times[3:]), 2),
        "published_top1": network.top1,
        "published_by": network.source,
    }


def _classifier(network: Published) -> "nn.Module":
    from torch import nn

    from backbone.mobilenet import MobileNetV1
    from backbone.timm_trunk import PREFIX, create_timm, for_inference

    if network.trunk.startswith(PREFIX):
        return for_inference(create_timm(network.trunk.removeprefix(PREFIX)).eval())
    trunk = MobileNetV1(network.width_mult or 1.0)
    return nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(trunk.channels[32], 1000))


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    parser = Arguments(
        "python -m backbone trunks",
        description="Count and measure, on this machine, the networks that serve as trunks (--model.trunk).",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print a list of JSON objects instead of a table")
    as_json = parser.parse_args(arguments).json
    from backbone.__main__ import print_columns

    rows, missing = [], None
    for network in PUBLISHED:
        try:
            rows.append(measure(network))
        except InputError as error:  # without timm, ours alone
            missing = error
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        header = ["--model.trunk", "Width", "Mult-adds", "Params", "ms, one core", "Published top-1", "By"]
        print_columns(header, [_cells(row) for row in rows], words=2)
        print(
            f"\n  One image of {_SIZE} px, with a classifier of 1,000 classes. By: the paper, or which weights of timm."
        )
    if missing:
        print(f"\n  note: {missing}")
    return 0


def _cells(row: dict[str, Any]) -> list[str]:
    width = "" if row["width_mult"] is None else f"{row['width_mult']:g}"
    sums = f"{row['mult_adds'] / 1e6:.1f} M", f"{row['params'] / 1e6:.2f} M"
    return [row["trunk"], width, *sums, f"{row['milliseconds']:.1f}", f"{row['published_top1']} %", row["published_by"]]
