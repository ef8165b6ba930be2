"""Accuracy and speed of an ImageNet classifier on large JPEG files, decoded small and decoded whole.

    python benchmarks/small_decode.py WEIGHTS DIR [ENLARGED]

WEIGHTS is a file that `--model.weights` takes, DIR Stanford Dogs in its official layout. Its
images are enlarged ENLARGED times (default 4) and saved as JPEG, as a camera's would be; each is classified both
ways in turn.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from backbone.accelerator import retain_freed_memory
from data import imagenet
from data.images import open_image
from data.readers import stanford_dogs
from tasks.classification import load


def main() -> None:
    """Measure and print."""
    retain_freed_memory()
    classify = load(sys.argv[1])
    records = stanford_dogs.read(Path(sys.argv[2]))
    enlarged = float(sys.argv[3]) if len(sys.argv) > 3 else 4.0
    names = [imagenet.class_names()[label] for label in imagenet.find_classes(records.classes) if label is not None]
    right, seconds, same = np.zeros(2, int), np.zeros(2), 0
    images = [(records.path(i), records["labels"][i]) for i in range(len(records))]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.jpg"
        for path, label in tqdm(images):
            original = Image.fromarray(open_image(path))
            size = round(enlarged * original.width), round(enlarged * original.height)
            original.resize(size, Image.Resampling.BICUBIC).save(file, quality=92)
            predictions = []
            for way, at_least in enumerate((classify.at_least, None)):
                start = time.perf_counter()
                image = open_image(file, at_least=at_least)
                seconds[way] += time.perf_counter() - start
                predictions.append(classify(image, top=1).names[0])
                right[way] += predictions[-1] == names[label]
            same += predictions[0] == predictions[1]
    count = len(images)
    for way, title in enumerate(("decoded small", "decoded whole")):
        print(f"{title}: top-1 {right[way] / count:.3f}, {1000 * seconds[way] / count:.1f} ms to open an image")
    print(f"same prediction for {same} of {count}; ratio of the times: {seconds[1] / seconds[0]:.2f}")


if __name__ == "__main__":
    main()
