"""Where on Earth a photograph was taken: a MobileNet trunk and a choice among cells of the globe (paper, section 4.4).

The paper's figure for PlaNet with a MobileNet (Table 11): 79.3 % of Im2GPS's photographs within 2500 km, 11.4 % within
1 km, after training on 126 million photographs.

    python -m tasks.geolocalization fit                      # the built-in sample
    python -m tasks.geolocalization fit --data.root DIR      # photographs with positions: a CSV, or their own EXIF
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.geolocalization.inference import Geolocator


def load(checkpoint: str, device: str = "cpu") -> "Geolocator":
    """Load a checkpoint as a callable: a photograph in, the likeliest places with their probabilities out.

    Raises InputError where the file is not a checkpoint of this task.
    """
    from tasks.geolocalization.inference import Geolocator  # here, so that `--help` need not import torch

    return Geolocator.from_checkpoint(checkpoint, device)
