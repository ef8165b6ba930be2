"""The face of every `python -m tasks.<task>`: its commands, quick help, one sentence for a mistake, and exit codes."""

import contextlib
import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backbone.errors import until_unread
from backbone.names import printed
from tasks.failures import explained
from tasks.short_options import TaskHelp, short_help, translated

if TYPE_CHECKING:
    from tasks.module import TaskModule
    from tasks.predict import PredictCommand

Command = Callable[[list[str]], int]


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def exit_code(stop: KeyboardInterrupt) -> int:
    """The exit code by which a shell reports the signal that stopped a command."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def main(
    task: str,
    about: str,
    classes: "Callable[[], tuple[type[TaskModule], Any]]",
    predict: "PredictCommand",
    args: Sequence[str] | None,
    more: Mapping[str, tuple[str, Command]] | None = None,
    check: Command | None = None,
    of_task: TaskHelp | None = None,
) -> int:
    """Run one command of a task: fit, validate, test, predict, or one of its own in `more`; return the exit code.

    `classes` imports its module and its data module, once a command needs them; `check` looks at its data; `of_task` is
    its own part of the help.
    """

    def train(command: str) -> Command:
        def run_command(rest: list[str]) -> int:
            from tasks.cli import run  # here, so that --help need not import torch

            return run(*classes(), [command, *rest])

        return run_command

    def run_predict(rest: list[str]) -> int:
        from tasks.predict import main

        return main(task, classes, predict, rest)

    def export(rest: list[str]) -> int:
        if _asks_for_help(rest):
            from tasks.deployment.arguments import export_arguments

            export_arguments(task).parse_args(["--help"])
        from tasks.deployment.command import main

        return main(task, classes, rest)

    def page(rest: list[str]) -> int:
        from tasks.deployment.arguments import page_arguments

        options = page_arguments(task).parse_args(rest)  # --help ends here, before what takes long to import
        from tasks.deployment.page import main

        return main(task, options)

    def benchmark(rest: list[str]) -> int:
        from tasks.deployment.benchmark import main

        return main(task, classes, predict, rest)

    commands = {
        **({"check": ("say and draw how a data set is read, before training", check)} if check else {}),
        "fit": ("train; with no further argument, on the built-in sample", train("fit")),
        "validate": ("score a checkpoint on the validation images", train("validate")),
        "test": ("score a checkpoint on the test images, with a report", train("test")),
        "predict": (predict.description.partition(";")[0].lower(), run_predict),
        "export": ("write a model as one file that works alone, and score it", export),
        "page": ("write an exported model as a page that runs it in a browser", page),
        "benchmark": ("measure the milliseconds and the memory of exported files on this machine", benchmark),
        **(more or {}),
    }

    def in_long(name: str, command: Command) -> Command:
        """The command, given long options alone; or its short help."""

        def run_command(rest: list[str]) -> int:
            if _asks_for_help(rest) and (text := short_help(task, name, of_task or TaskHelp())):
                print(text)
                return 0
            return command(translated(task, name, rest))

        return run_command

    in_full = {name: (line, in_long(name, command)) for name, (line, command) in commands.items()}
    return dispatch(f"python -m tasks.{task}", about, in_full, args)


def _asks_for_help(args: Sequence[str]) -> bool:
    return "-h" in args or "--help" in args


def dispatch(prog: str, about: str, commands: Mapping[str, tuple[str, Command]], args: Sequence[str] | None) -> int:
    """Run the command named by the first argument; return its exit code: 2 where what the user gave cannot be used.

    `commands` maps a name to (one line of help, function of the remaining arguments). Nothing heavy is imported before
    a command is known, so that `--help` answers at once.
    """
    return until_unread(lambda: _dispatch(prog, about, commands, args))


def _dispatch(prog: str, about: str, commands: Mapping[str, tuple[str, Command]], args: Sequence[str] | None) -> int:
    whole_process = args is None
    args = list(sys.argv[1:] if args is None else args)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path that is not UTF-8 is no reason to stop
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: {prog} COMMAND [options]\n\n{about.strip()}\n\ncommands:")
        for name, (help_line, _) in commands.items():
            print(f"  {name:10} {help_line}")
        print(f"\n`{prog} COMMAND --help` lists the options of a command.")
        return 0
    if args[0] not in commands:
        sentence = f"error: {args[0]!r} is not a command of {prog}; use one of {', '.join(commands)}."
        print(printed(sentence), file=sys.stderr)
        return 2
    try:
        with _sigterm_raises(whole_process):
            return commands[args[0]][1](args[1:])
    except Exception as error:
        if (meaning := explained(error)) is None:
            raise
        print(printed(f"error: {meaning}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("interrupted", file=sys.stderr)
        return exit_code(stop)


@contextlib.contextmanager
def _sigterm_raises(whole_process: bool) -> Iterator[None]:
    """Let SIGTERM raise `Terminated`, so that what is begun is tidied up; in the main thread, where alone it can be.

    At the end both signals are what they were, whatever the command made of them; but where it was stopped by one and
    is the whole process, no other may give that another exit code while it ends.
    """

    def receive(number: int, frame: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, receive)
    stopped = False
    try:
        yield
        stopped = signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # as StopBetweenSteps leaves it
    except KeyboardInterrupt:
        stopped = True
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if stopped and whole_process else handler)
