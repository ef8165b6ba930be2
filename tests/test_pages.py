"""The pages that `make docs` builds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TASKS = sorted(path.parent.name for path in (ROOT / "tasks").glob("*/__main__.py"))


@pytest.mark.slow
def test_pages_are_built_without_a_warning_and_need_no_network(tmp_path):
    # Not --quiet, as warnings that are not shown are not counted by --strict.
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # the theme's word on its own future
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    sources = {path.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert sources - {"photos/README.html"} | {"index.html", "first_model.html", "photos/index.html"} <= set(pages)
    ids = {name for text in pages.values() for name in re.findall(r'id="([^"]+)"', text)}
    assert ids >= {f"tasks.{task}.load" for task in TASKS}
    assert ids >= {"backbone.trunk_from", "tasks.predictor.Predictor.__call__", "data.layouts.read_boxes"}
    assert not [name for name in ids if re.search(r"^(tasks|data|backbone)\b.*\._[a-z]", name)]
    loaded = [tag for text in pages.values() for tag in re.findall(r"<(?:script|link|img)\b[^>]*>", text)]
    assert loaded
    assert not [tag for tag in loaded if "//" in tag]
