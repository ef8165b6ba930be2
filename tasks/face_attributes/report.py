"""What a test run leaves in its folder: figures, tables by attribute and by image, pictures, a model card."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from backbone.errors import InputError
from tasks.face_attributes.metrics import Scores, probabilities
from tasks.plotting import contact_sheet, fit
from tasks.reporting import BLUE, DPI, ORANGE, clipped, count_of, legible, save_figure, write_csv, write_json

_ROW = 24  # px of an attribute's bar and the gap to the next
_WIDTH = 560  # px of a bar of AP 1
_SHEET_ERRORS = 24
_UNREADABLE_GREY = 160

# CelebA's attributes that judge a person, or tell of sex, age, build, or may stand in for ethnic origin
_SENSITIVE = {
    "attractive",
    "big_lips",
    "big_nose",
    "chubby",
    "double_chin",
    "male",
    "narrow_eyes",
    "pale_skin",
    "young",
}


def write_report(
    folder: Path,
    *,
    split: str,
    scores: Scores,
    logits: np.ndarray,
    targets: np.ndarray,
    attributes: Sequence[str],
    files: Sequence[str],
    thresholds: np.ndarray | None,
    open_image: Callable[[int], np.ndarray],
    extra: Mapping[str, float | None] | None = None,
    teacher: np.ndarray | None = None,
) -> dict[str, float | None]:
    """Write the results of a run into `folder`; return what went into metrics.json.

    `scores` is what `evaluate` gave for the same `logits`, `targets` (N, K), `thresholds` (K,) and `teacher` (N, K);
    `files` names the N images, and `open_image` gives the one at a position (H, W, 3) uint8 RGB; where it raises
    InputError a grey tile stands for it.

    Written: `metrics.json` ("<split>/<figure>", also those of `extra`, and "<split>/ap/<attribute>" where it could be
    measured; null where not), `per_attribute.csv` (the worst AP first), `predictions.csv` (the probability of each
    attribute) and, under `pictures/`, `per_attribute.png` and `worst_errors.png`. The same input gives the same files.
    """
    limits = np.full(len(attributes), 0.5) if thresholds is None else thresholds
    measured = {f"ap/{attributes[k]}": scores.ap[k] for k in np.flatnonzero(~np.isnan(scores.ap)).tolist()}
    metrics = {f"{split}/{name}": value for name, value in {**scores.figures, **measured, **(extra or {})}.items()}
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    flat = write_json(folder / "metrics.json", metrics)
    write_csv(folder / "per_attribute.csv", *_by_attribute(scores, attributes, limits))
    rows = zip(files, probabilities(logits).tolist(), strict=True)
    progress = tqdm(rows, "predictions.csv", total=len(files), disable=None, delay=2, leave=False)
    write_csv(
        folder / "predictions.csv",
        ["file", *attributes],
        ([file, *(f"{chance:.6f}" for chance in chances)] for file, chances in progress),
    )

    def open_or_grey(position: int) -> np.ndarray:
        try:
            return open_image(position)
        except InputError:
            return np.full((300, 300, 3), _UNREADABLE_GREY, np.uint8)

    _plot_attributes(pictures / "per_attribute.png", scores, attributes, split)
    _draw_errors(pictures / "worst_errors.png", logits, targets, limits, attributes, files, open_or_grey, teacher)
    return flat


def surest_errors(
    logits: np.ndarray, targets: np.ndarray, thresholds: np.ndarray, count: int
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """At most `count` wrong answers (image, attribute), and how many wrong answers each image has (N,).

    The farthest beyond their threshold, in logits, come first. So that many kinds are seen, an image comes once, and an
    attribute at most five times; oftener where few attributes have errors.
    """
    wrong = ((probabilities(logits) >= thresholds) != (targets == 1)) & (targets >= 0)  # (N, K)
    images, attributes = np.nonzero(wrong)
    limits = np.clip(thresholds, 1e-9, 1 - 1e-9)
    sureness = np.abs(logits - np.log(limits / (1 - limits)))[wrong]
    most = max(5, -(-count // max(1, len(np.unique(attributes)))))
    times = np.zeros(logits.shape[1], int)
    chosen: dict[int, int] = {}
    for i in np.argsort(-sureness, kind="stable"):
        image, attribute = int(images[i]), int(attributes[i])
        if image not in chosen and times[attribute] < most:
            chosen[image] = attribute
            times[attribute] += 1
        if len(chosen) == count:
            break
    return list(chosen.items()), wrong.sum(axis=1)


# ----------------------------------------------------------------------------------------------------------- tables


def _worst_first(scores: Scores) -> list[int]:
    """Attributes by AP, those at the end that have none."""
    return np.argsort(scores.ap, kind="stable").tolist()  # numpy sorts NaN to the end


def _by_attribute(
    scores: Scores, attributes: Sequence[str], thresholds: np.ndarray
) -> tuple[list[str], list[list[object]]]:
    columns: dict[str, np.ndarray | None] = {
        "ap": scores.ap,
        "teacher_ap": scores.teacher_ap,
        "teacher_balanced_accuracy": scores.teacher_balanced_accuracy,
        "teacher_f1": scores.teacher_f1,
        "teacher_accuracy": scores.teacher_accuracy,
        "teacher_ece": scores.teacher_ece,
        "teacher_agreement": scores.teacher_agreement,
        "teacher_kl": scores.teacher_kl,
        "base_rate": scores.base_rate,
        "threshold": thresholds,
        "balanced_accuracy": scores.balanced_accuracy,
        "f1": scores.f1,
        "accuracy": scores.accuracy,
        "ece": scores.ece,
        "known": scores.known,
        "positive": scores.positive,
    }
    there = {name: values.tolist() for name, values in columns.items() if values is not None}
    rows = [
        [attributes[k], *("" if np.isnan(values[k]) else values[k] for values in there.values())]
        for k in _worst_first(scores)
    ]
    return ["attribute", *there], rows


# --------------------------------------------------------------------------------------------------------- pictures


def _plot_attributes(path: Path, scores: Scores, attributes: Sequence[str], split: str) -> None:
    """A bar of AP for each attribute, the worst on top; the base rate as a line, the teacher's AP as a diamond."""
    from matplotlib.figure import Figure  # slow to import, and only needed here

    shown_as = legible(attributes, "attribute")
    shown = [k for k in _worst_first(scores) if not np.isnan(scores.ap[k])]
    figures = scores.figures
    images = count_of(int(figures["images"]), "image")
    title = [f"{split}: average precision of {count_of(len(shown), 'attribute')} in {images}"]
    if shown:
        title.append(f"mean {figures['map']:.3f}")
        if "teacher_map" in figures:
            title[-1] += f", the teacher's {figures['teacher_map']:.3f}"
    left_out = [shown_as[k] for k in range(len(shown_as)) if k not in shown]
    if left_out:
        names = ", ".join(clipped(name) for name in left_out[:3]) + ", …" * (len(left_out) > 3)
        title.append(f"{len(left_out)} left out, without both a yes and a no: {names}")

    height = max(1, len(shown)) * _ROW
    figure = Figure(figsize=(_WIDTH / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))  # the bars fill the figure, and saving it makes room for what is around them
    text: dict[str, Any] = {"fontsize": 9, "parse_math": False}  # a name may hold two dollars
    axes.set_title("\n".join(title), loc="left", fontsize=11, pad=24 if shown else 8, parse_math=False)
    if not shown:
        axes.set_axis_off()
        return save_figure(figure, path)

    places = np.arange(len(shown))
    bars = axes.barh(places, scores.ap[shown], height=0.62, color=BLUE, label="average precision")
    line: dict[str, Any] = {"color": "black", "markersize": 15, "markeredgewidth": 2}
    rates = axes.plot(scores.base_rate[shown], places, "|", **line, label="base rate (guessing)")
    columns, marks = [("AP", scores.ap, BLUE), ("base", scores.base_rate, "0.2")], [bars, *rates]
    if scores.teacher_ap is not None:
        diamond: dict[str, Any] = {"color": ORANGE, "markeredgecolor": "white", "markersize": 8, "clip_on": False}
        marks += axes.plot(scores.teacher_ap[shown], places, "D", **diamond, linestyle="", label="teacher's")
        columns.insert(1, ("teacher", scores.teacher_ap, ORANGE))
    for column, (head, values, color) in enumerate(columns):
        x = 1.03 + 0.105 * column
        axes.text(x, 1 + 6 / height, head, color=color, fontsize=9, transform=axes.transAxes)
        for place, k in enumerate(shown):
            axes.text(x, place, f"{values[k]:.3f}", va="center", fontsize=9, color=color)
    axes.set_yticks(places, [clipped(shown_as[k]) for k in shown], **text)
    axes.set(xlim=(0, 1), ylim=(len(shown) - 0.5, -0.5))
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    below: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -24 / height), "borderpad": 0}
    axes.legend(handles=marks, **below, ncols=3, frameon=False, fontsize=9)
    save_figure(figure, path)


def _draw_errors(
    path: Path,
    logits: np.ndarray,
    targets: np.ndarray,
    thresholds: np.ndarray,
    attributes: Sequence[str],
    files: Sequence[str],
    open_image: Callable[[int], np.ndarray],
    teacher: np.ndarray | None,
) -> None:
    chosen, errors = surest_errors(logits, targets, thresholds, _SHEET_ERRORS)
    tiles, captions = [], []
    for image, k in tqdm(chosen, "worst errors", disable=None, delay=2, leave=False):
        tiles.append(fit(open_image(image), 240, 240)[0])
        said, is_not = ("missed", "has it") if targets[image, k] else ("said", "is not")
        notes = [f"yes from {thresholds[k]:.2f}"] if thresholds[k] != 0.5 else []
        notes += [f"teacher {probabilities(teacher[image, k]):.2f}"] if teacher is not None else []
        notes += [f"{errors[image] - 1} more wrong"] if errors[image] > 1 else []
        answer = f"{said} {attributes[k]} {probabilities(logits[image, k]):.2f}, {is_not}"
        captions.append("\n".join([answer, *["; ".join(notes)] * bool(notes), files[image]]))
    known, total = int((targets >= 0).sum()), int(errors.sum())
    title = f"Wrong: {total:,} of {count_of(known, 'answer')}" if total else f"No errors in {count_of(known, 'answer')}"
    if total > len(chosen):
        title += f"; {len(chosen)} of the surest, each from another image"
    contact_sheet(tiles, captions, path, columns=6, title=title)


# ------------------------------------------------------------------------------------------------------- model card

_FIGURES = {  # in the order of the card
    "map": "mean average precision",
    "teacher_map": "the teacher's mean average precision",
    "base_rate": "mean average precision of guessing (the base rate)",
    "balanced_accuracy": "balanced accuracy",
    "teacher_balanced_accuracy": "the teacher's balanced accuracy, at the thresholds of this net",
    "f1": "F1",
    "teacher_f1": "the teacher's F1, at the thresholds of this net",
    "accuracy": "accuracy",
    "teacher_accuracy": "the teacher's accuracy, at the thresholds of this net",
    "ece": "calibration error of the probabilities",
    "teacher_ece": "the teacher's calibration error",
    "teacher_agreement": "share of decisions that are the teacher's",
    "teacher_kl": "KL divergence from the teacher, nats",
}

_CELEBA = """\
CelebA shows celebrities, mostly Western and often made up for the camera; there is no record that they agreed. People
who labelled its pictures again were consistent on at least 95 % of them for only 12 of the 40 attributes, and close to
random for three (Wu et al. 2022, https://arxiv.org/abs/2210.07356)."""

_TRAINED_ON = "The net was trained on these pictures or some of them, so its figures flatter it."
_NON_COMMERCIAL = """\
Hold weights trained on these pictures to the same terms: no commercial use, and none passed on without the terms. The
project itself ships no such weights."""

# the AI Act: https://eur-lex.europa.eu/eli/reg/2024/1689/oj
_USE = """\
## Intended use

Research on small networks and distillation, and sorting or searching pictures by what is plainly to be seen, such as
glasses or a hat, where an error does no harm and the people shown know of it.

## Not intended

- To identify a person, or to tell whether two pictures show the same one.
- To infer race, political opinions, trade union membership, religion, sex life, sexual orientation, health, emotions,
  character or any other sensitive trait.
- To decide about a person: in work, credit, insurance, housing, schooling, policing or at borders.

In the European Union the AI Act (Regulation (EU) 2024/1689) bans inferring race, political opinions, union membership,
beliefs, sex life or sexual orientation from biometric data (Article 5(1)(g)), counts biometric categorisation by
sensitive or protected attributes as high-risk (Annex III, 1(b)), and from 2 August 2026 requires that people exposed to
biometric categorisation be told (Article 50(3)). This is not legal advice.

## Limits

- Labels are opinions. Yes or no fits few attributes, and annotators disagree on many.
- Figures, probabilities and thresholds hold for pictures like those above; measure again on others.
- The net says yes or no of any picture, also of one without a face."""


def write_model_card(
    path: Path,
    *,
    model: str,
    data: str,
    licence: str,
    split: str,
    scores: Scores,
    attributes: Sequence[str],
    subgroups: Mapping[str, Mapping[str, Mapping[str, float]]],
    teacher: str | None = None,
) -> None:
    """Write a model card (Mitchell et al. 2019, https://arxiv.org/abs/1810.03993) for those who did not train it.

    `model`, `data`, `licence` ("" where no data named one) and `teacher` are sentences; `scores` are of `split`, and
    `subgroups` what `by_subgroup` gave for each attribute that divides the images.
    """
    listed = ", ".join(map(_code, attributes))
    parts = [
        "# Model card: face attributes",
        f"{model} It says yes or no to {count_of(len(attributes), 'attribute')} of one face: {listed}.",
        f"It learned from a teacher's answers, and has the teacher's errors too: {teacher}" if teacher else "",
        "## Data and licence",
        f"{data} {licence or 'The data name no licence: see that you may use them.'}",
        _NON_COMMERCIAL if "non-commercial" in licence.lower() else "",
        _CELEBA if "celeba" in f"{data} {licence}".lower() else "",
        f"## Figures on `{split}`",
        _TRAINED_ON if split in ("train", "all") else "",
        _figures_part(scores, attributes),
        "## Subgroups",
        _subgroups_part(subgroups, len(attributes)),
        _USE,
    ]
    sensitive = [_code(name) for name in attributes if name.lower().replace(" ", "_") in _SENSITIVE]
    if sensitive:
        parts[-1] += (
            f"\n- {', '.join(sensitive)}: such attributes judge a person, tell of sex, age or build, or may stand in "
            "for ethnic origin. Leave out those you do not need (`--data.attributes`)."
        )
    path.write_text("\n\n".join(part for part in parts if part) + "\n", "utf-8")


def _figures_part(scores: Scores, attributes: Sequence[str]) -> str:
    figures = scores.figures
    left_out = int(figures["attributes_left_out"])
    measured = count_of(len(attributes) - left_out, "attribute")
    lines = [f"{count_of(int(figures['images']), 'image')}, means over {measured}"]
    lines[0] += f"; {left_out} left out, without both a yes and a no." if left_out else "."
    lines += ["", "| figure | value |", "|---|---|"]
    lines += [f"| {words} | {_number(figures[name])} |" for name, words in _FIGURES.items() if name in figures]
    worst = [f"{_code(attributes[k])} ({scores.ap[k]:.2f})" for k in _worst_first(scores) if not np.isnan(scores.ap[k])]
    lines += ["", f"Lowest average precision: {', '.join(worst[:3])}. " if worst else ""]
    lines[-1] += "Every attribute is in `per_attribute.csv` and `pictures/per_attribute.png`."
    return "\n".join(lines)


def _subgroups_part(subgroups: Mapping[str, Mapping[str, Mapping[str, float]]], num_attributes: int) -> str:
    if not subgroups:
        return "Not measured: no attribute was named to divide the images by. Do not assume that groups fare alike."
    lines = [
        "| images | number | attributes | mean AP | guessing | balanced accuracy | F1 | accuracy |",
        "|---" * 8 + "|",
    ]
    for attribute, groups in subgroups.items():
        for which, figures in groups.items():
            counts = f"{int(figures['images']):,}", f"{num_attributes - int(figures['attributes_left_out'])}"
            values = (_number(figures[name]) for name in ("map", "base_rate", "balanced_accuracy", "f1", "accuracy"))
            lines.append(f"| {which} {_code(attribute)} | {' | '.join((*counts, *values))} |")
    lines += [
        "",
        "Both rows of a pair are over the same attributes, those with a yes and a no in either group. AP and F1 rise "
        "with the base rate (guessing), so compare groups by balanced accuracy.",
    ]
    return "\n".join(lines)


def _code(name: str) -> str:
    return f"`{name.replace('|', '/').replace('`', ' ')}`"  # a bar would end a table's cell


def _number(value: float) -> str:
    return "not measured" if np.isnan(value) else f"{value:.3f}"
