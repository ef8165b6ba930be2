"""`python -m backbone budget`: the best network that has so many mult-adds, parameters or milliseconds at most.

Mult-adds and parameters are counted exactly. Milliseconds are measured of exported files, each in a process of its own:
a few say what the others will roughly take, and the pick and the runner-up are always measured themselves.
"""

import argparse
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from backbone.__main__ import print_columns
from backbone.errors import Arguments, InputError
from backbone.names import printed
from backbone.trunks import PUBLISHED
from backbone.trunks import SIZE as PUBLISHED_SIZE
from backbone.weights import table
from tasks.deployment import benchmark
from tasks.next_steps import say_next

if TYPE_CHECKING:  # torch takes seconds to import; --help should not wait for it
    from torch import nn

    from tasks.module import TaskModule

HEADS = {"classifier": "classification", "ssd": "detection", "ssdlite": "detection"}
NOISY = 3  # the exit code where the pick was once measured above the budget, on a machine that gives no steady figure
CLASSES = {"classification": 1000, "detection": 80}  # ImageNet's and COCO's
_SIZES = {"classification": (128, 160, 192, 224), "detection": (128, 160, 192, 224, 256, 300, 320)}
_RUNS = 100  # of one image, of which the median is taken
_CLOSE = 0.1  # by how much two measurements of one file may differ
_AGAIN = 3  # times it is measured again where they differ by more
_SLACK = 1.2  # a network is measured where its estimate is up to this part of the budget: the estimate may be off
_SHOWN = 4  # networks above and below the pick
_MOST_CLASSES = 100_000
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}

Build = Callable[[str, "float | None", int], "TaskModule"]  # of trunk, width and size


class Candidate(NamedTuple):
    """A network that may be picked: what it is called, its published ImageNet top-1 in percent, and what it costs."""

    trunk: str
    width_mult: float | None
    size: int  # px
    top1: float
    source: str  # whose top-1
    mult_adds: int
    params: int
    costs: tuple[int, int, int]  # mult-adds of depthwise layers and of the others, and weights

    @property
    def name(self) -> str:
        """Its width, or timm's name, and its size."""
        return f"{self.network} at {self.size} px"

    @property
    def network(self) -> str:
        """Its width, or timm's name."""
        return self.trunk if self.width_mult is None else f"width {self.width_mult:g}"


class Budget(NamedTuple):
    """The most that a network may have of each; None: any."""

    mult_adds: float | None = None
    params: float | None = None
    ms: float | None = None


class Choice(NamedTuple):
    """What was found: the candidates that have not too many mult-adds and params, best first, and the best two."""

    ranked: list[Candidate]
    pick: Candidate
    runner_up: Candidate | None
    times: dict[Candidate, list[float]]  # milliseconds, measurement by measurement
    estimates: dict[Candidate, float]  # of what was not measured, and what was estimated before it was

    @property
    def noisy(self) -> bool:
        """Whether the last two measurements of the pick differ."""
        return self.pick in self.times and difference(self.times[self.pick]) > _CLOSE


def main(build: Callable[..., "TaskModule"], args: Sequence[str]) -> int:
    """Run the command; return its exit code. `build(head, classes, trunk, width, size)` makes a network.

    Raises InputError.
    """
    options = _parser().parse_args(args)
    budget, task = _checked(options), HEADS[options.head]
    made = partial(build, options.head, options.classes or CLASSES[task])
    candidates = ranked(made, _SIZES[task], options.trunks)
    with tempfile.TemporaryDirectory() as folder:
        measure = partial(milliseconds, made, task, Path(folder), options.int8, options.threads or 1)
        choice = choose(candidates, budget, measure)
    command = [task, "fit", *fit_options(choice.pick, options.head)]
    if options.json:
        print(json.dumps(record(choice, command), indent=1))
    else:
        _print_table(choice)
        _print_pick(choice, options.head)
        say_next(command)
    return NOISY if budget.ms is not None and max(choice.times[choice.pick]) > budget.ms else 0


def _parser() -> Arguments:
    parser = Arguments(
        prog="python -m backbone budget",
        description="Which network fits: of all widths and sizes those within the budget, the best by its published "
        "ImageNet top-1 first. Give one limit or more.",
        epilog=f"Exit code {NOISY}: the pick fits by the median of its measurements, but not by all of them.",
    )
    help = "the most mult-adds of one image: 150M, 0.5G, 1.2e9"
    parser.add_argument("--mult-adds", "--mult_adds", type=amount, metavar="N", help=help)
    parser.add_argument("--params", type=amount, metavar="N", help="the most parameters: 2M")
    help = "the most milliseconds of one image, measured on this machine from exported ONNX files"
    parser.add_argument("--ms", type=amount, metavar="T", help=help)
    help = "classifier (default), or a detector: the paper's SSD or MobileNetV2's SSDLite"
    parser.add_argument("--head", choices=list(HEADS), default="classifier", help=help)
    help = ", ".join(f"{count} in {task}" for task, count in CLASSES.items())
    parser.add_argument("--classes", type=int, metavar="N", help=f"of your data (default: {help})")
    parser.add_argument("--trunks", action="store_true", help=f"also timm's networks, at {PUBLISHED_SIZE} px")
    parser.add_argument("--int8", action="store_true", help="milliseconds of int8 files (default: of float32)")
    parser.add_argument("--threads", type=int, metavar="N", help="of --ms (default: 1)")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a table")
    return parser


def amount(text: str) -> float:
    """A number above 0, also with a unit of K, M, G or B behind it: 150M is 150 million."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(e[+-]?\d+)?([KMGB]?)", text.strip(), re.ASCII | re.IGNORECASE)
    value = float(found[1] + (found[2] or "")) * _UNITS[found[3].upper()] if found else 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0; write 150M, 0.5G, 1.2e9 or 10")
    return value


def _checked(options: argparse.Namespace) -> Budget:
    """The limits. Raises InputError."""
    budget = Budget(options.mult_adds, options.params, options.ms)
    if not any(budget):
        raise InputError("no limit is given; give --mult-adds 150M, --ms 10 or --params 2M, or several of them.")
    if options.classes is not None and not 1 <= options.classes <= _MOST_CLASSES:
        raise InputError(f"--classes is {options.classes}; it must be from 1 to {_MOST_CLASSES:,}.")
    for name, given in (("--int8", options.int8), ("--threads", options.threads is not None)):
        if given and budget.ms is None:
            raise InputError(f"{name} says how --ms is measured; give that too.")
    if options.threads is not None:
        benchmark.threads_of([str(options.threads)])
    if budget.ms is not None:
        from tasks.deployment.onnx_file import check_installed

        check_installed()
        if (machine := benchmark.machine_facts())["busy"]:
            _tell(f"note: this machine is busy (load average {machine['load_average']:.1f}); alone it is faster.")
    return budget


def ranked(build: Build, sizes: Sequence[int], with_timm: bool) -> list[Candidate]:
    """All candidates, the best first: by published top-1, then the larger image, then fewer mult-adds.

    Ours have slim's top-1 of their width and size; above 224 px that of 224. timm's are there at 224 px alone.
    """
    from backbone.timm_trunk import PREFIX, create_timm
    from backbone.trunk import OURS

    rows = [row for row in table() if (row.project, row.task) == ("Google", "imagenet")]
    slim = {(row.width_mult, row.image_size): row.published or 0.0 for row in rows}
    networks: list[tuple[str, float | None, int, float, str]] = [
        (OURS, width, size, slim[width, min(size, PUBLISHED_SIZE)], "slim")
        for width in sorted({width for width, _ in slim})
        for size in sizes
    ]
    others = [one for one in PUBLISHED if one.trunk.startswith(PREFIX)] if with_timm else []
    try:
        for one in others[:1]:
            create_timm(one.trunk.removeprefix(PREFIX))
        networks += [(one.trunk, None, PUBLISHED_SIZE, one.top1, one.source) for one in others]
    except InputError as error:
        _tell(f"note: ours alone, as {error}")
    found = [counted(build, *network) for network in networks]
    return sorted(found, key=lambda one: (-one.top1, -one.size, one.mult_adds))


def counted(build: Build, trunk: str, width_mult: float | None, size: int, top1: float, source: str) -> Candidate:
    """A candidate with its costs as `backbone.cost` counts them; of timm's networks in their form for inference."""
    import torch

    from backbone.cost import count, total
    from backbone.timm_trunk import reparameterized

    with torch.device("meta"):  # no weights are needed to count them
        module: nn.Module = build(trunk, width_mult, size).eval()
        module.trunk = reparameterized(module.trunk)  # type: ignore[arg-type]
    layers = count(module, torch.empty(1, 3, size, size, dtype=torch.uint8, device="meta"))
    cost, depthwise = total(layers), sum(layer.mult_adds for layer in layers if " DW " in layer.kind)
    costs = depthwise, cost.mult_adds - depthwise, cost.weights
    return Candidate(trunk, width_mult, size, top1, source, cost.mult_adds, cost.params, costs)


def choose(candidates: Sequence[Candidate], budget: Budget, measure: Callable[[Candidate], float]) -> Choice:
    """The first of the candidates that fits the budget, and the second; `measure` gives milliseconds of one.

    Candidates are measured in their order, those alone whose estimate is not far above the budget; each measurement
    improves the estimates of the others. The pick is measured at least twice. Raises InputError where nothing fits.
    """
    limits = (("mult_adds", budget.mult_adds), ("params", budget.params))
    allowed = [one for one in candidates if all(most is None or getattr(one, of) <= most for of, most in limits)]
    if not allowed:
        raise InputError(_too_small(candidates, budget))
    if budget.ms is None:
        return Choice(allowed, allowed[0], allowed[1] if len(allowed) > 1 else None, {}, {})
    times = {one: [measure(one)] for one in probes(allowed)}
    estimates: dict[Candidate, float] = {}
    while True:
        estimates.update(estimated(times, [one for one in allowed if one not in times]))
        # What has no estimate, as timm's networks, is measured in its turn.
        hopeful = [
            one
            for one in allowed
            if (fits(times[one], budget.ms) if one in times else estimates.get(one, 0.0) <= _SLACK * budget.ms)
        ]
        best = hopeful[:2]
        if fresh := [one for one in best if one not in times]:
            times[fresh[0]] = [measure(fresh[0])]
        elif best and len(times[best[0]]) == 1:
            measure_again(times[best[0]], partial(measure, best[0]))
        else:
            break
    if not best:
        fastest = min(times, key=lambda one: max(times[one]))
        ms = max(times[fastest])
        raise InputError(
            f"--ms {budget.ms:g}: nothing fits; the fastest that was measured, {fastest.name}, takes {ms:.3g} ms here. "
            f"--ms {float(f'{1.1 * ms:.2g}'):g} would be enough."
        )
    return Choice(allowed, best[0], best[1] if len(best) > 1 else None, times, estimates)


def fits(times: Sequence[float], ms: float) -> bool:
    """Whether these measurements of a network are within `ms`: the last two, or where they do not agree the median."""
    if len(times) == 1 or difference(times) > _CLOSE:
        return median(times) <= ms
    return max(median(times), *times[-2:]) <= ms


def probes(allowed: Sequence[Candidate]) -> list[Candidate]:
    """A few that are unlike each other: of each width of ours the smallest and the largest size in turn."""
    ours = [one for one in allowed if one.width_mult is not None]
    widths = sorted({one.width_mult or 0.0 for one in ours})
    of_width = [sorted((one for one in ours if one.width_mult == width), key=lambda one: one.size) for width in widths]
    return [group[-(i % 2)] for i, group in enumerate(of_width)]


def estimated(times: Mapping[Candidate, Sequence[float]], others: Sequence[Candidate]) -> dict[Candidate, float]:
    """Milliseconds of those of ours among `others`, by what was measured of ours.

    A constant, and a price each for a mult-add of a depthwise layer, for one of another layer, and for a weight: none
    below 0, and with the least squares of the relative errors.
    """
    from scipy.optimize import nnls

    known = [one for one in times if one.width_mult is not None]
    asked = [one for one in others if one.width_mult is not None]
    if not known or not asked:
        return {}
    costs = np.array([(1, *one.costs) for one in (*known, *asked)], float)
    costs /= costs.max(axis=0)
    measured = np.array([median(times[one]) for one in known])
    prices, _ = nnls(costs[: len(known)] / measured[:, None], np.ones(len(known)))
    return dict(zip(asked, (costs[len(known) :] @ prices).tolist(), strict=True))


def measure_again(times: list[float], measure: Callable[[], float]) -> None:
    """Add a measurement, and up to three more until the last two are within 10 % of each other."""
    times.append(measure())
    while difference(times) > _CLOSE and len(times) < 2 + _AGAIN:
        times.append(measure())


def difference(times: Sequence[float]) -> float:
    """By how much the last measurement differs from the one before, as a part of the smaller one."""
    return abs(times[-1] - times[-2]) / min(times[-2:])


def _too_small(candidates: Sequence[Candidate], budget: Budget) -> str:
    """The sentence where no network has so few mult-adds and parameters."""
    smallest = min(candidates, key=lambda one: (one.params, one.mult_adds))
    limits = (("--mult-adds", budget.mult_adds, smallest.mult_adds), ("--params", budget.params, smallest.params))
    over = [(option, most, has) for option, most, has in limits if most is not None and has > most]
    given = " and ".join(f"{option} {most:,.12g}" for option, most, _ in over)
    enough = " and ".join(f"{option} {has}" for option, _, has in over)
    has = f"{smallest.mult_adds:,} mult-adds and {smallest.params:,} parameters"
    return f"{given}: nothing fits; the smallest, {smallest.name}, has {has}. {enough} would be enough."


def milliseconds(build: Build, task: str, folder: Path, int8: bool, threads: int, one: Candidate) -> float:
    """The median time of an image, of the network exported into `folder`, where its file may lie already."""
    file = folder / f"{one.name.replace(':', ' ')}.onnx"
    _tell(f"measuring {one.name}{' again' * file.exists()}")
    if not file.exists():
        export(build(one.trunk, one.width_mult, one.size), file, int8)
    return median(benchmark.in_own_process(task, [str(file)], threads, _RUNS)["times_ms"])


def export(module: "TaskModule", file: Path, int8: bool) -> None:
    """Write a module's network as `export` does, in int8 with ranges of random pixels: for time alone."""
    from tasks.deployment import onnx_file
    from tasks.deployment.graph import Deployed

    height, width = module.evaluated_size
    onnx_file.write_onnx(Deployed(module.eval(), (height, width)), file)
    if int8:
        pixels = np.random.default_rng(0).integers(0, 256, (2, 4, height, width, 3), np.uint8)
        onnx_file.quantize_onnx(file, file, list(pixels), "minmax")
    precision = "int8" if int8 else "float32"
    facts = {"task": module.task, "image_size": [height, width], "precision": precision}
    onnx_file.add_metadata(file, facts)


def fit_options(one: Candidate, head: str) -> list[str]:
    """The options of `fit` that train a candidate, from ImageNet's weights, or where there are such from COCO's."""
    options = ["--data", "DIR"]
    if one.width_mult is not None:
        detectors = {row.width_mult for row in table() if row.task == "coco"} if head == "ssd" else {}
        weights = "coco" if one.width_mult in detectors else "imagenet"
        options += ["--weights", weights, "--width", f"{one.width_mult:g}"]
    else:
        weights = f"hub:{one.trunk.replace(':', '/')}.{one.source}"
        options += ["--model.trunk", one.trunk, "--weights", weights]
    return [*options, "--size", str(one.size), *(["--model.head", head] if head == "ssdlite" else [])]


def record(choice: Choice, command: Sequence[str]) -> dict[str, Any]:
    """What was found as plain values: the pick, the runner-up and all that has not too many mult-adds and params."""

    def of(one: Candidate | None) -> dict[str, Any] | None:
        if one is None:
            return None
        measured = choice.times.get(one, [])
        return {
            **{name: getattr(one, name) for name in ("trunk", "width_mult", "size", "mult_adds", "params")},
            **{"published_top1": one.top1, "published_by": one.source},
            "milliseconds": median(measured) if measured else None,
            "measured": measured,
            "estimated": choice.estimates.get(one),
        }

    found = {"pick": of(choice.pick), "runner_up": of(choice.runner_up), "noisy": choice.noisy}
    task, *words = command
    return {
        **found,
        "command": shlex.join(["python", "-m", f"tasks.{task}", *words]),
        "candidates": [of(one) for one in choice.ranked],
    }


def _print_table(choice: Choice) -> None:
    """Print the candidates around the pick, the best first."""
    place = choice.ranked.index(choice.pick)
    shown = choice.ranked[max(0, place - _SHOWN) : place + _SHOWN + 1]
    shown += [one for one in choice.ranked if one == choice.runner_up and one not in shown]
    marks = {choice.pick: "pick", choice.runner_up: "runner-up"}
    head = ["", "Network", "By", "px", "Mult-adds", "Params", "Top-1", *(["ms"] if choice.times else [])]
    rows = []
    for one in shown:
        cells = [marks.get(one, ""), one.network, one.source, f"{one.size}", *_counts(one), f"{one.top1:.1f} %"]
        rows.append([*cells, *([_time(choice, one)] if choice.times else [])])
    print_columns(head, rows, words=3)
    if choice.times:
        print("  ~: estimated, by what mult-adds and weights cost in the files that were measured")
    print()


def _print_pick(choice: Choice, head: str) -> None:
    """Print the pick and the runner-up, how they were measured, and what the ranking is worth."""
    for what, one in (("pick", choice.pick), ("runner-up", choice.runner_up)):
        if one is None:
            print(f"{what}: none; nothing else fits")
            continue
        mult_adds, params = _counts(one)
        line = f"{what}: {one.name}: {mult_adds} mult-adds, {params} parameters"
        if measured := choice.times.get(one):
            line += f", {median(measured):.2f} ms"
            if len(measured) > 1:
                line += f" (measured {', '.join(f'{ms:.2f}' for ms in measured)}: {difference(measured):.1%} apart)"
            if guess := choice.estimates.get(one):
                line += f"; the estimate of {guess:.2f} ms was {abs(guess / median(measured) - 1):.1%} off"
        print(printed(line))
    if choice.noisy:
        print(f"note: this machine is too noisy: measurements of the pick differ by more than {_CLOSE:.0%}.")
    if head == "classifier":
        print("Top-1 is ImageNet's as published by slim's and timm's authors: a prior, and no figure of your data's.")
    else:
        print(
            "Top-1 is ImageNet's as published for the trunk by slim's and timm's authors, above 224 px that of 224: a "
            "prior, and no figure of a detector's."
        )


def _counts(one: Candidate) -> tuple[str, str]:
    return f"{one.mult_adds / 1e6:.1f} M", f"{one.params / 1e6:.2f} M"


def _time(choice: Choice, one: Candidate) -> str:
    if one in choice.times:
        return f"{median(choice.times[one]):.2f}"
    return f"~{choice.estimates[one]:.2f}" if one in choice.estimates else ""


def _tell(line: str) -> None:
    """Say what goes on, apart from what was asked for."""
    print(printed(line), file=sys.stderr, flush=True)
