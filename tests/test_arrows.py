"""Imports go one way, in no circles, and say what they import."""

import ast
import functools
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TASKS = {
    path.parent.name for path in (ROOT / "tasks").glob("*/__main__.py")
}  # tasks/distillation and deployment are shared by them
FILES = [path for room in ("backbone", "data", "tasks", "benchmarks") for path in sorted((ROOT / room).rglob("*.py"))]
FORBIDDEN = {
    "backbone": {"data", "tasks", "tests", "benchmarks", "lightning", "torchvision", "albumentations"},
    "data": {"tasks", "tests", "benchmarks"},
    "tasks": {"tests", "benchmarks"},
    "benchmarks": {"tests"},
}
READERS_WITHOUT = {"torch", "lightning", "torchvision"}
COMPUTED = {"tasks/distillation/teachers.py": "the user's own module, as --model.teacher names it"}


def relative(path):
    return path.relative_to(ROOT).as_posix()


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


def imported(tree):
    """Every module that a file names, and of `from a import b` both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif imports(node) and isinstance(node.args[0], ast.Constant):
            yield node.args[0].value


def imports(node):
    """Whether it is a call such as importlib.import_module(name)."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
    return name in ("import_module", "__import__")


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_go_from_task_to_shared_to_data_to_backbone(path):
    room, *rest = path.relative_to(ROOT).parts
    task = rest[0] if room == "tasks" and len(rest) > 1 else None
    for name in imported(parsed(path)):
        top, _, second = name.partition(".")
        assert top not in FORBIDDEN[room], name
        if room == "tasks" and top == "tasks" and rest != ["__main__.py"]:
            assert second.split(".")[0] not in TASKS - {task}, f"{name}: a task is imported by itself alone"
        if rest[:1] == ["readers"]:
            assert top not in READERS_WITHOUT, name


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_nothing_is_imported_by_a_computed_name(path):
    calls = [node for node in ast.walk(parsed(path)) if imports(node)]
    computed = [ast.unparse(node) for node in calls if not isinstance(node.args[0], ast.Constant)]
    assert not computed or relative(path) in COMPUTED, computed


def test_there_are_no_circles():
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    graph = {}
    for name, path in modules.items():
        named = {other for other in imported(parsed(path)) if other in modules and other != name}
        # of `from package import module` the module is meant, and not what the package offers to the outside
        graph[name] = {other for other in named if not any(one.rpartition(".")[0] == other for one in named)}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules
