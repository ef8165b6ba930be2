"""What a test run leaves in its folder: figures, tables by class, pair and image, and pictures to learn from."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from backbone.names import shown
from data.folders import count_of
from tasks.classification.metrics import ConfusedPair, Scores, confused_pairs, top_classes, wilson_interval
from tasks.plotting import contact_sheet, fit, image_or_grey
from tasks.reporting import (
    BLUE,
    DPI,
    ORANGE,
    clipped,
    legible,
    save_figure,
    unique_names,
    write_csv,
    write_json,
)

_MOST_ROWS = 150  # of a confusion matrix that can be read; of more classes the most confused are drawn
_FEWER_ROWS = 60
_MOST_NUMBERED = 30  # rows up to which a cell has room for its number
_MORE_COLUMNS = 10  # predicted classes that the data lack, as an ImageNet classifier gives
_SHEET_ERRORS = 24
_SHEET_PAIRS = 6
_STRIP = 3  # images on either side of a pair
_THUMBNAIL = 150  # px


def write_report(
    folder: Path,
    *,
    split: str,
    scores: Scores,
    logits: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    files: Sequence[str],
    open_image: Callable[[int], np.ndarray],
    extra: Mapping[str, float | None] | None = None,
) -> dict[str, float | None]:
    """Write the results of a run into `folder`; return what went into metrics.json.

    `scores` is what `evaluate` gave for the same `logits` (N, C) and `labels` (N,); `files` names the N images, and
    `open_image` gives the one at a position (H, W, 3) uint8 RGB; where it raises InputError a grey tile stands for it.

    Written: `metrics.json` ("<split>/<figure>", also those of `extra`, and "<split>/recall/<class>" for the classes
    that have images; null where nothing could be measured), `per_class.csv` (the worst first; classes that neither
    have images nor were predicted are left out), `confused_pairs.csv`, `predictions.csv` with probabilities after the
    temperature, and, under `pictures/`, `confusion_matrix.png`, `calibration.png`, `worst_errors.png` and
    `most_confused.png`. The same input gives the same files.
    """
    names = unique_names(class_names, range(len(class_names)))
    temperature = scores.figures["temperature"]
    best, probabilities = top_classes(logits, 1.0 if np.isnan(temperature) else temperature)
    pairs = confused_pairs(scores.confusion)

    recall = {f"recall/{names[k]}": scores.recall[k] for k in np.flatnonzero(scores.images)}
    metrics = {f"{split}/{name}": value for name, value in {**scores.figures, **recall, **(extra or {})}.items()}
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    flat = write_json(folder / "metrics.json", metrics)
    _write_by_class(folder / "per_class.csv", scores, pairs, names)
    _write_by_image(folder / "predictions.csv", best, probabilities, labels, names, files)
    by_pair = ([names[p.truth], names[p.predicted], p.images, scores.images[p.truth], p.share] for p in pairs)
    write_csv(folder / "confused_pairs.csv", ["truth", "predicted", "images", "images_of_truth", "share"], by_pair)

    opened = functools.partial(image_or_grey, open_image)
    shown_as = legible(names, "class")
    predictions = Predictions(labels, best[:, 0], probabilities[:, 0], shown_as, list(map(shown, files)), opened)
    _plot_confusion(pictures / "confusion_matrix.png", scores, shown_as, split)
    _plot_calibration(pictures / "calibration.png", scores, split)
    _draw_errors(pictures / "worst_errors.png", predictions)
    _draw_pairs(pictures / "most_confused.png", predictions, pairs)
    return flat


class Predictions(NamedTuple):
    """What is drawn of N images."""

    truth: np.ndarray  # the class (N,)
    predicted: np.ndarray  # the class (N,)
    probability: np.ndarray  # of the predicted class (N,)
    names: Sequence[str]  # of the classes
    files: Sequence[str]
    open_image: Callable[[int], np.ndarray]

    def surest(self, chosen: np.ndarray, most: int) -> list[int]:
        """The images of the highest probability among those `chosen`, bool (N,), at most so many."""
        images = np.flatnonzero(chosen)
        return images[np.argsort(-self.probability[images], kind="stable")][:most].tolist()


# ----------------------------------------------------------------------------------------------------------- tables


def _write_by_class(path: Path, scores: Scores, pairs: Sequence[ConfusedPair], names: Sequence[str]) -> None:
    """The worst recall first, of equal ones the class with the most images; those without images at the end."""
    most = {pair.truth: (names[pair.predicted], pair.images) for pair in reversed(pairs)}  # the first of a class stays
    order = np.lexsort((-scores.images, scores.recall))  # NaN, where there are no images, goes to the end
    rows = []
    for k in order[~np.isnan(scores.f1[order])].tolist():
        shares = ("" if np.isnan(one[k]) else one[k] for one in (scores.recall, scores.precision, scores.f1))
        rows.append([k, names[k], scores.images[k], *shares, *most.get(k, ("", 0))])
    head = ["label", "class", "images", "recall", "precision", "f1", "most_often_taken_for", "times"]
    write_csv(path, head, rows)


def _write_by_image(
    path: Path,
    best: np.ndarray,
    probabilities: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    files: Sequence[str],
) -> None:
    ranks = range(1, best.shape[1] + 1)
    head = ["file", "truth", "result", *(f"{what}_{k}" for k in ranks for what in ("class", "probability"))]
    rows = (
        [file, names[truth], "right" if classes[0] == truth else "wrong"]
        + [cell for k, share in zip(classes, shares, strict=True) for cell in (names[k], f"{share:.6f}")]
        for file, truth, classes, shares in zip(
            files, labels.tolist(), best.tolist(), probabilities.tolist(), strict=True
        )
    )
    write_csv(path, head, rows)


# ------------------------------------------------------------------------------------------------- confusion matrix


def readable_part(confusion: np.ndarray) -> tuple[list[int], list[int], np.ndarray]:
    """The classes in the rows and in the columns of what is drawn, and the counts.

    Rows are the classes that have images; of more than 150, the 60 in the most confused pairs. Columns are the same,
    then the ten most often predicted of those without images, and in the counts a last one of all others, if any.
    """
    images = confusion.sum(axis=1)
    rows = np.flatnonzero(images).tolist()
    if len(rows) > _MOST_ROWS:
        confused = [k for pair in confused_pairs(confusion) for k in (pair.truth, pair.predicted) if images[k]]
        rows = sorted(list(dict.fromkeys(confused + rows))[:_FEWER_ROWS])
    predicted = np.where(images > 0, 0, confusion[rows].sum(axis=0))
    often = np.argsort(-predicted, kind="stable")[:_MORE_COLUMNS]
    columns = rows + often[predicted[often] > 0].tolist()
    table = confusion[np.ix_(rows, columns)]
    others = confusion[rows].sum(axis=1) - table.sum(axis=1)
    return rows, columns, np.column_stack([table, others]) if others.any() else table


def _plot_confusion(path: Path, scores: Scores, names: Sequence[str], split: str) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    rows, columns, table = readable_part(scores.confusion)
    num_rows, num_columns = table.shape
    with_numbers = num_rows <= _MOST_NUMBERED
    cell = np.clip(600 / max(1, num_columns), 34, 80) if with_numbers else np.clip(1000 / num_columns, 12, 16)  # px
    size = min(9, 0.55 * cell)  # of the letters, in points of 1.4 px
    height, width = cell * np.maximum(table.shape, 1)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))  # the cells fill the figure, and saving it makes room for what is around them
    num_present = int((scores.images > 0).sum())
    right = "" if num_rows == 0 else f", {100 * scores.figures['top1']:.1f} % right"
    title = [f"{split}: {count_of(scores.images.sum(), 'image')} of {count_of(num_present, 'class')}{right}"]
    if num_rows < num_present:
        title.append(f"the {num_rows} classes in the most confused pairs")
    if num_rows:
        title.append("row: truth, column: prediction" + ", number: images" * with_numbers)
        title.append("colour: share of the row, blue right, orange wrong")
    axes.set_title("\n".join(title), loc="left", fontsize=11, pad=12)
    if num_rows == 0:
        axes.set_axis_off()
        return save_figure(figure, path)

    shares = table / table.sum(axis=1, keepdims=True)
    norm = PowerNorm(0.5, 0, 1)  # a few per cent of confusion must show beside the diagonal
    blues, oranges = colormaps["Blues"], colormaps["Oranges"]
    colors = np.where(np.eye(num_rows, num_columns)[..., None], blues(norm(shares)), oranges(norm(shares)))
    colors[table == 0] = 1
    axes.imshow(colors, aspect="auto", interpolation="nearest")
    heads = [clipped(names[k]) for k in columns] + ["others"] * (num_columns - len(columns))
    axes.set_yticks(range(num_rows), [clipped(names[k]) for k in rows], fontsize=size)
    slope = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if with_numbers else {"rotation": 90}
    axes.set_xticks(range(num_columns), heads, fontsize=size, **slope)
    axes.set_xticks(np.arange(1, num_columns) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, num_rows) - 0.5, minor=True)
    axes.grid(which="minor", color="0.93", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    if num_columns > num_rows:
        axes.axvline(num_rows - 0.5, color="0.3", linewidth=1.2)  # beyond it: predictions that no row is the truth of
    if with_numbers:
        for (row, column), count in np.ndenumerate(table):
            if count:
                color = "white" if norm(shares[row, column]) > 0.6 else "0.15"
                axes.text(column, row, _short_count(count), ha="center", va="center", fontsize=8, color=color)
    for k, colormap in enumerate((blues, oranges)):
        bar = figure.add_axes((1 + (20 + 12 * k) / width, 0, 12 / width, 1))
        figure.colorbar(ScalarMappable(norm, colormap), cax=bar, ticks=[])
    marks = [0, 0.05, 0.2, 0.5, 1] if height > 200 else [0, 0.2, 1]
    bar.set_yticks(marks, [f"{100 * share:.0f} %" for share in marks], fontsize=8)
    save_figure(figure, path)


def _short_count(count: int) -> str:
    return f"{count}" if count < 1000 else f"{count / 1000:.1f}k" if count < 9950 else f"{count / 1000:.0f}k"


# ------------------------------------------------------------------------------------------------------ calibration


def _plot_calibration(path: Path, scores: Scores, split: str) -> None:
    """Accuracy by confidence above, images by confidence below; as trained on the left, after T on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.6), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
    figures = scores.figures
    left = scores.before, f"as trained: ECE {figures['ece']:.3f}", ORANGE
    right = scores.after, f"at temperature {figures['temperature']:.2f}: ECE {figures['ece_calibrated']:.3f}", BLUE
    edges = np.linspace(0, 1, len(scores.before.count) + 1)
    most = max(1, *scores.before.count, *scores.after.count)
    for column, (bins, title, color) in enumerate((left, right)):
        full = bins.count > 0
        confidence, accuracy, images = (part[full] for part in (bins.probability, bins.accuracy, bins.count))
        spans = [wilson_interval(round(a * n), n) for a, n in zip(accuracy, images.tolist(), strict=True)]
        reach = np.abs(np.reshape(spans, (-1, 2)) - accuracy[:, None]).T  # (2, bins)
        upper[column].plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle="--")
        upper[column].errorbar(confidence, accuracy, yerr=reach, color=color, marker="o", capsize=3)
        upper[column].set(title=title if full.any() else "no images", xlim=(0, 1), ylim=(-0.02, 1.02))
        lower[column].bar(edges[:-1], bins.count, width=edges[1], align="edge", color=color, edgecolor="white")
        lower[column].set(xlabel="confidence: probability of the prediction", ylim=(0, 1.25 * most))
        for start in np.flatnonzero(full):
            where = edges[start] + edges[1] / 2, bins.count[start] + 0.03 * most
            lower[column].text(*where, _short_count(bins.count[start]), ha="center", fontsize=8)
        for axes in (upper[column], lower[column]):
            axes.grid(color="0.92")
            axes.set_axisbelow(True)
    upper[0].set_ylabel("accuracy, with 95 % interval")
    lower[0].set_ylabel("images")
    figure.suptitle(
        f"{split}: how far the probabilities can be trusted. On the dashed line: exactly; below: too sure\n"
    )
    save_figure(figure, path, tight=False)


# --------------------------------------------------------------------------------------------------------- pictures


def _draw_errors(path: Path, predictions: Predictions) -> None:
    names = predictions.names
    wrong = predictions.truth != predictions.predicted
    surest = predictions.surest(wrong, _SHEET_ERRORS)
    tiles, captions = [], []
    for i in tqdm(surest, "worst errors", disable=None, delay=2, leave=False):
        tiles.append(fit(predictions.open_image(i), 300, 240)[0])
        truth, predicted = names[predictions.truth[i]], names[predictions.predicted[i]]
        captions.append(
            f"truth: {truth}\npredicted: {predicted} {predictions.probability[i]:.2f}\n{predictions.files[i]}"
        )
    count, total = int(wrong.sum()), count_of(len(wrong), "image")
    title = f"Wrong: {count:,} of {total}" if count else f"No errors in {total}"
    if count > len(surest):
        title += f"; the {len(surest)} surest of them"
    contact_sheet(tiles, captions, path, columns=4, title=title)


def _draw_pairs(path: Path, predictions: Predictions, pairs: Sequence[ConfusedPair]) -> None:
    """Beside images of a class that were taken for another, images of that other."""
    back = {(pair.truth, pair.predicted): pair for pair in pairs}
    either_way: dict[frozenset[int], ConfusedPair] = {}
    for pair in pairs:
        either_way.setdefault(frozenset(pair[:2]), pair)
    chosen = list(either_way.values())[:_SHEET_PAIRS]

    def strip(images: np.ndarray) -> np.ndarray:
        thumbnails = [_thumbnail(predictions.open_image(i)) for i in predictions.surest(images, _STRIP)]
        blank = np.full((_THUMBNAIL, _THUMBNAIL, 3), 255, np.uint8)
        return np.concatenate(thumbnails + [blank] * (_STRIP - len(thumbnails)), axis=1)

    def amount(pair: ConfusedPair) -> str:
        return f"{count_of(pair.images, 'image')} ({100 * pair.share:.0f} %)"

    tiles, captions = [], []
    gap = np.full((_THUMBNAIL, 24, 3), 255, np.uint8)
    for pair in tqdm(chosen, "confused pairs", disable=None, delay=2, leave=False):
        mistaken = (predictions.truth == pair.truth) & (predictions.predicted == pair.predicted)
        of_other = predictions.truth == pair.predicted
        recognised = of_other & (predictions.predicted == pair.predicted)
        right = strip(recognised if recognised.any() else of_other)
        tiles.append(np.concatenate([strip(mistaken), gap, right], axis=1))
        truth, other = (predictions.names[k] for k in pair[:2])
        reverse = back.get((pair.predicted, pair.truth))
        captions.append(
            f"left: {truth} taken for {other}, {amount(pair)}"
            + (f"; the other way round, {amount(reverse)}" if reverse else "")
            + (f"\nright: {other}" if of_other.any() else f"\nthe data have no image of {other}")
        )
    title = "The classes that were most often confused" if chosen else "No class was taken for another"
    contact_sheet(tiles, captions, path, columns=1, title=title)


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """The image in the middle of a white square."""
    small, _ = fit(image, _THUMBNAIL - 6, _THUMBNAIL - 6)
    margins = [(spare // 2, spare - spare // 2) for spare in np.subtract(_THUMBNAIL, small.shape[:2])]
    return np.pad(small, [*margins, (0, 0)], constant_values=255)
