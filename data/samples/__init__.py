"""Small learnable data sets, drawn by code in the true on-disk formats: `python -m data.samples KIND DIR`."""

import importlib
from pathlib import Path

from data.folders import say


def built_in_sample(kind: str) -> Path:
    """The folder of a task's sample, `datasets/sample_<kind>`, which is drawn on first use."""
    folder = Path("datasets") / f"sample_{kind}"
    if not folder.is_dir():
        say(f"no --data.root given: drawing the built-in sample into {folder}")
        drawing = importlib.import_module(f"data.samples.{kind}")  # drawing code is needed this once
        getattr(drawing, f"write_{kind}_sample")(folder)
    return folder
