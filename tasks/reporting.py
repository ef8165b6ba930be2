"""What every report writes with: JSON, CSV, Markdown, model cards, images by matplotlib, names that fit into them."""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's, as in tasks/plotting.py
DPI = 100


def write_json(path: Path, figures: Mapping[str, float | None]) -> dict[str, float | None]:
    """Write figures by name, null where one could not be measured (None or NaN); return what was written."""
    flat = {name: None if value is None or math.isnan(value) else float(value) for name, value in figures.items()}
    path.write_text(json.dumps(flat, indent=2, allow_nan=False, ensure_ascii=False) + "\n", "utf-8")
    return flat


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table in UTF-8; a file's name that is none is escaped."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


def number(value: float) -> str:
    """A figure for a Markdown table, with three decimals; in words where it is NaN."""
    return "not measured" if math.isnan(value) else f"{value:.3f}"


def as_code(name: str) -> str:
    """A name in Markdown's backquotes; a bar would end a table's cell."""
    return f"`{name.replace('|', '/').replace('`', ' ')}`"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that hold no bar."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def figures_table(figures: Mapping[str, float], words: Mapping[str, str]) -> str:
    """A Markdown table of those `figures` that `words` names, in its order and by its words."""
    rows = ([text, number(figures[name])] for name, text in words.items() if name in figures)
    return markdown_table(["figure", "value"], rows)


def write_model_card(path: Path, *, task: str, model: str, data: str, licence: str, parts: Mapping[str, str]) -> None:
    """Write a model card (Mitchell et al. 2019, https://arxiv.org/abs/1810.03993) for those who did not train the net.

    `model`, `data` and `licence` ("" where the data name none) are sentences; `parts` are headings to Markdown.
    """
    licence = licence or "The data name no licence: see that you may use them."
    text = [f"# Model card: {task}", model, "## Data and licence", f"{data} {licence}"]
    text += [f"## {heading}\n\n{content.strip()}" for heading, content in parts.items()]
    path.write_text("\n\n".join(text) + "\n", "utf-8")


def unique_names(names: Sequence[str], numbers: Iterable[int]) -> list[str]:
    """The names; one that several classes share is followed by its number."""
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({number})" for name, number in zip(names, numbers, strict=True)]


def clipped(name: str) -> str:
    """At most 26 letters: names that begin alike often end differently, so the middle goes."""
    return name if len(name) <= 26 else f"{name[:14]}…{name[-11:]}"


def legible(names: Sequence[str], what: str) -> list[str]:
    """The names, each in one line; where letters are left out that the figures' font lacks, with "`what` 3"."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans")).get_charmap()
    found = []
    for k, name in enumerate(names):
        whole = " ".join(name.split())
        kept = " ".join("".join(letter if ord(letter) in known else " " for letter in whole).split())
        found.append(whole if kept == whole else f"{kept} ({what} {k})" if kept else f"{what} {k}")
    return found


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a PNG as large as its texts need, the same bytes from any version of matplotlib's name in it."""
    figure.savefig(path, metadata={"Software": None}, bbox_inches="tight", pad_inches=0.2)
