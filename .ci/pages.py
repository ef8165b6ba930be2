"""A hook of mkdocs: what lies outside docs/ as pages, README as the first of them, and the notebook as a page."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

_ROOT = Path(__file__).parents[1]
_PAGES = {
    "README.md": "index.md",
    **{name: name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "LICENSE")},
}
_NOTEBOOK = "docs/first_model.ipynb"


def on_files(files: Any, config: Any) -> Any:
    """Add the pages, so that no text is there twice."""
    for name, page in _PAGES.items():
        text = (_ROOT / name).read_text()
        files.append(File.generated(config, page, content=re.sub(r"(\]\(|src=\")docs/", r"\1", text)))
    text = as_page(json.loads((_ROOT / _NOTEBOOK).read_text()))
    files.append(File.generated(config, "first_model.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links from docs/ to the root, and to the notebook, find the pages."""
    for name, page in _PAGES.items():
        markdown = markdown.replace(f"](../{name}", f"]({page}")
    return markdown.replace("first_model.ipynb)", "first_model.md)")


def as_page(notebook: dict[str, Any]) -> str:
    """The cells of a notebook without outputs, as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts) + "\n"
