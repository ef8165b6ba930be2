"""Which layout a data set has, for each task: the one place that chooses the reader. No torch."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from backbone.errors import InputError
from data import imagenet
from data.folders import list_folder, list_images
from data.readers import (
    attribute_csv,
    boxes_csv,
    celeba,
    class_csv,
    coco,
    exif_folder,
    geotagged_csv,
    image_folder,
    imagenet_lists,
    shards,
    stanford_dogs,
    voc,
    yolo,
)
from data.readers.attribute_csv import CSV_NAME
from data.readers.coordinates_csv import Columns
from data.records import Records

# --- detection ------------------------------------------------------------------------------------------------------

# In this order, as a folder may hold labels in several forms; COCO's come before all.
_BOXES = {"YOLO": yolo, "Pascal VOC": voc, "a CSV of boxes": boxes_csv}

_LOOKED_FOR = (
    "YOLO (data.yaml, obj.data, or labels/*.txt for images/*), Pascal VOC (*.xml of each image) and CSV (*.csv with "
    "image, xmin, ymin, xmax, ymax, class)"
)


def boxes_reader(root: Path, version: str = "") -> Callable[[], Records] | None:
    """What reads all images with boxes of `root`; None where COCO's annotation files are there, read split by split.

    YOLO's data.yaml or obj.data stands for its folder.
    `version` is that of COCO's files. Raises InputError with the layouts that were looked for where there is none.
    A CSV or COCO's JSON as the root is read alone.
    """
    if shards.is_there(root):
        return lambda: shards.read(str(root), "boxes")
    if root.is_file() and root.suffix.lower() in (".yaml", ".yml", ".data"):
        return lambda: replace(yolo.read(root), layout="YOLO")
    if root.is_file() and root.suffix.lower() == ".csv":
        return lambda: replace(boxes_csv.read(root), layout="a CSV of boxes")
    try:
        coco.find_splits(root, version)
    except coco.NoAnnotations as error:
        listing = list_folder(root)
        for name, module in _BOXES.items():
            if module.is_there(root, listing):
                if version:
                    raise InputError(
                        f"--data.version {version}: {root} is in the layout of {name}, and versions are of COCO's "
                        "files; leave it out."
                    ) from None
                read = module.read
                return lambda: replace(read(root, listing), layout=name)
        if any(root.glob("*.json")) or any(root.glob("annotations/*.json")):
            raise InputError(f"{str(error).rstrip('.')}; nor is there a layout of {_LOOKED_FOR}.") from None
        lacking = boxes_csv.lacking(root, sorted(root.glob("*.[cC][sS][vV]")))
        raise InputError(
            f"{root} has no labels in a known layout; looked for COCO "
            f"(annotations/instances_train{version or '*'}.json, or train/_annotations.coco.json, and the same of val "
            f"and test), {_LOOKED_FOR}{'; ' * bool(lacking)}{lacking}; give the folder that has them as --data."
        ) from None
    return None


def read_boxes(root: Path, version: str = "") -> Records:
    """All images with boxes of `root`, in any layout. Raises InputError."""
    reader = boxes_reader(root, version)
    return reader() if reader else replace(coco.read(root, version), layout="COCO")


# --- the other tasks ------------------------------------------------------------------------------------------------


def read_classes(root: Path, crop: Literal["full", "bbox"] = "full") -> Records:
    """Labelled images: Stanford Dogs, ImageNet with a list of its validation labels, class folders, or a CSV of labels.

    Where there are two class folders with images or more, these are the classes, whatever CSV lies beside them; it is
    read where it is `root` itself, or where there are not.
    """
    if shards.is_there(root):
        return cropped(shards.read(str(root), "classes"), crop, root)
    if root.is_file():
        return replace(class_csv.read(root), layout="a CSV of labels")
    if stanford_dogs.is_stanford_dogs(root):
        return replace(stanford_dogs.read(root, crop=crop), layout="Stanford Dogs")
    if root.name == "Images" and stanford_dogs.is_stanford_dogs(root.absolute().parent):
        raise InputError(
            f"{root} is the image folder of Stanford Dogs, whose split and names lie beside it; give "
            f"{root.absolute().parent}."
        )
    if crop == "bbox":
        raise InputError(f"--data.crop is bbox, but {root} has no boxes, as Stanford Dogs' layout has; leave it out.")
    if imagenet_lists.is_there(root):
        return replace(imagenet_lists.read(root), layout="ImageNet with a list of its validation labels")
    if lists := class_csv.lists(root):
        if not image_folder.has_classes(root):
            return replace(class_csv.read(root), layout="a CSV of labels")
        note = f"{lists[0]} is not read, as there are class folders beside it; give it as --data if it is meant"
        records = image_folder.read(root)
        return replace(records, notes=(*records.notes, note), layout="a folder for each class")
    records = replace(image_folder.read(root), layout="a folder for each class")
    if len(records.classes) == 1000 and all(map(imagenet.is_imagenet_id, records.classes)):
        # the folders are sorted, and the ids in order are the labels in order
        records = replace(records, classes=imagenet.class_names())
    return records


def cropped(records: Records, crop: Literal["full", "bbox"], source: Path) -> Records:
    """The images of shards with the boxes that they are cut to, or whole. Raises InputError where there are none."""
    if crop == "bbox" and "crop_xyxy" not in records.columns:
        raise InputError(
            f"--data.crop is bbox, but {source} has no boxes, as Stanford Dogs' shards have; leave it out."
        )
    columns = {name: rows for name, rows in records.columns.items() if crop == "bbox" or name != "crop_xyxy"}
    return replace(records, columns=columns)


def read_attributes(root: Path) -> Records:
    """Images with attributes: a CSV, a folder with one, or CelebA's. Raises InputError for another layout."""
    if shards.is_there(root):
        return shards.read(str(root), "attributes")
    if root.is_file() or (root / CSV_NAME).exists():
        return replace(attribute_csv.read(root), layout="a CSV of attributes")
    if celeba.is_celeba(root):
        return replace(celeba.read(root), layout="CelebA")
    inside = next((folder for folder in sorted(root.iterdir()) if folder.is_dir() and celeba.is_celeba(folder)), None)
    remedy = f"is {inside} meant?" if inside else "give the folder of one of the two, or a CSV of that form."
    raise InputError(
        f"{root} has neither {CSV_NAME}, with a row `path,attribute,...` for each image, nor CelebA's "
        f"list_attr_celeba.txt; {remedy}"
    )


def read_faces(root: Path) -> Records:
    """Whatever `read_attributes` reads, or else all images of the folder, of which nobody knows who is on which."""
    if shards.is_there(root):
        return shards.read(str(root), "faces")
    if root.is_file() or (root / CSV_NAME).exists() or celeba.is_celeba(root):
        return read_attributes(root)
    return Records(root, list_images(root), layout="a folder of images")


def read_places(root: Path, columns: Columns = Columns()) -> Records:  # noqa: B008  # it is immutable
    """Images with places: a CSV, a folder with one, or a folder of images with positions in their EXIF."""
    if shards.is_there(root):
        return shards.read(str(root), "places")
    if geotagged_csv.csv_files(root):
        return replace(geotagged_csv.read(root, columns), layout="a CSV of positions")
    return replace(exif_folder.read(root), layout="positions in the EXIF")
