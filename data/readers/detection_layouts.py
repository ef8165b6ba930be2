"""Which layout a folder of images with boxes has: the one place that chooses the reader. No torch."""

import functools
from collections.abc import Callable
from pathlib import Path

from backbone.errors import InputError
from data.folders import list_folder
from data.readers import boxes_csv, coco, voc, yolo
from data.records import Records

Reader = Callable[[Path], Records]

# In this order, as a folder may hold labels in several forms; COCO's come before all.
_OTHERS = {"YOLO": yolo, "Pascal VOC": voc, "CSV": boxes_csv}

_LOOKED_FOR = (
    "YOLO (data.yaml, obj.data, or labels/*.txt for images/*), Pascal VOC (*.xml of each image) and CSV (*.csv with "
    "image, xmin, ymin, xmax, ymax, class)"
)


def reader_of(root: Path, version: str = "") -> Reader | None:
    """What reads all records of `root`; None where COCO's annotation files are there, which are read by split.

    `version` is that of COCO's files. Raises InputError with the layouts that were looked for where there is none.
    """
    try:
        coco.find_splits(root, version)
    except coco.NoAnnotations as error:
        listing = list_folder(root)
        for name, module in _OTHERS.items():
            if module.is_there(root, listing):
                if version:
                    raise InputError(
                        f"--data.version {version}: {root} is in the layout of {name}, and versions are of COCO's "
                        "files; leave it out."
                    ) from None
                return functools.partial(module.read, listing=listing)
        if any(root.glob("*.json")) or any(root.glob("annotations/*.json")):
            raise InputError(f"{str(error).rstrip('.')}; nor is there a layout of {_LOOKED_FOR}.") from None
        raise InputError(
            f"{root} has no labels in a known layout; looked for COCO "
            f"(annotations/instances_train{version or '*'}.json, or train/_annotations.coco.json, and the same of val "
            f"and test), {_LOOKED_FOR}; give the folder that has them as --data.root."
        ) from None
    return None
