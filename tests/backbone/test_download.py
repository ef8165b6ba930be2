import hashlib
import io
import tarfile
import zipfile

import pytest

import backbone.download as module
from backbone.download import check, download, extract_one, kept_digest
from backbone.errors import InputError

BODY = b"".join(bytes([i % 256, i // 256 % 256]) for i in range(400_000))  # 800 kB: several chunks
DIGEST = hashlib.sha256(BODY).hexdigest()
PAGE = b"<!DOCTYPE html><title>Moved</title>"


@pytest.fixture(autouse=True)
def _one_file(server):
    server.files["/a.tar"], server.url = BODY, f"{server.address}/a.tar"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


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
    monkeypatch.setattr(module, "_difference", lambda path, *_: seen.append(path.stat().st_size) or "differs")
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


def test_a_slow_server_is_waited_for_and_a_silent_one_is_not(server, tmp_path, monkeypatch):
    server.manner = "slow"
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.15)  # less than the whole takes, more than each piece
    assert download(server.url, tmp_path / "a.tar", DIGEST, len(BODY)) == DIGEST
    server.manner = "silent"
    with pytest.raises(InputError, match="timed out") as error:
        download(server.url, tmp_path / "b.tar", DIGEST, len(BODY))
    assert str(tmp_path / "b.tar") in str(error.value)
    assert names(tmp_path) == ["a.tar"]


def test_a_redirect_is_followed_to_http_alone(server, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(BODY)
    server.redirects = {"/good": server.url, "/file": secret.as_uri(), "/ftp": "ftp://127.0.0.1:1/a"}
    assert download(f"{server.address}/good", tmp_path / "a.tar", DIGEST, len(BODY)) == DIGEST
    for path in ("/file", "/ftp"):
        with pytest.raises(InputError, match=r"not followed|not allowed"):
            download(server.address + path, tmp_path / "b.tar", DIGEST, len(BODY))
    assert names(tmp_path) == ["a.tar", "secret"]


# --- where no digest and no size are known -------------------------------------------------------------


def test_the_digest_of_the_first_fetch_is_kept_and_a_change_refused(server, tmp_path, capsys):
    path = tmp_path / "a.tar"
    assert download(server.url, path) == DIGEST
    assert DIGEST in capsys.readouterr().out
    assert (tmp_path / "a.tar.sha256").read_text() == f"{DIGEST}  a.tar\n"  # as `sha256sum --check` reads it
    assert download(server.url, path) == check(path) == DIGEST
    assert capsys.readouterr().out == ""
    assert len(server.asked) == 1
    path.write_bytes(BODY[:-1] + b"x")
    with pytest.raises(InputError, match=DIGEST):
        download(server.url, path)
    path.unlink()
    server.files["/a.tar"] = BODY[:-1] + b"x"
    with pytest.raises(InputError, match=DIGEST):
        download(server.url, path)
    assert names(tmp_path) == ["a.tar.sha256"]


def test_a_file_put_there_by_hand_is_taken_and_its_digest_kept(server, tmp_path):
    (tmp_path / "a.tar").write_bytes(BODY)
    assert download(server.url, tmp_path / "a.tar") == kept_digest(tmp_path / "a.tar") == DIGEST
    assert server.asked == []


def test_a_cut_is_noticed_by_the_announced_length_and_continued(server, tmp_path):
    server.manner = "cut"
    with pytest.raises(InputError, match="400,000 of 800,000 bytes"):
        download(server.url, tmp_path / "a.tar")
    server.manner = ""
    assert download(server.url, tmp_path / "a.tar") == DIGEST
    assert [asked for _, asked in server.asked] == [None, "bytes=400000-"]
    assert names(tmp_path) == ["a.tar", "a.tar.sha256"]


def test_two_pieces_of_different_files_are_never_joined(server, tmp_path):
    server.manner = "cut"
    with pytest.raises(InputError):
        download(server.url, tmp_path / "a.tar")
    server.manner, server.files["/a.tar"] = "", bytes(800_000)
    assert download(server.url, tmp_path / "a.tar") == hashlib.sha256(bytes(800_000)).hexdigest()
    (tmp_path / "b.tar.part").write_bytes(b"x" * 500)  # of who knows what
    download(server.url, tmp_path / "b.tar")
    assert (tmp_path / "b.tar").read_bytes() == bytes(800_000)


@pytest.mark.parametrize(("body", "manner"), [(BODY, "no length"), (PAGE, ""), (b"", ""), (bytes(3000), "")])
def test_what_cannot_be_known_to_be_whole_is_refused(server, tmp_path, monkeypatch, body, manner):
    monkeypatch.setattr(module, "_MOST", 2000)
    server.files["/a.tar"], server.manner = body, manner
    with pytest.raises(InputError, match=r"127\.0\.0\.1"):
        download(server.url, tmp_path / "a.tar")
    assert not (tmp_path / "a.tar").exists()
    assert not (tmp_path / "a.tar.sha256").exists()


# --- one file of an archive ----------------------------------------------------------------------------


def write_archive(path, files):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in files:
                zipped.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("archive", ["a.tgz", "a.zip"])
def test_one_member_is_taken_out_of_an_archive_and_nothing_else(tmp_path, archive):
    files = [
        ("./net.ckpt.meta", b"no"),
        ("../../evil.txt", b"no"),
        ("./folder/net.tflite", BODY),
        ("__MACOSX/._net.tflite", b"no"),
    ]
    path = write_archive(tmp_path / archive, files)
    extract_one(path, ".tflite", tmp_path / "net.tflite")
    assert (tmp_path / "net.tflite").read_bytes() == BODY
    assert names(tmp_path) == [archive, "net.tflite"]
    assert not (tmp_path.parent / "evil.txt").exists()


@pytest.mark.parametrize("archive", ["a.tgz", "a.zip"])
@pytest.mark.parametrize("files", [[("a.pb", b"")], [("a.tflite", b"1"), ("b.tflite", b"2")], [("a.tflite", BODY)]])
def test_an_archive_without_the_one_or_with_too_large_a_file_is_refused(tmp_path, archive, files):
    path = write_archive(tmp_path / archive, files)
    with pytest.raises(InputError, match=archive):
        extract_one(path, ".tflite", tmp_path / "net.tflite", most=1000)
    assert names(tmp_path) == [archive]


@pytest.mark.parametrize("archive", ["a.tgz", "a.zip"])
def test_a_damaged_archive_is_one_sentence(tmp_path, archive):
    whole = write_archive(tmp_path / archive, [("a.tflite", hashlib.sha512(BODY).digest() * 1000)]).read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:200] + bytes(40) + whole[240:], b"", PAGE):
        (tmp_path / archive).write_bytes(damaged)
        with pytest.raises(InputError, match=archive):
            extract_one(tmp_path / archive, ".tflite", tmp_path / "net.tflite")
        assert names(tmp_path) == [archive]
