"""The shared trunk: MobileNetV1 (Howard et al. 2017, arXiv 1704.04861), its cost, and weights from other projects.

Names are loaded on first use (PEP 562), so that `python -m backbone --help` answers without waiting for torch.
"""

from typing import TYPE_CHECKING, Any

from backbone.errors import InputError

if TYPE_CHECKING:
    from backbone.cost import count
    from backbone.mobilenet import MobileNetV1, Numerics, Preprocessing, normalize, scaled_image_size
    from backbone.pretrained import Pretrained, load_pretrained, read_pretrained
    from backbone.trunk import Trunk, trunk_from, trunk_settings

__all__ = [
    "InputError",
    "MobileNetV1",
    "Numerics",
    "Preprocessing",
    "Pretrained",
    "Trunk",
    "count",
    "load_pretrained",
    "normalize",
    "read_pretrained",
    "scaled_image_size",
    "trunk_from",
    "trunk_settings",
]

if not TYPE_CHECKING:  # the type checker reads the imports above, so a misspelt name is still found

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'backbone' has no attribute {name!r}")
        from backbone import cost, mobilenet, pretrained, trunk

        return next(getattr(home, name) for home in (mobilenet, trunk, pretrained, cost) if hasattr(home, name))
