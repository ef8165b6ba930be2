import contextlib
import errno
import gzip
import hashlib
import io
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
            shown = 0 if manner == "another part" else start
            self.send_header("Content-Range", f"bytes {shown}-{len(body) - 1}/{len(body)}")
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
def test_a_whole_file_comes_and_is_not_asked_for_again(server, tmp_path, manner):
    server.manner = manner
    for _ in range(2):
        download(server.url, tmp_path / "a.tar", DIGEST, len(BODY))
        assert (tmp_path / "a.tar").read_bytes() == BODY
    assert server.asked == [("/a.tar", None)]
    assert names(tmp_path) == ["a.tar"]


@pytest.mark.parametrize(("manner", "sent"), [("", len(BODY) - 500_000), ("no range", len(BODY))])
def test_a_part_is_gone_on_from_where_the_server_can(server, tmp_path, manner, sent):
    server.manner = manner
    (tmp_path / "a.tar.part").write_bytes(BODY[:500_000])
    download(server.url, tmp_path / "a.tar", DIGEST, len(BODY))
    assert (tmp_path / "a.tar").read_bytes() == BODY
    assert server.asked == [("/a.tar", "bytes=500000-")]
    assert names(tmp_path) == ["a.tar"]


def test_a_connection_that_breaks_leaves_a_part_to_go_on_from(server, tmp_path):
    server.manner = "cut"
    with pytest.raises(InputError, match=r"broke.* after 400,000 of 800,000 bytes; run the same command again"):
        download(server.url, tmp_path / "a.tar", DIGEST, len(BODY))
    assert (tmp_path / "a.tar.part").read_bytes() == BODY[:400_000]
    with pytest.raises(InputError, match="after 600,000 of 800,000 bytes"):
        download(server.url, tmp_path / "a.tar", DIGEST, len(BODY))
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
        (BODY[:-1] + b"x", "", b"", r"what the server sent has the SHA-256 [0-9a-f]{64}, not "),
        (BODY, "", b"x" * 500, r"what the server sent has the SHA-256"),  # a part of something else
        (BODY, "", b"x" * 900_000, "has more than the expected 800,000 bytes"),
        (BODY[:-9], "", b"", "the server offers 799,991 bytes, not 800,000"),
        (BODY + b"x", "", b"", "the server offers 800,001 bytes, not 800,000"),
        (BODY * 9, "no length", b"", "sent has more than the expected 800,000 bytes"),
        (PAGE, "", b"", "the server offers 35 bytes, not 800,000"),
        (PAGE, "no length", b"", "what the server sent is a web page, not the archive"),
        (BODY[:400], "", b"x" * 500, "the server offers 400 bytes"),  # 416, then the whole file
    ],
)
def test_another_file_than_expected_is_refused_and_not_kept(server, tmp_path, served, manner, part, message):
    server.files["/a.tar"], server.manner = served, manner
    if part:
        (tmp_path / "a.tar.part").write_bytes(part)
    with pytest.raises(InputError, match=rf"^{server.url}: .*{message}") as error:
        download(server.url, tmp_path / "a.tar", DIGEST, len(BODY))
    assert "\n" not in str(error.value)
    assert names(tmp_path) == []


def test_no_more_than_one_byte_too_many_is_read(server, tmp_path, monkeypatch):
    server.files["/a.tar"], server.manner = bytes(20_000_000), "no length"
    seen = []
    monkeypatch.setattr(archives, "_difference", lambda path, *_: seen.append(path.stat().st_size) or "differs")
    with pytest.raises(InputError):
        download(server.url, tmp_path / "a.tar", DIGEST, 1000)
    assert seen == [1001]


def test_no_such_file_no_such_server_and_a_wrong_range_are_one_sentence(server, tmp_path):
    with pytest.raises(InputError, match=r"b\.tar cannot be fetched \(HTTP 404 Not Found\); try again later"):
        download(server.url.replace("a.tar", "b.tar"), tmp_path / "b.tar", DIGEST, len(BODY))
    with pytest.raises(InputError, match=r"cannot be fetched \(.*refused\)"):
        download("http://127.0.0.1:1/b.tar", tmp_path / "b.tar", DIGEST, len(BODY))
    assert names(tmp_path) == []
    server.manner = "another part"
    (tmp_path / "a.tar.part").write_bytes(BODY[:500])
    with pytest.raises(InputError, match=r"another part of the file than was asked for; delete .*a\.tar\.part"):
        download(server.url, tmp_path / "a.tar", DIGEST, len(BODY))
    assert (tmp_path / "a.tar.part").read_bytes() == BODY[:500]


def test_a_file_of_the_users_that_differs_is_kept_and_named(server, tmp_path):
    (tmp_path / "a.tar").write_bytes(b"precious")
    with pytest.raises(InputError, match=r"a\.tar has 8 bytes, not 800,000; move it away"):
        download(server.url, tmp_path / "a.tar", DIGEST, len(BODY))
    assert (tmp_path / "a.tar").read_bytes() == b"precious"
    with pytest.raises(InputError, match="cannot be written"):
        download(server.url, tmp_path / "nowhere" / "a.tar", DIGEST, len(BODY))


# --- extract --------------------------------------------------------------------------------------------------------


def member(name, content=b"bytes", kind=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content if kind == tarfile.REGTYPE else b""


def write_tar(path, *members, form=tarfile.GNU_FORMAT):
    """A tar of these members. A member whose `size` is not its content's is written with that lie."""
    with path.open("wb") as file:
        for info, content in members:
            file.write(info.tobuf(form))
            file.write(content + bytes(-len(content) % 512))
        file.write(bytes(1024))
    return path


def unpack(path, folder, max_bytes=10_000, max_files=10):
    extract(path, folder, max_bytes=max_bytes, max_files=max_files)
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


DIRECTORY = tarfile.DIRTYPE
GOOD = [member("set/", kind=DIRECTORY), member("set/a/1.txt", b"one"), member("set/b/2.txt", bytes(2000))]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_it_does_not_matter_whether_the_archive_brings_its_folder(tmp_path, form):
    expected = {"a/1.txt": b"one", "b/2.txt": bytes(2000), "c" * 120: b"long name"}
    folders = {"with": "set/", "dot": "./set/", "without": "", "dot alone": "./"}
    for case, prefix in folders.items():
        with tarfile.open(tmp_path / f"{case}.tar", "w", format=form) as tar:
            if prefix:
                tar.addfile(member(prefix, kind=DIRECTORY)[0])
            for name, content in expected.items():
                if form != tarfile.USTAR_FORMAT or len(name) < 100:
                    tar.addfile(member(prefix + name, content)[0], io.BytesIO(content))
        found = unpack(tmp_path / f"{case}.tar", tmp_path / case / "set")
        assert found == {k: v for k, v in expected.items() if form != tarfile.USTAR_FORMAT or len(k) < 100}
        assert names(tmp_path / case) == ["set"]  # nothing half-made is left beside


def test_limits_hold_exactly(tmp_path):
    path = write_tar(tmp_path / "a.tar", *GOOD)
    assert len(unpack(path, tmp_path / "set", max_bytes=2003, max_files=3)) == 2
    with pytest.raises(InputError, match=r"'set/b/2.txt' brings the contents to 2,003 bytes, over the 2,002 allowed"):
        unpack(path, tmp_path / "other", max_bytes=2002, max_files=3)
    with pytest.raises(InputError, match=r"'set/b/2.txt' is one more than the 2 members allowed"):
        unpack(path, tmp_path / "other", max_bytes=2003, max_files=2)
    with pytest.raises(InputError, match="set exists already"):
        unpack(path, tmp_path / "set")


PAX_SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1099511627776"}
REFUSED = {
    "traversal": (member("../evil"), "has `..` in its name"),
    "traversal inside": (member("set/../../evil"), "has `..` in its name"),
    "traversal of a folder": (member("../evil/", kind=DIRECTORY), "has `..` in its name"),
    "traversal, Windows": (member("set\\..\\..\\evil"), "has `..` in its name"),
    "absolute": (member("/tmp/evil"), "has an absolute name"),
    "absolute, Windows": (member("C:\\evil"), "has an absolute name"),
    "share, Windows": (member("\\\\host\\evil"), "has an absolute name"),
    "line break": (member("a\nb"), "has a control character in its name"),
    "symlink": (member("link", kind=tarfile.SYMTYPE, linkname="../.."), r"is a link \(to '\.\./\.\.'\)"),
    "symlink inside": (member("link", kind=tarfile.SYMTYPE, linkname="set"), r"is a link \(to 'set'\)"),
    "hard link": (member("link", kind=tarfile.LNKTYPE, linkname="set/a/1.txt"), "is a link"),
    "character device": (member("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3), "neither a file nor a folder"),
    "block device": (member("disk", kind=tarfile.BLKTYPE), "is neither a file nor a folder"),
    "pipe": (member("pipe", kind=tarfile.FIFOTYPE), "is neither a file nor a folder"),
    "unknown kind": (member("odd", kind=b"Z"), "is neither a file nor a folder"),
    "sparse": (member("sparse", kind=tarfile.GNUTYPE_SPARSE), "is a sparse file"),
    "same name": (member("set/a/1.txt"), "has the name of another member"),
    "same name, other case": (member("SET/a/1.TXT"), "has the name of another member"),
    "same name, other spelling": (member("./set//a/./1.txt"), "has the name of another member"),
    "file for a folder": (member("set/a"), "has the name of another member"),
    "file below a file": (member("set/a/1.txt/x"), "has the name of another member"),
    "the folder itself": (member("."), "has the name of another member"),
    "many bytes": (member("big", bytes(8000)), "brings the contents to 10,003 bytes"),
    "lies, too large": (member("lie", b"", size=5000), "has 5,000 bytes by its header, but the archive ends before"),
    "lies, terabytes": (member("lie", b"", size=1 << 40), "over the 10,000 allowed"),
    "lies, negative": (member("lie", b"", size=-512), "has a negative size"),
    "lies, too small": (member("lie", b"x" * 2000, size=10), "is cut off or broken after 'lie'"),
}


@pytest.mark.parametrize("library", ["data filter", "no filter"])  # the checks hold without tarfile's own
@pytest.mark.parametrize(("bad", "message"), REFUSED.values(), ids=REFUSED)
def test_a_hostile_member_is_refused_by_name_and_nothing_is_written(tmp_path, monkeypatch, bad, message, library):
    if library == "no filter":
        monkeypatch.setattr(tarfile, "data_filter", tarfile.fully_trusted_filter)
    outer = tmp_path / "outer" / "folder"
    outer.mkdir(parents=True)
    path = write_tar(outer / "a.tar", *GOOD, bad)
    with pytest.raises(InputError, match=rf"a\.tar.*{message}") as error:
        unpack(path, outer / "set")
    assert "\n" not in str(error.value)
    assert repr(bad[0].name.rstrip("/"))[1:-1] in str(error.value)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "outer",
        "outer/folder",
        "outer/folder/a.tar",
    ]


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"path": "../evil"}, "has `..` in its name"),
        ({"size": "-512"}, "has a negative size"),
        ({"size": "7000"}, "the archive ends before that"),
        ({"size": "x"}, "is cut off or broken after 'harmless'"),
        (PAX_SPARSE, "is a sparse file"),
        ({**PAX_SPARSE, "GNU.sparse.name": "../evil"}, r"has `\.\.` in its name"),
    ],
)
def test_what_an_extended_header_says_is_checked_too(tmp_path, headers, message):
    info, content = member("harmless", b"1\n0\n1099511627776\n" + bytes(495))
    info.pax_headers = headers
    path = write_tar(tmp_path / "a.tar", *GOOD, (info, content), form=tarfile.PAX_FORMAT)
    with pytest.raises(InputError, match=message):
        unpack(path, tmp_path / "set")
    assert names(tmp_path) == ["a.tar"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a tar archive, or a broken one"),
        (b"\n" + PAGE + bytes(2000), "is a web page, not a tar archive"),
        (bytes(range(256)) * 20, "is not a tar archive, or a broken one"),
        (bytes(10_240), "holds no file"),
        (gzip.compress(bytes(10_000_000)), "is compressed, which hides how large it is"),
        (b"PK\x03\x04" + bytes(2000), "is compressed"),
    ],
)
def test_what_is_no_plain_tar_is_refused(tmp_path, content, message):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.tar {message}"):
        unpack(tmp_path / "a.tar", tmp_path / "set")
    with pytest.raises(InputError, match=r"b\.tar cannot be unpacked to .*No such file"):
        unpack(tmp_path / "b.tar", tmp_path / "set")
    assert names(tmp_path) == ["a.tar"]


def test_a_chain_of_headers_does_not_exhaust_the_stack(tmp_path):
    long_name = member("././@LongLink", b"x" * 100, size=100)
    long_name[0].type = tarfile.GNUTYPE_LONGNAME
    path = write_tar(tmp_path / "a.tar", *[long_name] * 3000, member("x"))
    with pytest.raises(InputError, match="or a broken one"):
        unpack(path, tmp_path / "set")


def test_wherever_it_is_cut_it_is_refused(tmp_path):
    content = write_tar(tmp_path / "whole.tar", *GOOD).read_bytes()
    end = len(content) - 512  # the first of the two blocks of zeros at the end tells that all is there
    for cut in range(0, len(content), 64):
        (tmp_path / "a.tar").write_bytes(content[:cut])
        if cut < end:
            with pytest.raises(InputError, match=r"a\.tar"):
                unpack(tmp_path / "a.tar", tmp_path / "set")
            assert names(tmp_path) == ["a.tar", "whole.tar"]
    assert len(unpack(tmp_path / "a.tar", tmp_path / "set")) == 2


def test_no_broken_byte_in_a_header_changes_what_is_unpacked_unseen(tmp_path):
    content = write_tar(tmp_path / "whole.tar", *GOOD).read_bytes()
    whole = unpack(tmp_path / "whole.tar", tmp_path / "set")
    refused = 0
    for at in range(512, 1024, 3):  # the header of the second member
        broken = bytearray(content)
        broken[at] ^= 0x11
        (tmp_path / "a.tar").write_bytes(broken)
        try:
            assert unpack(tmp_path / "a.tar", tmp_path / f"{at}" / "set") == whole
        except InputError:
            refused += 1
    assert refused > 165  # all but a few bytes after the checksum


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_stopped_while_unpacking_nothing_is_left(tmp_path, monkeypatch, error):
    path = write_tar(tmp_path / "a.tar", *GOOD)
    unpacked = tarfile.TarFile.extractall

    def stop(*arguments):
        unpacked(*arguments)
        raise error

    monkeypatch.setattr(tarfile.TarFile, "extractall", stop)
    with pytest.raises((KeyboardInterrupt, InputError), match=r"^$|cannot be unpacked to .*No space left on device"):
        unpack(path, tmp_path / "set")
    assert names(tmp_path) == ["a.tar"]
