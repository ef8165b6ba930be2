import builtins
import hashlib
import io
import json
import re
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import save

from backbone import read_pretrained
from backbone import weights as module
from backbone.__main__ import main
from backbone.errors import InputError
from backbone.weights import cache_folder, find_weights, table

BODY = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MOBILENET_TASKS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def rows(server, monkeypatch):
    """A table of one's own: a plain file, an archive, and one whose digest nobody knows."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("detect.tflite", BODY)
        zipped.writestr("labelmap.txt", "person")
    server.files = {"/plain.h5": BODY, "/net.zip": buffer.getvalue(), "/unknown.h5": BODY}
    archive = hashlib.sha256(buffer.getvalue()).hexdigest()

    def row(name, address, published, *known):
        return module.Row(name, "P", 0.5, 224, "imagenet", published, "L", server.address + address, *known)

    made = [
        row("plain", "/plain.h5", 60.0, len(BODY), DIGEST, None),
        row("packed", "/net.zip", 50.0, len(BODY), DIGEST, archive),
        row("unknown", "/unknown.h5", None, None, None, None),
    ]
    monkeypatch.setattr(module, "table", lambda: made)
    return {row.name: row for row in made}


# --- the table ------------------------------------------------------------------------------------------------------


def test_every_row_is_whole_and_its_name_is_its_own(cache):
    names = [row.name for row in table()]
    assert len(names) == len(set(names)) == 41
    for row in table():
        assert row.address.startswith(("https://", "hub:"))
        assert row.task in ("imagenet", "coco")
        assert row.published is None or 10 < row.published < 90
        for digest in (row.sha256, row.archive_sha256):
            assert digest is None or re.fullmatch("[0-9a-f]{64}", digest)
        assert f"_{row.width_mult:g}_{row.image_size}" in row.name.replace("_1.0_", "_1_")
        assert row.name.split("_")[0] in row.project.lower().replace(" ", "").replace("google", "google coral")


@pytest.mark.parametrize(
    ("word", "width", "name"),
    [
        ("imagenet", None, "timm_1.0_224"),  # 75.388, before Google's 70.9 and Keras' 70.424
        ("imagenet", 1.25, "timm_1.25_224"),
        ("imagenet", 0.75, "keras_0.75_224"),  # 68.412, a hair before Google's 68.4
        ("imagenet", 0.5, "keras_0.5_224"),
        ("imagenet", 0.25, "keras_0.25_224"),
        ("coco", None, "google_ssd_0.75_300"),
        ("coco", 0.75, "google_ssd_0.75_300"),
        ("coco", 1.0, "coral_ssd_1.0_300"),
    ],
)
def test_a_task_means_the_best_weights_of_the_width(word, width, name):
    assert module._best({row.name: row for row in table()}, word, width).name == name


@pytest.mark.parametrize(
    ("word", "width", "nearest"), [("imagenet", 0.35, "0.25"), ("imagenet", 2, "1.25"), ("coco", 0.5, "0.75")]
)
def test_a_width_that_nobody_published_names_the_nearest(word, width, nearest, offline):
    with pytest.raises(InputError, match=rf"width {width:g}.*--width {nearest}\)"):
        find_weights(word, width)


def test_the_list_says_what_is_in_the_cache(cache, capsys):
    cache.mkdir(parents=True)
    (cache / "keras_0.75_224.h5").write_bytes(b"")
    assert main(["weights", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found if row["cached"]] == ["keras_0.75_224"]
    assert {row["sha256"] for row in found if row["name"] == "keras_0.75_224"} == {
        "ca62c55b254754185df160c076846164a488e5c025439a0e34eff4604785f8ce"
    }
    assert main(["weights"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(found)]] == [row["name"] for row in found]
    assert next(line for line in lines if "timm_1.0_224" in line).split()[4] == "75.388"


def test_the_list_waits_for_no_torch():
    code = "import sys; from backbone.__main__ import main; main(['weights']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


# --- by name --------------------------------------------------------------------------------------------------------


def test_a_name_is_fetched_once_and_then_found_without_network(server, rows, cache, monkeypatch):
    found = {name: find_weights(name) for name in rows}
    assert [weights.file.read_bytes() for weights in found.values()] == 3 * [BODY]
    assert found["plain"] == (cache / "plain.h5", "plain", None, DIGEST)
    assert found["packed"] == (cache / "packed.tflite", "packed", None, DIGEST)
    kept = {path.name for path in cache.iterdir()}
    assert kept == {"plain.h5", "packed.tflite", "unknown.h5", "unknown.h5.sha256"}  # of the archive nothing else
    assert len(server.asked) == 3
    assert {name: find_weights(name) for name in rows} == found
    assert {name: find_weights(name, fetch=False) for name in rows} == found
    assert find_weights("imagenet", 0.5) == found["plain"]
    assert len(server.asked) == 3


def test_without_the_word_nothing_is_fetched(rows, offline):
    for name, row in rows.items():
        with pytest.raises(InputError, match=re.escape(row.address)):
            find_weights(name, fetch=False)
        with pytest.raises(InputError, match=re.escape(row.address)):
            read_pretrained(name)
    assert not cache_folder().exists()


@pytest.mark.parametrize("name", ["plain", "packed", "unknown"])
def test_without_network_the_address_and_the_place_for_the_file_are_named(server, rows, cache, name):
    server.files.clear()
    with pytest.raises(InputError, match="404") as error:
        find_weights(name)
    assert rows[name].address in str(error.value)
    place = cache / {"plain": "plain.h5", "packed": "net.zip", "unknown": "unknown.h5"}[name]
    assert str(place) in str(error.value)


def test_an_archive_put_there_by_hand_is_used(server, rows, cache):
    cache.mkdir(parents=True)
    (cache / "net.zip").write_bytes(server.files["/net.zip"])
    assert find_weights("packed").file.read_bytes() == BODY
    assert server.asked == []


def test_a_file_that_is_not_the_published_one_is_refused(server, rows, cache):
    for path in ("/plain.h5", "/unknown.h5"):
        server.files[path] = BODY[:-1] + b"x"
    with pytest.raises(InputError, match=DIGEST):
        find_weights("plain")
    assert find_weights("unknown").sha256 == hashlib.sha256(server.files["/unknown.h5"]).hexdigest()
    (cache / "unknown.h5").write_bytes(BODY)  # changed since
    with pytest.raises(InputError, match=DIGEST):
        find_weights("unknown")


def test_a_member_that_is_not_the_known_one_is_refused(server, rows, cache, monkeypatch):
    other = rows["packed"]._replace(sha256="0" * 64)
    monkeypatch.setattr(module, "table", lambda: [other])
    with pytest.raises(InputError, match=DIGEST):
        find_weights("packed")
    assert not (cache / "packed.tflite").exists()


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache" / "weights"
    monkeypatch.delenv("MOBILENET_TASKS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mobilenet-tasks" / "weights"


def test_what_is_no_name_is_a_path(tmp_path, monkeypatch, offline):
    file = tmp_path / "w.h5"
    file.write_bytes(BODY)
    assert find_weights(file) == (file, "w.h5", None, DIGEST)
    assert find_weights(tmp_path / "none.h5") == (tmp_path / "none.h5", "none.h5", None, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").write_bytes(BODY)
    assert find_weights("weights").sha256 == DIGEST
    with pytest.raises(InputError, match=r"keras_1\.0_224"):
        find_weights("kera_1.0_224")


# --- hub: -----------------------------------------------------------------------------------------------------------

COMMIT = "a" * 40


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    """The hub's interface on the test's server: `publish(repo, files)`."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    server.headers = {"X-Repo-Commit": COMMIT}

    def publish(repo, files):
        siblings = [
            {"rfilename": name, "lfs": {"sha256": hashlib.sha256(x).hexdigest(), "size": len(x), "pointerSize": 100}}
            for name, x in files.items()
        ]
        info = json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode()
        for path in (f"/api/models/{repo}", f"/api/models/{repo}/revision/{COMMIT}"):
            server.files[path] = info
        server.files |= {f"/{repo}/resolve/{COMMIT}/{name}": x for name, x in files.items()}

    return publish


def test_the_hub_gives_safetensors_first_and_the_files_that_describe_it(server, hub, cache, monkeypatch):
    tensors = save({"a": torch.zeros(3)})
    config = b'{"model_type": "mobilenet_v1"}'
    hub("me/net", {"pytorch_model.bin": BODY, "model.safetensors": tensors, "config.json": config, "README.md": b"x"})
    found = find_weights("hub:me/net")
    assert found.file.read_bytes() == tensors
    assert found.file.with_name("config.json").read_bytes() == config
    assert not found.file.with_name("pytorch_model.bin").exists()
    assert found[1:] == ("hub:me/net", COMMIT, hashlib.sha256(tensors).hexdigest())
    server.files.clear()
    asked = len(server.asked)
    assert find_weights("hub:me/net") == find_weights("hub:me/net", fetch=False) == found
    assert len(server.asked) == asked
    found.file.resolve().write_bytes(tensors[:-1] + b"x")  # changed in the hub's cache
    with pytest.raises(InputError, match=found.sha256):
        find_weights("hub:me/net")


def test_a_file_of_the_hub_may_be_named(hub):
    hub("me/net", {"a.safetensors": BODY, "b.safetensors": BODY[:-1], "sub/c.pth": BODY[:-2]})
    with pytest.raises(InputError, match=r"a\.safetensors, b\.safetensors"):
        find_weights("hub:me/net")
    assert find_weights("hub:me/net/b.safetensors").file.read_bytes() == BODY[:-1]
    assert find_weights("hub:me/net/sub/c.pth").file.read_bytes() == BODY[:-2]
    with pytest.raises(InputError, match=r"no file d\.pth"):
        find_weights("hub:me/net/d.pth")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["x.safetensors", "model.safetensors"], "model.safetensors"),
        (["x.safetensors", "pytorch_model.bin"], "x.safetensors"),
        (["y.txt", "pytorch_model.bin"], "pytorch_model.bin"),
    ],
)
def test_which_file_of_the_hub_is_meant(names, chosen):
    assert module._choose("hub:a/b", names) == chosen


def test_what_the_hub_does_not_give_is_one_sentence(server, hub, monkeypatch, cache):
    for word in ("hub:me", "hub:me/../net", "hub:"):
        with pytest.raises(InputError, match="OWNER/NAME"):
            find_weights(word)
    with pytest.raises(InputError, match=r"hub:me/none.*huggingface\.co/me/none"):
        find_weights("hub:me/none")
    server.redirects["/api/models/me/gated"] = ""
    with pytest.raises(InputError, match=r"agree.*huggingface\.co/me/gated"):
        find_weights("hub:me/gated")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(InputError, match=r"hub:me/net.*huggingface\.co/me/net"):
        find_weights("hub:me/net")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"\[hub\].*huggingface\.co/timm"):
        find_weights("imagenet")
    assert not cache.exists()
