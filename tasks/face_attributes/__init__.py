"""Face attributes learned from a teacher's outputs instead of labels (paper, section 4.5).

The paper's figure for 1.0 MobileNet-224 is a mean AP of 88.7 % (Table 12), its teacher's 86.9 %, on data of its own.

    python -m tasks.face_attributes fit  # the built-in sample, from labels
    python -m tasks.face_attributes fit --data DIR --model.teacher T.ckpt --data.unlabelled IMAGES
"""

from tasks.face_attributes.predict import load

__all__ = ["load"]
