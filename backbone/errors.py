"""The one exception that means: the user gave something that cannot be used; and how the commands take theirs."""

import argparse
import sys
from typing import Any, NoReturn


class InputError(ValueError):
    """What the user gave cannot be used. One sentence: the file, the field, the value, and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """


def check_options(group: str, *rows: tuple[str, Any, bool, str]) -> None:
    """Raise InputError for the first of (name, value, whether it is valid, what it must be) that is not valid."""
    for name, value, valid, wanted in rows:
        if not valid:
            raise InputError(f"--{group}.{name} is {value}; it must be {wanted}.")


class Arguments(argparse.ArgumentParser):
    """argparse, but a mistake gets one sentence as any other does, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and exit with 2."""
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)
