import resource
import signal
import subprocess
import sys

import pytest
import torch
from helpers import one_sentence

from backbone.files import replacing, sweep, write_whole


def test_a_file_is_there_whole_or_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "ä\udcff")
    assert path.read_bytes() == b"\xc3\xa4\\udcff"
    with pytest.raises(ZeroDivisionError), replacing(path) as beside:
        beside.write_text(f"half {1 / 0}")
    assert path.read_bytes() == b"\xc3\xa4\\udcff"
    with replacing(path) as beside:
        beside.write_text("new")
        assert beside.suffix == ".txt"
        assert path.read_bytes() == b"\xc3\xa4\\udcff"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_over_the_limit_is_one_sentence_and_the_old_one_stays(tmp_path):
    path = tmp_path / "weights.ckpt"
    torch.save({"x": torch.zeros(10)}, path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        too_large = one_sentence(r"weights\.ckpt cannot be written \(File too large\)")
        with too_large, replacing(path) as beside, beside.open("wb") as file:
            torch.save({"x": torch.zeros(1_000_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path):
    code = "import os, sys, pathlib; from backbone.files import replacing\n"
    code += "with replacing(pathlib.Path(sys.argv[1])) as p: p.write_text('half'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a~1~.txt")], check=False)
    [left] = tmp_path.iterdir()
    (tmp_path / "kept.txt").touch()
    (tmp_path / left.name.replace("tmp~", "tmp~another-")).touch()  # of another machine
    with replacing(tmp_path / "b.txt") as beside:
        beside.touch()
        sweep(tmp_path)
        assert beside.exists()
        assert not left.exists()
    assert len(list(tmp_path.iterdir())) == 3
