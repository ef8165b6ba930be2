"""Weights by name: those of backbone/weights.csv and of the Hugging Face hub, fetched once on an explicit word.

`find_weights` alone opens a socket, and only where `--weights` or `load` names weights that are not in the cache.
"""

import csv
import difflib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from backbone.download import check, digest_of, download, extract_one, kept_digest
from backbone.errors import InputError
from backbone.files import write_whole

TABLE = Path(__file__).with_name("weights.csv")
# What a task's word means without a width. Of the two SSDs the narrower one has a known digest, and was tried.
_DEFAULT_WIDTH = {"imagenet": 1.0, "coco": 0.75}
_LIST = "python -m backbone weights lists all names"


class Row(NamedTuple):
    """A line of the table: weights that somebody publishes; what is not known is None."""

    name: str
    project: str
    width_mult: float
    image_size: int  # px
    task: str  # imagenet or coco: what it was trained on
    published: float | None  # top-1 or mAP in percent, by its publisher
    licence: str
    address: str  # of the file, of an archive that holds it as its one .tflite, or hub:OWNER/NAME
    size: int | None  # bytes of the file of weights
    sha256: str | None  # of the file of weights
    archive_sha256: str | None


class Weights(NamedTuple):
    """A file of weights, and what a checkpoint says of it: its name, the hub's commit, and its SHA-256."""

    file: Path
    name: str
    revision: str | None
    sha256: str | None  # None where a path has no file


def table() -> list[Row]:
    """All weights that have a name."""
    lines = [line for line in TABLE.read_text("utf-8").splitlines() if not line.startswith("#")]
    numbers = {"width_mult": float, "image_size": int, "published": float, "size": int}
    return [
        Row(**{key: numbers.get(key, str)(text) if text else None for key, text in line.items()})  # type: ignore[arg-type]
        for line in csv.DictReader(lines)
    ]


def cache_folder() -> Path:
    """Where fetched weights lie: $MOBILENET_TASKS_CACHE/weights, or mobilenet-tasks/weights in the user's cache."""
    if own := os.environ.get("MOBILENET_TASKS_CACHE"):
        return Path(own).expanduser() / "weights"
    home = {"win32": "~/AppData/Local", "darwin": "~/Library/Caches"}.get(sys.platform, "~/.cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or home).expanduser() / "mobilenet-tasks" / "weights"


def find_weights(word: str | Path, width_mult: float | None = None, fetch: bool = True) -> Weights:
    """The file that a path, a name of the table, `imagenet`, `coco` or `hub:OWNER/NAME[/FILE]` means.

    A name is fetched once, unless `fetch` is False, and then found in the cache. InputError where it cannot be had, or
    where it is neither a name nor a file.
    """
    text = str(word)
    if text.startswith("hub:"):
        return _from_hub(text, fetch)
    rows = {row.name: row for row in table()}
    if text in _DEFAULT_WIDTH:
        return _from_table(_best(rows, text, width_mult), fetch)
    if text in rows:
        return _from_table(rows[text], fetch)
    path = Path(word).expanduser()
    if not path.exists() and path.name == text and not re.search(r"\.[a-z]\w*$", text):
        near = difflib.get_close_matches(text, [*rows, *_DEFAULT_WIDTH], n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"weights {text}: there is no such file, and no weights of that name; {meant}{_LIST}.")
    return Weights(path, path.name, None, digest_of(path) if path.is_file() else None)


def _best(rows: dict[str, Row], task: str, width_mult: float | None) -> Row:
    """The row of a task and a width with the highest published figure. InputError names the nearest width."""
    width = _DEFAULT_WIDTH[task] if width_mult is None else width_mult
    of_task = [row for row in rows.values() if row.task == task]
    found = [row for row in of_task if row.width_mult == width]
    if not found:
        nearest = min({row.width_mult for row in of_task}, key=lambda other: abs(other - width))
        raise InputError(
            f"--weights {task}: nobody published weights of width {width:g}; the nearest are of width "
            f"{nearest:g} (--width {nearest:g})."
        )
    return max(found, key=lambda row: row.published or 0.0)


def cached_file(row: Row) -> Path:
    """Where the cache has or would have a row's file; of the hub's rows, what is kept of it."""
    if row.address.startswith("hub:"):
        return _record(row.address)
    suffix = Path(row.address).suffix
    return cache_folder() / (row.name + (".tflite" if suffix in (".tgz", ".zip") else suffix))


def _from_table(row: Row, fetch: bool) -> Weights:
    if row.address.startswith("hub:"):
        return _from_hub(row.address, fetch)._replace(name=row.name)
    path = cached_file(row)
    if not fetch and not path.exists():
        _refuse_to_fetch(row.name, row.address)
    _make(path.parent)
    if path.suffix == Path(row.address).suffix:
        return Weights(path, row.name, None, download(row.address, path, row.sha256, row.size))
    if not path.exists():
        archive = path.with_name(Path(row.address).name)
        download(row.address, archive, row.archive_sha256)
        extract_one(archive, path.suffix, path)
        if difference := _wrong_member(row, path):
            path.unlink()
            raise InputError(f"{row.address}: its {path.suffix} {difference}; do not use it.")
        archive.unlink(missing_ok=True)  # the checkpoints in it are not read
    return Weights(path, row.name, None, check(path, row.sha256, row.size))


def _wrong_member(row: Row, path: Path) -> str:
    """What tells a member from the one expected, by the table or by an earlier fetch."""
    expected, found = row.sha256 or kept_digest(path), digest_of(path)
    return f"has the SHA-256 {found}, not {expected}" if expected not in (None, found) else ""


def _refuse_to_fetch(name: str, address: str) -> NoReturn:
    raise InputError(
        f"weights {name} are not in the cache ({cache_folder()}), and here nothing is fetched; name them with "
        f"--weights, or fetch {address} and give its path."
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made ({error.strerror}); set MOBILENET_TASKS_CACHE to another folder."
        ) from error


# --- the Hugging Face hub ---------------------------------------------------------------------------------------------

_BESIDE = ("config.json", "preprocessor_config.json")  # they say padding, mean, std and image size


def _record(word: str) -> Path:
    return cache_folder() / "hub" / f"{re.sub(r'[^-.A-Za-z0-9]+', '--', word.removeprefix('hub:'))}.json"


def _from_hub(word: str, fetch: bool) -> Weights:
    """A file of the hub, of the commit and with the digest of the first fetch, which are kept in our own cache."""
    if not (match := re.fullmatch(r"hub:(\w[\w.-]*/\w[\w.-]*)(?:/(.+))?", word)):
        raise InputError(f"weights {word}: a file of the hub is named hub:OWNER/NAME or hub:OWNER/NAME/FILE.")
    repo, file = match.groups()
    record = _record(word)
    kept: dict[str, str] = json.loads(record.read_text("utf-8")) if record.is_file() else {}
    if kept and Path(kept["file"]).is_file():
        path = Path(kept["file"])
    elif fetch:
        path, kept["revision"], stated = _fetch_from_hub(word, repo, file, kept.get("revision"))
        kept = {"sha256": stated or digest_of(path), **kept, "file": str(path)}
    else:
        _refuse_to_fetch(word, f"https://huggingface.co/{repo}")
    if (found := digest_of(path)) != kept["sha256"]:
        raise InputError(f"{path} has the SHA-256 {found}, not {kept['sha256']}; remove it to fetch {word} again.")
    if not record.is_file():
        print(f"note: {word} is from now on its commit {kept['revision']}, SHA-256 {found} (kept in {record})")
    _make(record.parent)
    write_whole(record, json.dumps(kept, indent=1))
    return Weights(path, word, kept["revision"], found)


def _fetch_from_hub(word: str, repo: str, file: str | None, revision: str | None) -> tuple[Path, str, str | None]:
    """A file of the hub and those beside it that describe it, in the hub's own cache; its commit and stated digest."""
    address = f"https://huggingface.co/{repo}"
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise InputError(
            f"weights {word} come through the package huggingface_hub, which is not installed; pip install --editable "
            f"'.[hub]' in the project's folder, or fetch the file from {address} and give its path."
        ) from error
    try:
        info: Any = huggingface_hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
        names = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        file = file or _choose(word, list(names))
        for name in (file, *(str(Path(file).with_name(name)) for name in _BESIDE)):
            if name in names or name == file:
                huggingface_hub.hf_hub_download(repo, name, revision=info.sha)
        path = Path(huggingface_hub.hf_hub_download(repo, file, revision=info.sha, local_files_only=True))
        return path, info.sha, names[file].lfs.sha256 if file in names and names[file].lfs else None
    except errors.GatedRepoError as error:
        raise InputError(
            f"weights {word}: its owner gives it only to those who agree to terms; do so at {address}, then log in "
            "with hf auth login."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"weights {word}: there is no public {address}; check the name.") from error
    except errors.EntryNotFoundError as error:
        raise InputError(f"weights {word}: {address} has no file {file}; leave it out to have one chosen.") from error
    except InputError:  # a ValueError too
        raise
    except (OSError, ValueError, errors.HTTPError) as error:  # no network, a time-out, a full disk, a name not allowed
        raise InputError(
            f"weights {word} could not be fetched ({' '.join(str(error).split())[:200]}); run the same command again "
            f"with network, or fetch the file from {address} with a browser and give its path."
        ) from error


def _choose(word: str, names: list[str]) -> str:
    """model.safetensors, or the only .safetensors, or pytorch_model.bin; InputError where it is none of them."""
    safe = [name for name in names if name.endswith(".safetensors")]
    if "model.safetensors" in safe:
        return "model.safetensors"
    if len(safe) == 1:
        return safe[0]
    if not safe and "pytorch_model.bin" in names:
        return "pytorch_model.bin"
    raise InputError(
        f"weights {word}: which file is meant is not clear; name one, {word}/FILE, of {', '.join(sorted(names)[:20])}."
    )
