"""Where on Earth an image was taken: a MobileNet trunk and a choice among cells of the globe (paper, section 4.4).

The paper's figure for PlaNet with a MobileNet (Table 11): 79.3 % of Im2GPS's images within 2500 km, 11.4 % within
1 km, after training on 126 million images.

    python -m tasks.geolocalization fit             # the built-in sample
    python -m tasks.geolocalization fit --data DIR  # images with positions: a CSV, or their own EXIF
"""

from tasks.geolocalization.predict import load

__all__ = ["load"]
