import contextlib
import io
import json
import os
import re
import subprocess
import sys
from itertools import groupby
from operator import itemgetter

import pytest
from helpers import TASKS

from backbone import InputError
from data.folders import say
from tasks.__main__ import main as tables
from tasks.classification.__main__ import main as classification
from tasks.commands import dispatch

OTHERS = ("backbone", "tasks", "data.samples", "data.stanford_dogs")


@pytest.mark.parametrize("module", [*(f"tasks.{task}" for task in TASKS), *OTHERS])
def test_help_answers_without_importing_torch(module, tmp_path):
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['x', '--help']\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python -m " + module)


def test_every_task_starts_as_a_module(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tasks.detection", "nonsense"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "'nonsense' is not a command of python -m tasks.detection; use one of check, fit," in done.stderr


def test_a_users_mistake_is_one_sentence_and_exit_code_2(capsys):
    def refuse(args):
        raise InputError("photo.jpg: it is empty; replace it.")

    assert dispatch("x", "about", {"go": ("help", refuse)}, ["go"]) == 2
    assert capsys.readouterr().err == "error: photo.jpg: it is empty; replace it.\n"


def test_a_second_signal_while_a_stopped_command_ends_leaves_the_firsts_exit_code(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from tasks.commands import dispatch\n"
        "def go(args):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.argv = ['x', 'go']\n"
        "code = dispatch('x', 'about', {'go': ('help', go)}, None)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 130, done.stderr


@pytest.mark.parametrize(
    ("does", "code"),
    [
        ("print('x' * 1_000_000)", 141),
        ("print('x')", 141),
        ("print('x', flush=True)", 141),
        ("print('x' * 1_000_000, file=sys.stderr)", 141),
        ("sys.exit(3)", 3),
        ("raise InputError('x')", 2),
    ],
)
def test_where_nobody_reads_the_output_it_ends_quietly_as_cat_does(does, code):
    script = (
        "import sys, time\n"
        "from backbone.errors import InputError\n"
        "from tasks.commands import dispatch\n"
        "def go(args):\n"
        f"    {does}\n"
        "    return 0\n"
        "sys.stdin.read()\n"  # until nobody reads
        "sys.exit(dispatch('x', 'about', {'go': ('help', go)}, ['go']))\n"
    )
    reader, writer = os.pipe()
    try:
        stderr = writer if "stderr" in does else subprocess.PIPE
        run = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=writer, stderr=stderr)
        os.close(reader)
        _, told = run.communicate(b"")
    finally:
        os.close(writer)
    assert run.returncode == code
    assert (told or b"").decode() == ("error: x\n" if code == 2 else "")


def test_another_pipe_that_breaks_is_no_end_of_the_output():
    def go(args):
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        dispatch("x", "about", {"go": ("help", go)}, ["go"])


def test_what_names_hold_does_not_reach_the_terminal(monkeypatch):
    def refuse(args):
        say("train: class \x1b[2J\udcff")
        print("run: /data/\udcff")
        raise InputError("class \x1b[2J\n\udcff: rename it.")

    streams = {name: io.TextIOWrapper(io.BytesIO(), "utf-8", "strict") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    assert dispatch("x", "about", {"go": ("help", refuse)}, ["go"]) == 2
    assert dispatch("x", "about", {"go": ("help", refuse)}, ["\x1b[2J\udcff"]) == 2
    with pytest.raises(SystemExit):
        classification(["predict", "--\x1b[2J\udcff", "n" * 5000])
    for stream in streams.values():
        stream.flush()
    printed, errors = (stream.buffer.getvalue().decode() for stream in streams.values())
    assert printed == "train: class \\x1b[2J\\udcff\nrun: /data/\\udcff\n"
    lines = errors.splitlines()
    assert lines[0] == r"error: class \x1b[2J\n\udcff: rename it."
    assert len(lines) == 3
    assert all(len(line) <= 2000 and line.isprintable() for line in lines)


@pytest.mark.parametrize(("given", "near"), [("--sour", "--source"), ("--chekpt_path=x", "--ckpt_path"), ("--zzz", "")])
def test_names_are_written_in_full_and_the_nearest_is_named(given, near, capsys):
    with pytest.raises(SystemExit) as stop:
        classification(["predict", given, "x"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert re.findall(r"did you mean (--\w+)", error) == [near] * bool(near)
    assert error.count("\n") == 1


def test_our_own_mistake_keeps_its_traceback():
    def broken(args):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        dispatch("x", "about", {"go": ("help", broken)}, ["go"])


@pytest.fixture(scope="module")
def counted():
    """The rows of `--json` by table."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert tables(["--json"]) == 0
    rows = json.loads(printed.getvalue())
    return {table: list(own) for table, own in groupby(rows, key=itemgetter("table"))}


def test_table_10_counts_what_the_paper_prints(counted):
    """Worked by hand: 3,206,976 and 1,816,560 in the trunk, 120 x (1024 or 768, + 1) in the head."""
    rows = counted[10]
    assert [row["params"] for row in rows] == [3_206_976 + 123_000, 1_816_560 + 92_280] * 2
    assert [round(row["mult_adds"] / 1e6, 1) for row in rows] == [567.8, 324.7, 417.2, 238.6]
    assert [row["paper_top1"] for row in rows] == [83.3, 81.9, 81.9, 80.5]


def test_table_11_counts_what_the_paper_prints_at_9760_cells_and_not_at_planets_26263(counted):
    """Worked by hand: the trunk's 3,206,976 parameters, and for each cell 1,024 weights and a bias."""
    rows = counted[11]
    trunk = 567_716_352  # mult-adds at 224 px
    expected = [3_206_976 + 1025 * 26_263, 3_206_976 + 1025 * 9_760, 3_206_976 + 1024 * 256 + 257 * 26_263]
    assert [row["params"] for row in rows] == expected
    assert [row["mult_adds"] - trunk for row in rows] == [1024 * 26_263, 1024 * 9_760, 256 * (1024 + 26_263)]
    assert [round(row["params"] / 1e6, 1) for row in rows] == [30.1, 13.2, 10.2]
    assert [round(row["mult_adds"] / 1e9, 3) for row in rows] == [0.595, 0.578, 0.575]


def test_table_12_counts_what_the_paper_prints_but_for_the_smallest_nets(counted):
    rows = counted[12]
    assert [round(row["mult_adds"] / 1e6, 1) for row in rows] == [567.8, 149.0, 40.8, 185.4, 48.7, 13.3]
    assert [round(row["params"] / 1e6, 2) for row in rows] == [3.25, 0.84, 0.22, 3.25, 0.84, 0.22]
    assert [row["paper_map"] for row in rows] == [88.7, 88.1, 87.2, 88.1, 87.7, 86.4]


def test_table_13_counts_what_the_paper_prints(counted):
    ssd, lite = counted[13]
    assert (ssd["params"], round(ssd["mult_adds"] / 1e9, 3)) == (6_819_839, 1.237)
    assert (lite["params"], round(lite["mult_adds"] / 1e9, 3)) == (5_100_661, 1.309)
    assert (ssd["paper_params"], ssd["paper_mult_adds"]) == (6_800_000, 1_200_000_000)


def test_table_14_counts_mult_adds_as_printed_and_fewer_parameters(counted):
    """Worked by hand: the trunk's 3,206,976 and 1,816,560 parameters, and 128 x (1024 or 768, + 1) in the head."""
    rows = counted[14]
    assert [row["params"] for row in rows] == [3_206_976 + 131_200] * 2 + [1_816_560 + 98_432] * 2
    for row in rows:
        assert abs(row["mult_adds"] / row["paper_mult_adds"] - 1) < 0.02, row["model"]
        assert row["paper_params"] > row["params"] + 1_400_000
    assert [row["paper_accuracy"] for row in rows] == [79.4, 78.3, 75.2, 72.5]


def test_the_tables_are_printed_with_their_counts(counted, capsys):
    assert tables([]) == 0
    printed = capsys.readouterr().out
    assert all(f"{row['params']:,}" in printed for rows in counted.values() for row in rows)
