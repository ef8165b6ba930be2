"""ImageNet's 1,000 classes by name, in the order of every classifier trained on them."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path


@functools.cache
def _classes() -> dict[str, str]:
    """The id of each class, which is what its folder is called, to its name as torchvision has it, by label."""
    lines = Path(__file__).with_name("imagenet_classes.txt").read_text("utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def class_names() -> tuple[str, ...]:
    """The names by label."""
    return tuple(_classes().values())


def class_ids() -> tuple[str, ...]:
    """The ids by label, which are in order."""
    return tuple(_classes())


@functools.cache
def _label_of_id() -> dict[str, int]:
    return {word: label for label, word in enumerate(_classes())}


def _label_by_id(folder: str) -> int | None:
    found = re.match(r"n\d{8}(?!\d)", folder)
    return _label_of_id().get(found[0]) if found else None


def is_imagenet_id(folder: str) -> bool:
    """Whether a class folder, "n02088364" or "n02088364-beagle", is named by an id of one of the 1,000."""
    return _label_by_id(folder) is not None


def find_classes(names: Sequence[str]) -> list[int | None]:
    """The label of each class among ImageNet's, by its id, or its name's letters and digits; None where there is none.

    Capitals count only where they must: Cardigan is a dog, cardigan a garment.
    """
    exact = {_letters(name): label for label, name in enumerate(class_names())}
    folded: dict[str, set[int]] = {}
    for letters, label in exact.items():
        folded.setdefault(letters.casefold(), set()).add(label)
    found: list[int | None] = []
    for name in names:
        if (by_id := _label_by_id(name)) is not None:
            found.append(by_id)
            continue
        labels = folded.get(_letters(name).casefold(), set())
        found.append(exact.get(_letters(name), min(labels) if len(labels) == 1 else None))
    return found


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", re.sub(r"^n\d{8}[-_ ]+", "", name))  # n02088364-beagle is beagle
