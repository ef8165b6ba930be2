"""What a test run leaves in its folder: figures, tables by attribute and by image, pictures, a model card."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, logit
from tqdm import tqdm

from backbone.names import shown
from data.folders import count_of
from tasks import reporting
from tasks.face_attributes.metrics import Scores, by_subgroup
from tasks.plotting import contact_sheet, fit, image_or_grey
from tasks.reporting import BLUE, DPI, ORANGE, as_code, clipped, legible, markdown_table, number, save_figure

_ROW = 24  # px of an attribute's bar and the gap to the next
_WIDTH = 560  # px of a bar of AP 1
_SHEET_ERRORS = 24

# CelebA's attributes that judge a person, tell of sex, age or build, or may stand in for ethnic origin
_SENSITIVE = {"attractive", "male", "young", "chubby", "double_chin"}
_SENSITIVE |= {"big_lips", "big_nose", "narrow_eyes", "pale_skin"}


class Evaluated(NamedTuple):
    """N images of a split that were scored by K attributes."""

    split: str
    names: Sequence[str]  # of the attributes
    logits: np.ndarray  # (N, K)
    targets: np.ndarray  # int8 (N, K): 1, 0, -1 unknown
    thresholds: np.ndarray  # (K,) of probability
    scores: Scores
    teacher: np.ndarray | None = None  # its logits (N, K)

    @property
    def worst_first(self) -> list[int]:
        """The attributes by AP, those at the end that have none."""
        return np.argsort(self.scores.by_attribute["ap"], kind="stable").tolist()  # numpy sorts NaN to the end


def write_report(
    folder: Path, evaluated: Evaluated, files: Sequence[str], open_image: Callable[[int], np.ndarray]
) -> None:
    """Write the results of a run into `folder`; the same input gives the same files.

    `files` names the N images, and `open_image` gives the one at a position (H, W, 3) uint8 RGB; where it raises
    InputError a grey tile stands for it. Written: `metrics.json` ("<split>/<figure>", and "<split>/ap/<attribute>"
    where it could be measured; null where not), `per_attribute.csv` (the worst AP first), `predictions.csv` (the
    probability of each attribute and, beside it, the threshold from which it is a yes) and, under `pictures/`,
    `per_attribute.png` and `worst_errors.png`.
    """
    split, names, scores = evaluated.split, evaluated.names, evaluated.scores
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    columns = {**scores.by_attribute, "threshold": evaluated.thresholds}
    rows = (
        [names[k], *("" if np.isnan(values[k]) else values[k].item() for values in columns.values())]
        for k in evaluated.worst_first
    )
    reporting.write_csv(folder / "per_attribute.csv", ["attribute", *columns], rows)
    probabilities = zip(files, expit(evaluated.logits).tolist(), strict=True)
    progress = tqdm(probabilities, "predictions.csv", total=len(files), disable=None, delay=2, leave=False)
    limits = [f"{limit:.6f}" for limit in evaluated.thresholds.tolist()]
    by_image = (
        [file, *(cell for value, limit in zip(values, limits, strict=True) for cell in (f"{value:.6f}", limit))]
        for file, values in progress
    )
    head = ["file", *(column for name in names for column in (name, f"{name}_threshold"))]
    reporting.write_csv(folder / "predictions.csv", head, by_image)
    _plot_attributes(pictures / "per_attribute.png", evaluated)
    _draw_errors(pictures / "worst_errors.png", evaluated, files, open_image)
    ap = {f"ap/{name}": float(v) for name, v in zip(names, scores.by_attribute["ap"], strict=True) if not np.isnan(v)}
    reporting.write_json(folder / "metrics.json", {f"{split}/{name}": v for name, v in (scores.figures | ap).items()})


def surest_errors(evaluated: Evaluated, count: int) -> tuple[list[tuple[int, int]], np.ndarray]:
    """At most `count` wrong predictions (image, attribute), and how many wrong ones each image has (N,).

    The farthest beyond their threshold, in logits, come first. So that many kinds are seen, an image comes once, and an
    attribute at most five times; oftener where few attributes have errors.
    """
    logits, targets, thresholds = evaluated.logits, evaluated.targets, evaluated.thresholds
    wrong = ((expit(logits) >= thresholds) != (targets == 1)) & (targets >= 0)  # (N, K)
    images, attributes = np.nonzero(wrong)
    sureness = np.abs(logits - logit(np.clip(thresholds, 1e-9, 1 - 1e-9)))[wrong]
    most = max(5, -(-count // max(1, len(np.unique(attributes)))))
    chosen: dict[int, int] = {}
    for i in np.argsort(-sureness, kind="stable"):
        image, attribute = int(images[i]), int(attributes[i])
        if image not in chosen and list(chosen.values()).count(attribute) < most:
            chosen[image] = attribute
        if len(chosen) == count:
            break
    return list(chosen.items()), wrong.sum(axis=1)


# ---------------------------------------------------------------------------------------------------------- pictures


def _plot_attributes(path: Path, evaluated: Evaluated) -> None:
    """A bar of AP for each attribute, the worst on top; the base rate as a line, the teacher's AP as a diamond."""
    from matplotlib.figure import Figure  # slow to import, and only needed here

    names, columns = legible(evaluated.names, "attribute"), evaluated.scores.by_attribute
    figures, ap = evaluated.scores.figures, columns["ap"]
    drawn = [k for k in evaluated.worst_first if not np.isnan(ap[k])]
    images = count_of(int(figures["images"]), "image")
    title = [f"{evaluated.split}: average precision of {count_of(len(drawn), 'attribute')} in {images}"]
    if drawn:
        teacher = f", the teacher's {figures['teacher_map']:.3f}" if "teacher_map" in figures else ""
        title.append(f"mean {figures['map']:.3f}{teacher}")
    if left_out := [clipped(names[k]) for k in range(len(names)) if k not in drawn]:
        listed = ", ".join(left_out[:3]) + ", …" * (len(left_out) > 3)
        title.append(f"{len(left_out)} left out, without both a yes and a no: {listed}")

    height = max(1, len(drawn)) * _ROW
    figure = Figure(figsize=(_WIDTH / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))  # the bars fill the figure, and saving it makes room for what is around them
    axes.set_title("\n".join(title), loc="left", fontsize=11, pad=24 if drawn else 8)
    if not drawn:
        axes.set_axis_off()
        return save_figure(figure, path)

    places = np.arange(len(drawn))
    marks: list[Any] = [axes.barh(places, ap[drawn], height=0.62, color=BLUE, label="average precision")]
    line: dict[str, Any] = {"color": "black", "markersize": 15, "markeredgewidth": 2}
    marks += axes.plot(columns["base_rate"][drawn], places, "|", **line, label="base rate (guessing)")
    texts = [("AP", ap, BLUE), ("base", columns["base_rate"], "0.2")]
    if "teacher_ap" in columns:
        diamond: dict[str, Any] = {"color": ORANGE, "markeredgecolor": "white", "markersize": 8, "clip_on": False}
        marks += axes.plot(columns["teacher_ap"][drawn], places, "D", **diamond, linestyle="", label="teacher's")
        texts.insert(1, ("teacher", columns["teacher_ap"], ORANGE))
    for column, (head, values, color) in enumerate(texts):
        x = 1.03 + 0.105 * column
        axes.text(x, 1 + 6 / height, head, color=color, fontsize=9, transform=axes.transAxes)
        for place, k in enumerate(drawn):
            axes.text(x, place, f"{values[k]:.3f}", va="center", fontsize=9, color=color)
    axes.set_yticks(places, [clipped(names[k]) for k in drawn], fontsize=9)
    axes.set(xlim=(0, 1), ylim=(len(drawn) - 0.5, -0.5))
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    below: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -24 / height), "borderpad": 0}
    axes.legend(handles=marks, **below, ncols=3, frameon=False, fontsize=9)
    save_figure(figure, path)


def _draw_errors(
    path: Path, evaluated: Evaluated, files: Sequence[str], open_image: Callable[[int], np.ndarray]
) -> None:
    chosen, errors = surest_errors(evaluated, _SHEET_ERRORS)
    names, thresholds, teacher = legible(evaluated.names, "attribute"), evaluated.thresholds, evaluated.teacher
    tiles, captions = [], []
    for image, k in tqdm(chosen, "worst errors", disable=None, delay=2, leave=False):
        tiles.append(fit(image_or_grey(open_image, image), 240, 240)[0])
        target = "yes" if evaluated.targets[image, k] else "no"
        notes = [f"yes from {thresholds[k]:.2f}, target {target}"]
        notes += [f"teacher {expit(teacher[image, k]):.2f}"] if teacher is not None else []
        notes += [f"{errors[image] - 1} more wrong"] if errors[image] > 1 else []
        prediction = f"{names[k]} {expit(evaluated.logits[image, k]):.2f}"
        captions.append("\n".join([prediction, *notes, shown(files[image])]))  # a line each: tiles are narrow
    total, predictions = int(errors.sum()), count_of(int((evaluated.targets >= 0).sum()), "prediction")
    title = f"Wrong: {total:,} of {predictions}" if total else f"No errors in {predictions}"
    if total > len(chosen):
        title += f"; {len(chosen)} of the surest, each from another image"
    contact_sheet(tiles, captions, path, columns=6, title=title)


# -------------------------------------------------------------------------------------------------------- model card

_COMPARED = {"map": "mean average precision", "f1": "F1", "accuracy": "accuracy"}
_COMPARED |= {"balanced_accuracy": "balanced accuracy", "ece": "calibration error of the probabilities"}
_FIGURES = {  # in the order of the card; the teacher's decisions are at the thresholds of this net
    "base_rate": "mean average precision of guessing (the base rate)",
    **_COMPARED,
    **{f"teacher_{name}": f"the teacher's {words}" for name, words in _COMPARED.items()},
    "teacher_agreement": "share of decisions that are the teacher's at this net's thresholds",
    "teacher_kl": "KL divergence from the teacher, nats",
}

_CELEBA = """\
CelebA shows celebrities, mostly Western and often made up for the camera; there is no record that they agreed. People
who labelled its images again were consistent on at least 95 % of them for only 12 of the 40 attributes, and close to
random for three (Wu et al. 2022, https://arxiv.org/abs/2210.07356)."""

_NON_COMMERCIAL = """\
Hold weights trained on these images to the same terms: no commercial use, and none passed on without the terms. The
project itself ships no such weights."""

_INTENDED = """\
Research on small networks and distillation, and sorting or searching images by what is plainly to be seen, such as
glasses or a hat, where an error does no harm and the people shown know of it."""

# the AI Act: https://eur-lex.europa.eu/eli/reg/2024/1689/oj
_NOT_INTENDED = """\
- To identify a person, or to tell whether two images show the same one.
- To infer race, political opinions, trade union membership, religion, sex life, sexual orientation, health, emotions,
  character or any other sensitive trait.
- To decide about a person: in work, credit, insurance, housing, schooling, policing or at borders.

In the European Union the AI Act (Regulation (EU) 2024/1689) bans inferring race, political opinions, union membership,
beliefs, sex life or sexual orientation from biometric data (Article 5(1)(g)), counts biometric categorisation by
sensitive or protected attributes as high-risk (Annex III, 1(b)), and from 2 August 2026 requires that people exposed to
biometric categorisation be told (Article 50(3)). This is not legal advice."""

_LIMITS = """\
- Labels are opinions. Yes or no fits few attributes, and annotators disagree on many.
- Figures, probabilities and thresholds hold for images like those above; measure again on others.
- The net says yes or no of any image, also of one without a face."""

_OF_SENSITIVE = """\
such attributes judge a person, tell of sex, age or build, or may stand in for ethnic origin. Leave out those you do \
not need (`--data.attributes`)."""


def write_model_card(
    path: Path,
    evaluated: Evaluated,
    *,
    model: str,
    data: str,
    licence: str,
    groups: Mapping[str, np.ndarray],
    scored: str,
    teachers: Sequence[str] = (),
) -> None:
    """Write the model card; `model`, `data` and `licence` ("" where no data named one) are sentences.

    `groups` are the attributes that divide the images, (N,) as `by_subgroup` takes them, `scored` the split by the
    data's name for it, and `teachers` are those that the net learned from.
    """
    names = [as_code(name) for name in evaluated.names]
    model = f"{model} It says yes or no to {count_of(len(names), 'attribute')} of one face: {', '.join(names)}."
    if teachers:
        model += f"\n\nIt learned from a teacher, and has the teacher's errors too: {' and '.join(teachers)}."
    about = [licence or "The data name no licence: see that you may use them."]
    about += [_NON_COMMERCIAL] * ("non-commercial" in licence.lower())
    about += [_CELEBA] * ("celeba" in f"{data} {licence}".lower())
    flatter = "The net was trained on these images or some of them, so its figures flatter it.\n\n"
    sensitive = [as_code(name) for name in evaluated.names if name.lower().replace(" ", "_") in _SENSITIVE]
    limits = _LIMITS + f"\n- {', '.join(sensitive)}: {_OF_SENSITIVE}" * bool(sensitive)
    parts = {
        f"Figures on `{scored}`": flatter * (scored in ("train", "all")) + _figures_part(evaluated),
        "Subgroups": _subgroups_part(evaluated, groups),
        "Intended use": _INTENDED,
        "Not intended": _NOT_INTENDED,
        "Limits": limits,
    }
    licence = "\n\n".join(about)
    reporting.write_model_card(path, task="face attributes", model=model, data=data, licence=licence, parts=parts)


def _figures_part(evaluated: Evaluated) -> str:
    figures, ap = evaluated.scores.figures, evaluated.scores.by_attribute["ap"]
    left_out = int(figures["attributes_left_out"])
    measured = count_of(len(ap) - left_out, "attribute")
    over = f"{count_of(int(figures['images']), 'image')}, means over {measured}"
    over += f"; {left_out} left out, without both a yes and a no." if left_out else "."
    worst = [f"{as_code(evaluated.names[k])} ({ap[k]:.2f})" for k in evaluated.worst_first if not np.isnan(ap[k])]
    lowest = f"Lowest average precision: {', '.join(worst[:3])}. " if worst else ""
    lowest += "Every attribute is in `per_attribute.csv` and `pictures/per_attribute.png`."
    return "\n\n".join([over, reporting.figures_table(figures, _FIGURES), lowest])


def _subgroups_part(evaluated: Evaluated, groups: Mapping[str, np.ndarray]) -> str:
    if not groups:
        return "Not measured: no attribute was named to divide the images by. Do not assume that groups fare alike."
    rows = []
    for attribute, group in groups.items():
        subgroups = by_subgroup(evaluated.logits, evaluated.targets, group, evaluated.thresholds)
        for which, figures in subgroups.items():
            counts = f"{int(figures['images']):,}", f"{len(evaluated.names) - int(figures['attributes_left_out'])}"
            values = (number(figures[name]) for name in ("map", "base_rate", "balanced_accuracy", "f1", "accuracy"))
            rows.append([f"{which} {as_code(attribute)}", *counts, *values])
    head = ["images", "number", "attributes", "mean AP", "guessing", "balanced accuracy", "F1", "accuracy"]
    return (
        f"{markdown_table(head, rows)}\n\nBoth rows of a pair are over the same attributes, those with a yes and a no "
        "in either group. AP and F1 rise with the base rate (guessing), so compare groups by balanced accuracy."
    )
