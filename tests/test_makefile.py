"""What `make demo` installs, in which order, with a Python that notes what it is asked for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NO_INDEX, AN_INDEX = "CPU_INDEX=http://127.0.0.1:9", "CPU_INDEX=data:,"  # nobody listens on port 9
TORCH = "-m pip install --index-url data:, torch torchvision"
PROJECT, FIT = "-m pip install --editable .", "-m tasks.detection fit"


@pytest.fixture
def make(tmp_path):
    """The function that runs make in a copy: its exit code, and what Python was asked for, a line each."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\necho "$@" >> asked\n')
    python.chmod(0o755)

    def run(*arguments):
        (tmp_path / "asked").write_text("")
        environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}  # of `make test`
        done = subprocess.run(["make", *arguments], cwd=tmp_path, env=environment, capture_output=True, timeout=60)
        return done.returncode, (tmp_path / "asked").read_text().splitlines()

    return run


def test_small_torch_is_installed_before_the_project_and_once(make):
    assert make("demo", "CPU=1", AN_INDEX) == (0, [TORCH, PROJECT, FIT])
    assert make("demo", "CPU=1", AN_INDEX) == (0, [FIT])
    assert make("demo") == (0, [FIT])


def test_without_an_answer_nothing_is_installed_and_plain_demo_still_can_be(make):
    assert make("demo", "CPU=1", NO_INDEX) == (2, [])
    assert make("demo", "CPU=1", NO_INDEX) == (2, [])
    assert make("demo", NO_INDEX) == (0, [PROJECT, FIT])
