"""ImageNet's 1,000 classes by name, in the order of every classifier trained on them."""

import re
from collections.abc import Sequence

# The first of the 1,000 folders is n01440764 (tench), the last n15075141 (toilet tissue).
_FIRST_ID, _LAST_ID = 1440764, 15075141


def class_names() -> tuple[str, ...]:
    """The names by label, as torchvision has them in the metadata of its weights."""
    from torchvision.models import MobileNet_V2_Weights  # here: importing torchvision takes a second

    return tuple(MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"])


def is_imagenet_id(folder: str) -> bool:
    """Whether a class folder, "n02088364" or "n02088364-beagle", is named as ImageNet's are, by an id in their range.

    Ids of the larger ImageNet between the first and the last of the 1,000 are taken for them.
    """
    found = re.match(r"n(\d{8})(?!\d)", folder)
    return found is not None and _FIRST_ID <= int(found[1]) <= _LAST_ID


def find_classes(names: Sequence[str]) -> list[int | None]:
    """The label of each class name among ImageNet's, by its letters and digits alone; None where there is not one.

    Capitals count only where they must: Cardigan is a dog, cardigan a garment.
    """
    exact = {_letters(name): label for label, name in enumerate(class_names())}
    folded: dict[str, set[int]] = {}
    for letters, label in exact.items():
        folded.setdefault(letters.casefold(), set()).add(label)
    found: list[int | None] = []
    for name in names:
        labels = folded.get(_letters(name).casefold(), set())
        found.append(exact.get(_letters(name), min(labels) if len(labels) == 1 else None))
    return found


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", re.sub(r"^n\d{8}[-_ ]+", "", name))  # n02088364-beagle is beagle
