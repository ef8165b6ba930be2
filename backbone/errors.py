"""The one exception that means: the user gave something that cannot be used; and how the commands take theirs."""

import argparse
import difflib
import re
import sys
from typing import Any, NoReturn

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


class Arguments(argparse.ArgumentParser):
    """argparse, but names are written in full, and a mistake gets one sentence without the usage in front."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.allow_abbrev = False  # a part of a name may be another option's tomorrow

    def error(self, message: str) -> NoReturn:
        """Print the sentence, with the nearest name there is, and exit with 2."""
        unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
        near = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1) if unknown else []
        hint = f"did you mean {near[0]}?" if near else f"see {self.prog} --help"
        print(printed(f"error: {message}; {hint}"), file=sys.stderr)
        raise SystemExit(2)
