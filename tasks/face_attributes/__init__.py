"""Face attributes learned from a teacher's answers instead of labels (paper, section 4.5).

The paper's figure for 1.0 MobileNet-224 is a mean AP of 88.7 % (Table 12), its teacher's 86.9 %, on data of its own.

    python -m tasks.face_attributes fit                      # the built-in sample, from labels
    python -m tasks.face_attributes fit --data.root DIR --model.teacher T.ckpt --data.unlabelled PICTURES
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.face_attributes.inference import FaceAttributes


def load(checkpoint: str, device: str = "cpu") -> "FaceAttributes":
    """Load a checkpoint as a callable: a photograph of a face in, the probability of each attribute out.

    Raises InputError where the file is not a checkpoint of this task.
    """
    from tasks.face_attributes.inference import FaceAttributes  # here, so that `--help` need not import torch

    return FaceAttributes.from_checkpoint(checkpoint, device)
