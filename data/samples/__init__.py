"""Small learnable data sets, drawn by code in the true on-disk formats: `python -m data.samples KIND DIR`."""

from pathlib import Path

from data.folders import say


def write_sample(kind: str, folder: str | Path, seed: int = 0) -> None:
    """Draw the sample of a kind (detection, dogs, faces or places) into `folder`; the same `seed` gives the same files.

    Raises InputError where `folder` holds anything already.
    """
    from data.samples import detection, dogs, faces, places  # scipy is needed this once
    from data.samples.drawing import drawn_whole

    draw = {"detection": detection.draw, "dogs": dogs.draw, "faces": faces.draw, "places": places.draw}[kind]
    with drawn_whole(folder) as drawn:
        draw(drawn, seed)


def built_in_sample(kind: str) -> Path:
    """The folder of a task's sample, `datasets/sample_<kind>`, which is drawn on first use."""
    folder = Path("datasets") / f"sample_{kind}"
    if not folder.is_dir():
        say(f"no --data given: drawing the built-in sample into {folder}")
        write_sample(kind, folder)
    return folder
