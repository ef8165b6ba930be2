"""Run folders, `runs/<task>/<time>/`, and which of them is the newest. No torch."""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from backbone.errors import InputError
from backbone.files import lock, sweep


@contextlib.contextmanager
def new_run(task: str, root: Path, option: str) -> Iterator[Path]:
    """Make a run folder that no other run has; where what is done with it fails and has left it empty, remove it again.

    Its name comes after those of all runs that are there, also where the clock was set back. InputError names the
    `option` that says `root`, where that cannot be written.
    """
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    try:
        missing = [path for path in (root / task, root, *root.parents) if not path.exists()]
        newest = max(map(run_order, (root / task).glob("*")), default=("", 0))
        start = max(now, newest[0])
        for count in itertools.count(newest[1] + 1 if start == newest[0] else 1):
            folder = root / task / (start if count == 1 else f"{start}_{count}")
            with contextlib.suppress(FileExistsError):  # of a run that began in the same second
                folder.mkdir(parents=True)
                break
        for left in (root / task).glob("*/checkpoints"):
            sweep(left)
    except OSError as error:
        raise InputError(
            f"{option} {root} cannot be written ({error.strerror or error}); give a folder that can."
        ) from error
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):  # one that is not empty
            for path in (folder, *missing):
                path.rmdir()
        raise


@contextlib.contextmanager
def in_use(run: Path) -> Iterator[bool]:
    """Hold a run folder while it is trained; False where another process does, as far as the file system can tell."""
    try:
        handle = os.open(run, os.O_RDONLY)
    except OSError:  # Windows opens no folder
        yield True
        return
    try:
        yield lock(handle) is not False
    finally:
        os.close(handle)


def run_order(run: Path) -> tuple[str, int]:
    """Where a run folder is among the others by its name: its time, and its number among those of one second."""
    name = re.fullmatch(r"(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)(?:_(\d+))?", run.name)
    return (name[1], int(name[2] or 1)) if name else ("", 0)


def point_latest(run: Path) -> None:
    """Let `runs/<task>/latest` point at this run, where the file system has links."""
    with contextlib.suppress(OSError):  # Windows without the right to make links, FAT
        link = run.parent / f".latest.{os.getpid()}"
        link.unlink(missing_ok=True)
        link.symlink_to(run.name)
        link.replace(run.parent / "latest")


def checkpoint_at(path: str | Path, name: str = "best.ckpt") -> Path:
    """The path itself, or the checkpoint of this name in the run folder that it is."""
    inside = Path(path) / "checkpoints" / name
    return inside if inside.is_file() else Path(path)


def best_checkpoints(task: str, root: Path) -> list[Path]:
    """The best checkpoint of each run that has one, the newest first; InputError where there is none."""
    latest = (root / task / "latest").resolve()

    def order(path: Path) -> tuple[bool, tuple[str, int], float]:  # by its time only where a run was renamed
        run = path.parents[1]
        return run.resolve() == latest, run_order(run), path.stat().st_mtime

    runs = (run for run in (root / task).glob("*") if not run.is_symlink())  # `latest` is one of the others
    found = [path for run in runs if (path := run / "checkpoints" / "best.ckpt").is_file()]
    found.sort(key=order, reverse=True)
    if not found:
        raise InputError(
            f"There is no checkpoint under {root / task}; train one with `python -m tasks.{task} fit`, "
            "or name one with --weights."
        )
    return found


def newest_checkpoint(task: str, root: Path) -> Path:
    """The best checkpoint of the newest run that has one; InputError where there is none."""
    return best_checkpoints(task, root)[0]


def interrupted_run(task: str, root: Path) -> Path:
    """The newest run that was stopped before its end, and from which no later run has gone on.

    A `fit` has come to its end when it has written metrics.json; one that goes on now is passed over. Raises InputError
    where there is no such run.
    """
    fits = [run for run in (root / task).glob("*") if not run.is_symlink() and _has_trained(run)]
    fits.sort(key=run_order, reverse=True)
    gone_on_from = {resumed_from(run) for run in fits}
    finished = [run for run in fits if (run / "metrics.json").is_file()]
    for run in fits:
        if run not in finished and run.name not in gone_on_from:
            with in_use(run) as free:
                if free:
                    return run
    how = f"train with `python -m tasks.{task} fit`"
    if finished:
        how = f"the newest that came to its end is {finished[0]}, and goes on with --resume {finished[0]} --epochs N"
    raise InputError(f"--resume: no run under {root / task} was interrupted; {how}.")


def _has_trained(run: Path) -> bool:
    return (run / "checkpoints" / "last.ckpt").is_file()


def resumed_from(run: Path) -> str | None:
    """The name of the run from which this one went on; None for others."""
    path = resumed_path(run)
    return path.parents[1].name if path and len(path.parts) > 2 else None


def resumed_path(run: Path) -> Path | None:
    """The checkpoint from which a run went on, as the last lines of its config.yaml say; None for others."""
    try:
        text = (run / "config.yaml").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    found = re.findall(rf"^{re.escape(RESUMED)}(.*)$", text, re.MULTILINE)
    return Path(found[-1]) if found else None


RESUMED = "# resumed from: "  # a line of config.yaml, before the path of a checkpoint
JOB = "# job of SLURM: "  # and the job and its step, where there is one


def run_of_job(job: str, task: str, root: Path) -> Path | None:
    """The newest run that this step of a job has trained; None where it has come to no checkpoint."""
    runs = [run for run in (root / task).glob("*") if not run.is_symlink() and _has_trained(run)]
    for run in sorted(runs, key=run_order, reverse=True):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if f"{JOB}{job}" in (run / "config.yaml").read_text("utf-8").splitlines():
                return run
    return None
