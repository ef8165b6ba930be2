"""Say for which versions of Python all that the project needs is there as wheels, for Linux on x86-64.

`python .ci/resolve.py` resolves the base install and each extra for each version with uv, which of a wheel reads the
metadata alone; nothing is installed, and no other Python is needed. A package registry is asked.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
_PROJECT = Path(__file__).parents[1] / "pyproject.toml"
_UV = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--no-header", "--no-annotate"]
_TARGET = [
    "--only-binary",
    ":all:",
    "--python-platform",
    "x86_64-manylinux_2_28",
    "--no-emit-package",
    "mobilenet-tasks",
]


def resolved(python: str, extra: str) -> tuple[list[str], str]:
    """The packages that one install takes, as name==version, and why there are none."""
    wanted = ["--python-version", python, *(["--extra", extra] if extra else []), str(_PROJECT)]
    done = subprocess.run([*_UV, *_TARGET, *wanted], capture_output=True, text=True)
    return re.findall(r"^\S+==[^\s;]+", done.stdout, re.MULTILINE), done.stderr.strip()


def main() -> int:
    """Print a table of how many packages each install takes; 1 where one cannot be resolved."""
    extras = ["", *tomllib.loads(_PROJECT.read_text())["project"]["optional-dependencies"]]
    print(f"{'packages':14}" + "".join(f"{'Python ' + python:>14}" for python in PYTHONS))
    refusals = []
    for extra in extras:
        row = []
        for python in PYTHONS:
            packages, refusal = resolved(python, extra)
            row.append(f"{len(packages) or 'none':>14}")
            refusals += [f"{extra or 'base'}, Python {python}:\n{refusal}"] * bool(refusal)
        print(f"{f'[{extra}]' if extra else 'base':14}" + "".join(row))
    print("\n".join(refusals))
    return int(bool(refusals))


if __name__ == "__main__":
    raise SystemExit(main())
