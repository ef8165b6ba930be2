"""The wheel: what is in it, and that a task runs from it outside the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("backbone", "configs", "data", "tasks")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built without network from a copy of the tree, where a user's own folders and an earlier build lie too."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for folder in ("datasets", "data_of_mine", "tasks2", "build/lib/datasets", "build/lib/data/gone"):
        (tree / folder).mkdir(parents=True)
        for name in ("__init__.py", "x.py"):
            (tree / folder / name).touch()
    build = [*PIP, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(tree)]
    subprocess.run(build, check=True, timeout=60)
    [path] = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_wheel_holds_every_file_of_our_packages_and_no_other(wheel):
    inside = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    ours = {path for path in inside if not path.parts[0].endswith(".dist-info")}
    tree = {path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()}
    assert ours == {path for path in tree if "__pycache__" not in path.parts}


@pytest.mark.slow
def test_task_runs_from_the_wheel_outside_the_checkout(wheel, tmp_path):
    packages, work = tmp_path / "packages", tmp_path / "work"
    work.mkdir()
    install = [*PIP, "install", "--no-index", "--no-deps", "--no-compile", "--target", str(packages), str(wheel)]
    subprocess.run(install, check=True, timeout=60)
    environment = {**os.environ, "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1"}

    def here(*arguments):
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=work, env=environment, check=True, timeout=120, stdout=subprocess.PIPE, text=True
        )

    found = here("-c", f"for name in {PACKAGES}: print(next(iter(__import__(name).__path__)))").stdout.split()
    assert found == [str(packages / name) for name in PACKAGES]
    once = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]
    once += ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", "--data.num_workers", "0"]
    said = here("-m", "tasks.detection", "fit", *once).stdout
    used = yaml.safe_load((work / said.splitlines()[-1].removeprefix("run: ") / "config.yaml").read_text())
    sample = yaml.safe_load((packages / "configs/detection/sample.yaml").read_text())
    assert used["model"].items() >= sample["model"].items()
    assert used["data"].items() >= sample["data"].items()
