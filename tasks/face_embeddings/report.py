"""What a test run leaves in its folder: figures, a table of pairs, pictures."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from backbone.names import shown
from data.folders import count_of
from data.readers.lfw_pairs import Pairs
from tasks.face_embeddings.metrics import FAR, Scores, Verification
from tasks.face_embeddings.verification import roc
from tasks.plotting import contact_sheet, image_or_grey
from tasks.reporting import BLUE, DPI, ORANGE, save_figure, write_csv, write_json

_SIDE = 150  # px of a face on a sheet
_WORST = 24  # on a sheet: twelve false accepts and twelve false rejects
_NAMES = ("verification_accuracy", "verification_accuracy_std", f"tar_at_far_{FAR}", "auc")
Face = Callable[[int], np.ndarray]


def write_report(folder: Path, split: str, scores: Scores, files: Sequence[str], open_image: Face) -> None:
    """Write the results of a run into `folder`; the same input gives the same files.

    `files` names the N images that were scored, and `open_image` gives the one at a position (H, W, 3) uint8 RGB;
    where it raises InputError a grey tile stands for it. Written: `metrics.json` ("<split>/<figure>"); with pairs
    `nets.csv` (a row for the student and one for the teacher), `pairs.csv` (a row for each) and, under `pictures/`,
    `roc.png` and `worst_pairs.png`; with a teacher `images.csv` (the cosine to its embedding, the lowest first) and
    `farthest_from_teacher.png`.
    """
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", {f"{split}/{name}": value for name, value in scores.figures.items()})
    face = partial(_square, open_image)
    if scores.pairs is not None and scores.student is not None:
        nets = {"student": scores.student} | ({} if scores.teacher is None else {"teacher": scores.teacher})
        rows = ([who, *("" if np.isnan(v := net.figures[n]) else v for n in _NAMES)] for who, net in nets.items())
        write_csv(folder / "nets.csv", ["net", *_NAMES], rows)
        write_csv(folder / "pairs.csv", *_rows(scores.pairs, scores.student, scores.teacher, files))
        _plot_roc(pictures / "roc.png", scores.pairs, nets, split)
        _draw_worst_pairs(pictures / "worst_pairs.png", scores.pairs, scores.student, files, face)
    if scores.cosines is not None:
        order = np.argsort(scores.cosines, kind="stable").tolist()
        rows = ([files[i], f"{scores.cosines[i]:.6f}"] for i in order)
        write_csv(folder / "images.csv", ["file", "cosine_to_teacher"], rows)
        _draw_farthest(pictures / "farthest_from_teacher.png", scores.cosines, order[:_WORST], files, face)


def worst_pairs(pairs: Pairs, net: Verification, count: int) -> tuple[list[int], list[int]]:
    """At most `count` pairs of two people taken for one, and of one taken for two, farthest beyond the threshold first.

    An image comes once, so that many are seen.
    """
    beyond = net.distances - net.thresholds
    found: list[list[int]] = []
    for same, sign in ((False, 1), (True, -1)):
        wrong = np.flatnonzero((pairs.same == same) & ((beyond <= 0) != same))
        seen: set[int] = set()
        chosen: list[int] = []
        for i in wrong[np.argsort(sign * beyond[wrong], kind="stable")].tolist():
            two = {int(pairs.first[i]), int(pairs.second[i])}
            if len(chosen) < count and not seen & two:
                chosen.append(i)
                seen |= two
        found.append(chosen)
    return found[0], found[1]


def _rows(
    pairs: Pairs, net: Verification, teacher: Verification | None, files: Sequence[str]
) -> tuple[list[str], list[list[object]]]:
    """Head and rows of pairs.csv, in the order of the list."""
    accepted = net.distances <= net.thresholds
    columns: dict[str, list[Any]] = {
        "first": [files[i] for i in pairs.first],
        "second": [files[i] for i in pairs.second],
        "same": pairs.same.astype(int).tolist(),
        "fold": pairs.folds.tolist(),
        "squared_distance": [f"{value:.6f}" for value in net.distances],
        "threshold": [f"{value:.6f}" for value in net.thresholds],
        "accepted": accepted.astype(int).tolist(),
        "right": (accepted == pairs.same).astype(int).tolist(),
    }
    if teacher is not None:
        columns["teacher_squared_distance"] = [f"{value:.6f}" for value in teacher.distances]
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


# --------------------------------------------------------------------------------------------------------- pictures


def _plot_roc(path: Path, pairs: Pairs, nets: dict[str, Verification], split: str) -> None:
    """True against false accepts, the latter on a scale of powers of ten; below, the student's distances."""
    from matplotlib.figure import Figure  # slow to import, and only needed here

    same, two = int(pairs.same.sum()), int((~pairs.same).sum())
    figure = Figure(figsize=(6.6, 7.4), dpi=DPI)
    curve, spread = figure.subplots(2, 1, gridspec_kw={"height_ratios": (3, 2), "hspace": 0.34})
    lowest = min(FAR / 2, 0.5 / two)  # where "no false accept" is drawn: a logarithm has no 0
    for (who, net), color in zip(nets.items(), (BLUE, ORANGE), strict=False):
        accuracy, deviation, tar, area = (net.figures[name] for name in _NAMES)
        label = f"{who}: AUC {area:.3f}, TAR {tar:.1%} at FAR {FAR:.1%}"
        if not np.isnan(accuracy):
            label += f",\naccuracy {accuracy:.1%} ± {deviation:.1%}"
        false_accepts, true_accepts = roc(net.distances, pairs.same)
        x = np.maximum(false_accepts, lowest)
        curve.plot(x, true_accepts, color=color, linewidth=1.8, label=label, drawstyle="steps-post")
        mark: dict[str, Any] = {"color": color, "markeredgecolor": "white", "markersize": 9, "clip_on": False}
        curve.plot([FAR], [tar], "o", **mark, zorder=3)
    curve.axvline(FAR, color="0.5", linewidth=1, linestyle=":")
    guess = np.geomspace(lowest, 1, 100)
    curve.plot(guess, guess, color="0.6", linewidth=1, linestyle="--", label="guessing")
    curve.set(xscale="log", xlim=(lowest, 1), ylim=(0, 1), ylabel="true accept rate (pairs of one person)")
    curve.set_xlabel("false accept rate (pairs of two people)")
    for axis in (curve.xaxis, curve.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    few = f";\nless than {1 / two:.1%} is no false accept at all" if two * FAR < 1 else ""
    title = f"{split}: {count_of(same, 'pair')} of one person, {two:,} of two{few}"
    curve.set_title(title, loc="left", fontsize=10)
    curve.legend(loc="upper left", fontsize=8.5, frameon=True, framealpha=0.9, edgecolor="none")

    net = nets["student"]
    bins = np.linspace(0, max(float(net.distances.max()), 1e-6), 41)
    for kind, color, name in ((pairs.same, BLUE, "one person"), (~pairs.same, ORANGE, "two people")):
        spread.hist(net.distances[kind], bins=bins.tolist(), color=color, alpha=0.55, label=name)
    if np.isfinite(net.best_threshold):
        spread.axvline(net.best_threshold, color="black", linewidth=1.2, label=f"threshold {net.best_threshold:.3g}")
    spread.set(xlabel="squared distance of the student's embeddings", ylabel="pairs", xlim=(0, bins[-1]))
    spread.legend(fontsize=8.5, frameon=False)
    for axes in (curve, spread):
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _draw_worst_pairs(path: Path, pairs: Pairs, net: Verification, files: Sequence[str], face: Face) -> None:
    """Pairs of two people taken for one, then pairs of one person taken for two."""
    tiles, captions = [], []
    for i in chain(*worst_pairs(pairs, net, _WORST // 2)):
        first, second = int(pairs.first[i]), int(pairs.second[i])
        tiles.append(np.concatenate([face(first), np.full((_SIDE, 4, 3), 255, np.uint8), face(second)], axis=1))
        what = "one person, taken for two" if pairs.same[i] else "two people, taken for one"
        distance = f"distance {net.distances[i]:.3g}, one person up to {net.thresholds[i]:.3g}"
        captions.append(f"{what}\n{distance}\n{shown(files[first])}\n{shown(files[second])}")
    accepted = net.distances <= net.thresholds
    accepts, rejects = int((accepted & ~pairs.same).sum()), int((~accepted & pairs.same).sum())
    title = f"{count_of(accepts, 'false accept')} and {count_of(rejects, 'false reject')} in "
    title += count_of(len(accepted), "pair")
    contact_sheet(tiles, captions, path, columns=4, title=title)


def _draw_farthest(path: Path, cosines: np.ndarray, which: Sequence[int], files: Sequence[str], face: Face) -> None:
    progress = tqdm(which, "farthest from the teacher", disable=None, delay=2, leave=False)
    tiles, captions = zip(*((face(i), f"cosine {cosines[i]:.3f}\n{shown(files[i])}") for i in progress), strict=True)
    title = f"Farthest from the teacher, of {count_of(len(cosines), 'image')}; mean cosine {cosines.mean():.3f}"
    contact_sheet(tiles, captions, path, columns=8, title=title)


def _square(open_image: Face, position: int) -> np.ndarray:
    """The image on a white square of `_SIDE` px."""
    image = Image.fromarray(image_or_grey(open_image, position))
    return np.asarray(ImageOps.pad(image, (_SIDE, _SIDE), Image.Resampling.BICUBIC, "white"))
