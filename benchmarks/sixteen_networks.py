"""The sixteen networks of Tables 6 and 7, width by size: milliseconds in float32 and int8 beside mult-adds.

    python benchmarks/sixteen_networks.py [--runs 100] [--rounds 3]

Each has a classifier of 1,000 classes, is exported as ONNX and measured in a process of its own on one core; int8 has
the ranges of random pixels, as it is for time alone. In each round every file is measured once, so that what else the
machine does falls on all of them. Then how well mult-adds say milliseconds. The paper prints those of size 224 and
those of width 1; top-1 is slim's, as published.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import pearsonr, spearmanr

from tasks.__main__ import build_module
from tasks.deployment import benchmark, budget

SIZES = (128, 160, 192, 224)
PRECISIONS = ("float32", "int8")


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="of one image, in each round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    options = parser.parse_args()
    networks = budget.ranked(lambda *network: build_module("classifier", 1000, *network), SIZES, with_timm=False)
    networks.sort(key=lambda one: (-(one.width_mult or 0), -one.size))
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for one in networks:
            module = build_module("classifier", 1000, one.trunk, one.width_mult, one.size)
            for precision in PRECISIONS:
                files[one.name, precision] = Path(folder) / f"{one.name} {precision}.onnx"
                budget.export(module, files[one.name, precision], int8=precision == "int8")
        for _ in range(options.rounds):
            for key, file in files.items():
                found = benchmark.in_own_process("classification", [str(file)], 1, options.runs)
                times.setdefault(key, []).extend(found["times_ms"])
    machine = benchmark.machine_facts()
    print(f"{machine['cpu']}, one core, {found['runtime']}, {options.rounds} x {options.runs} runs of one image.\n")
    print(
        "| width | px | top-1, % | params, M | mult-adds, M | float32, ms | quartiles | int8, ms | quartiles | ratio |"
    )
    print("| --- |" + " ---: |" * 9)
    for one in networks:
        cells = [f"{one.width_mult:g}", str(one.size), f"{one.top1:.1f}", f"{one.params / 1e6:.2f}"]
        cells.append(f"{one.mult_adds / 1e6:.1f}")
        medians = []
        for precision in PRECISIONS:
            low, middle, high = np.percentile(times[one.name, precision], [25, 50, 75])
            medians.append(middle)
            cells += [f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]
        print(f"| {' | '.join([*cells, f'{medians[1] / medians[0]:.2f}'])} |")
    mult_adds = [one.mult_adds / 1e6 for one in networks]
    print("\n| how well mult-adds say milliseconds | float32 | int8 |\n| --- | ---: | ---: |")
    columns = [agreement(mult_adds, [np.median(times[one.name, p]) for one in networks]) for p in PRECISIONS]
    for name in columns[0]:
        print(f"| {name} | {columns[0][name]} | {columns[1][name]} |")


def agreement(mult_adds: Sequence[float], milliseconds: Sequence[float]) -> dict[str, str]:
    """How well mult-adds (in millions) say milliseconds, by name."""
    x, y = np.array(mult_adds), np.array(milliseconds)
    price = y / x
    part = x / y
    slope = part.sum() / (part**2).sum()  # of the line through the origin with the least squared relative errors
    errors = abs(slope * part - 1)
    return {
        "Spearman's correlation": f"{spearmanr(x, y).statistic:.3f}",
        "Pearson's correlation": f"{pearsonr(x, y).statistic:.3f}",
        "ms of a million mult-adds, least to most": f"{price.min():.4f} to {price.max():.4f}",
        "the most by the least": f"{price.max() / price.min():.2f}",
        "line through the origin, ms of a million mult-adds": f"{slope:.4f}",
        "its relative error, median and largest": f"{np.median(errors):.1%}, {errors.max():.1%}",
    }


if __name__ == "__main__":
    main()
