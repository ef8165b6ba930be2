import errno
import gzip
import io
import re
import tarfile

import pytest

from backbone.errors import InputError
from data.archives import extract

PAGE = b"<!DOCTYPE html><title>Moved</title>"
FILES = {"a/1.txt": b"one", "b/2.txt": bytes(2000), "c" * 120: b"long name"}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_tar(path, files, form=tarfile.GNU_FORMAT):
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def unpack(path, folder):
    extract(path, folder)
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("prefix", ["set/", "./set/", "", "./"])
def test_it_does_not_matter_whether_the_archive_brings_its_folder(tmp_path, form, prefix):
    path = write_tar(tmp_path / "a.tar", {prefix + name: content for name, content in FILES.items()}, form)
    assert unpack(path, tmp_path / "set") == FILES
    assert names(tmp_path) == ["a.tar", "set"]  # nothing half-made is left beside
    with pytest.raises(InputError, match="set exists already"):
        unpack(path, tmp_path / "set")


@pytest.mark.parametrize("name", ["../evil", "set/../../evil"])
def test_a_member_that_would_land_elsewhere_is_refused(tmp_path, name):
    outer = tmp_path / "outer"
    outer.mkdir()
    with pytest.raises(InputError, match="evil"):
        unpack(write_tar(outer / "a.tar", {"set/x": b"x", name: b"bytes"}), outer / "set")
    assert [path.name for path in tmp_path.rglob("*")] == ["outer", "a.tar"]


@pytest.mark.parametrize(
    "content",
    [b"", PAGE + bytes(2000), gzip.compress(bytes(10_000), mtime=0), b"PK\x03\x04" + bytes(2000)],
    ids=["empty", "a web page", "compressed", "a zip"],
)
def test_what_is_no_plain_tar_is_refused(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    for name in ("a.tar", "b.tar"):  # the second is not there
        with pytest.raises(InputError, match=re.escape(name)):
            unpack(tmp_path / name, tmp_path / "set")
    assert names(tmp_path) == ["a.tar"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_stopped_while_unpacking_nothing_is_left(tmp_path, monkeypatch, error):
    path, unpacked = write_tar(tmp_path / "a.tar", FILES), tarfile.TarFile.extractall

    def stop(*arguments):
        unpacked(*arguments)
        raise error

    monkeypatch.setattr(tarfile.TarFile, "extractall", stop)
    with pytest.raises((KeyboardInterrupt, InputError), match=r"^$|No space left on device"):
        unpack(path, tmp_path / "set")
    assert names(tmp_path) == ["a.tar"]
