"""Image classification, fine-grained or any other: a MobileNet trunk, one linear layer (paper, section 4.3).

The paper's figure for 1.0 MobileNet-224 on Stanford Dogs (Table 10), after pretraining on noisy web pictures: 83.3 %.

    python -m tasks.classification fit                      # the built-in sample
    python -m tasks.classification fit --data.root DIR      # a folder with a folder of pictures for each class
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.classification.inference import PhotoClassifier


def load(file: str, device: str = "cpu") -> "PhotoClassifier":
    """Load a checkpoint, or another project's ImageNet classifier, as a callable: a photograph in, its classes out.

    Raises InputError where the file is neither.
    """
    from tasks.classification.inference import PhotoClassifier  # here, so that `--help` need not import torch

    return PhotoClassifier.from_file(file, device)
