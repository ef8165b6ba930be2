"""The table of Python versions, with a resolver made by hand."""

import importlib.util
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("resolve", ROOT / ".ci" / "resolve.py")
resolve = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(resolve)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_install_is_resolved_for_every_python_and_one_that_cannot_be_fails(monkeypatch, capsys):
    asked = []

    def resolved(python, extra):
        asked.append((python, extra))
        return ([], "no wheel of timm") if (python, extra) == refused else (["a==1", "b==2"], "")

    monkeypatch.setattr(resolve, "resolved", resolved)
    refused = None
    assert resolve.main() == 0
    assert f">={asked[0][0]}" == PROJECT["requires-python"]
    assert set(asked) == {
        (python, extra) for python in resolve.PYTHONS for extra in ["", *PROJECT["optional-dependencies"]]
    }
    assert "none" not in capsys.readouterr().out
    refused = (resolve.PYTHONS[-1], "timm")
    assert resolve.main() == 1
    row, reason = (line for line in capsys.readouterr().out.splitlines() if "timm" in line and ":" not in line)
    assert row.split() == ["[timm]", *["2"] * (len(resolve.PYTHONS) - 1), "none"]
    assert reason == "no wheel of timm"


def test_packages_are_read_from_what_the_resolver_prints(monkeypatch, tmp_path):
    printed = tmp_path / "printed.py"
    printed.write_text("print('# by hand\\na-b==1.0\\nc==2+cpu ; sys_platform == \"linux\"\\n    # via a-b')")
    monkeypatch.setattr(resolve, "_UV", [resolve.sys.executable, str(printed)])
    assert resolve.resolved("3.11", "timm") == (["a-b==1.0", "c==2+cpu"], "")
