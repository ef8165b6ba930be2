"""What an experiment ends in: a row for each of its runs, one table, mean AP over mult-adds and over more pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.reporting import BLUE, DPI, ORANGE, save_figure, write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Table 12, on faces of the paper's own. (width, size): mean AP in %, and mult-adds as printed
PAPER = {
    (1.0, 224): (88.7, 568e6),
    (0.5, 224): (88.1, 149e6),
    (0.25, 224): (87.2, 45e6),
    (1.0, 128): (88.1, 185e6),
    (0.5, 128): (87.7, 48e6),
    (0.25, 128): (86.4, 15e6),
}
PAPER_TEACHER = 86.9

_LEARNED = {"teacher": "teacher", "distilled": "the teacher's answers", "labels": "labels"}
_STYLES: dict[str, dict[str, Any]] = {
    "distilled": {"color": BLUE, "marker": "o", "label": "students, on the teacher's answers"},
    "labels": {"color": ORANGE, "marker": "s", "label": "the same students on labels, equal steps"},
}


@dataclass(frozen=True)
class Row:
    """One finished run. None where it is not known; mean AP lie in 0..1."""

    arm: str  # "teacher", "distilled" or "labels"
    width_mult: float
    image_size: tuple[int, int]  # (height, width) px
    mult_adds: int
    params: int
    steps: int
    with_labels: int | None  # pictures it was trained on
    without_labels: int | None
    val_map: float | None
    test_map: float | None
    teacher_map: float | None  # of its teacher, on test pictures of this size
    sweep: float | None = None  # the part of the unlabelled pictures, where this was asked for

    @property
    def shape(self) -> str:
        """As the paper writes it, but for the word MobileNet: "0.25-128"."""
        height, width = self.image_size
        return f"{float(self.width_mult)}-{height if height == width else f'{height}x{width}'}"


def read_row(
    test: Path,
    best: Path,
    fit: Path | None,
    *,
    arm: str,
    pictures: tuple[int | None, int | None],
    sweep: float | None = None,
) -> Row:
    """The row of a run: folders of its `test` and, where there is one, its `fit`, and the checkpoint that was tested.

    Mult-adds and parameters are counted from the network that the checkpoint describes.
    """
    import torch

    from backbone import MobileNetV1
    from backbone.cost import count, total
    from tasks.pooled import PooledClassifier
    from tasks.runs import read_checkpoint

    checkpoint = read_checkpoint(best, "face_attributes")
    settings = checkpoint["hyper_parameters"]
    width, (height, breadth) = settings["width_mult"] or 1.0, settings["input_size"]
    with torch.device("meta"):  # no weights are needed to count them
        net = PooledClassifier(MobileNetV1(width), len(settings["categories"]))
        cost = total(count(net, torch.zeros(1, 3, height, breadth, dtype=torch.uint8)))
    tested = json.loads((test / "metrics.json").read_text("utf-8"))
    fitted = json.loads((fit / "metrics.json").read_text("utf-8")) if fit else {}
    last = read_checkpoint(fit / "checkpoints" / "last.ckpt", "face_attributes") if fit else checkpoint
    return Row(
        arm,
        width,
        (height, breadth),
        cost.mult_adds,
        cost.params,
        last["global_step"],
        *pictures,
        fitted.get("val/map"),
        tested.get("test/map"),
        tested.get("test/teacher_map"),
        sweep,
    )


def teacher_map(rows: Sequence[Row]) -> float | None:
    """The teacher's mean AP on the test pictures: of its own test, else on those of the largest size it was shown."""
    own = [row.test_map for row in rows if row.arm == "teacher"]
    shown = [row for row in rows if row.teacher_map is not None]
    return own[0] if own else max(shown, key=lambda row: row.image_size).teacher_map if shown else None


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """The names of the columns, and a line for each row; None where a figure is not known."""
    head = ["model", "learned_from", "with_labels", "without_labels", "steps", "mult_adds", "params"]
    head += ["val_map", "test_map", "teacher_map", "of_teacher", "paper_map"]
    lines: list[list[Any]] = []
    teachers = teacher_map(rows)
    for row in rows:
        side = row.image_size[0] if row.image_size[0] == row.image_size[1] else None
        paper, _ = PAPER.get((row.width_mult, side or 0), (None, None)) if row.arm != "teacher" else (None, None)
        share = row.test_map / teachers if row.test_map is not None and teachers else None
        counted = [row.with_labels, row.without_labels, row.steps, row.mult_adds, row.params]
        figures = [row.val_map, row.test_map, teachers, share, None if paper is None else paper / 100]
        lines.append([_model(row), _LEARNED[row.arm], *counted, *figures])
    return head, lines


def curves(rows: Sequence[Row]) -> dict[str, list[tuple[int, float, str]]]:
    """By arm the points (mult-adds, test mean AP, shape) of the students, the smallest first; without the sweep's."""
    return {
        arm: sorted(
            (row.mult_adds, row.test_map, row.shape)
            for row in rows
            if row.arm == arm and row.test_map is not None and row.sweep in (None, 1)
        )
        for arm in _STYLES
    }


def sweep_curve(rows: Sequence[Row]) -> list[tuple[int, float]]:
    """The points (pictures without labels, test mean AP) of the sweep, the fewest first."""
    swept = [row for row in rows if row.sweep is not None and row.test_map is not None]
    return sorted((row.without_labels or 0, row.test_map or 0.0) for row in swept)


def write_comparison(folder: Path, rows: Sequence[Row]) -> Path:
    """Write table.csv, table.md, pictures/experiment.png and, of a sweep, pictures/unlabelled.png; return table.md."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    head, lines = table(rows)
    write_csv(folder / "table.csv", head, [["" if value is None else value for value in line] for line in lines])
    words = _words(lines)
    text = ["| " + " | ".join(row) + " |" for row in (_HEAD, ["---"] * len(_HEAD), *words)]
    (folder / "table.md").write_text("\n".join([*text, "", _NOTE]) + "\n", "utf-8")
    _draw_shapes(rows, pictures / "experiment.png")
    if sweep_curve(rows):
        _draw_sweep(rows, pictures / "unlabelled.png")
    return folder / "table.md"


def print_table(rows: Sequence[Row]) -> None:
    """Print what table.md has."""
    from backbone.__main__ import print_columns

    print()
    print_columns(_HEAD, _words(table(rows)[1]), words=2)
    print(f"\n  {_NOTE}")


_HEAD = ["model", "learned from", "labelled", "unlabelled", "steps", "mult-adds", "params"]
_HEAD += ["val mean AP", "test mean AP", "teacher's", "share of it", "the paper's"]
_NOTE = (
    "The paper's mean AP (Table 12) is on faces of its own, learned from a teacher of 0.869: not to be compared with "
    "ours."
)


def _words(lines: Sequence[Sequence[Any]]) -> list[list[str]]:
    def word(value: Any) -> str:
        return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"

    return [
        [line[0], line[1], *map(word, line[2:5]), f"{line[5] / 1e6:,.1f} M", *map(word, line[6:])] for line in lines
    ]


def _model(row: Row) -> str:
    return row.shape.replace("-", " MobileNet-", 1)


# --------------------------------------------------------------------------------------------------------- pictures


def _draw_shapes(rows: Sequence[Row], path: Path) -> None:
    from matplotlib.figure import Figure  # slow to import, and only needed here

    figure = Figure(figsize=(11, 4.2), dpi=DPI)
    ours, papers = figure.subplots(1, 2, width_ratios=(3, 2), gridspec_kw={"wspace": 0.2})
    drawn = {arm: points for arm, points in curves(rows).items() if points}
    for arm, points in drawn.items():
        ours.plot([cost / 1e6 for cost, _, _ in points], [found for _, found, _ in points], **_STYLES[arm])
    if drawn:
        _mult_add_axis(ours, next(iter(drawn.values())))
    _teacher_line(ours, rows)
    ours.set_title("mean AP on the test pictures", loc="left", fontsize=11)
    ours.set_ylabel("mean AP")
    _finish(ours)

    grey: dict[str, Any] = {"color": "0.35"}
    printed = sorted((cost, found, f"{width}-{size}") for (width, size), (found, cost) in PAPER.items())
    costs, figures = [cost / 1e6 for cost, _, _ in printed], [found for _, found, _ in printed]
    papers.plot(costs, figures, "D", **grey, markerfacecolor="white", label="the paper's students")
    papers.axhline(PAPER_TEACHER, **grey, linestyle=":", label=f"the paper's teacher, {PAPER_TEACHER} %")
    papers.set_title("Table 12, on the paper's own faces", loc="left", fontsize=11, **grey)
    papers.set(ylabel="mean AP, %, a scale of its own", ylim=(86, 89.2))
    _mult_add_axis(papers, printed)
    _finish(papers)
    for text in (papers.yaxis.label, papers.xaxis.label):
        text.set_color("0.35")
    papers.tick_params(colors="0.35", which="both")
    save_figure(figure, path)


def _draw_sweep(rows: Sequence[Row], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    counts, figures = zip(*sweep_curve(rows), strict=True)
    student = next(row for row in rows if row.sweep is not None)
    labels = next((row for row in rows if row.arm == "labels" and row.shape == student.shape), None)
    figure = Figure(figsize=(6.6, 4), dpi=DPI)
    axes = figure.add_subplot()
    axes.plot(counts, figures, color=BLUE, marker="o", label="on the teacher's answers")
    if labels is not None and labels.test_map is not None:
        axes.axhline(labels.test_map, color=ORANGE, linestyle="--", label="on labels, equal steps")
    _teacher_line(axes, rows)
    fewest = min([count for count in counts if count], default=1)
    axes.set_xscale("symlog", linthresh=fewest, linscale=0.5)  # 0 has no logarithm
    axes.set_xlim(-fewest / 3, max(counts) * 1.3 + 1)
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    beside = f", beside {student.with_labels:,} with labels" if student.with_labels else ""
    axes.set(xlabel=f"pictures without labels{beside}", ylabel="mean AP")
    title = f"{_model(student)}: mean AP on the test pictures, {student.steps:,} steps"
    axes.set_title(title, loc="left", fontsize=11)
    _finish(axes)
    save_figure(figure, path)


def _teacher_line(axes: Axes, rows: Sequence[Row]) -> None:
    if (teachers := teacher_map(rows)) is None:
        return
    known = next((row for row in rows if row.arm == "teacher"), None)
    whose = f": {_model(known)}, {known.mult_adds / 1e6:,.0f} M mult-adds" if known else ""
    axes.axhline(teachers, color="black", linestyle=":", label=f"teacher, {teachers:.3f}{whose}")


def _mult_add_axis(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Logarithmic, and over each point (mult-adds, figure, name) its name, where neighbours leave it room."""
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import NullLocator

    millions = [cost / 1e6 for cost, _, _ in points]
    least, most = min(millions) / 1.8, max(millions) * 1.8
    axes.set_xscale("log")
    axes.set_xlim(least, most)
    ticks = [digit * 10**power for power in range(-3, 6) for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if least <= tick <= most]
    axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("million mult-adds")
    halo = withStroke(linewidth=3, foreground="white")
    for k, (_, figure, name) in enumerate(points):
        before = k > 0 and millions[k] < 1.4 * millions[k - 1]
        after = k + 1 < len(points) and millions[k + 1] < 1.4 * millions[k]
        side = "left" if before else "right" if after else "center"
        place: dict[str, Any] = {"xytext": (0, 7), "textcoords": "offset points", "ha": side}
        axes.annotate(name, (millions[k], figure), **place, fontsize=8, color="0.35", path_effects=[halo])


def _finish(axes: Axes) -> None:
    axes.margins(y=0.12)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:  # beneath, where it covers no point
        below: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.14), "borderpad": 0}
        axes.legend(**below, frameon=False, fontsize=9)
