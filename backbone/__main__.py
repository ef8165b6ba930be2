"""`python -m backbone`: the paper's resource tables (1 to 9), counted from the real modules, beside its own figures."""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from backbone.errors import Arguments, InputError, until_unread

if TYPE_CHECKING:  # torch takes seconds to import; --help and a mistyped argument should not wait for it
    from backbone.cost import LayerCost

DESCRIPTION = """\
Print the resource tables of the MobileNet paper (Howard et al. 2017, arXiv 1704.04861), counted from this package's
modules, beside the figures the paper prints. With --width, --size or --classes: that one network alone.
"""
EPILOG = """\
examples:
  python -m backbone                             all tables
  python -m backbone --json                      every network in them as a list of JSON objects
  python -m backbone --width 0.5 --size 160      one network, by kind of layer and by stride
  python -m backbone --size 300x480 --classes 10
  python -m backbone trunks                      what our networks and timm's cost on this machine (--json)
  python -m backbone weights                     the names that --weights takes, and what they are (--json)
  python -m backbone budget --ms 10              which network fits so many milliseconds, mult-adds or params (--help)

A mult-add is one multiplication with a weight and one addition (two FLOPs), in convolutions and fully connected layers.
Params are all that is learnt, biases and batch norm included.
"""

# Table 1, row by row, as printed.
TABLE_1 = """\
Conv / s2     | 3 x 3 x 3 x 32      | 224 x 224 x 3
Conv dw / s1  | 3 x 3 x 32 dw       | 112 x 112 x 32
Conv / s1     | 1 x 1 x 32 x 64     | 112 x 112 x 32
Conv dw / s2  | 3 x 3 x 64 dw       | 112 x 112 x 64
Conv / s1     | 1 x 1 x 64 x 128    | 56 x 56 x 64
Conv dw / s1  | 3 x 3 x 128 dw      | 56 x 56 x 128
Conv / s1     | 1 x 1 x 128 x 128   | 56 x 56 x 128
Conv dw / s2  | 3 x 3 x 128 dw      | 56 x 56 x 128
Conv / s1     | 1 x 1 x 128 x 256   | 28 x 28 x 128
Conv dw / s1  | 3 x 3 x 256 dw      | 28 x 28 x 256
Conv / s1     | 1 x 1 x 256 x 256   | 28 x 28 x 256
Conv dw / s2  | 3 x 3 x 256 dw      | 28 x 28 x 256
Conv / s1     | 1 x 1 x 256 x 512   | 14 x 14 x 256
5x
Conv dw / s1  | 3 x 3 x 512 dw      | 14 x 14 x 512
Conv / s1     | 1 x 1 x 512 x 512   | 14 x 14 x 512
end
Conv dw / s2  | 3 x 3 x 512 dw      | 14 x 14 x 512
Conv / s1     | 1 x 1 x 512 x 1024  | 7 x 7 x 512
Conv dw / s2  | 3 x 3 x 1024 dw     | 7 x 7 x 1024
Conv / s1     | 1 x 1 x 1024 x 1024 | 7 x 7 x 1024
FC / s1       | 1024 x 1000         | 1 x 1 x 1024
"""

# Table 2: kind of layer -> share of mult-adds, share of parameters, in percent, as printed.
TABLE_2 = {
    "Conv 1x1": (94.86, 74.59),
    "Conv DW 3x3": (3.06, 1.06),
    "Conv 3x3": (1.19, 0.02),
    "Fully Connected": (0.18, 24.33),
}


class Network(NamedTuple):
    """A row of tables 4 to 9: how to build it, and what the paper says of it (top-1 on ImageNet in percent)."""

    model: str
    trunk: dict[str, Any]
    image_size: tuple[int, int]
    top1: float | None = None
    mult_adds: float | None = None
    params: float | None = None


CONV = Network("Conv MobileNet", {"convolution": "full"}, (224, 224), 71.7, 4866e6, 29.3e6)
SHALLOW = Network("Shallow MobileNet", {"shallow": True}, (224, 224), 65.3, 307e6, 2.9e6)
FULL = Network("1.0 MobileNet-224", {}, (224, 224), 70.6, 569e6, 4.2e6)
WIDTHS = (
    FULL,
    Network("0.75 MobileNet-224", {"width_mult": 0.75}, (224, 224), 68.4, 325e6, 2.6e6),
    Network("0.50 MobileNet-224", {"width_mult": 0.5}, (224, 224), 63.7, 149e6, 1.3e6),
    Network("0.25 MobileNet-224", {"width_mult": 0.25}, (224, 224), 50.6, 41e6, 0.5e6),
)
SIZES = (
    FULL,
    Network("1.0 MobileNet-192", {}, (192, 192), 69.1, 418e6, 4.2e6),
    Network("1.0 MobileNet-160", {}, (160, 160), 67.2, 290e6, 4.2e6),
    Network("1.0 MobileNet-128", {}, (128, 128), 64.4, 186e6, 4.2e6),
)
SMALL = Network("0.50 MobileNet-160", {"width_mult": 0.5}, (160, 160), 60.2, 76e6, 1.32e6)

TABLES = {
    "Table 4. Full convolutions against depthwise separable ones": (CONV, FULL),
    "Table 5. Thin against shallow": (WIDTHS[1], SHALLOW),
    "Table 6. Width multiplier": WIDTHS,
    "Table 7. Resolution multiplier": SIZES,
    "Table 8. MobileNet's row beside popular models": (FULL,),
    "Table 9. Small MobileNet's row beside popular models": (SMALL,),
}

# Table 3: one layer of 512 channels at 14 x 14, weights alone. It is block 8 of the network, so counted there.
TABLE_3 = (
    Network("Convolution", {"convolution": "full"}, (224, 224), None, 462e6, 2.36e6),
    Network("Depthwise Separable Conv", {}, (224, 224), None, 52.3e6, 0.27e6),
    Network("width multiplier 0.75", {"width_mult": 0.75}, (224, 224), None, 29.6e6, 0.15e6),
    Network("resolution multiplier 0.714", {"width_mult": 0.75}, (160, 160), None, 15.1e6, 0.15e6),
)
TABLE_3_BLOCK = "trunk.blocks.7."


def count_network(trunk: dict[str, Any], image_size: tuple[int, int], classes: int = 1000) -> "list[LayerCost]":
    """Count a trunk with global pooling and a classifier, as the paper's figures include them."""
    import torch
    from torch import nn

    from backbone.cost import count
    from backbone.mobilenet import MobileNetV1

    with torch.device("meta"):  # no weights are needed to count them
        body = MobileNetV1(**trunk)
        network = nn.Sequential()
        network.add_module("trunk", body)
        network.add_module("pool", nn.AdaptiveAvgPool2d(1))
        network.add_module("flatten", nn.Flatten())
        network.add_module("classifier", nn.Linear(body.channels[32], classes))
    return count(network, image_size)


def to_record(network: Network, classes: int = 1000) -> dict[str, Any]:
    """One JSON object: our counts as integers, the paper's (rounded there) as plain numbers or null."""
    from backbone.cost import total

    cost = total(count_network(network.trunk, network.image_size, classes))
    return {
        "model": network.model,
        "mult_adds": cost.mult_adds,
        "params": cost.params,
        "paper_mult_adds": None if network.mult_adds is None else round(network.mult_adds),
        "paper_params": None if network.params is None else round(network.params),
    }


def print_tables() -> None:
    """Print tables 1 to 9."""
    from backbone.cost import by_kind, total

    layers = count_network(FULL.trunk, FULL.image_size)
    print("Table 1. MobileNet body architecture, read off the layers; params with batch norm and bias\n")
    header = ["Type / Stride", "Filter Shape", "Input Size", "Paper", "mult-adds", "params"]
    print_columns(header, table_1(layers), words=4)
    print("\n  The paper's s2 in the last depthwise row is a slip: its 7 x 7 map does not shrink.")

    print("\nTable 2. Share of each kind of layer, weights alone (the paper leaves out biases and batch norm)\n")
    kinds, sums = by_kind(layers), total(layers)
    header = ["Type", "mult-adds, paper", "ours", "params, paper", "ours"]
    rows: list[Sequence[str]] = []
    for kind, (paper_mult_adds, paper_params) in TABLE_2.items():
        shares = 100 * kinds[kind].mult_adds / sums.mult_adds, 100 * kinds[kind].weights / sums.weights
        rows.append([kind, *(f"{share:.2f} %" for share in (paper_mult_adds, shares[0], paper_params, shares[1]))])
    print_columns(header, rows)
    print("\n  The paper's 1.19 % is a slip for 1.91 %: its mult-adds sum to 99.29 %.")

    print("\nTable 3. One layer of 512 channels at 14 x 14, weights alone; each row changes the one above\n")
    header[0] = "Layer"
    rows = []
    for network in TABLE_3:
        counted = count_network(network.trunk, network.image_size)
        block = total(row for row in counted if row.name.startswith(TABLE_3_BLOCK))
        rows.append([network.model, *both(network.mult_adds, block.mult_adds), *both(network.params, block.weights)])
    print_columns(header, rows)

    header = ["Model", *header[1:], "ImageNet top-1 (the paper's)"]
    for title, networks in TABLES.items():
        print(f"\n{title}\n")
        rows = []
        for network in networks:
            cost = total(count_network(network.trunk, network.image_size))
            figures = *both(network.mult_adds, cost.mult_adds), *both(network.params, cost.params)
            rows.append([network.model, *figures, f"{network.top1} %"])
        print_columns(header, rows)
    print(f"\n  The paper's 1.32 M are weights alone: ours without biases and batch norm are {cost.weights:,}.")


def table_1(layers: "list[LayerCost]") -> list[list[str]]:
    """The rows of Table 1 from counted layers: a convolution together with the batch norm behind it."""
    rows: list[list[str]] = []
    paper = paper_table_1()
    for i, layer in enumerate(layers):
        if layer.kind == "Batch norm":
            continue
        norm = layers[i + 1].params if i + 1 < len(layers) and layers[i + 1].kind == "Batch norm" else 0
        if layer.kind == "Fully Connected":
            kind, shape, size = (
                "FC / s1",
                f"{layer.input_shape[0]} x {layer.output_shape[0]}",
                (*layer.input_shape, 1, 1),
            )
        else:
            size = layer.input_shape
            stride = -(-size[1] // layer.output_shape[1])
            depthwise = "DW" in layer.kind
            kernel = layer.kind.rpartition(" ")[2].replace("x", " x ")
            kind = f"Conv{' dw' if depthwise else ''} / s{stride}"
            shape = f"{kernel} x {size[0]} dw" if depthwise else f"{kernel} x {size[0]} x {layer.output_shape[0]}"
        ours = (kind, shape, f"{size[1]} x {size[2]} x {size[0]}")
        theirs = paper[len(rows)]
        verdict = "same" if ours == theirs else ", ".join(t for o, t in zip(ours, theirs, strict=True) if o != t)
        rows.append([*ours, verdict, f"{layer.mult_adds:,}", f"{layer.params + norm:,}"])
    return rows


def paper_table_1() -> list[tuple[str, ...]]:
    """The paper's 28 rows of type, filter shape and input size."""
    before, _, rest = TABLE_1.partition("5x\n")
    repeated, _, after = rest.partition("end\n")
    lines = (before + 5 * repeated + after).splitlines()
    return [tuple(cell.strip() for cell in line.split("|")) for line in lines]


def both(paper: float | None, ours: int) -> tuple[str, str]:
    """The paper's figure in its own rounding, and ours exactly."""
    return "" if paper is None else f"{paper / 1e6:g} M", f"{ours:,}"


def print_columns(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> None:
    """Print aligned columns, the first `words` of them to the left, figures to the right."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (c.ljust(w) if i < words else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        print("  " + "  ".join(cells).rstrip())


def choose(width: float, size: tuple[int, int], classes: int) -> Network:
    """The network the arguments name, with the paper's figures where the paper has it."""
    for network in (*WIDTHS, *SIZES, SMALL):
        if (network.trunk.get("width_mult", 1.0), network.image_size, 1000) == (width, size, classes):
            return network
    pixels = f"{size[0]}" if size[0] == size[1] else f"{size[0]}x{size[1]}"
    wide = f"{width:.1f}" if width == 1 else f"{width:.2f}" if round(width, 2) == width else f"{width:g}"
    return Network(f"{wide} MobileNet-{pixels}", {"width_mult": width}, size)


def print_one(network: Network, classes: int) -> None:
    """Print one network: its sums, then each kind of layer, then the maps that heads build on."""
    from backbone.cost import by_kind, total

    layers = count_network(network.trunk, network.image_size, classes)
    cost = total(layers)
    print(f"{network.model}, {classes} classes\n")
    rows = [[kind, f"{c.mult_adds:,}", f"{c.params:,}"] for kind, c in by_kind(layers).items()]
    rows.append(["Total", f"{cost.mult_adds:,}", f"{cost.params:,}"])
    if network.mult_adds is not None and network.params is not None:
        rows.append(["Paper", f"{network.mult_adds / 1e6:g} M", f"{network.params / 1e6:g} M"])
    print_columns(["Type", "mult-adds", "params"], rows)

    last: dict[int, tuple[int, ...]] = {}
    for layer in layers:
        if len(layer.output_shape) == 3:
            last[-(-network.image_size[0] // layer.output_shape[1])] = layer.output_shape
    print("\nFeature maps (channels x height x width)\n")
    print_columns(["Stride", "Map"], ([str(2**i), " x ".join(map(str, s))] for i, s in enumerate(last.values(), 1)))


def parse_size(text: str) -> tuple[int, int]:
    """An image size in px: one side of a square, or HEIGHTxWIDTH."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and len(side) < 6 for side in sides):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size from 32 to 99999 pixels; write 224, or 300x480 (height x width)"
        )
    return int(sides[0]), int(sides[-1])


def print_trunks(arguments: Sequence[str]) -> int:
    """`python -m backbone trunks`: our networks and timm's, counted, and measured on this machine."""
    parser = Arguments(
        "python -m backbone trunks",
        description="Count and measure the networks that --model.trunk takes, on this machine.",
    )
    parser.add_argument("--json", action="store_true", help="print a list of JSON objects instead of a table")
    as_json = parser.parse_args(arguments).json
    from backbone.accelerator import retain_freed_memory
    from backbone.trunks import PUBLISHED, SIZE, measure

    retain_freed_memory()  # as `predict` does; without it narrow networks lose a third of their time to the kernel
    rows, missing = [], None
    for network in PUBLISHED:
        try:
            rows.append(measure(network))
        except InputError as error:  # without timm, ours alone
            missing = error
    if as_json:
        print(json.dumps(rows, indent=1))
        return 0
    lines = []
    for row in rows:
        width = "" if row["width_mult"] is None else f"{row['width_mult']:g}"
        costs = f"{row['mult_adds'] / 1e6:.1f} M", f"{row['params'] / 1e6:.2f} M", f"{row['milliseconds']:.1f}"
        lines.append([row["trunk"], width, *costs, f"{row['published_top1']:.1f} %", row["published_by"]])
    header = ["--model.trunk", "Width", "Mult-adds", "Params", "ms, one core", "Published top-1", "By"]
    print_columns(header, lines, words=2)
    print(f"\n  One image of {SIZE} px, with a classifier of 1,000 classes. By: the paper, or which of timm's weights.")
    if missing:
        print(f"\n  note: {missing}")
    return 0


def print_weights(arguments: Sequence[str]) -> int:
    """`python -m backbone weights`: the table of published weights, and which of them are in the cache already."""
    from backbone.weights import cache_folder, cached_file, table

    parser = Arguments("python -m backbone weights", description="List the weights that --weights knows by name.")
    parser.add_argument("--json", action="store_true", help="print a list of JSON objects, with addresses and digests")
    as_json = parser.parse_args(arguments).json
    rows = table()
    if as_json:
        print(json.dumps([{**row._asdict(), "cached": cached_file(row).is_file()} for row in rows], indent=1))
        return 0
    lines = []
    for row in rows:
        figure = {"imagenet": "top-1", "coco": "mAP"}[row.task]
        published = "" if row.published is None else f"{row.published:g} % {figure}"
        digest = "known" if row.sha256 or row.archive_sha256 else "kept at the first fetch"
        cached = "in the cache" if cached_file(row).is_file() else ""
        shape = f"{row.width_mult:g}", f"{row.image_size}", row.task, published
        lines.append([row.name, *shape, row.licence, row.project, digest, cached])
    print_columns(["Name", "Width", "px", "Trained on", "Published", "Licence", "From", "SHA-256", ""], lines, words=9)
    print(
        "\n  --weights takes a name, imagenet or coco (the best of the width asked for), hub:OWNER/NAME[/FILE],\n"
        f"  or a file. What is named is fetched once, into {cache_folder()}."
    )
    return 0


def hand_over(arguments: Sequence[str]) -> int:
    """Run `python -m tasks` with these arguments; its exit code."""
    # In a process, as nothing here imports `tasks`, where heads are and what exports them.
    child = subprocess.Popen([sys.executable, "-m", "tasks", *arguments])
    before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        while True:
            try:
                code = child.wait()
                return code if code >= 0 else 128 - code
            except KeyboardInterrupt:  # which the terminal gives the child too, and it tidies up and ends
                continue
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, 2 for input that cannot be used."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["weights"]:
        return print_weights(arguments[1:])
    if arguments[:1] == ["budget"]:
        return hand_over(arguments)
    if arguments[:1] == ["trunks"]:
        return print_trunks(arguments[1:])
    parser = Arguments(
        "python -m backbone", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--width", type=float, metavar="W", help="width multiplier, any number above 0 (default 1)")
    parser.add_argument("--size", type=parse_size, metavar="S", help="image size in px, 224 or HxW (default 224)")
    parser.add_argument("--classes", type=int, metavar="N", help="outputs of the classifier (default 1000)")
    parser.add_argument("--json", action="store_true", help="print a list of JSON objects instead of tables")
    given = parser.parse_args(arguments)
    try:
        if given.width is given.size is given.classes is None:
            if given.json:
                networks = {network.model: network for group in TABLES.values() for network in group}
                print(json.dumps([to_record(network) for network in networks.values()], indent=1))
            else:
                print_tables()
            return 0
        classes = 1000 if given.classes is None else given.classes
        if not 1 <= classes <= 10**6:
            raise InputError(f"--classes is {classes}; a classifier has 1 class or more, and a million at most.")
        network = choose(1.0 if given.width is None else given.width, given.size or (224, 224), classes)
        if given.json:
            print(json.dumps([to_record(network, classes)], indent=1))
        else:
            print_one(network, classes)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(until_unread(main))
