import shlex
from pathlib import Path

import pytest

from tasks.next_steps import run_or_file, say_next


@pytest.mark.parametrize("path", ["runs/detection/x", "my runs/it's $HOME", "a;b", "ü*", "-x", ""])
def test_each_command_is_one_line_that_a_shell_takes_as_it_was(capsys, path):
    commands = [["detection", "test", "--ckpt_path", Path(path or ".")], ["run", path, "photo.jpg"]]
    say_next(*commands)
    first, second = capsys.readouterr().out.splitlines()
    assert (first[:6], second[:6]) == ("next: ", "      ")
    assert shlex.split(first[6:]) == ["python", "-m", "tasks.detection", "test", "--ckpt_path", str(Path(path or "."))]
    assert shlex.split(second[6:]) == ["python", "-m", "tasks.run", path, "photo.jpg"]


def test_a_control_code_in_a_path_is_not_obeyed(capsys):
    say_next(["detection", "test", "a\x1b[31m\nb"])
    assert capsys.readouterr().out == "next: python -m tasks.detection test 'a\\x1b[31m\\nb'\n"


def test_a_best_checkpoint_is_named_by_its_run_from_here(tmp_path):
    here = Path.cwd()
    assert run_or_file(here / "runs" / "a" / "checkpoints" / "best.ckpt") == Path("runs/a")
    assert run_or_file(here / "runs" / "a" / "checkpoints" / "last.ckpt") == Path("runs/a/checkpoints/last.ckpt")
    assert run_or_file(here / "given" / "best.ckpt") == Path("given/best.ckpt")  # no run
    assert run_or_file(Path("/elsewhere/a/checkpoints/best.ckpt")) == Path("/elsewhere/a")
