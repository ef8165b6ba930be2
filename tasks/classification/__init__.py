"""Image classification, fine-grained or any other: a MobileNet trunk, one linear layer (paper, section 4.3).

The paper's figure for 1.0 MobileNet-224 on Stanford Dogs (Table 10), after pretraining on noisy web images: 83.3 %.

    python -m tasks.classification fit             # the built-in sample
    python -m tasks.classification fit --data DIR  # a folder with a folder of images for each class
"""

from tasks.classification.predict import load

__all__ = ["load"]
