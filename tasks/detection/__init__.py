"""Object detection: a MobileNet trunk, SSD heads, COCO mAP (paper, section 4.6).

The paper's figures at 300 x 300 (Table 13): mAP 19.3 on COCO minival, 6.8 M parameters, 1.2 B mult-adds.

    python -m tasks.detection fit                      # the built-in sample
    python -m tasks.detection fit --data.root DIR      # your pictures, with COCO annotations
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.detection.inference import Detector


def load(checkpoint: str, device: str = "cpu") -> "Detector":
    """Load a checkpoint as a callable: a photograph's path, PIL image or array in, boxes, scores and names out.

    Raises InputError where the file is not a checkpoint of this task.
    """
    from tasks.detection.inference import Detector  # here, so that `--help` need not import torch

    return Detector.from_checkpoint(checkpoint, device)
