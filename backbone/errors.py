"""The one exception that means: the user gave something that cannot be used; and how the commands take theirs."""

import argparse
import difflib
import os
import re
import select
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TextIO

from backbone.names import printed


class InputError(ValueError):
    """What the user gave cannot be used. One sentence: the file, the field, the value, and the remedy.

    The command line prints it without a traceback and exits with code 2. As a string it is fit for a terminal, whatever
    the names in it hold.
    """

    def __str__(self) -> str:
        return printed(super().__str__())


def check_options(group: str, *rows: tuple[str, Any, bool, str]) -> None:
    """Raise InputError for the first of (name, value, whether it is valid, what it must be) that is not valid."""
    for name, value, valid, wanted in rows:
        if not valid:
            raise InputError(f"--{group}.{name} is {value}; it must be {wanted}.")


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name that is most like a word, hyphens and underscores alike, also by its last part; None where none is.

    "--data.batch-size" and "--batch_size" both mean "--data.batch_size".
    """
    plain = {name: name.replace("-", "_").lstrip("_") for name in names}
    by_spelling = {spelt.rpartition(".")[2]: name for name, spelt in plain.items()}
    by_spelling |= {spelt: name for name, spelt in plain.items()}
    near = difflib.get_close_matches(word.replace("-", "_").lstrip("_"), by_spelling, n=1)
    return by_spelling[near[0]] if near else None


class Arguments(argparse.ArgumentParser):
    """argparse, but names are written in full, and a mistake gets one sentence without the usage in front."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.allow_abbrev = False  # a part of a name may be another option's tomorrow

    def error(self, message: str) -> NoReturn:
        """Print the sentence, with the nearest name there is, and exit with 2."""
        unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
        near = nearest(unknown[1], self._option_string_actions) if unknown else None
        hint = f"did you mean {near}?" if near else f"see {self.prog} --help"
        print(printed(f"error: {message}; {hint}"), file=sys.stderr)
        raise SystemExit(2)


def until_unread(command: Callable[[], int]) -> int:
    """The exit code of a command; 141, as of `cat`, where the reader of its output, such as `head`, has left."""
    try:
        try:
            return command()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # else only the interpreter's end would notice
    except BrokenPipeError:
        gone = [stream for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]
        if not gone:  # it is another pipe, such as that of a loading process
            raise
        for stream in gone:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # for what is still to be written at the end
        return 141


def exit_code(command: Callable[[], object], stopped: str) -> int:
    """0 once the command is done; 2 after the sentence of an InputError; 130 after Ctrl-C, where `stopped` is said."""
    try:
        command()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
    return 0


def _is_unread(stream: TextIO | None) -> bool:
    """Whether it is a pipe that nobody reads."""
    try:
        poll = select.poll()
        poll.register(stream.fileno() if stream else -1, 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # a stream of a test's, or Windows, which has no poll()
        return False
