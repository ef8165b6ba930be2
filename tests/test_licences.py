"""The licences of what the base install pulls in, on metadata made by hand."""

import importlib.util
from importlib.metadata import PackageNotFoundError, PathDistribution
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("licences", Path(__file__).parents[1] / ".ci" / "licences.py")
licences = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(licences)


def installed(folder, name, *fields, version="1.0"):
    path = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    path.mkdir()
    lines = ("Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *fields)
    (path / "METADATA").write_text("\n".join(lines) + "\n")
    return PathDistribution(path)


OSI = "Classifier: License :: OSI Approved ::"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["License-Expression: GPL-3.0-or-later"], "refused"),
        (["License-Expression: MIT AND AGPL-3.0-only"], "refused"),
        (["License-Expression: GPL-2.0-only OR AGPL-3.0-only"], "refused"),
        (["License-Expression: (MIT OR GPL-2.0-only) AND BSD-3-Clause"], "refused"),  # someone should look at it
        (["License: GPLv3"], "refused"),
        (["License: GNU GPL v2+"], "refused"),
        (["License: GNU AFFERO GENERAL PUBLIC LICENSE", "        Version 3"], "refused"),
        ([f"{OSI} GNU Affero General Public License v3"], "refused"),
        ([f"{OSI} GNU General Public License v2 or later (GPLv2+)", "License: see LICENSE"], "refused"),
        (["License-Expression: MIT OR GPL-2.0-only"], "free"),
        (
            ["License-Expression: Apache-2.0", f"{OSI} GNU General Public License (GPL)"],
            "free",
        ),  # the newer field counts
        (["License: MIT License", "        ", "        not the GPL"], "free"),  # of a whole text, its title
        ([f"{OSI} Mozilla Public License 2.0 (MPL 2.0)"], "free"),
        (["License-Expression: LGPL-2.1-or-later"], "lesser"),
        (["License: GNU Lesser General Public License v3 (LGPLv3)"], "lesser"),
        ([f"{OSI} GNU Library or Lesser General Public License (LGPL)"], "lesser"),
        (["License-Expression: BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1"], "lesser"),
        (["License-Expression: GPL-3.0-or-later WITH GCC-exception-3.1 AND GPL-2.0-only"], "refused"),
        (["License-Expression: LicenseRef-NVIDIA-Proprietary"], "proprietary"),
        ([], "unknown"),
    ],
)
def test_gpl_and_agpl_are_refused_wherever_the_metadata_say_so(fields, expected, tmp_path):
    assert licences.verdict("a", licences.licence(installed(tmp_path, "a", *fields))) == expected


def test_all_that_is_pulled_in_is_looked_at_and_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    free = "License-Expression: MIT"
    needs = (
        "Requires-Dist: made-a[more]>=1",
        'Requires-Dist: made-elsewhere; sys_platform == "nowhere"',
        'Requires-Dist: made-gpl; extra == "dev"',
    )
    installed(tmp_path, "mobilenet-tasks", free, *needs)
    installed(tmp_path, "made-a", free, "Provides-Extra: more", 'Requires-Dist: Made_B; extra == "more"')
    installed(tmp_path, "made-b", "License-Expression: LGPL-3.0-only", "Requires-Dist: made-a")  # a circle
    installed(tmp_path, "made-gpl", "License-Expression: GPL-3.0-only")
    assert list(licences.needed("mobilenet-tasks")) == ["made-a", "made-b", "mobilenet-tasks"]
    assert licences.main([]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("made-b 1.0: lesser")
    assert last.startswith("3 packages")
    assert licences.main(["--pins"]) == 0
    assert capsys.readouterr().out.split() == ["made-a==1.0", "made-b==1.0"]

    metadata = tmp_path / "made_b-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text() + "Requires-Dist: made-gpl\n")
    assert licences.main([]) == 1
    assert "made-gpl 1.0: refused (GPL-3.0-only)" in capsys.readouterr().out
    metadata.write_text(metadata.read_text() + "Requires-Dist: made-nowhere\n")
    with pytest.raises(PackageNotFoundError):
        licences.main([])


def test_what_is_installed_here_passes():
    assert licences.main([]) == 0
