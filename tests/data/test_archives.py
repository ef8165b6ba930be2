import contextlib
import errno
import gzip
import hashlib
import io
import re
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from backbone.errors import InputError
from data import archives
from data.archives import download, extract

BODY = b"".join(bytes([i % 256, i // 256 % 256]) for i in range(400_000))  # 800 kB: several chunks
DIGEST = hashlib.sha256(BODY).hexdigest()
PAGE = b"<!DOCTYPE html><title>Moved</title>"


class _Handler(BaseHTTPRequestHandler):
    """Serves `server.files` in the way that `server.manner` says, and notes what was asked for."""

    def do_GET(self):
        manner, asked = self.server.manner, self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        start = 0
        if asked and manner != "no range":
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        body = body[start:]
        if manner != "no length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # whoever has read enough hangs up
            self.wfile.write(body[: len(body) // 2] if manner == "cut" else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.files, server.manner, server.asked = {"/a.tar": BODY}, "", []
        server.url = f"http://127.0.0.1:{server.server_port}/a.tar"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- download -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manner", ["", "no range", "no length"])
def test_a_whole_file_comes_and_is_not_fetched_again(server, tmp_path, manner):
    server.manner = manner
    for _ in range(2):
        download(server.url, tmp_path / "a.tar", DIGEST, len(BODY))
        assert (tmp_path / "a.tar").read_bytes() == BODY
    assert server.asked == [("/a.tar", None)]
    assert names(tmp_path) == ["a.tar"]


@pytest.mark.parametrize("manner", ["", "no range"])
def test_a_part_is_continued_where_the_server_can(server, tmp_path, manner):
    server.manner = manner
    (tmp_path / "a.tar.part").write_bytes(BODY[:500_000])
    download(server.url, tmp_path / "a.tar", DIGEST, len(BODY))
    assert (tmp_path / "a.tar").read_bytes() == BODY
    assert server.asked == [("/a.tar", "bytes=500000-")]
    assert names(tmp_path) == ["a.tar"]


def test_a_connection_that_breaks_leaves_a_part_to_continue_from(server, tmp_path):
    server.manner = "cut"
    for have in (400_000, 600_000):
        with pytest.raises(InputError, match=rf"{have:,} of 800,000 bytes"):
            download(server.url, tmp_path / "a.tar", DIGEST, len(BODY))
        assert (tmp_path / "a.tar.part").read_bytes() == BODY[:have]
    server.manner = ""
    download(server.url, tmp_path / "a.tar", DIGEST, len(BODY))
    assert [asked for _, asked in server.asked] == [None, "bytes=400000-", "bytes=600000-"]
    assert (tmp_path / "a.tar").read_bytes() == BODY


def test_a_complete_part_is_not_fetched_again(server, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(BODY)
    download(server.url, tmp_path / "a.tar", DIGEST, len(BODY))
    assert server.asked == []
    assert names(tmp_path) == ["a.tar"]


@pytest.mark.parametrize(
    ("served", "manner", "part", "message"),
    [
        (BODY[:-1] + b"x", "", b"", "SHA-256"),
        (BODY, "", b"x" * 500, "SHA-256"),  # a part of something else
        (BODY, "", b"x" * 900_000, "800,000"),
        (BODY + b"x", "", b"", "800,000"),
        (BODY * 9, "no length", b"", "800,000"),
        (PAGE, "no length", b"", "web page"),
    ],
)
def test_another_file_than_expected_is_refused_and_not_kept(server, tmp_path, served, manner, part, message):
    server.files["/a.tar"], server.manner = served, manner
    if part:
        (tmp_path / "a.tar.part").write_bytes(part)
    with pytest.raises(InputError, match=message) as error:
        download(server.url, tmp_path / "a.tar", DIGEST, len(BODY))
    assert server.url in str(error.value)
    assert names(tmp_path) == []


def test_no_more_than_one_byte_too_many_is_read(server, tmp_path, monkeypatch):
    server.files["/a.tar"], server.manner = bytes(20_000_000), "no length"
    seen = []
    monkeypatch.setattr(archives, "_difference", lambda path, *_: seen.append(path.stat().st_size) or "differs")
    with pytest.raises(InputError):
        download(server.url, tmp_path / "a.tar", DIGEST, 1000)
    assert seen == [1001]


def test_a_part_longer_than_the_servers_file_is_not_continued(server, tmp_path):
    server.files["/a.tar"] = BODY[:400]
    (tmp_path / "a.tar.part").write_bytes(b"x" * 500)
    with pytest.raises(InputError, match="416"):
        download(server.url, tmp_path / "a.tar", DIGEST, len(BODY))
    assert names(tmp_path) == []


def test_no_such_file_and_no_such_server_are_one_sentence(server, tmp_path):
    for url, reason in ((server.url.replace("a.tar", "b.tar"), "404"), ("http://127.0.0.1:1/b.tar", "refused")):
        with pytest.raises(InputError, match=reason) as error:
            download(url, tmp_path / "b.tar", DIGEST, len(BODY))
        assert url in str(error.value)
        assert "\n" not in str(error.value)
    assert names(tmp_path) == []


def test_a_file_of_the_users_that_differs_is_kept_and_named(server, tmp_path):
    (tmp_path / "a.tar").write_bytes(b"precious")
    with pytest.raises(InputError, match=r"a\.tar has 8 bytes, not 800,000"):
        download(server.url, tmp_path / "a.tar", DIGEST, len(BODY))
    assert (tmp_path / "a.tar").read_bytes() == b"precious"
    with pytest.raises(InputError, match="nowhere"):
        download(server.url, tmp_path / "nowhere" / "a.tar", DIGEST, len(BODY))


# --- extract --------------------------------------------------------------------------------------------------------

FILES = {"a/1.txt": b"one", "b/2.txt": bytes(2000), "c" * 120: b"long name"}


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
    "content", [b"", PAGE + bytes(2000), gzip.compress(bytes(10_000)), b"PK\x03\x04" + bytes(2000)]
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
