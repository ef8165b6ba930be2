"""COCO content made by code, for the tests of the reader, of the data module and of the figures."""

import copy
import json

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 7, "name": "cat", "supercategory": "animal"}, {"id": 2, "name": "dog", "supercategory": "animal"}]


def annotation(number, image, box, category=2, **fields):
    defaults = {"area": max(box[2], 0) * max(box[3], 0), "iscrowd": 0}
    return {"id": number, "image_id": image, "category_id": category, "bbox": box} | defaults | fields


def content(images=3, annotations=None, **keys):
    """COCO JSON of 40 x 30 px images with the ids 1 to `images`, one annotation on each unless told otherwise."""
    listed = [{"id": i, "file_name": f"{i:03d}.png", "width": 40, "height": 30} for i in range(1, images + 1)]
    if annotations is None:
        annotations = [annotation(i, i, [5.0, 6.0, 20.0, 10.0], category=(2, 7)[i % 2]) for i in range(1, images + 1)]
    return copy.deepcopy({"images": listed, "annotations": annotations, "categories": CATEGORIES} | keys)


def odd_content():
    """One of everything that can be used though it is odd; image 5's file is for the test to remove."""
    data = content(
        7,
        [
            annotation(0, 1, [5, 6, 20, 10], category=7),  # id 0
            annotation(11, 1, [30, 20, 20, 20]),  # over the edge: clipped to 30 20 40 30
            annotation(12, 1, [39.5, 5, 20, 10]),  # over the edge with half a pixel left: not trained on
            annotation(13, 2, [10, 10, 0, 5]),  # zero
            annotation(14, 2, [10, 10, -5, 5]),  # inverted
            annotation(15, 2, [0, 0, 40, 30], iscrowd=1),
            annotation(16, 3, [1, 1, 8, 8]),
            annotation(17, 3, [20.5, 1.25, 10, 10.5], category=7),
            annotation(18, 5, [2, 2, 6, 6]),
        ],
    )
    del data["annotations"][6]["area"], data["annotations"][6]["iscrowd"], data["annotations"][7]["iscrowd"]
    del data["images"][2]["width"]  # image 3: the size comes from its header
    return data  # images 4, 6 and 7 have no annotations


def write(path, data, image_folder=None):
    """Write the JSON, and for each image it lists a file of its own colours into `image_folder`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    if image_folder is not None:
        image_folder.mkdir(parents=True, exist_ok=True)
        for image in data["images"]:
            pixels = np.random.default_rng(image["id"]).integers(0, 256, (30, 40, 3), np.uint8)
            Image.fromarray(pixels).save(image_folder / image["file_name"])
    return path


def coco_folder(root, **splits):
    """COCO's own layout with the given contents."""
    for split, data in splits.items():
        write(root / "annotations" / f"instances_{split}.json", data, root / split)
    return root
