"""Object detection: a MobileNet trunk, SSD heads, COCO mAP (paper, section 4.6).

The paper's figures at 300 x 300 (Table 13): mAP 19.3 on COCO minival, 6.8 M parameters, 1.2 B mult-adds.

    python -m tasks.detection fit               # the built-in sample
    python -m tasks.detection check --data DIR  # your images with boxes, in any layout: how they are read
    python -m tasks.detection fit --data DIR    # learn them
"""

from tasks.detection.predict import load

__all__ = ["load"]
