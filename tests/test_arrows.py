import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TASKS = {path.parent.name for path in (ROOT / "tasks").glob("*/__main__.py")}  # tasks/distillation is shared by them
FILES = [path for room in ("backbone", "data", "tasks", "benchmarks") for path in sorted((ROOT / room).rglob("*.py"))]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module if not node.level else ".relative"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_from_task_to_shared_to_data_to_backbone(path):
    room, *rest = path.relative_to(ROOT).parts
    forbidden = {
        "backbone": {"data", "tasks", "tests", "benchmarks", "lightning", "torchvision", "albumentations"},
        "data": {"tasks", "tests", "benchmarks"},
        "tasks": {"tests", "benchmarks"},
        "benchmarks": {"tests"},
    }[room]
    task = rest[0] if room == "tasks" and len(rest) > 1 else None
    for name in imported(path):
        assert name != ".relative", "imports are absolute"
        assert name.split(".")[0] not in forbidden, name
        if room == "tasks" and name.startswith("tasks.") and rest != ["__main__.py"]:
            other = name.split(".")[1]
            assert other not in TASKS - {task}, f"{name}: a task is imported by itself alone"
