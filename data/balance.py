"""Where some classes have far fewer examples than others: weights for the loss, or more draws of their images."""

import numpy as np

from backbone.errors import InputError
from backbone.names import shown
from data.folders import say
from data.overview import class_counts, memberships
from data.records import Records

_NOTED = 20  # times as many examples as the rarest class has, from which on a fit names the remedies


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """The weight of each class, float64 (K,), n / (k * count): scikit-learn's "balanced", whose mean over all n is 1.

    `counts` are int64 (K,); k are the classes that have any, and one that has none weighs 1.
    """
    weights, there = np.ones(len(counts)), counts > 0
    weights[there] = counts.sum() / (there.sum() * counts[there])
    return weights


def balanced_draws(records: Records) -> np.ndarray:
    """How often an epoch is to draw each image, float64 (N,), with the sum N.

    Of whole images each class equally often. An image with boxes by its rarest class of frequency f, sqrt(t / f) times
    as often as one without: LVIS's repeat factors (Gupta et al. 2019, arXiv 1908.03195), where t, a constant there, is
    the frequency of the most frequent class.
    """
    image, label = memberships(records)
    draws = np.ones(len(records))
    if records.boxes is None:
        draws[image] = balanced_weights(class_counts(records))[label]
    elif len(image):
        image, label = np.unique(np.stack([image, label]), axis=1)  # an image has a class once, in how many boxes ever
        images = np.bincount(label)
        np.maximum.at(draws, image, np.sqrt(images.max() / images[label]))
    return draws * (len(draws) / draws.sum())


def loss_weights(records: Records, *, weighted: bool, sampled: bool) -> np.ndarray | None:
    """The weights of the classes in the loss, or None where they are not `weighted`; a line where that would help.

    Raises InputError where they are `sampled` in balance too.
    """
    counts = class_counts(records)
    if weighted and sampled:
        raise InputError(
            "--model.class_weights balanced and --data.balanced true each make up for classes that are rare, and both "
            "would favour them; give one of the two."
        )
    if weighted:
        return balanced_weights(counts)
    there = np.flatnonzero(counts)
    if not sampled and len(there) and counts.max() > _NOTED * counts[there].min():
        most, least = counts.argmax(), there[counts[there].argmin()]
        said = " and ".join(f"{shown(records.classes[i])} has {counts[i]:,}" for i in (most, least))
        what = "images" if records.boxes is None else "boxes"
        say(f"note: {said} {what}; --model.class_weights balanced or --data.balanced true make up for it")
    return None
