"""Post-processing against a loop over classes, at its worst: an untrained net's flat scores, 90 classes, 1,917 anchors.

python benchmarks/postprocess.py [--images N]
"""

import argparse
import statistics
import time

import torch
from torchvision.ops import nms

from tasks.detection.anchors import decode, make_anchors
from tasks.detection.head import Outputs
from tasks.detection.postprocess import class_scores, postprocess

CLASSES, SIZE = 90, (300, 300)


def per_class_loop(outputs: Outputs, min_score: float = 0.01, max_iou: float = 0.6) -> list[tuple[float, int]]:
    """The same class by class, as torchvision's SSD does: the best 100 (score, label)."""
    scores = class_scores(outputs.class_logits, CLASSES)[0]
    boxes = decode(outputs.box_codes[0], outputs.anchors)
    rows: list[tuple[float, int]] = []
    for label in range(CLASSES):
        kept = (scores[:, label] > min_score).nonzero().flatten()
        kept = kept[nms(boxes[kept], scores[kept, label], max_iou)]
        rows += [(score, label) for score in scores[kept, label].tolist()]
    return sorted(rows, reverse=True)[:100]


def main() -> None:
    """Time both on the same outputs, image by image in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    options = parser.parse_args()
    anchors = make_anchors([(19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)], SIZE)
    generator = torch.Generator().manual_seed(0)
    ours, loops = [], []
    for _ in range(options.images):
        logits = torch.randn(1, len(anchors), CLASSES + 1, generator=generator) * 0.1
        codes = torch.randn(1, len(anchors), 4, generator=generator) * 0.1
        outputs = Outputs(logits, codes, anchors)
        start = time.perf_counter()
        [found] = postprocess(*outputs, CLASSES, SIZE, [SIZE])
        ours.append(1000 * (time.perf_counter() - start))
        start = time.perf_counter()
        expected = per_class_loop(outputs)
        loops.append(1000 * (time.perf_counter() - start))
        torch.testing.assert_close(found.scores[:50], torch.tensor([score for score, _ in expected[:50]]))
    print(f"per-class loop: {statistics.median(loops):8.1f} ms an image")
    print(f"ours:           {statistics.median(ours):8.1f} ms an image")
    print(f"ratio: {statistics.median(loops) / statistics.median(ours):.0f}")


if __name__ == "__main__":
    main()
