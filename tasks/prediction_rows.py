"""The rows of a prediction on the disk, each from when its image is done: an interrupted one goes on. No torch."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from backbone.files import disk_error, lock, not_written, sweep, write_whole
from data.folders import count_of
from tasks.run_folders import new_run


class RowsOfRun:
    """The rows of a run on the disk, each from when its image is done, and beside each what the task keeps for its end.

    While they are open no other process adds to them. `done` are the images that have a row from a call before.
    """

    def __init__(self, run: Path, mode: str) -> None:
        self.run, self.count, self.done = run, 0, set[tuple[str, int | None]]()
        self.part, self.kept = run / "predictions.jsonl.part", run / "kept.jsonl.part"
        self._files = [path.open(mode, buffering=0) for path in (self.kept, self.part)]
        self.locked = lock(self._files[1].fileno())

    def __iter__(self) -> Iterator[tuple[dict[str, Any], Any]]:
        with self.part.open("rb") as part, self.kept.open("rb") as kept:
            for row, more in zip(part, kept, strict=True):
                yield json.loads(row), json.loads(more)

    def append(self, row: Mapping[str, Any], kept: Any) -> None:
        """Write both to the disk."""
        for file, content in zip(self._files, (kept, row), strict=True):
            # A name that is not UTF-8 stays readable JSON: \udcff is its escape too.
            data = f"{json.dumps(content, ensure_ascii=False)}\n".encode("utf-8", "backslashreplace")
            while data:
                data = data[file.write(data) :]
        self.count += 1

    def recover(self) -> bool:
        """Drop what a kill left torn or by itself, and learn what is done.

        False where an image was changed since it was done; OSError where the run has ended in the meantime.
        """
        ends = [0, 0]
        with self.kept.open("rb") as kept, self.part.open("rb") as part:
            for lines in zip(kept, part, strict=False):
                try:
                    _, row = map(json.loads, lines)
                except ValueError:
                    break
                if not all(line.endswith(b"\n") for line in lines):
                    break
                self.done.add((row["file"], row.get("frame")))
                ends = [end + len(line) for end, line in zip(ends, lines, strict=True)]
        self.count, last = len(self.done), self.part.stat().st_mtime
        if any(Path(file).stat().st_ctime > last for file in {file for file, _ in self.done}):
            return False
        for file, end in zip(self._files, ends, strict=True):
            file.truncate(end)
            file.seek(end)
        return True

    def finish(self) -> Path:
        """Give the rows, which are complete, their name; returns it."""
        os.fsync(self._files[1].fileno())
        written = self.part.rename(self.part.with_suffix(""))
        self.kept.unlink()
        return written

    def close(self) -> None:
        """Let other processes add to them."""
        for file in self._files:
            file.close()


@contextlib.contextmanager
def rows_of_run(task: str, options: Any, config: bytes) -> Iterator[RowsOfRun]:
    """The rows of the newest unfinished run of this config, or of a new run; of `--out`, the rows in there.

    Where the body fails with no row, nothing of them is left; else a line says that they are kept. Raises InputError
    where the disk is full or may not be written to, or `--out` holds something else.
    """
    with contextlib.ExitStack() as stack:
        if options.out is None:
            rows = _unfinished(sorted((options.runs / task).glob("*"), reverse=True), config)
            run = rows.run if rows else stack.enter_context(new_run(task, options.runs, "--runs"))
        else:
            rows = _unfinished([options.out], config)
            run = rows.run if rows else stack.enter_context(_new_folder(options.out))
        try:
            if rows is None:
                rows = RowsOfRun(run, "xb")
                write_whole(run / "config.yaml", config)  # from now on others may find it; it is locked before
            yield rows
        except BaseException as error:
            with contextlib.suppress(OSError):  # it must not hide the error
                if rows and rows.count:
                    print(f"{count_of(rows.count, 'image')} done, kept in {run}; the same command goes on.", flush=True)
                else:
                    for name in ("config.yaml", "predictions.jsonl.part", "kept.jsonl.part"):
                        (run / name).unlink(missing_ok=True)
            told = isinstance(error, InputError) or not isinstance(error, Exception)
            if not told and (cause := disk_error(error)):
                raise InputError(f"{run} {not_written(cause)}") from error
            raise
        finally:
            if rows:
                rows.close()


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """The folder that `--out` names, which is new or empty; where what is done with it fails and leaves it empty, no
    folder is left that was not there. InputError where it is neither, or cannot be made.
    """
    missing = [path for path in (out, *out.parents) if not path.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise InputError(f"--out {out} is not empty, and not of this command interrupted; give a new folder.")
    except OSError as error:
        raise InputError(f"--out {out} cannot be made ({error.strerror or error}); give another folder.") from error
    try:
        yield out
    except BaseException:
        with contextlib.suppress(OSError):  # one that is not empty
            for path in missing:
                path.rmdir()
        raise


def _unfinished(folders: Iterable[Path], config: bytes) -> RowsOfRun | None:
    """The rows of the first run of this config that was interrupted and that no other process goes on with."""
    for folder in folders:
        # OSError: ended since it was listed, not ours to write, or no such run.
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            if not (folder / "predictions.jsonl.part").is_file() or (folder / "config.yaml").read_bytes() != config:
                continue
            rows = RowsOfRun(folder, "rb+")
            stack.callback(rows.close)
            if rows.locked and rows.recover():
                sweep(rows.run)
                sweep(rows.run / "pictures")
                stack.pop_all()
                return rows
    return None
