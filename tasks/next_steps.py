"""The last lines of a command: what can be done next, as whole commands to paste. No torch."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from backbone.names import printed


def say_next(*commands: Sequence[str | Path]) -> None:
    """Print `python -m tasks.` and the words of each command in a line, quoted as a shell needs it."""
    for number, (task, *words) in enumerate(commands):
        start = "      " if number else "next: "
        print(printed(f"{start}{shlex.join(['python', '-m', f'tasks.{task}', *map(str, words)])}"))


def run_or_file(checkpoint: Path) -> Path:
    """How a command names a checkpoint: by its run where it is the best of one, and from here where it lies below."""
    best = checkpoint.name == "best.ckpt" and checkpoint.parent.name == "checkpoints"
    path = checkpoint.parents[1] if best else checkpoint
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
