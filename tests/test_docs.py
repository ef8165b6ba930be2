"""Every command line that README, docs and configs show is taken by the real parser; links lead somewhere."""

import argparse
import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def blocks(page):
    """The lines of a page's fenced blocks of commands, without their comments."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.M | re.S):
        if language in ("", "bash", "sh"):
            block = re.sub(r"<<END.*?^END$", "", block.replace("\\\n", " "), flags=re.M | re.S)
            yield from (line.split("   #")[0].split("  # ")[0].strip() for line in block.splitlines())


def shown():
    """Command lines in their order, each once, with where the first stands."""
    lines = {}
    for page in PAGES:
        for line in blocks(page):
            for command in line.split(" && "):
                lines.setdefault(command, page.name)
        for line in re.findall(r"`(python -m [^`]*)`", page.read_text()):  # [...] is what may be added
            lines.setdefault(" ".join(re.sub(r"\[.*\]", "", line).split()), page.name)
    for config in CONFIGS:
        for line in config.read_text().splitlines():
            if line.startswith("# python -m "):
                lines.setdefault(line.removeprefix("# "), config.name)
    return lines


SHOWN = shown()
PYTHONS = ("python -m venv ", "python -m http.server ")
MODULES = [line for line in SHOWN if line.startswith("python -m ") and not line.startswith(PYTHONS)]


class Parsed(BaseException):
    """Raised where a command has taken all of its arguments, in place of its work."""


def stop(*args, **options):
    raise Parsed


def parse_and_stop(module_class, args, parse):
    parse(list(args))
    raise Parsed


@pytest.fixture
def parse_alone(monkeypatch, tmp_path):
    """Let commands end where their arguments are parsed, in a folder with what their examples name."""
    parse = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda *args, **options: stop(parse(*args, **options)))
    monkeypatch.setattr("backbone.__main__.hand_over", lambda args: main_of("tasks")(args))
    monkeypatch.setattr("tasks.cli.resolve", stop)  # after the options are parsed
    monkeypatch.setattr("tasks.deployment.command.resolve", parse_and_stop)
    monkeypatch.setattr("tasks.deployment.benchmark.threads_of", stop)
    monkeypatch.setattr("tasks.face_attributes.experiment.plan", stop)
    monkeypatch.setattr("tasks.short_options.interrupted_run", lambda task, root: root / task / "TIME")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)


def main_of(module):
    """The function behind `python -m MODULE`."""
    name = module if (ROOT / module.replace(".", "/")).with_suffix(".py").is_file() else f"{module}.__main__"
    return importlib.import_module(name).main


def test_pages_show_commands():
    assert len(MODULES) > 60


@pytest.mark.slow
@pytest.mark.parametrize("line", MODULES)
def test_shown_command_is_taken_by_its_parser(line, parse_alone):
    _, _, module, *args = shlex.split(line.split(" | ")[0])
    if module.startswith("tasks.TASK"):
        module = "tasks.detection"
    try:
        code = main_of(module)(args)
    except Parsed:
        return
    except SystemExit as ended:
        code = ended.code
    assert code == 0, f"{SHOWN[line]} shows a command that is refused"


@pytest.mark.parametrize("line", [line for line in SHOWN if line.startswith("make ")])
def test_shown_target_of_make_exists(line):
    assert re.search(rf"^{shlex.split(line)[1]}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("line", [line for line in SHOWN if re.search(r"\bpip install .*'\.\[", line)])
def test_shown_extra_exists(line):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [names] = re.findall(r"'\.\[([\w,]+)\]'", line)
    assert set(names.split(",")) <= set(extras)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        other = (page.parent / name) if name else page
        assert other.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", other.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) < 120


@pytest.mark.slow
@pytest.mark.parametrize("line", ["python -m backbone", "python -m backbone weights", "python -m tasks"])
def test_shown_command_that_needs_nothing_runs(line, capsys):
    assert any(f"`{line}`" in page.read_text() or line in SHOWN for page in PAGES)
    _, _, module, *args = line.split()
    assert main_of(module)(args) == 0
    assert len(capsys.readouterr().out.splitlines()) > 20
