"""What every report writes with: JSON, CSV, Markdown, model cards, images by matplotlib, names that fit into them.

Every file is written whole, and InputError raised where the disk is full or may not be written to.
"""

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.files import replacing, write_whole
from backbone.names import escaped, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's, as in tasks/plotting.py
DPI = 100
_RUN = tuple(
    "=+-@\uff1d\uff0b\uff0d\uff20"
)  # also as wide as a Chinese letter: https://owasp.org/www-community/attacks/CSV_Injection
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def write_json(path: Path, figures: Mapping[str, float | None]) -> dict[str, float | None]:
    """Write figures by name, null where one could not be measured (None or NaN); return what was written."""
    flat = {name: None if value is None or math.isnan(value) else float(value) for name, value in figures.items()}
    _write_text(path, json.dumps(flat, indent=2, allow_nan=False, ensure_ascii=False))
    return flat


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table in UTF-8, of texts such as backbone/names.py escapes them.

    A text that a spreadsheet would run, as it begins with = + - or @, gets an apostrophe in front; a number does not.
    """
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([_cell(value) for value in row] for row in chain([head], rows))


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = escaped(value)
    return f"'{text}" if text.lstrip().startswith(_RUN) and not _NUMBER.fullmatch(text) else text


def number(value: float) -> str:
    """A figure for a Markdown table, with three decimals; in words where it is NaN."""
    return "not measured" if math.isnan(value) else f"{value:.3f}"


def as_code(name: str) -> str:
    """A name in Markdown's backquotes; a bar would end a table's cell."""
    return f"`{shown(name).replace('|', '/').replace('`', ' ')}`"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its cells each in one line, a bar in them as a stroke."""
    lines = ([shown(cell, 200).replace("|", "/") for cell in cells] for cells in (head, ["---"] * len(head), *rows))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def figures_table(figures: Mapping[str, float], words: Mapping[str, str]) -> str:
    """A Markdown table of those `figures` that `words` names, in its order and by its words."""
    rows = ([text, number(figures[name])] for name, text in words.items() if name in figures)
    return markdown_table(["figure", "value"], rows)


def write_model_card(
    path: Path, *, task: str, model: str, data: str, licence: str, parts: Mapping[str, str], end: str = ""
) -> None:
    """Write a model card (Mitchell et al. 2019, https://arxiv.org/abs/1810.03993) for those who did not train the net.

    `model`, `data` and `licence` ("" where the data name none) are sentences; `parts` are headings to Markdown, and
    `end` is Markdown after them.
    """
    licence = licence or "The data name no licence: see that you may use them."
    text = [f"# Model card: {task}", model, "## Data and licence", f"{data} {licence}"]
    text += [f"## {heading}\n\n{content.strip()}" for heading, content in parts.items()]
    _write_text(path, "\n\n".join([*text, end] if end else text))


def _write_text(path: Path, text: str) -> None:
    """Write lines that names are in; JSON stays exact."""
    write_whole(path, "\n".join(map(escaped, text.rstrip("\n").split("\n"))) + "\n")


def unique_names(names: Sequence[str], numbers: Iterable[int]) -> list[str]:
    """The names; one that several classes share is followed by its number."""
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({number})" for name, number in zip(names, numbers, strict=True)]


def clipped(name: str) -> str:
    """At most 26 letters, for the ticks and the legend of a figure."""
    return shown(name, 26)


def legible(names: Sequence[str], what: str, most: int = 60) -> list[str]:
    """The names as they are drawn: each in one line, and cut where long, as `shown`.

    Where letters are left out that the figures' font lacks, or names have become alike, with "`what` 3".
    """
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans")).get_charmap()
    found = []
    for k, name in enumerate(names):
        whole = shown(name, most)
        kept = " ".join("".join(letter if ord(letter) in known else " " for letter in whole).split())
        found.append(f"{what} {k}" if not kept else whole if kept == whole else f"{kept} ({what} {k})")
    count = Counter(found)
    return [name if count[name] == 1 else f"{name} ({what} {k})" for k, name in enumerate(found)]


def save_figure(figure: "Figure", path: Path, *, tight: bool = True) -> None:
    """Write a PNG, the same bytes whatever the version of matplotlib; `tight`: as large as its texts need."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if "$" in text.get_text():
            text.set_parse_math(False)  # a name may hold two dollars; the numbers of axes are written while drawing
    around: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.2} if tight else {}
    with replacing(path) as beside:
        figure.savefig(beside, metadata={"Software": None}, **around)


def write_curves(run: Path, monitor: str) -> None:
    """Draw pictures/curves.png of a run's metrics.csv: losses and learning rate by step, the figure `monitor` by epoch.

    Nothing where the file is not there, or has none of them yet; of a resumed run, what came since.
    """
    file = run / "metrics.csv"
    if not file.is_file():
        return
    with file.open(newline="", encoding="utf-8") as lines:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(lines)]

    def points(name: str, over: str) -> tuple[list[float], list[float]]:
        found = [(row[over] + (over == "epoch"), row[name]) for row in rows if name in row]
        return [x for x, _ in found], [y for _, y in found]

    losses = sorted({name for row in rows for name in row if name.startswith("train/loss")})
    losses = losses if len(losses) > 2 else losses[:1]  # one part is the whole
    panels = [("loss", "step", losses), ("learning rate", "step", ["train/lr"]), (monitor, "epoch", [monitor])]
    panels = [panel for panel in panels if any(points(name, panel[1])[0] for name in panel[2])]
    if not panels:
        return
    from matplotlib.figure import Figure  # slow to import, and only needed here
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4.6 * len(panels), 3.4), dpi=DPI, layout="constrained")
    for axes, (title, over, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name in names:
            xs, ys = points(name, over)
            axes.plot(xs, ys, marker="o" if len(xs) < 30 else None, markersize=3, label=name.removeprefix("train/"))
        axes.set(xlabel=over, title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color="0.92")
        if len(names) > 1:
            axes.legend(frameon=False, fontsize=8)
    (run / "pictures").mkdir(exist_ok=True)
    save_figure(figure, run / "pictures" / "curves.png")
