"""The face of every `python -m tasks.<task>`: quick help, one sentence for a user's mistake, and exit codes."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from backbone.errors import Arguments, InputError

Command = Callable[[list[str]], int]


def dispatch(prog: str, about: str, commands: Mapping[str, tuple[str, Command]], args: Sequence[str] | None) -> int:
    """Run the command named by the first argument; return its exit code: 2 where what the user gave cannot be used.

    `commands` maps a name to (one line of help, function of the remaining arguments). Nothing heavy is imported before
    a command is known, so that `--help` answers at once.
    """
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: {prog} COMMAND [options]\n\n{about.strip()}\n\ncommands:")
        for name, (help_line, _) in commands.items():
            print(f"  {name:10} {help_line}")
        print(f"\n`{prog} COMMAND --help` lists the options of a command.")
        return 0
    if args[0] not in commands:
        print(f"error: {args[0]!r} is not a command of {prog}; use one of {', '.join(commands)}.", file=sys.stderr)
        return 2
    try:
        return commands[args[0]][1](args[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # as a shell reports Ctrl-C


def predict_arguments(task: str, description: str, of_sample: str) -> Arguments:
    """The parser of a task's `predict`, with its `--source`: by default those pictures `of_sample`."""
    parser = Arguments(prog=f"python -m tasks.{task} predict", description=description)
    help_line = f"default, for a net trained on the sample: {of_sample}"
    parser.add_argument("--source", type=Path, metavar="FILE-or-FOLDER", help=help_line)
    return parser
