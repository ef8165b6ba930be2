"""`python -m data.stanford_dogs DIR` fetches Stanford Dogs; data/readers/stanford_dogs.py reads it."""

import sys
from pathlib import Path
from typing import NamedTuple

from backbone.download import download
from backbone.errors import Arguments, InputError, exit_code, until_unread
from data.archives import extract
from data.readers.stanford_dogs import read
from data.records import SPLITS


class Archive(NamedTuple):
    """One of the archives that the data set is published in."""

    url: str
    size: int  # bytes
    sha256: str
    folder: str  # what it unpacks to


_SERVER = "http://vision.stanford.edu/aditya86/ImageNetDogs"
# Sizes and digests as TensorFlow Datasets records them: tensorflow_datasets/url_checksums/stanford_dogs.txt.
# fmt: off
ARCHIVES = (
    Archive(f"{_SERVER}/images.tar", 793_579_520,
            "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58", "Images"),
    Archive(f"{_SERVER}/annotation.tar", 21_852_160,
            "662ed36f707be6b195c2fda392d8e153e83af28cedc8e2134a649f198def30fd", "Annotation"),
    Archive(f"{_SERVER}/lists.tar", 481_280,
            "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c", "lists"),
)
# fmt: on


def main(arguments: list[str] | None = None) -> int:
    """Fetches and unpacks the data set; exit code 2 and one sentence where it cannot, 130 where it was stopped."""
    total = sum(archive.size for archive in ARCHIVES)
    cost = f"{total / 1e6:,.0f} MB to fetch, {2 * total / 1e9:.1f} GB on disk"
    parser = Arguments(
        prog="python -m data.stanford_dogs",
        description=f"Fetch Stanford Dogs from Stanford's server and unpack it ({cost}). "
        "A download that was stopped goes on where it was.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder to make, or one that an earlier call began")
    folder: Path = parser.parse_args(arguments).folder
    return exit_code(lambda: _fetch_all(folder, cost), "stopped; the same command goes on from here")


def _fetch_all(folder: Path, cost: str) -> None:
    _check_target(folder)
    print(f"Stanford Dogs: {cost}.")
    print("For non-commercial research only: its images are ImageNet's, whose terms of access hold for them too.")
    for archive in ARCHIVES:
        _fetch(archive, folder)
    records = read(folder)
    for issue in records.issues:
        print(issue)
    test = int((records["split"] == SPLITS.index("test")).sum())
    print(f"{len(records.classes)} breeds, {len(records) - test:,} images to train on and {test:,} to test on.")
    print("The .tar files are not needed any more.")
    print(folder)


def _check_target(folder: Path) -> None:
    """Raises InputError where `folder` holds anything that this command did not put there."""
    names = [Path(archive.url).name for archive in ARCHIVES]
    ours = {*names, *(f"{name}.part" for name in names), *(archive.folder for archive in ARCHIVES)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        other = sorted(entry.name for entry in folder.iterdir() if entry.name not in ours and entry.name[0] != ".")
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror or error}); give another folder.") from error
    if other:
        raise InputError(f"{folder} holds {other[0]}, which is not of Stanford Dogs; give a new or an empty folder.")


def _fetch(archive: Archive, folder: Path) -> None:
    target = folder / archive.folder
    if target.is_dir():  # complete: extract() leaves nothing else
        return
    path = folder / Path(archive.url).name
    download(archive.url, path, archive.sha256, archive.size)
    extract(path, target)


if __name__ == "__main__":
    sys.exit(until_unread(main))
